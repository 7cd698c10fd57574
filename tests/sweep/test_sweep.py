"""Sweeps: the space is checked before anything starts, trials share trainings, and only
re-runs are reported.
"""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from command import arinar
from optuna.trial import TrialState
from safetensors.torch import save_file
from tiny import tiny, write_study

from arinar_lab import cli
from arinar_lab.cli import forecast
from arinar_lab.config.build import build
from arinar_lab.config.files import read_overrides
from arinar_lab.config.schema import to_plain
from arinar_lab.data.sources import Digits
from arinar_lab.data.validation import Validation
from arinar_lab.errors import ConfigError
from arinar_lab.runs.folder import RunFolder, read_json, write_json
from arinar_lab.study.cost import Cost
from arinar_lab.study.plan import read_plan
from arinar_lab.study.worker import prepare
from arinar_lab.sweep import report as sweep_report
from arinar_lab.sweep import trials
from arinar_lab.sweep.report import (
    importances,
    rerun_means,
    rerun_rows,
    sweep_markdown,
    trials_csv,
    volumes,
)
from arinar_lab.sweep.space import Dimension, corners, read_parameters
from arinar_lab.sweep.sweep import read_sweep
from arinar_lab.sweep.trials import (
    best_trials,
    chosen_settings,
    claim_trial,
    feasible_trials,
    finished_trials,
    open_search,
    repeats,
    run_sweep_worker,
)
from arinar_lab.training.train import StoppedEarly, train

pytestmark = pytest.mark.usefixtures("alone")

