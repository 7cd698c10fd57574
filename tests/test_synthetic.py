"""On tokens of known density the model is judged exactly: log p_true - log p_model on
held-out tokens, paired.
"""

from pathlib import Path

from arinar_lab.config.files import merge, read_overrides, read_recipe
from arinar_lab.config.sections import parse_recipe
from arinar_lab.evaluation.evaluate import evaluate_run
from arinar_lab.runs.folder import RunFolder
from arinar_lab.training.train import train

SHORT = "training.steps=400 training.batch=128 outer.depth=1 training.ema=0.95 training.lr=4e-3"
STEADY = "outer.qk_norm=true inner.qk_norm=true"


def test_gmm_comes_within_two_hundredths_of_a_bit_of_the_truth(tmp_path):
    overrides = read_overrides(f"{SHORT} {STEADY}".split())
    recipe = parse_recipe(merge(read_recipe(Path("experiments/synthetic.yaml")), overrides))
    folder = RunFolder(tmp_path / "seed_0")
    train(recipe, folder)
    metrics = evaluate_run(recipe, folder)["metrics"]
    gap, error = metrics["val/gap_bits_per_dim"], metrics["val/gap_standard_error"]
    assert gap <= 0.02
    assert gap > -3 * error  # nothing beats the truth
