"""The command line: bad input is one line and leaves no trace; every shipped ablation runs from
its file to its report.
"""

import csv
import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import arinar
from mlflow import MlflowClient
from PIL import Image
from tiny import EXPERIMENTS, MEASURES, SMALL, WIDTHS, tiny, write_study

from arinar_lab import pipeline
from arinar_lab.cli import ablate, forecast
from arinar_lab.config.files import read_overrides
from arinar_lab.files import locks
from arinar_lab.runs.folder import RunFolder, read_json
from arinar_lab.study.cost import Cost
from arinar_lab.study.plan import read_plan
from arinar_lab.study.status import save_cells
from arinar_lab.tracking.connection import tracking_uri

pytestmark = pytest.mark.usefixtures("alone")

DIGITS = str(EXPERIMENTS / "digits.yaml")


def everything():
    """Every file below this folder, and its content's time."""
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*")}


def refused(capsys, words, *command):
    """Status 2, one line on standard error that holds every word, nothing on standard
    output, nothing written.
    """
    before = everything()
    assert arinar(*command) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("arinar: "), captured.err
    assert all(word in captured.err for word in words), captured.err
    assert captured.out == ""
    assert everything() == before


# Help


def test_help_answers_without_torch():
    code = (
        "import sys\nfrom arinar_lab.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print([m for m in ('torch', 'lightning', 'mlflow', 'optuna') if m in "
        "sys.modules])"
    )
    for words in (["--help"], ["ablate", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.startswith("usage: arinar") and done.stdout.endswith("\n[]\n")


def test_check_imports_neither_lightning_nor_a_compiler(tmp_path):
    """Each of them takes longer than everything that is checked."""
    heavy = (
        "lightning",
        "mlflow",
        "optuna",
        "sklearn",
        "torch_fidelity",
        "torchvision",
        "torch._dynamo",
        "sympy",
    )
    code = (
        "import sys\nfrom arinar_lab.cli import main\n"
        f"try: main(sys.argv[1:])\nexcept SystemExit: print([m for m in {heavy} if m in "
        "sys.modules])"
    )
    studies = [
        str(EXPERIMENTS / "ablations" / f"{name}.yaml")
        for name in ("gmm_k", "head", "feature_order")
    ]
    words = [sys.executable, "-c", code, "check", *studies, str(EXPERIMENTS / "synthetic.yaml")]

    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert "gmm_k.yaml: 4 arms × 3 seeds" in done.stdout and done.stdout.endswith("\n[]\n"), (
        done.stdout
    )


@pytest.mark.parametrize(
    "verb",
    [
        "train",
        "evaluate",
        "sample",
        "ablate",
        "work",
        "report",
        "compare",
        "mlflow",
        "check",
        "retrain",
        "train-codec",
    ],
)
def test_every_verb_has_help(capsys, verb):
    assert arinar(verb, "--help") == 0
    assert f"usage: arinar {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["train"],
        ["train", DIGITS, "--fast"],
        ["ablate", DIGITS, "--workers", "0"],
        ["ablate", DIGITS, "--workers", "two"],
        ["sample", "runs", "--count", "-1"],
        ["retrain", "everything"],
        ["check"],
    ],
    ids=" ".join,
)
def test_words_that_make_no_command_are_refused_in_one_line(capsys, words):
    assert arinar(*words) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert stderr.startswith("arinar") and stderr.endswith(" --help says what it takes\n")
    assert not everything()


# Bad input


def test_the_module_is_the_command():
    """In a process of its own: the exit status, the one line, and no traceback."""
    words = [sys.executable, "-m", "arinar_lab", "train", "digit.yaml", "seed=1"]
    Path("digits.yaml").write_text("seed: 1")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "arinar: digit.yaml: no such file; did you mean digits.yaml?\n"
    assert [path.name for path in Path().iterdir()] == ["digits.yaml"]