BITS = {"metric": "val/bits_per_dim", "direction": "minimize"}
FD = {"metric": "quality/fd_digits", "direction": "minimize"}
SPEED = {"metric": "speed/images_per_second", "direction": "maximize"}
TEMPERATURE = {"sampler.temperature": {"float": [0.5, 1.0]}}
MASKED = {"kind": "masked", "width": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
ARCHITECTURES = {"outer": {"categorical": {"causal": {"kind": "causal"}, "masked": MASKED}}}
STEPS = {"sampler.steps": {"int": [2, 8], "when": {"outer": "masked"}}}


def write_sweep(base=True, **keys):
    """A sweep file of two trials in the folder the test works in. base: another recipe than the
    tiny one; None: no base.
    """
    Path("base.yaml").write_text(
        yaml.safe_dump(to_plain(tiny() if base is True else base)) if base else ""
    )
    content = {"search": TEMPERATURE, "objectives": [FD], "trials": 2, "seeds": [1], **keys}
    path = Path("sweep.yaml")
    path.write_text(
        yaml.safe_dump({"base": "base.yaml", **content} if base else content, sort_keys=False)
    )

    return path


def sweep_of(**keys):
    return read_sweep(write_sweep(**keys))


class Measured:
    """Stands for training and evaluation: metrics as a function of the recipe;
    remembers what it was asked.
    """

    def __init__(self, monkeypatch, metrics):
        self.asked = []

        def measure(sweep, target, cell, watch=None):
            self.asked.append(cell)
            return metrics(cell)

        monkeypatch.setattr(trials, "measure_job", measure)
        monkeypatch.setattr(trials, "rerun", lambda sweep: None)


def trade_off(cell):
    """Colder is better and slower."""
    t = cell.recipe.sampler.temperature
    return {
        "quality/fd_digits": t,
        "speed/images_per_second": 100 * t,
        "cost/peak_memory_gb": t,
        "val/bits_per_dim": t,
    }


# The file


def test_trials_that_differ_in_the_sampler_share_their_training():
    sweep = sweep_of(search={**TEMPERATURE, "inner.head.components": {"categorical": [1, 4]}})
    (target,) = sweep.targets
    cells = [
        sweep.trial_cell(target, {"inner.head.components": k, "sampler.temperature": t})
        for k in (1, 4)
        for t in (0.6, 0.8)
    ]

    assert [c.folder for c in cells] == [cells[0].folder] * 2 + [cells[2].folder] * 2 and cells[
        0
    ] != cells[1]
    assert (
        cells[0].folder != cells[2].folder
        and cells[0].recipe.evaluation_signature != cells[1].recipe.evaluation_signature
    )
    assert cells[0].folder.path.parent.name.startswith("components=1-")


def test_a_parameter_is_suggested_only_where_its_condition_holds():
    # the condition comes after what waits for it
    sweep = sweep_of(search={**STEPS, **ARCHITECTURES})
    (target,) = sweep.targets
    for outer, expected in {
        "causal": {"outer": "causal"},
        "masked": {"outer": "masked", "sampler.steps": 5},
    }.items():
        trial = optuna.trial.FixedTrial({"outer": outer, "sampler.steps": 5})
        assert sweep.suggest(trial) == expected
        recipe = sweep.recipe(target, expected)
        assert recipe.sampler.steps == expected.get("sampler.steps") and recipe.outer.kind == outer

    assert sweep.recipe(target, {"outer": "masked"}).outer.arguments["width"] == 16


def test_a_key_within_a_part_is_laid_over_the_part():
    space = {"outer.width": {"categorical": [8, 16]}, **ARCHITECTURES}
    sweep = sweep_of(search=space)
    recipe = sweep.recipe(sweep.targets[0], {"outer.width": 8, "outer": "masked"})
    assert recipe.outer.arguments["width"] == 8 and recipe.outer.kind == "masked"


def test_the_corners_show_every_extreme_where_its_condition_holds():
    space = {
        "a": {"categorical": ["x", "y"]},
        "b": {"int": [1, 9], "when": {"a": "y"}},
        "c": {"log": [0.1, 10]},
    }
    result = corners(read_parameters({key: Dimension(**spec) for key, spec in space.items()}))
    assert (
        {"a": "y", "b": 9, "c": 0.1} in result
        and {"a": "x", "c": 10.0} in result
        and {"a": "x", "c": 0.1} in result
    )
    assert all(("b" in values) == (values["a"] == "y") for values in result)


FAULTS = {
    "low": (
        {"search": {"training.lr": {"float": [2, 1]}}},
        "search.training.lr.float: low, 2, is not below high, 1",
    ),
    "equal": ({"search": {"training.lr": {"log": [1, 1]}}}, "low, 1, is not below high, 1"),
    "log of 0": (
        {"search": {"training.lr": {"log": [0, 1]}}},
        "search.training.lr.log: low, 0, is not above 0",
    ),
    "int": (
        {"search": {"training.steps": {"int": [1, 2.5]}}},
        "search.training.steps.int.1: 2.5 is not a whole number",
    ),
    "no number": (
        {"search": {"training.lr": {"float": ["a", "b"]}}},
        "search.training.lr.float.0: 'a' is not a number",
    ),
    "one number": (
        {"search": {"training.lr": {"float": [1]}}},
        "search.training.lr.float: [1] is not a list of 2",
    ),
    "two shapes": (
        {"search": {"training.lr": {"float": [0, 1], "log": [1, 2]}}},
        "training.lr.log: is given beside float",
    ),
    "no shape": (
        {"search": {"training.lr": {}}},
        "search.training.lr.float: missing; write one of float, log, int",
    ),
    "no dimension": ({"search": {"training.lr": 5}}, "search.training.lr: 5 is not a section"),
    "shape": (
        {"search": {"training.lr": {"uniform": [0, 1]}}},
        "search.training.lr.uniform: unknown key; search.training.lr takes categorical, float",
    ),
    "path": ({"search": {"training.lrr": {"float": [0, 1]}}}, "training.lrr: unknown key; "),
    "hint": ({"search": {"training.warmpu": {"int": [0, 1]}}}, "did you mean warmup?"),
    "value": ({"search": {"inner.head.components": {"int": [0, 4]}}}, "components: 0 is too few"),
    "choices": (
        {"search": {"training.lr": {"categorical": []}}},
        "search.training.lr.categorical: [] is not a list",
    ),
    "unnamed": (
        {"search": {"outer": {"categorical": [MASKED]}}},
        "needs a name; write categorical: {name: value, …}",
    ),
    "when": (
        {
            "search": {
                **TEMPERATURE,
                "training.lr": {"log": [1, 2], "when": {"outter": "x"}},
                **ARCHITECTURES,
            }
        },
        "search.training.lr.when.outter: is not searched; did you mean outer?",
    ),
    "when value": (
        {"search": {**ARCHITECTURES, "sampler.steps": {"int": [1, 2], "when": {"outer": "maskd"}}}},
        "'maskd' is none of its choices (causal, masked)",
    ),
    "when nothing": (
        {"search": {**ARCHITECTURES, "sampler.steps": {"int": [1, 2], "when": {"outer": []}}}},
        "search.sampler.steps.when.outer: names no value",
    ),
    "when a mapping": (
        {
            "search": {
                **ARCHITECTURES,
                "sampler.steps": {"int": [1, 2], "when": {"outer": {"a": 1}}},
            }
        },
        "{'a': 1} is none of its choices",
    ),
    "when a list": (
        {
            "search": {
                **ARCHITECTURES,
                "sampler.steps": {"int": [1, 2], "when": {"outer": [["masked"]]}},
            }
        },
        "['masked'] is none of its choices",
    ),
    "when itself": (
        {"search": {"outer": {"categorical": {"a": {}, "b": {}}, "when": {"outer": "a"}}}},
        "waits for itself",
    ),
    "seed": ({"search": {"seed": {"int": [0, 5]}}}, "search.seed: decides what is measured"),
    "no space": ({"search": {}}, "search: missing"),
    "objective": (
        {"objectives": [{"metric": "quality/fd_digit", "direction": "minimize"}]},
        "objectives.0.metric: no run produces 'quality/fd_digit'; did you mean quality/fd_digits?",
    ),
    "no name": (
        {"objectives": [{"metric": ["quality/fd_digits"], "direction": "minimize"}]},
        "objectives.0.metric: ['quality/fd_digits'] is not a text",
    ),
    "no mixture": (
        {
            "search": {
                "inner.head": {
                    "categorical": {"gmm": {"kind": "gmm"}, "spline": {"kind": "spline"}}
                }
            },
            "objectives": [{"metric": "components/dead", "direction": "minimize"}],
        },
        "objectives: no run produces components/dead with head=spline",
    ),
    "no resolution": (
        {"objectives": [{"metric": "val/bits_per_dim_at_resolution", "direction": "minimize"}]},
        "objectives: no run produces val/bits_per_dim_at_resolution",
    ),
    "never": (
        {"objectives": [{"metric": "val/gap_bits_per_dim", "direction": "minimize"}]},
        "objectives: no run produces val/gap_bits_per_dim",
    ),
    "direction": (
        {"objectives": [{"metric": "quality/fd_digits"}]},
        "objectives.0.direction: missing; objectives.0 needs it, one of minimize, maximize",
    ),
    "constraint": (
        {"constraints": {"cost/memory": 1}},
        "constraints: no run produces 'cost/memory'",
    ),
    "ceiling": (
        {"constraints": {"cost/parameters": "few"}},
        "constraints.cost/parameters: 'few' is not a number",
    ),
    "no ceiling": (
        {"constraints": {"cost/parameters": float("nan")}},
        "cost/parameters: nan is not a finite number",
    ),
    "trials": ({"trials": 0}, "trials: 0 is too few; at least 1"),
    "part of a trial": ({"trials": 2.5}, "trials: 2.5 is not a whole number"),
    "hours": ({"hours": -1}, "hours: -1 is not above 0"),
    "algorithm": (
        {"algorithm": "tp"},
        "algorithm: 'tp' is not one of tpe, nsga2, random; did you mean tpe?",
    ),
    "its former word": (
        {"sampler": "tpe"},
        "sampler: is called algorithm now, as in algorithm: tpe; rename the key",
    ),
    "pruner": ({"pruner": "median"}, "pruner: median needs val/bits_per_dim as the one objective"),
    "early": (
        {"early_stopping": {"after": 2, "worst": 0.25}},
        "early_stopping.after: 2 is not between 0 and 1",
    ),
    "its own seed": ({"seeds": [0, 1]}, "seeds: 0 is the search's own seed"),
    "share": ({"validation": {"share": 0}}, "validation.share: 0 is not between 0 and 1"),
    "split": ({"validation": 0.2}, "validation: 0.2 is not a section"),
    "searched split": (
        {"search": {"validation.share": {"float": [0.1, 0.2]}}},
        "search.validation.share: decides what is measured",
    ),
    "split of the base": (
        {"base": tiny("validation.share=0.1")},
        "base: base.yaml sets validation, which the sweep's own key does for trials",
    ),
    "split that leaves too few": (
        {"base": tiny("training.batch=1200")},
        "training.batch: 1200 exceeds the 1150 training images, without the validation part",
    ),
    "split of a run": (
        {"base": None, "run": "runs/x", "validation": {}},
        "validation: nothing is trained here",
    ),
    "reruns": ({"reruns": 0}, "reruns: 0 is too few; at least 1"),
    "key": ({"trails": 3}, "trails: unknown key; a sweep takes"),
    "nothing": ({"base": None}, "base: name what is searched"),
    "two": ({"run": "runs/x"}, "base: name what is searched"),
    "run": ({"base": None, "run": "runs/x"}, "runs/x: not a run folder; it holds no config.yaml"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_input_is_one_line_before_anything_starts(name, capsys):
    keys, message = FAULTS[name]
    with pytest.raises(SystemExit) as leave:
        cli.main(["sweep", str(write_sweep(**keys))])
    error = capsys.readouterr().err

    assert (
        leave.value.code == 2
        and message in error
        and error.count("\n") == 1
        and "sweep.yaml: " in error
    )
    assert not Path("studies").exists() and not Path("runs").exists()


def test_another_space_is_not_mixed_with_what_was_begun():
    sweep = sweep_of()
    open_search(sweep, sweep.targets[0])
    open_search(sweep_of(trials=9, hours=3, question="Why?"), sweep.targets[0])  # these may change
    other = sweep_of(search={"sampler.temperature": {"float": [0.5, 1.5]}})
    with pytest.raises(ConfigError, match="was begun with another space"):
        open_search(other, other.targets[0])


def test_sweeps_that_were_begun_are_resumed_whatever_becomes_of_their_classes_and_keys():
    """The fingerprint and the folder's name are those of 2026-11-30, when the key was called
    sampler. Trials that saw the held-out images are not mixed with those of a validation part.
    """
    path = write_sweep(
        objectives=[FD, SPEED],
        constraints={"cost/peak_memory_gb": 1},
        early_stopping={"after": 0.5, "worst": 0.25},
        search={
            **ARCHITECTURES,
            **STEPS,
            "training.lr": {"log": [1e-4, 1]},
            "inner.depth": {"categorical": [1, 2]},
        },
    )
    sweep = read_sweep(path, {"algorithm": "random"})
    assert replace(sweep, targets=(), validation=None).fingerprint == "69dd0123"
    assert sweep.folder == Path("studies/sweep-sampler=random")


def test_a_sweep_and_an_ablation_of_one_name_are_not_mixed():
    """Their reports and queues would lie in one folder."""
    base, study = Path("base.yaml"), Path("one/sweep.yaml")
    sweep = sweep_of()
    study.parent.mkdir()
    axes = {"inner.head.components": [1, 2]}
    study.write_text(yaml.safe_dump({"base": f"../{base}", "axes": axes, "seeds": [0]}))
    plan = read_plan(study)
    prepare(plan)
    with pytest.raises(
        ConfigError, match="studies/sweep: holds an ablation of this name; rename the file"
    ):
        open_search(sweep, sweep.targets[0])

    shutil.rmtree("studies")
    open_search(sweep, sweep.targets[0])
    with pytest.raises(
        ConfigError, match="studies/sweep: holds a sweep of this name; rename the file"
    ):
        prepare(plan)


# The validation part


def test_trials_are_judged_on_a_validation_part_and_reruns_on_held_out_images():
    sweep = sweep_of(validation={"share": 0.1, "seed": 5})
    (target,) = sweep.targets
    values = {"sampler.temperature": 0.7}
    trial, again = sweep.trial_cell(target, values), sweep.repeats(target, values)[1]
    assert trial.recipe.validation == Validation(0.1, 5) and again.recipe.validation is None
    assert trial.recipe.training_signature != again.recipe.training_signature
    assert trial.folder.path.parent != again.folder.path.parent

    judged, reported = (build(job.recipe, "meta").source for job in (trial, again))
    assert judged.counts == (1294, 143) and reported.counts == (1437, 360)
    assert again.recipe.training_signature == tiny().training_signature


def test_a_sweep_that_says_nothing_of_it_has_a_validation_part_and_states_it():
    sweep = sweep_of()
    open_search(sweep, sweep.targets[0])
    assert sweep.validation == Validation(0.2, 0)
    text = sweep_markdown(sweep)
    assert "A validation part judged the trials: 20 % of the training images (at most as" in text
    assert "drawn by seed 0." in text and "on held-out images that no trial has seen" in text


def test_trials_of_two_splits_are_not_mixed():
    sweep = sweep_of()
    open_search(sweep, sweep.targets[0])
    other = sweep_of(validation={"seed": 1})
    with pytest.raises(ConfigError, match="another space, base, objectives or validation part"):
        open_search(other, other.targets[0])


def test_the_command_line_sets_the_sweeps_split_and_not_the_recipes():
    sweep = read_sweep(write_sweep(), read_overrides(["validation.share=0.1"]))
    assert sweep.validation == Validation(0.1) and sweep.name == "sweep-validation.share=0.1"
    assert sweep.targets[0].content.get("validation") is None


def test_no_number_of_a_trial_depends_on_the_held_out_images(uncounted):
    """Neither what stops it early nor what judges it."""
    Path("data").mkdir()
    images, labels = Digits().train
    for part, count in (("train", 100), ("held_out", 20)):
        save_file({"images": images[:count], "labels": labels[:count]}, f"data/{part}.safetensors")
    base = tiny("data={kind: images, path: data, channels: 1, size: 8, classes: 10}")
    sweep = sweep_of(base=base, objectives=[BITS], trials=1)
    (target,) = sweep.targets
    open_search(sweep, target)

    curves = []
    for held_out in (images[200:220], 255 - images[200:220]):
        shutil.rmtree("runs", ignore_errors=True)
        save_file({"images": held_out, "labels": labels[200:220]}, "data/held_out.safetensors")
        job = sweep.trial_cell(target, {"sampler.temperature": 0.7})
        curve = []
        measured = trials.measure_job(
            sweep, target, job, lambda _, bits, curve=curve: curve.append(bits)
        )
        curves.append([*curve, measured["val/bits_per_dim"]])

    likelihood = job.folder.report(job.recipe)["likelihood"]
    assert likelihood["images"] == 20 and likelihood["part"].startswith("validation: 20 %")
    assert len(curves[0]) == 3 and curves[0] == curves[1]


# The search


def test_two_objectives_give_a_front_that_is_all_re_run(monkeypatch):
    measured = Measured(monkeypatch, trade_off)
    sweep = sweep_of(objectives=[FD, SPEED], trials=8, constraints={"cost/peak_memory_gb": 0.9})
    run_sweep_worker(sweep)
    study = open_search(sweep, sweep.targets[0])
    assert (
        len(measured.asked) == 8
        and len({c.recipe.sampler.temperature for c in measured.asked}) == 8
    )
    inside = [t for t in finished_trials(study) if t.params["sampler.temperature"] <= 0.9]
    assert 0 < len(inside) < 8 and {t.number for t in feasible_trials(study)} == {
        t.number for t in inside
    }
    assert (
        {t.number for t in best_trials(sweep, study)}
        == {t.number for t in inside}
        == {t.number for t in study.best_trials}
    )
    temperatures = [t.params["sampler.temperature"] for t in inside]

    chosen = chosen_settings(sweep, study)
    assert [values["sampler.temperature"] for values in chosen.values()] == sorted(temperatures)
    ends = {name: v["sampler.temperature"] for name, v in chosen.items() if name[:4] == "best"}
    assert ends == {
        "best quality/fd_digits": min(temperatures),
        "best speed/images_per_second": max(temperatures),
    }
    assert sum(name.startswith("front trial ") for name in chosen) == len(inside) - 2


@pytest.mark.parametrize(("reruns", "places"), [(1, [0]), (2, [0, 8]), (4, [0, 2, 6, 8])])
def test_of_a_large_front_the_ends_and_an_even_choice_are_re_run(monkeypatch, reruns, places):
    Measured(monkeypatch, trade_off)
    sweep = sweep_of(objectives=[FD, SPEED], trials=9, reruns=reruns)
    run_sweep_worker(sweep)
    study = open_search(sweep, sweep.targets[0])
    front = best_trials(sweep, study)
    assert len(front) == 9

    values = [dict(front[place].params) for place in places]
    assert list(chosen_settings(sweep, study).values()) == values
    numbers = [str(front[place].number) for place in range(9) if place not in places]
    left_out = f"since reruns is {reruns}: trials {', '.join(numbers)}."
    assert f"Not re-run of the front of sweep, {left_out}" in sweep_markdown(sweep)


def test_a_setting_that_was_proposed_twice_is_re_run_once(monkeypatch):
    Measured(monkeypatch, trade_off)
    sweep = sweep_of(objectives=[FD, SPEED], trials=3)
    study = open_search(sweep, sweep.targets[0])
    for t in (0.6, 0.8, 0.6):
        study.enqueue_trial({"sampler.temperature": t})
    run_sweep_worker(sweep)
    assert [v["sampler.temperature"] for v in chosen_settings(sweep, study).values()] == [0.6, 0.8]
    assert "Not re-run" not in sweep_markdown(sweep)


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2", "random"])
def test_a_search_goes_on_as_if_it_had_not_been_stopped(monkeypatch, algorithm):
    straight = Measured(monkeypatch, trade_off)
    run_sweep_worker(sweep_of(objectives=[FD, SPEED], trials=8, algorithm=algorithm))
    Path("studies").rename("before")
    resumed = Measured(monkeypatch, trade_off)
    for n in (4, 8, 8):
        run_sweep_worker(sweep_of(objectives=[FD, SPEED], trials=n, algorithm=algorithm))
    if algorithm == "nsga2":  # its population depends on the number of trials
        assert len(resumed.asked) == 8
    else:
        assert [c.recipe.sampler for c in resumed.asked] == [
            c.recipe.sampler for c in straight.asked
        ]


def test_tpe_finds_the_best_sooner_than_chance(monkeypatch):
    best = {}
    for algorithm in ("tpe", "random"):
        measured = Measured(
            monkeypatch, lambda c: {"quality/fd_digits": (c.recipe.sampler.temperature - 0.8) ** 2}
        )
        run_sweep_worker(
            read_sweep(write_sweep(trials=24, algorithm=algorithm), {"question": algorithm})
        )
        best[algorithm] = min(abs(c.recipe.sampler.temperature - 0.8) for c in measured.asked[12:])

    assert best["tpe"] < best["random"]


def dry_run(capsys, monkeypatch, speed=0.0):
    """What a dry run prints, where a training takes an hour and an evaluation 0.1 hours."""
    cost = Cost(1, 1.0, 1.0, 1.1 * 3600, speed * 3600, 0.1 * 3600)
    monkeypatch.setattr(forecast, "probe_or_reason", lambda recipe: cost)
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert arinar("sweep", "sweep.yaml", "--dry-run") == 0
    after = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert after == before
    return " ".join(capsys.readouterr().out.split())


def test_a_dry_run_counts_trials_trainings_and_reruns_and_writes_nothing(monkeypatch, capsys):
    search = {**TEMPERATURE, "inner.head.components": {"categorical": [1, 4]}}
    write_sweep(search=search, trials=10, hours=9, seeds=[1, 2])
    text = dry_run(capsys, monkeypatch)
    assert "0 of 10 trials are finished, 0.0 of 540 minutes spent." in text
    assert "10 trials by 2 workers, about 2 trainings: about 1.5 hours on this machine" in text
    assert "none begins after 9." in text  # 1.5 = (2 + 10 × 0.1) / 2
    assert "Then at most 2 re-runs, 1 by 2 seeds: about 1.1 hours." in text
    assert not Path("studies").exists() and not Path("runs").exists()

    write_sweep(search=search, trials=10, objectives=[FD, SPEED], reruns=4, seeds=[1, 2])
    text = dry_run(capsys, monkeypatch, speed=0.5)  # alone on the machine
    assert "about 2 trainings: about 6.5 hours" in text
    assert "Then at most 8 re-runs, 4 by 2 seeds: about 6.4 hours." in text


def test_a_dry_run_of_a_sweep_that_has_begun_counts_what_remains(monkeypatch, capsys):
    Measured(monkeypatch, trade_off)
    path = write_sweep(trials=2)
    run_sweep_worker(read_sweep(path))
    path.write_text(path.read_text().replace("trials: 2", "trials: 4"))
    text = dry_run(capsys, monkeypatch)
    assert "2 of 4 trials are finished" in text and "2 trials by 2 workers" in text


def test_a_dry_run_over_finished_runs_trains_nothing(monkeypatch, capsys, a_run):
    write_sweep(base=None, run=str(a_run.path), trials=5)
    text = dry_run(capsys, monkeypatch)
    assert "5 trials by 2 workers, no training: about 0.25 hours" in text


def test_what_fails_is_told_and_what_is_not_finite_fails(monkeypatch):
    def measure(cell):
        n = len(measured.asked)
        if n == 1:
            raise RuntimeError("out of\nmemory")
        return {"quality/fd_digits": float("nan") if n == 2 else 1.0}

    measured = Measured(monkeypatch, measure)
    sweep = sweep_of(trials=3)
    run_sweep_worker(sweep)
    done = finished_trials(open_search(sweep, sweep.targets[0]))
    assert [t.state for t in done] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert (
        done[0].user_attrs["reason"] == "RuntimeError: out of memory"
        and "not a finite number" in done[1].user_attrs["reason"]
    )
    run_sweep_worker(sweep)
    assert len(measured.asked) == 3  # failures count as trials


def test_no_trial_begins_when_the_hours_are_over(monkeypatch):
    measured = Measured(monkeypatch, trade_off)
    sweep = sweep_of(trials=5, hours=0.5)
    sweep.folder.mkdir(parents=True)
    write_json(sweep.folder / "budget.json", {"seconds": 1799.0})
    taken = claim_trial(sweep, open_search(sweep, sweep.targets[0]))
    assert taken is not None
    taken[1].close()
    write_json(sweep.folder / "budget.json", {"seconds": 1801.0})
    run_sweep_worker(sweep)

    assert len(measured.asked) == 1  # the one that was begun in time, and lost


def test_a_lost_trial_is_tried_again_with_its_parameters_three_times(monkeypatch):
    Measured(monkeypatch, trade_off)
    sweep = sweep_of(trials=1)
    study = open_search(sweep, sweep.targets[0])

    tried = []
    for _ in range(3):
        trial, lock = claim_trial(sweep, study)
        tried.append(sweep.suggest(trial))
        assert claim_trial(sweep, study) is None  # it runs, and one trial is all there is
        lock.close()  # as when its worker dies

    assert tried == tried[:1] * 3
    assert claim_trial(sweep, study) is None

    (over,) = finished_trials(study)
    assert over.state == TrialState.FAIL and over.user_attrs["reason"] == "lost its worker 3 times"


def test_stopping_the_command_spends_no_try(monkeypatch):
    def leave(cell):
        raise SystemExit(1)

    Measured(monkeypatch, leave)
    sweep = sweep_of(trials=1)
    for _ in range(4):
        with pytest.raises(SystemExit):
            run_sweep_worker(sweep)
    measured = Measured(monkeypatch, trade_off)
    run_sweep_worker(sweep)
    (done,) = finished_trials(open_search(sweep, sweep.targets[0]))
    assert (
        done.state == TrialState.COMPLETE
        and len(measured.asked) == 1
        and done.user_attrs["tries"] == 1
    )


def test_a_worker_that_is_asked_to_end_hands_its_trial_back_and_spends_no_try(monkeypatch):
    Measured(monkeypatch, lambda cell: (Path("begun").touch(), time.sleep(60)))
    sweep = sweep_of(trials=1)
    study = open_search(sweep, sweep.targets[0])
    child = forked_worker(sweep, Path.cwd())

    while not Path("begun").exists():
        time.sleep(0.02)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143

    again = study.get_trials()[-1]
    assert again.state == TrialState.WAITING and again.user_attrs["tries"] == 1


def test_its_status_tells_every_trial_and_then_every_rerun(monkeypatch, capsys):
    Measured(monkeypatch, trade_off)
    path = write_sweep(trials=3, seeds=[1, 2])
    sweep = read_sweep(path)
    study = open_search(sweep, sweep.targets[0])

    def states():
        capsys.readouterr()
        with contextlib.suppress(SystemExit):
            cli.main(["status", str(path), "--json"])
        return {name: n for name, n in json.loads(capsys.readouterr().out)["states"].items() if n}

    assert states() == {"waiting": 3}
    _, lock = claim_trial(sweep, study)
    assert states() == {"running": 1, "waiting": 2}
    lock.close()  # as when its worker dies
    assert states() == {"lost": 1, "waiting": 2}
    run_sweep_worker(sweep)
    assert states() == {"done": 3, "waiting": 2}  # the best is to be run under two seeds
    (again,) = repeats(sweep)
    study.set_user_attr(again.cells[1].key, {"quality/fd_digits": 1.0})  # told by another machine
    assert states() == {"done": 4, "waiting": 1}


def test_a_trial_that_failed_is_told_with_its_reason(monkeypatch, capsys):
    Measured(monkeypatch, lambda cell: {})
    path = write_sweep(trials=1)
    run_sweep_worker(read_sweep(path))
    with pytest.raises(SystemExit) as leave:
        cli.main(["status", str(path)])
    assert leave.value.code == 1
    assert "KeyError: 'quality/fd_digits'" in capsys.readouterr().out


def test_a_job_array_of_a_sweep_runs_its_workers(capsys):
    path = write_sweep(trials=3)
    with pytest.raises(SystemExit) as leave:
        cli.main(["slurm", str(path), "--array", "2"])
    assert leave.value.code == 0 and "3 trials for 2 workers" in capsys.readouterr().out

    script = Path("studies/sweep/slurm.sh").read_text()
    assert (
        f"-m arinar_lab work {path}" in script
        and f"arinar sweep {path}" in script
        and "--array=1-2" in script
    )


@pytest.mark.parametrize("metrics", [trade_off, lambda cell: {}], ids=["measured", "failed"])
def test_a_worker_that_was_silent_for_too_long_takes_the_next_trial(monkeypatch, metrics, capsys):
    """Its trial was given to another meanwhile: what it measured is not told,
    and nothing is wrong.
    """
    sweep = sweep_of(trials=2)
    study = open_search(sweep, sweep.targets[0])

    def silent(cell):
        (running,) = study.get_trials(states=(TrialState.RUNNING,))
        if running.number == 0:
            trials.hand_back(study, running, {"tries": 2})
            return metrics(cell)
        return trade_off(cell)

    Measured(monkeypatch, silent)
    run_sweep_worker(sweep)
    states = [t.state for t in study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert "metrics" not in study.get_trials()[0].user_attrs


def test_a_killed_worker_loses_no_trial_and_repeats_no_finished_one(monkeypatch):
    sweep = sweep_of(trials=4)
    open_search(sweep, sweep.targets[0])
    log = Path("log").absolute()

    def slow(cell):
        time.sleep(0.4)
        with log.open("a") as file:
            file.write(f"{cell.label}\n")
        return trade_off(cell)

    Measured(monkeypatch, slow)
    child = os.fork()
    if child == 0:
        run_sweep_worker(sweep)
        os._exit(0)
    while not log.exists():
        time.sleep(0.02)
    time.sleep(0.2)  # in the midst of the second
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    run_sweep_worker(sweep)
    done = finished_trials(open_search(sweep, sweep.targets[0]))
    assert [t.state for t in done] == [TrialState.COMPLETE] * 4
    assert Counter(log.read_text().split()) == Counter(sweep.label(t.params) for t in done)


# Early stopping


def history(folder, *bits):
    path = Path(folder) / "metrics.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "step,name,value\n"
        + "".join(f"{3 * i + 2},val/bits_per_dim,{b}\n" for i, b in enumerate(bits))
    )


def test_a_training_in_the_worst_quarter_is_stopped_at_that_step(monkeypatch):
    sweep = sweep_of(objectives=[FD, SPEED], early_stopping={"after": 0.4, "worst": 0.25}, trials=9)
    study = open_search(sweep, sweep.targets[0])
    for i, b in enumerate([2.0, 2.1, 2.2, 2.3, 9.0]):
        trial, lock = claim_trial(sweep, study)
        cell = sweep.trial_cell(sweep.targets[0], sweep.suggest(trial))
        watch = trials._watch(sweep, study, trial, cell)
        assert i == 4 or not watch(2, 99.0)  # too few have finished
        cell = replace(cell, folder=RunFolder(Path(f"runs/{i}")))
        history(cell.folder.path, b, 2.0)
        trial.set_user_attr("folder", f"runs/{i}")
        trials._remember(sweep, trial, {}, cell)
        study.tell(trial, [1.0, 1.0])
        lock.close()

    # the quantile of five is the fourth, 2.3
    assert watch(2, 9.5) and watch(2, 2.31) and not watch(2, 2.29)
    # too early; at the end there is nothing to save
    assert not watch(1, 99.0) and not watch(5, 99.0)


@pytest.mark.slow
def test_stopping_is_real_saves_time_and_is_no_failure():
    sweep = sweep_of(
        base=tiny("training.steps=30"),
        objectives=[BITS],
        pruner="median",
        search={"training.lr": {"log": [1e-5, 1e-2]}},
    )
    (target,) = sweep.targets
    study = open_search(sweep, target)
    trial, _ = claim_trial(sweep, study)
    cell = sweep.trial_cell(target, sweep.suggest(trial))

    with pytest.raises(StoppedEarly) as stopped:
        trials.measure_job(sweep, target, cell, lambda step, bits: step >= 5)
    assert (
        stopped.value.saved > 0
        and not cell.folder.done
        and not (cell.folder.path / "FAILED").exists()
    )
    assert "stopped after 6 steps" in (cell.folder.path / "log.txt").read_text()
    trials.measure_job(sweep, target, cell)  # whoever wants its end may have it

    assert cell.folder.done


@pytest.mark.slow
def test_the_median_pruner_stops_the_slow_learners():
    space = {"training.lr": {"categorical": [3e-3, 2e-3, 4e-3, 5e-3, 1e-7]}}
    base = tiny("training.steps=9", "training.ema=0")
    sweep = sweep_of(
        base=base, objectives=[BITS], pruner="median", search=space, trials=6, seeds=[1]
    )
    study = open_search(sweep, sweep.targets[0])

    for lr in (3e-3, 2e-3, 4e-3, 5e-3, 1e-7, 1e-7):
        study.enqueue_trial({"training.lr": lr})
    run_sweep_worker(sweep)
    done = finished_trials(study)

    assert [t.state for t in done] == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED] * 2
    # it is not begun again
    assert done[4].user_attrs["saved_seconds"] > 0 and done[5].user_attrs["saved_seconds"] == 0
    assert "2 stopped early, 0 failed" in sweep_markdown(sweep)


# From the command to the report


@pytest.mark.slow
def test_the_command_searches_reruns_and_reports(forked, uncounted, capsys):
    space = {**TEMPERATURE, "inner.head.components": {"categorical": [1, 2]}}
    path = write_sweep(
        base=tiny("training.steps=2"), search=space, objectives=[FD, SPEED], trials=4, seeds=[1, 2]
    )
    with pytest.raises(SystemExit) as leave:
        cli.main(["sweep", str(path), "--workers", "2"])
    printed = capsys.readouterr().out
    assert leave.value.code == 0, printed
    sweep = read_sweep(path)
    study = open_search(sweep, sweep.targets[0])
    assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE] * 4
    assert len(list(Path("runs").glob("*/seed_0"))) <= 2  # four trials, one training for each K
    for t in finished_trials(study):  # what Optuna was told is what the run folder says
        cell = sweep.trial_cell(sweep.targets[0], t.params)
        metrics = cell.folder.report(cell.recipe)["metrics"]
        assert t.values == [metrics["quality/fd_digits"], metrics["speed/images_per_second"]]

    for again in repeats(sweep):
        values = [
            c.folder.report(c.recipe)["metrics"]["quality/fd_digits"] for c in again.cells.values()
        ]
        mean = rerun_means(sweep)[again.target.name, again.name]["quality/fd_digits"].mean
        assert sorted(again.cells) == [1, 2] and mean == pytest.approx(sum(values) / 2)

    assert set(os.listdir("studies/sweep/report")) >= {
        "table.md",
        "table.csv",
        "pareto.png",
        "hypervolume.png",
        "importances.png",
    }
    before = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("report.json")}
    with pytest.raises(SystemExit) as leave:
        cli.main(["sweep", str(path)])

    assert leave.value.code == 0 and len(forked) == 2  # nothing is left to do
    assert {p: p.stat().st_mtime_ns for p in Path("runs").rglob("report.json")} == before


