"""Recipes: what they may say, what is refused and how it is told, and what their
signatures stand for.
"""

import re

import pytest
import yaml
from tiny import EXPERIMENTS, content, tiny

from arinar_lab.config.build import build, check_resolution
from arinar_lab.config.files import merge, read_overrides, read_recipe, unflatten
from arinar_lab.config.schema import signature_fields, to_plain
from arinar_lab.config.sections import parse_recipe
from arinar_lab.config.yaml_reader import read_yaml
from arinar_lab.errors import ConfigError
from arinar_lab.model.heads import HEADS
from arinar_lab.model.heads.mixture import GMM
from arinar_lab.study.plan import read_plan

pytestmark = pytest.mark.usefixtures("alone")


def refused(call, *words):
    """The one line that is said about a fault, which holds every word."""
    with pytest.raises(ConfigError) as error:
        call()
    line = str(error.value)
    assert "\n" not in line
    assert all(word in line for word in words), line
    return line


# Reading


def test_a_recipe_lies_over_the_one_it_extends(tmp_path):
    (tmp_path / "a.yaml").write_text("training: {steps: 5, batch: 7}\nseed: 1")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\ntraining: {steps: 6}")
    (tmp_path / "c.yaml").write_text("extends: b.yaml\nseed: 3")
    assert read_recipe(tmp_path / "c.yaml") == {"training": {"steps": 6, "batch": 7}, "seed": 3}


def test_a_recipe_is_found_beside_the_one_that_extends_it(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.yaml").write_text("seed: 1")
    (tmp_path / "below" / "b.yaml").write_text("extends: ../a.yaml")
    assert read_recipe(tmp_path / "below" / "b.yaml") == {"seed": 1}


def test_a_change_of_kind_drops_the_arguments_of_the_former():
    base = {"head": {"kind": "gmm", "components": 4}}
    assert merge(base, {"head": {"kind": "discrete", "bins": 9}}) == {
        "head": {"kind": "discrete", "bins": 9}
    }
    assert merge(base, {"head": "discrete"}) == {"head": {"kind": "discrete"}}


def test_the_same_kind_keeps_its_other_arguments():
    base = {"head": {"kind": "gmm", "components": 4, "min_std": 0.1}}
    same = {"head": {"kind": "gmm", "components": 8, "min_std": 0.1}}
    assert merge(base, {"head": {"components": 8}}) == same
    assert merge(base, {"head": {"kind": "gmm", "components": 8}}) == same
    assert merge(base, {"head": "gmm"}) == base


def test_a_part_by_its_bare_name_can_be_given_arguments():
    assert merge({"norm": "layer"}, {"norm": {"x": 1}}) == {"norm": {"kind": "layer", "x": 1}}


def test_merge_leaves_its_arguments_alone():
    base, change = {"a": {"b": 1}}, {"a": {"c": 2}}
    merge(base, change)
    assert (base, change) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_dotted_keys_are_nested():
    assert unflatten({"a.b.c": 1, "a.b.d": 2, "e": 3}) == {"a": {"b": {"c": 1, "d": 2}}, "e": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("4.5", 4.5),
        ("1e-3", 0.001),
        ("-2E+3", -2000),
        ("true", True),
        ("null", None),
        ("rms", "rms"),
        ("[1, 2.5]", [1, 2.5]),
        ("[a,b]", ["a", "b"]),
        ("{kind: gmm, components: 2}", {"kind": "gmm", "components": 2}),
        ("a=b", "a=b"),
    ],
)
def test_overrides_are_read_as_yaml(text, value):
    read = read_overrides([f"x.y={text}"])["x"]["y"]
    assert read == value and type(read) is type(value)


def test_exponents_are_numbers_in_a_list_too():
    assert read_overrides(["training.betas=[9e-1, 0.95]"]) == {"training": {"betas": [0.9, 0.95]}}