BAD = [
    ("inner.head.component=8", ["inner.head.component: unknown key", "did you mean components?"]),
    ("training.steps=many", ["training.steps: 'many' is not a whole number"]),
    ("inner.head.components=0", ["inner.head.components: 0 is too few"]),
    ("outer=casual", ["outer.kind: unknown kind 'casual'", "did you mean causal?"]),
    ("training.batch=5000", ["training.batch: 5000 exceeds"]),
    ("sampler.steps=3", ["sampler.steps: 3 does not fit"]),
    ("codec={kind: vae, weights: nowhere}", ["codec.weights: 'nowhere' is not a file"]),
]
LATER = [  # what Lightning or torch-fidelity would refuse when something is trained already
    ("seed=-1", ["seed: -1"]),
    ("seed=4294967296", ["seed: 4294967296"]),
    ("training.precision=33-true", ["training.precision: '33-true'"]),
    ("machine.accelerator=abacus", ["machine.accelerator: 'abacus'"]),
    ("machine.accelerator=tpu", ["machine.accelerator: 'tpu'"]),
    ("machine.strategy=none_such", ["machine.strategy: 'none_such'"]),
    ("machine.devices=0", ["machine.devices: 0"]),
    ("machine.num_nodes=0", ["machine.num_nodes: 0"]),
    ("evaluation.kid_subset=1", ["evaluation.kid_subset: 1"]),
    ("evaluation={images: 3, kid_subset: 3}", ["evaluation.images: 3"]),
]


@pytest.mark.parametrize(
    ("override", "words"), BAD + LATER, ids=[override for override, _ in BAD + LATER]
)
def test_bad_values_are_refused_before_anything_is_written(capsys, override, words):
    refused(capsys, words, "train", DIGITS, *SMALL, override)


@pytest.mark.parametrize(("override", "words"), BAD, ids=[override for override, _ in BAD])
def test_check_tells_the_same(capsys, override, words):
    refused(capsys, words, "check", DIGITS, *SMALL, override)


def test_a_word_that_is_no_override_is_refused(capsys):
    refused(
        capsys,
        ["training.steps: not an override; write key=value"],
        "train",
        DIGITS,
        "training.steps",
    )


def test_options_may_stand_before_and_after_the_overrides(monkeypatch):
    recorded = []
    monkeypatch.setattr(
        "arinar_lab.cli.studies.ablate",
        lambda a: recorded.append((str(a.file), a.overrides, a.workers)),
    )
    for words in (
        ["seeds=[0]", "machine.threads=1", "--workers", "3"],
        ["--workers", "3", "seeds=[0]", "machine.threads=1"],
    ):
        assert arinar("ablate", "study.yaml", *words) == 0

    assert recorded == [("study.yaml", ["seeds=[0]", "machine.threads=1"], 3)] * 2


def test_a_study_is_no_recipe_and_a_recipe_no_study(capsys):
    refused(
        capsys,
        ["gmm_k.yaml", "question: unknown key"],
        "train",
        EXPERIMENTS / "ablations" / "gmm_k.yaml",
    )
    refused(capsys, ["digits.yaml", "data: unknown key; a study takes"], "ablate", DIGITS)


@pytest.mark.parametrize("verb", ["ablate", "report", "work", "check"])
def test_faults_of_studies_are_refused_before_anything_is_written(capsys, verb):
    gmm_k = EXPERIMENTS / "ablations" / "gmm_k.yaml"
    refused(capsys, ["nowhere.yaml: no such file"], verb, "nowhere.yaml")
    refused(
        capsys,
        ["gmm_k.yaml: arm components=1: outer.heads: 3 does not divide"],
        verb,
        gmm_k,
        "outer.heads=3",
    )
    refused(capsys, ["baseline: 'components=5' is no arm"], verb, gmm_k, "baseline=components=5")


def test_check_needs_a_file(capsys):
    refused(capsys, ["check: name at least one"], "check", "seed=1")


@pytest.mark.parametrize("verb", ["evaluate", "sample"])
def test_what_is_no_run_is_refused(capsys, verb):
    refused(capsys, ["nowhere: not a run folder"], verb, "nowhere")
    for seed in (0, 1):
        write = Path(f"runs/arm/seed_{seed}/config.yaml")
        write.parent.mkdir(parents=True)
        write.write_text("")
    refused(capsys, ["runs/arm: holds several seeds", "runs/arm/seed_0"], verb, "runs/arm")