@pytest.fixture
def server(postgresql, monkeypatch):
    """Trials on a PostgreSQL server, with a heartbeat of 1 s and 3 s of grace."""
    for name, value in {"STORAGE": postgresql.url(), "HEARTBEAT": "1", "GRACE": "3"}.items():
        monkeypatch.setenv(f"ARINAR_{name}", value)
    return postgresql


def forked_worker(sweep, folder):
    """A worker in a folder of its own, as on another machine; exits 0 where it ends."""
    child = os.fork()
    if child:
        return child

    status = 1
    try:
        os.chdir(folder)
        run_sweep_worker(sweep)
        status = 0
    except SystemExit as leave:
        status = int(leave.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@pytest.mark.slow
def test_machines_without_common_files_share_a_sweep_on_a_server(server, uncounted, capsys):
    path = write_sweep(base=tiny("training.steps=2"), trials=6, seeds=[1, 2])
    sweep = replace(read_sweep(path), name=f"shared_{time.time_ns()}")
    (target,) = sweep.targets
    study = open_search(sweep, target)

    folders = [Path(name).absolute() for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    children = [forked_worker(sweep, folder) for folder in folders]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    trials_of = finished_trials(study)
    assert [t.state for t in trials_of] == [TrialState.COMPLETE] * 6
    assert len({t.params["sampler.temperature"] for t in trials_of}) == 6
    runs = [path.parts[-2:] for folder in folders for path in folder.glob("runs/*/seed_[12]")]
    assert len(runs) == len(set(runs)) == 2  # each seed of the re-run by one machine
    for folder in folders:
        os.chdir(folder)
        assert [(again.name, sorted(again.results)) for again in repeats(sweep)] == [
            ("best quality/fd_digits", [1, 2])
        ]
        assert "| best quality/fd_digits |" in sweep_markdown(sweep) and "2 of 2" in sweep_markdown(
            sweep
        )

    assert not list(folders[0].rglob("queue.db"))


@pytest.mark.slow
def test_a_silent_worker_on_a_server_loses_its_trial_to_another(server, monkeypatch):
    sweep = replace(sweep_of(trials=2), name=f"silent_{time.time_ns()}")
    study = open_search(sweep, sweep.targets[0])
    trial, lock = claim_trial(sweep, study)
    lost = sweep.suggest(trial)
    lock.close()
    measured = Measured(monkeypatch, trade_off)
    run_sweep_worker(sweep)  # waits until the heart of the other has been silent for 3 s

    assert [t.state for t in study.get_trials()].count(TrialState.COMPLETE) == 2
    assert lost["sampler.temperature"] in [
        cell.recipe.sampler.temperature for cell in measured.asked
    ]


def test_a_finished_run_is_tuned_on_images_that_are_not_reported(one_run):
    path = write_sweep(base=None, run=str(one_run.path))
    sweep = read_sweep(path)
    (target,) = sweep.targets
    trial, cells = (
        sweep.trial_cell(target, {"sampler.temperature": 0.7}),
        sweep.repeats(target, {"sampler.temperature": 0.7}),
    )

    assert trial.folder == cells[1].folder == RunFolder(one_run.path)
    assert (
        trial.recipe.evaluation.seed - 2**31
        == tiny().evaluation.seed
        != cells[1].recipe.evaluation.seed
    )
    path.write_text(path.read_text().replace("sampler.temperature", "training.lr"))
    with pytest.raises(ConfigError, match="the weights are trained already"):
        read_sweep(path)


@pytest.mark.slow
def test_every_arm_of_a_study_is_tuned_and_shown_at_the_shared_setting_too(uncounted):
    study = write_study(
        "ablation", tiny("training.steps=2"), axes={"inner.head.components": [1, 2]}, seeds=[0, 1]
    )
    content = {"study": study.name, "search": TEMPERATURE, "objectives": [FD], "trials": 1}
    Path("tune.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="has not finished"):
        read_sweep(Path("tune.yaml"))
    for k in (1, 2):
        for seed in (0, 1):
            recipe = tiny("training.steps=2", f"inner.head.components={k}", f"seed={seed}")
            train(recipe, RunFolder.of(recipe, f"components={k}"))

    sweep = read_sweep(Path("tune.yaml"))
    run_sweep_worker(sweep)
    cli_status(["report", "tune.yaml"], 0)
    best = read_json(Path("studies/tune/best.json"))
    assert set(best) == {"components=1", "components=2"}
    for name, k in (("components=1", 1), ("components=2", 2)):
        own = best[name]["best quality/fd_digits"]
        reports = [finished_report(k, seed, own["sampler"]["temperature"]) for seed in (0, 1)]
        assert own["re-run"]["quality/fd_digits"]["mean"] == pytest.approx(sum(reports) / 2)
        assert best[name]["shared setting"]["sampler"]["temperature"] == 1.0


def finished_report(k, seed, temperature):
    recipe = tiny(
        "training.steps=2",
        f"inner.head.components={k}",
        f"seed={seed}",
        f"sampler.temperature={temperature!r}",
    )
    return RunFolder.of(recipe, "").report(recipe)["metrics"]["quality/fd_digits"]


def cli_status(words, status):
    with pytest.raises(SystemExit) as leave:
        cli.main(words)
    assert leave.value.code == status


def test_the_report_shows_hypervolume_importances_and_every_trial(monkeypatch):
    Measured(monkeypatch, trade_off)
    space = {**TEMPERATURE, "training.ema": {"float": [0.1, 0.9]}}
    sweep = sweep_of(search=space, objectives=[FD, {**FD, "metric": "val/bits_per_dim"}], trials=30)
    run_sweep_worker(sweep)
    study = open_search(sweep, sweep.targets[0])
    share = importances(study)
    # ema decides nothing
    assert sum(share.values()) == pytest.approx(1) and share["sampler.temperature"] > 0.9
    growth, worst = volumes(sweep, feasible_trials(study))
    assert growth == sorted(growth) and growth[0] < growth[-1]
    temperatures = [t.params["sampler.temperature"] for t in finished_trials(study)]
    assert worst == [max(temperatures)] * 2 and growth[-1] == pytest.approx(
        (max(temperatures) - min(temperatures)) ** 2
    )
    rows = list(csv.DictReader(trials_csv(sweep).splitlines()))

    assert len(rows) == 30 and {r["state"] for r in rows} == {"COMPLETE"}
    assert all(float(r["quality/fd_digits"]) == float(r["sampler.temperature"]) for r in rows)


def test_reruns_and_trials_stand_in_one_front(monkeypatch):
    """A trial is as good as its temperature, and a re-run a tenth worse under one seed: luck
    that the search chose.
    """
    Measured(monkeypatch, trade_off)
    sweep = sweep_of(objectives=[FD, SPEED], trials=6, seeds=[1, 2])
    run_sweep_worker(sweep)
    assert sweep_report.sweep_conclusions(sweep) == []  # nothing is re-run yet
    for again in repeats(sweep):
        for seed, cell in again.cells.items():
            worse = {
                **trade_off(cell),
                "quality/fd_digits": trade_off(cell)["quality/fd_digits"] + (seed - 1) / 10,
            }
            open_search(sweep, again.target).set_user_attr(cell.key, worse)
    sentences = sweep_report.sweep_conclusions(sweep)
    assert sentences[0].startswith(
        "Re-runs: FD digits against images/s: the front of means is best "
        "speed/images_per_second (100 %"
    )
    assert "(hypervolume, n = 2)" in sentences[-2]
    assert sentences[-1].startswith(
        "Trials and the means of re-runs together: 6 of 12 on the front, re-runs among them: none."
    )
    assert all(line in sweep_markdown(sweep) for line in sentences)

    again = repeats(sweep)[0]
    slow = {
        **again.results[2],
        "speed/images_per_second": again.results[2]["speed/images_per_second"] / 2,
    }
    open_search(sweep, again.target).set_user_attr(again.cells[2].key, slow)
    why = f"the speeds of one arm differ from seed to seed by more than 30% ({again.name})"
    assert sweep_report.sweep_conclusions(sweep) == [
        f"Re-runs: FD digits against images/s: no front, for {why}."
    ]
    assert f"no result. Unreliable speeds: {why}." in sweep_markdown(sweep)


def test_what_the_search_saw_is_not_in_the_table(monkeypatch):
    Measured(monkeypatch, trade_off)
    sweep = sweep_of(trials=5)
    run_sweep_worker(sweep)

    headings, body = rerun_rows(sweep)
    assert (
        headings[:3] == ["re-run", "setting", "repeats"]
        and body[0][2] == "0 of 1"
        and len(body[0]) == 3
    )


@pytest.mark.parametrize("name", ["fid_speed", "optimizer"])
def test_the_shipped_sweeps_are_sound(name):
    # which builds the corners of the space
    sweep = read_sweep(Path(__file__).parents[2] / "sweeps" / f"{name}.yaml")
    assert sweep.question and 0 not in sweep.seeds and len(sweep.seeds) == 3


@pytest.mark.slow
def test_two_processes_train_a_trial_together():
    """The second process trains the run that the first has taken, and takes no trial itself."""
    path = write_sweep(base=tiny("training.steps=4"), trials=1, objectives=[BITS])
    command = [sys.executable, "-m", "arinar_lab", "work", str(path), "machine.devices=2"]
    environment = {
        **os.environ,
        "ARINAR_TRACKING": "off",
        "PYTHONPATH": str(Path(cli.__file__).parents[2]),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = read_sweep(path, read_overrides(["machine.devices=2"]))
    (target,) = sweep.targets
    trials_of = open_search(sweep, target).get_trials()

    assert [t.state for t in trials_of] == [TrialState.COMPLETE]
    assert all(again.results.keys() == {1} for again in repeats(sweep))


def test_the_report_of_a_sweep_that_nobody_started_is_one_line(capsys):
    write_sweep(search=TEMPERATURE, objectives=[FD])
    cli_status(["report", "sweep.yaml"], 2)
    assert "nothing of this sweep has begun" in capsys.readouterr().err
    assert not Path("studies").exists()