def test_a_later_override_wins():
    assert read_overrides(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


def test_a_kind_by_name_keeps_the_arguments_given_before_it():
    head = parse_recipe(content("inner.head.components=8", "inner.head=gmm")).inner.arguments[
        "head"
    ]
    assert head.arguments["components"] == 8


@pytest.mark.parametrize("word", ["steps", "=5", "a..b=1", ".a=1", "a=[1", "a={b: 1", "a=${b}"])
def test_a_bad_override_is_refused(word):
    refused(lambda: read_overrides([word]), word)


# Files that cannot be read


def test_a_missing_file_is_named_with_its_nearest(tmp_path):
    (tmp_path / "digits.yaml").write_text("seed: 1")
    refused(
        lambda: read_recipe(tmp_path / "digit.yaml"),
        "digit.yaml: no such file; did you mean",
        "digits.yaml?",
    )


def test_a_missing_base_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: nowhere.yaml")
    refused(lambda: read_recipe(tmp_path / "a.yaml"), "nowhere.yaml: no such file")


@pytest.mark.parametrize("base", ["5", "[a.yaml]"])
def test_extends_must_be_a_file_name(tmp_path, base):
    (tmp_path / "a.yaml").write_text(f"extends: {base}")
    refused(lambda: read_recipe(tmp_path / "a.yaml"), "a.yaml: extends:", base.strip("[]"))


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    refused(lambda: read_recipe(tmp_path / "a.yaml"), "a.yaml", "extends")


@pytest.mark.parametrize("text", ["a: [1", "\ta: 1", "- 1", "a: ${b}", "a: 1\na: 2"])
def test_bad_yaml_is_refused_with_its_file(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    refused(
        lambda: parse_recipe(read_yaml(tmp_path / "bad.yaml")), "bad.yaml: not readable as YAML: "
    )


def test_a_file_of_bytes_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00\x80")
    refused(lambda: read_yaml(tmp_path / "bad.yaml"), "bad.yaml: not readable as YAML: ")


# Values that are refused: the key, the value, what is allowed, the nearest name


FAULTS = [
    # unknown keys
    ("trainin.steps=5", ["trainin: unknown key", "a recipe takes", "did you mean training?"]),
    ("training.step=5", ["training.step: unknown key", "checkpoint_every", "did you mean steps?"]),
    (
        "inner.head.component=5",
        [
            "inner.head.component: unknown key",
            "gmm takes components, joint, loss_constant, max_std, min_std",
            "did you mean components?",
        ],
    ),
    ("outer.norm={kind: rms, eps: 1}", ["outer.norm.eps: unknown key", "rms takes no arguments"]),
    ("inner.components=3", ["inner.components: unknown key", "feature_ar takes"]),
    # unknown kinds
    (
        "data=digit",
        ["data.kind: unknown kind 'digit'", "digits, synthetic", "did you mean digits?"],
    ),
    (
        "outer.kind=casual",
        ["outer.kind: unknown kind 'casual'", "causal, masked", "did you mean causal?"],
    ),
    (
        "inner.head=gm",
        ["inner.head.kind: unknown kind 'gm'", "fixed_gaussian", "did you mean gmm?"],
    ),
    ("inner.norm=layr", ["inner.norm.kind: unknown kind 'layr'", "rms", "did you mean layer?"]),
    ("codec=xyz", ["codec.kind: unknown kind 'xyz'; one of pixels, tokens, vae"]),
    # wrong types
    ("training.steps=many", ["training.steps: 'many' is not a whole number"]),
    ("training.steps=1.5", ["training.steps: 1.5 is not a whole number"]),
    ("training.steps=true", ["training.steps: true is not a whole number"]),
    ("training.lr=fast", ["training.lr: 'fast' is not a number"]),
    ("training.precision=32", ["training.precision: 32 is not one of 32-true"]),
    ("outer.qk_norm=1", ["outer.qk_norm: 1 is not true or false"]),
    ("training.betas=[0.9]", ["training.betas: [0.9] is not a list of 2"]),
    ("training.betas=[0.9,a]", ["training.betas.1: 'a' is not a number"]),
    ("training=5", ["training: 5 is not a section"]),
    ("inner.head=5", ["inner.head.kind: missing", "gmm"]),
    ("inner.head=[gmm]", ["inner.head.kind: missing", "gmm"]),
    ("outer=null", ["outer.kind: missing", "causal, masked"]),
    ("sampler.steps=few", ["sampler.steps: 'few' is not a whole number"]),
    (
        "training.schedule=cosin",
        ["training.schedule: 'cosin' is not one of constant, cosine", "did you mean cosine?"],
    ),
    ("inner.order=random", ["inner.order: 'random' is not one of identity, reversed, variance"]),
    # numbers out of range
    ("training.steps=0", ["training.steps: 0 is too few"]),
    ("training.warmup=-1", ["training.warmup: -1 is negative"]),
    ("training.lr=0", ["training.lr: 0.0 is not above 0"]),
    ("training.lr_per_256=-1", ["training.lr_per_256: -1.0 is not above 0"]),
    (
        "training.lr_per_256=1e-4",
        ["training.lr: 0.003 is said, and lr_per_256: 0.0001, too; leave one out"],
    ),
    ("machine.accumulate=0", ["machine.accumulate: 0 is too few"]),
    ("training.ema=1", ["training.ema: 1.0 is outside [0, 1)"]),
    ("training.betas=[0.9,1]", ["training.betas.1: 1.0 is outside [0, 1)"]),
    ("training.clip=.nan", ["training.clip: nan is not a finite number"]),
    ("training.weight_decay=.nan", ["training.weight_decay: nan is not a finite number"]),
    ("training.batch=1438", ["training.batch: 1438 exceeds the 1437 training images"]),
    ("labels.drop=1", ["labels.drop: 1.0 is outside [0, 1)"]),
    ("evaluation.images=4", ["evaluation.images: 4 is too few"]),
    ("evaluation.draws=0", ["evaluation.draws: 0 is too few"]),
    ("sampler.temperature=0", ["sampler.temperature: 0.0 is not above 0"]),
    ("sampler.guidance=-1", ["sampler.guidance: -1.0 is negative"]),
    ("sampler.candidates=-1", ["sampler.candidates: -1 is negative"]),
    ("sampler.guided_from=1", ["sampler.guided_from: 1.0 … 1.0 is no interval within 0 … 1"]),
    (
        "sampler.mask_schedule=cosin",
        ["sampler.mask_schedule: 'cosin' is not one of", "did you mean cosine?"],
    ),
    ("inner.head.components=0", ["inner.head.components: 0 is too few"]),
    ("inner.head.min_std=-1", ["inner.head.min_std: -1.0 is negative"]),
    ("inner.head={kind: fixed_gaussian, std: 0}", ["inner.head.std: 0.0 is not above 0"]),
    ("inner.head={kind: discrete, bins: 1}", ["inner.head.bins: 1 is too few"]),
    ("inner.group=3", ["inner.group: 3 does not divide the 4 features", "1, 2, 4"]),
    ("inner.heads=3", ["inner.heads: 3 does not divide the width 8"]),
    ("inner.depth=0", ["inner.depth: 0 is too few"]),
    ("outer.heads=5", ["outer.heads: 5 does not divide the width 16"]),
    ("outer.heads=0", ["outer.heads: 0 does not divide the width 16"]),
    ("outer.depth=0", ["outer.depth: 0 is too few"]),
    ("outer.prefix=0", ["outer.prefix: 0 is too few"]),
    ("outer.dropout=2", ["outer.dropout: 2.0 is outside [0, 1)"]),
    ("outer.width=0", ["outer.width: 0"]),
    ("outer.width=-4", ["outer.width: -4"]),
    ("inner.width=0", ["inner.width: 0"]),
    ("outer.mlp_ratio=-1", ["outer.mlp_ratio: -1.0"]),
    ("outer={kind: masked, mask_min: 1}", ["outer.mask_min: 1.0 is outside [0, 1)"]),
    ("outer={kind: masked, mask_std: 0}", ["outer.mask_std: 0.0 is not above 0"]),
    # parts that do not go together
    ("codec=tokens", ["codec.kind: tokens", "images", "pixels or vae"]),
    ("data=synthetic", ["codec.kind: pixels", "tokens", "use kind: tokens"]),
    ("codec.patch=3", ["codec.patch: 3 does not divide the image, 8×8"]),
    (
        "codec={kind: vae, weights: nowhere.safetensors}",
        ["codec.weights: 'nowhere.safetensors' is not a file", "digits"],
    ),
    ("codec={kind: vae, latents: 8}", ["codec.latents: 8 is not the 4 of weights"]),
    ("sampler.steps=3", ["sampler.steps: 3 does not fit", "16 here"]),
    (
        "sampler.mask_schedule=linear",
        ["sampler.mask_schedule: linear is asked for", "CausalAR", "masked_stack can"],
    ),
    (
        "sampler.token_refresh=2",
        ["sampler.token_refresh: 2 is asked for", "(masked can); leave it out"],
    ),
    (
        "sampler.filter_threshold=0.01",
        ["sampler.filter_threshold: 0.01", "discrete and colour can"],
    ),
    ("sampler.together=5", ["sampler.together: 5 exceeds the 4 groups of a token"]),
    ("outer={kind: masked, steps: 17}", ["outer.steps: 17 does not fit", "16 tokens"]),
]


@pytest.mark.parametrize(("override", "words"), FAULTS, ids=[override for override, _ in FAULTS])
def test_a_fault_is_told_in_one_line(override, words):
    refused(lambda: build(tiny(override)), *words)


def test_missing_sections_are_named():
    refused(lambda: parse_recipe({}), "data: missing; a recipe needs it")
    refused(
        lambda: parse_recipe({**content(), "inner": "feature_ar"}),
        "inner.head: missing; feature_ar needs it",
    )


def test_damaged_autoencoder_weights_are_refused(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"not weights at all")
    override = f"codec={{kind: vae, weights: {tmp_path}/bad.safetensors}}"
    refused(lambda: build(tiny(override)), "codec.weights", "bad.safetensors", "damaged")


def test_steps_of_a_masked_model_lie_between_one_and_its_tokens():
    build(tiny("outer={kind: masked, width: 16, heads: 2}", "sampler.steps=16"))
    override = "outer={kind: masked, width: 16, heads: 2}"
    refused(lambda: build(tiny(override, "sampler.steps=17")), "sampler.steps: 17 does not fit")


class Unguided(GMM):
    """A head that can neither be guided nor tempered."""

    capabilities = frozenset({"log_prob"})


@pytest.mark.parametrize(
    "inner", ["{kind: unguided}", "{kind: feature_ar, width: 8, heads: 2, head: unguided}"]
)
@pytest.mark.parametrize("override", ["sampler.guidance=2", "sampler.temperature=0.9"])
def test_what_a_head_cannot_do_is_refused(monkeypatch, inner, override):
    monkeypatch.setitem(HEADS, "unguided", Unguided)
    build(tiny(f"inner={inner}"))
    key, value = override.split("=")
    refused(lambda: build(tiny(f"inner={inner}", override)), f"{key}: {float(value)}", "cannot")


# Signatures


@pytest.mark.parametrize(
    "override", ["seed=7", "machine.threads=2", "machine.devices=2", "machine.strategy=fsdp2"]
)
def test_seed_and_machine_change_no_signature(override):
    a, b = tiny(), tiny(override)
    assert a.training_signature == b.training_signature
    assert a.evaluation_signature == b.evaluation_signature


def test_a_learning_rate_by_the_batch_is_the_same_run_as_its_value():
    """The peak of MAR's recipe, 1e-4 · 2048 / 256, and of ours."""
    recipe = parse_recipe(read_recipe(EXPERIMENTS / "imagenet256_mar_b.yaml"))
    assert recipe.training.peak == 8e-4 and recipe.training.batch == 2048
    ruled, plain = tiny("training.lr=null", "training.lr_per_256=0.024"), tiny("training.lr=0.003")
    assert (
        ruled.training.peak == plain.training.peak
        and ruled.training_signature == plain.training_signature
    )
    assert parse_recipe(to_plain(ruled)).training_signature == plain.training_signature
    half = tiny("training.lr=null", "training.lr_per_256=0.024", "training.batch=16")

    assert (
        half.training.peak == plain.training.peak / 2
        and half.training_signature != plain.training_signature
    )
    assert tiny("training.lr=null").training.peak == 2e-3


def test_an_accelerator_at_its_default_is_no_part_of_a_signature():
    """Else the evaluations of runs that were finished before there was one would be done again."""
    first = {"temperature", "temperature_divides", "guidance", "schedule", "steps", "candidates"}
    assert set(signature_fields(tiny().sampler)) == first
    assert set(signature_fields(tiny("sampler.together=2").sampler)) == {*first, "together"}
    assert tiny("sampler.together=1").evaluation_signature == tiny().evaluation_signature


TRAINED_AS_PUBLISHED = {
    "training.warmup_from_zero": ("false", "true"),
    "training.weight_decay_on": ("matrices", "outer"),
    "training.ema_from_initial": ("false", "true"),
    "training.initialisation": ("default", "published"),
    "outer.dropout_hidden": ("false", "true"),
    "inner.dropout_hidden": ("false", "true"),
    "outer.mask_group": ("0", "8"),
}


@pytest.mark.parametrize("key", TRAINED_AS_PUBLISHED)
def test_an_option_of_training_that_came_later_is_signed_where_it_is_not_at_its_default(key):
    """Else the runs that were finished before there was one would be trained again."""
    default, other = TRAINED_AS_PUBLISHED[key]
    masked = "outer={kind: masked, width: 16, heads: 2}"
    plain = tiny(masked)
    same, changed = (tiny(masked, f"{key}={value}") for value in (default, other))
    assert same.training_signature == plain.training_signature != changed.training_signature
    section, name = key.split(".")

    assert name in to_plain(plain)[section] and name not in signature_fields(
        getattr(plain, section)
    )
    assert name in signature_fields(getattr(changed, section))


@pytest.mark.parametrize(
    ("recipe", "signature"), [("digits", "5a7bfb4c"), ("digits_masked", "b438cdd3")]
)
def test_a_shipped_recipe_of_digits_keeps_its_signature(recipe, signature):
    assert parse_recipe(read_recipe(EXPERIMENTS / f"{recipe}.yaml")).training_signature == signature


def test_groups_of_a_masked_ratio_fill_the_batch():
    masked = "outer={kind: masked, width: 16, heads: 2, mask_group: 5}"
    with pytest.raises(
        ConfigError, match=r"outer\.mask_group: 5 does not divide training.batch, 32"
    ):
        build(tiny(masked))

    build(tiny(masked, "outer.mask_group=8"))
    build(tiny(masked, "outer.mask_group=100"))  # one ratio for a smaller batch
    with pytest.raises(ConfigError, match=r"outer\.mask_group: -1 is too few"):
        build(tiny(masked, "outer.mask_group=-1"))


ACCELERATORS = [
    "mask_schedule=linear",
    "guided_from=0.2",
    "guided_to=0.9",
    "together=2",
    "token_refresh=2",
    "null_refresh=3",
    "filter_threshold=0.01",
]


@pytest.mark.parametrize(
    "override",
    [
        "sampler.guidance=3",
        "sampler.temperature=0.9",
        "evaluation.images=101",
        *(f"sampler.{a}" for a in ACCELERATORS),
    ],
)
def test_sampler_and_evaluation_change_the_evaluation_signature_alone(override):
    a, b = tiny(), tiny(override)
    assert a.training_signature == b.training_signature
    assert a.evaluation_signature != b.evaluation_signature


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=7",
        "outer.norm=rms",
        "inner.head.components=5",
        "labels.drop=0.2",
        "codec.patch=4",
        "outer.dropout=0.1",
        "data=synthetic",
    ],
)
def test_what_is_trained_changes_the_training_signature_alone(override):
    a, b = tiny(), tiny(override)
    assert a.training_signature != b.training_signature
    assert a.evaluation_signature == b.evaluation_signature