@pytest.mark.parametrize("verb", ["evaluate", "sample"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: run.weights.unlink(), ["final.safetensors: missing"]),
        (lambda run: run.weights.write_bytes(b"damaged"), ["final.safetensors: damaged"]),
        (
            lambda run: (run.path / "config.yaml").write_text("a: ["),
            ["config.yaml: damaged or edited since the run ended"],
        ),
        (
            lambda run: (run.path / "config.yaml").write_text("seed: 1"),
            ["config.yaml: damaged or edited since the run ended"],
        ),
    ],
    ids=["no weights", "damaged weights", "damaged configuration", "no configuration"],
)
def test_a_damaged_run_is_told_in_one_line(a_run, capsys, verb, damage, words):
    damage(a_run)
    before = set(everything())
    assert arinar(verb, a_run.path, "sampler.temperature=0.8") == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1 and all(word in stderr for word in words), stderr
    assert set(everything()) - before <= {a_run.path / ".lock"}


@pytest.mark.parametrize("override", ["outer.width=32", "seed=1", "training.steps=7"])
def test_a_run_is_evaluated_as_it_was_trained(a_run, capsys, override):
    refused(capsys, ["was trained otherwise"], "evaluate", a_run.path, override)


@pytest.mark.parametrize(
    ("out", "word"), [("nowhere/a.png", "nowhere"), ("samples.abc", ".abc"), (".", "'.'")]
)
def test_samples_need_a_place(a_run, capsys, out, word):
    refused(capsys, ["--out: ", word], "sample", a_run.path, "--count", 3, "--out", out)


# Verbs


def test_train_trains_evaluates_and_shows(capsys):
    assert arinar("train", DIGITS, *SMALL) == 0
    stdout = capsys.readouterr().out
    recipe = tiny()
    folder = RunFolder(Path(f"runs/digits-{recipe.training_signature}/seed_0"))
    assert folder.done and "speed/images_per_second" in folder.report(recipe)["metrics"]
    assert (
        f"run folder: {folder.path}" in stdout
        and "val/bits_per_dim" in stdout
        and "likelihood: exact, pixel" in stdout
    )
    before = (folder.path / "DONE").stat().st_mtime_ns, folder.weights.stat().st_mtime_ns

    assert arinar("train", DIGITS, *SMALL) == 0  # the same command does nothing
    assert ((folder.path / "DONE").stat().st_mtime_ns, folder.weights.stat().st_mtime_ns) == before


def test_a_run_that_diverges_leaves_with_one_line_and_status_one(capsys):
    assert arinar("train", DIGITS, *SMALL, "training.lr=1e30") == 1
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert (
        stderr.startswith("arinar: the loss became nan at step ")
        and "lower training.lr (now 1e+30)" in stderr
    )


def test_a_run_that_fails_leaves_with_one_line_and_its_traceback_in_its_log(monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("a process that reads images has died")

    monkeypatch.setattr(pipeline, "train", fail)
    assert arinar("train", DIGITS, *SMALL) == 1
    stderr = capsys.readouterr().err
    (log,) = Path("runs").glob("*/seed_0/log.txt")
    assert stderr == (
        f"arinar: RuntimeError: a process that reads images has died; its traceback is in {log}\n"
    )
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_command_in_order_however_often_it_comes(
    monkeypatch, capsys, number, status
):
    before = signal.getsignal(number)

    def end(*_, **__):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)

    signal.signal(number, signal.SIG_DFL)
    try:
        monkeypatch.setattr(pipeline, "train", end)
        assert arinar("train", DIGITS, *SMALL) == status
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    text = f"Stopped by {number.name}. The same command goes on where it stopped.\n"
    assert capsys.readouterr().err == text