@pytest.mark.parametrize(
    "override",
    [
        "training.betas=[0.9,0.95]",
        "outer.norm=layer",
        "outer.norm={kind: layer}",
        "inner.mlp_ratio=4",
        "labels.drop=0.1",
        "data={kind: digits}",
        "outer.prefix=1",
        "codec.normalise=none",
    ],
)
def test_an_explicit_default_equals_the_implicit_one(override):
    assert tiny(override).training_signature == tiny().training_signature


def test_the_order_of_the_keys_does_not_matter():
    backwards = dict(reversed(content().items()))
    assert parse_recipe(backwards).training_signature == tiny().training_signature


RECIPES = sorted(EXPERIMENTS.glob("*.yaml"))
ABLATIONS = sorted((EXPERIMENTS / "ablations").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_resolved_recipe_reads_back_as_itself(path):
    recipe = parse_recipe(read_recipe(path))
    plain = to_plain(recipe)
    again = parse_recipe(yaml.safe_load(yaml.safe_dump(plain)))
    assert to_plain(again) == plain
    assert again.training_signature == recipe.training_signature
    assert again.evaluation_signature == recipe.evaluation_signature


def test_a_resolved_recipe_says_every_default():
    plain = to_plain(tiny())
    assert plain["outer"]["norm"] == "layer" and plain["outer"]["dropout"] == 0.0
    assert plain["sampler"]["steps"] is None
    assert plain["data"] == "digits"


# What ships


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_builds(path):
    experiment = build(
        parse_recipe(read_recipe(path)), "meta" if path.stem.startswith("imagenet") else "cpu"
    )
    assert sum(p.numel() for p in experiment.model.parameters()) > 10_000


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_shipped_ablation_builds(path):
    plan = read_plan(path, {"data": {"train": 500}} if "synthetic" in path.read_text() else {})
    least = 2 if path.stem == "demo" else 3  # it concludes nothing, and says so
    assert len(plan.arms) >= least and len(plan.seeds) >= least and plan.question


@pytest.mark.parametrize("head", ["diffusion", "flow", "energy"])
@pytest.mark.parametrize(
    "inner", ["inner={{kind: {0}, width: 8}}", "inner={{kind: feature_ar, head: {0}}}"]
)
def test_candidates_are_refused_where_a_head_cannot_draw_them(head, inner):
    overrides = inner.format(head), "sampler.guidance=2", "sampler.candidates=10"
    refused(
        lambda: build(tiny(*overrides)),
        "sampler.candidates: 10 is asked for",
        head.capitalize(),
        "use 0",
    )
    build(tiny(*overrides[:2], "sampler.temperature=0.9"))


# What parts can not mean together


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["codec.dequantise=false"], "codec.dequantise: false gives integers"),
        (
            ["codec.dequantise=false", "inner={kind: colour}"],
            "false gives 17 levels, and the inner model has 256",
        ),
        (
            ["inner={kind: colour, levels: 17}", "codec.normalise=channel"],
            "codec.normalise: channel, and",
        ),
        (["labels.drop=0", "sampler.guidance=2"], "labels.drop: 0 never trains the null label"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(tiny(*words), "meta")


def test_a_model_of_the_levels_that_are_there_is_built():
    assert (
        build(tiny("inner={kind: colour, levels: 17}", "codec.dequantise=false"), "meta").parameters
        > 0
    )


def test_true_half_precision_is_no_value():
    with pytest.raises(ConfigError, match="bf16-mixed"):
        tiny("training.precision=bf16-true")


@pytest.mark.parametrize(
    "words",
    [
        ["inner={kind: diffusion}"],
        ["inner.order=principal"],
        ["codec={kind: vae, normalise: whiten}"],
    ],
)
def test_a_resolution_that_cannot_be_evaluated_is_refused(words):
    recipe = tiny("evaluation.resolution=0.1", *words)
    with pytest.raises(ConfigError, match=r"evaluation\.resolution"):
        check_resolution(recipe, build(recipe, "meta"))


@pytest.mark.parametrize("key", ["outer.depth", "inner.depth"])
def test_more_blocks_than_anybody_stacks_are_refused_before_they_are_built(key):
    with pytest.raises(ConfigError, match=rf"^{key}: 100000000 is more than 1000 blocks$"):
        build(tiny(f"{key}=100000000"), "meta")