def test_a_folder_that_may_only_be_read_is_told_in_one_line(a_run, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(a_run.path / ".lock"))

    monkeypatch.setattr(locks.BaseFileLock, "acquire", refuse)
    assert arinar("evaluate", a_run.path, "sampler.temperature=0.8") == 2
    assert capsys.readouterr().err == f"arinar: {a_run.path / '.lock'}: Read-only file system\n"


def test_an_interrupt_is_no_error(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train", interrupt)
    assert arinar("train", DIGITS, *SMALL) == 130
    assert capsys.readouterr().err == "Stopped. The same command goes on where it stopped.\n"


def test_evaluate_takes_another_sampler(a_run, capsys):
    # one seed: the arm's folder will do
    assert arinar("evaluate", a_run.path.parent, "sampler.temperature=0.8") == 0
    other = tiny("sampler.temperature=0.8")
    assert set(a_run.report(other)["metrics"]) == set(a_run.report(tiny())["metrics"])
    assert str(a_run.evaluation(other) / "report.json") in capsys.readouterr().out


def test_sample_draws_into_a_picture(a_run, capsys):
    assert arinar("sample", a_run.path, "--count", 20, "--out", "a.png") == 0
    assert capsys.readouterr().out == "a.png\n"
    assert Image.open("a.png").size == ((2 * 9 + 1) * 4, (10 * 9 + 1) * 4)


def test_samples_depend_on_their_seed(a_run):
    for name, seed in (("a", 0), ("b", 0), ("c", 20)):
        arinar("sample", a_run.path, "--count", 20, "--seed", seed, "--out", f"{name}.png")
    a, b, c = (np.asarray(Image.open(f"{name}.png")) for name in "abc")
    assert (a == b).all() and (a != c).any()


def test_check_builds_recipes_and_studies_and_writes_nothing(capsys):
    assert arinar("check", DIGITS, EXPERIMENTS / "ablations" / "gmm_k.yaml", *WIDTHS) == 0
    stdout = capsys.readouterr().out
    assert "gmm_k.yaml: 4 arms × 3 seeds, baseline components=4" in stdout
    assert tiny("training={}").training_signature not in stdout
    assert stdout.count(" parameters  ") == 5
    assert (
        "\n  training: {steps: 400, batch: 96, lr: 0.003, warmup: 40, schedule: cosine, " in stdout
    )
    assert not everything()


def test_report_writes_what_there_is(capsys):
    write_study(axes={"inner.head.components": [1, 2]}, seeds=[0])
    assert arinar("report", "study.yaml") == 1  # nothing was run
    assert (
        "Missing" in capsys.readouterr().out
        or "No cell is finished" in Path("studies/study/report/table.md").read_text()
    )


def test_a_study_is_named_by_its_folder_too(capsys):
    path = write_study("other", axes={"inner.head.components": [1, 2]}, seeds=[0])
    plan = read_plan(path, read_overrides(["training.steps=4"]))
    save_cells(plan, path, ["training.steps=4"])
    assert arinar("report", plan.folder) == 1
    assert f"{plan.folder}/report/report.html" in capsys.readouterr().out.replace("\n", "")
    assert arinar("status", plan.folder) == 0
    Path("empty").mkdir()

    assert arinar("report", "empty") == 2
    assert "empty: not a study's folder; it holds no cells.json" in capsys.readouterr().err


# Every shipped ablation, from its file to its report

FEW = [
    *WIDTHS,
    *MEASURES,
    "evaluation.images=20",
    "evaluation.speed_batch=1",
    "sampler.guidance=1",
    "seeds=[0]",
    "training.steps=20",
    "training.batch=32",
    "training.warmup=2",
    "machine.accelerator=cpu",
]
ABLATIONS = sorted((EXPERIMENTS / "ablations").glob("*.yaml"))
QUICK = ("gmm_k",)


def arms_of(study):
    """How many arms a study file has."""
    grid = math.prod(len(values) for values in study["axes"].values()) if "axes" in study else 0
    budgets = math.prod(len(multiples) for multiples in study.get("budget", {}).values())
    return (grid + len(study.get("arms", {}))) * budgets


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_a_shipped_ablation_can_be_built(capsys, path):
    assert arinar("check", path) == 0
    stdout = capsys.readouterr().out.splitlines()
    assert len(stdout) == 1 + arms_of(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "path",
    [p if p.stem in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in ABLATIONS],
    ids=lambda p: p.stem,
)
def test_a_shipped_ablation_runs_to_its_report(
    tracked, forked, uncounted, monkeypatch, capfd, path
):
    monkeypatch.setattr(ablate, "baseline_bits", lambda _: {"an estimator": 2.5})
    monkeypatch.setattr(forecast, "probe_or_reason", lambda _: Cost(1, 1.0, 1.0, 1.0))
    study = yaml.safe_load(path.read_text())
    masked = "masked" in study["base"] or Path(study["base"]).stem == "digits_latent"
    few = [word.replace("outer.depth", "outer.encoder_depth") if masked else word for word in FEW]
    few = [word for word in few if word.partition("=")[0] not in study.get("axes", {})]
    # arms may share one
    trainings = {"guidance": 1, "accelerators": 1, "precision": 2}.get(path.stem, arms_of(study))
    assert arinar("ablate", path, *few, "--workers", 2) == 0
    stdout = capfd.readouterr().out
    assert len(forked) == min(trainings, 2)

    (folder,) = Path("studies").iterdir()
    count = arms_of(study)
    with (folder / "report" / "table.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert len({cell["arm"] for cell in cells}) == len(cells) == count
    images = "synthetic" not in study["base"]
    for cell in cells:
        assert cell["arm"] == "energy" or -5 < float(cell["val/bits_per_dim"]) < 100
        assert not images or float(cell["quality/fd_digits"]) > 0
        assert float(cell["speed/images_per_second"]) > 0

    text = (folder / "report" / "table.md").read_text()
    assert study["question"].split("(")[0] in text and "Missing" not in text
    assert f"| {study['baseline']}" in text and " (baseline)" in text
    assert ("an estimator (not ours)" in text) == bool(study.get("references"))
    assert ("bound, 16 steps" in text) == (masked or path.stem in ("outer", "positions"))
    assert Image.open(folder / "report" / "factor.png").width > 1000
    assert "report.html" in stdout and "failed" not in stdout

    runs = list(Path("runs").glob("*/seed_0"))
    assert len(runs) == trainings
    assert all((run / "DONE").is_file() and not (run / "FAILED").exists() for run in runs)
    multiples = study.get("budget", {}).get("training.steps", [1])
    assert {read_json(run / "DONE")["steps"] for run in runs} == {
        20 * multiple for multiple in multiples
    }

    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(folder.name)
    shown = client.search_runs(
        [experiment.experiment_id], "tags.`arinar.role` = 'seed'", max_results=100
    )
    assert {run.data.tags["arinar.arm"] for run in shown} == {cell["arm"] for cell in cells}
    (report,) = client.search_runs([experiment.experiment_id], "tags.`arinar.role` = 'report'")
    sent = {file.path for file in client.list_artifacts(report.info.run_id)}
    assert (
        sent
        == {file.name for file in (folder / "report").iterdir()}
        >= {"report.html", "table.tex", "methods.md"}
    )
    assert all(
        run.info.status == "FINISHED" and "speed/images_per_second" in run.data.metrics
        for run in shown
    )


@pytest.mark.slow
def test_a_study_runs_in_processes_of_its_own():
    """The real command: it starts its workers, and they find their way."""
    write_study(base=tiny("training.steps=4"), axes={"inner.head.components": [1, 2]}, seeds=[0])
    words = [
        sys.executable,
        "-m",
        "arinar_lab",
        "ablate",
        "study.yaml",
        "evaluation.speed_batch=1",
        "--workers",
        "2",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = Path("studies").iterdir()
    assert (folder / "report" / "factor.png").is_file() and "report.html" in done.stdout
    logs = "".join((folder / f"worker_{i}.log").read_text() for i in (0, 1))

    assert "components=1" in logs and "components=2" in logs and "Traceback" not in logs
    assert len(list(Path("runs").glob("*/seed_0/DONE"))) == 2
