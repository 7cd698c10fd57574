"""Studies that grow until they are resolved: looks, their record, and what resumes them."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from command import arinar
from reports import BITS, FD, report_of
from tiny import pretend, write_study

from arinar_lab.analysis.analyse import analyse
from arinar_lab.cli import ablate, forecast
from arinar_lab.cli.forecast import SHIPPED, resolution_lines, run_spread
from arinar_lab.config.files import read_overrides
from arinar_lab.errors import ConfigError
from arinar_lab.report.statements import methods_markdown, notes
from arinar_lab.runs.folder import read_sealed, write_sealed
from arinar_lab.significance.looks import level_at
from arinar_lab.study import worker
from arinar_lab.study.collect import collect
from arinar_lab.study.plan import read_plan
from arinar_lab.study.status import run_statuses
from arinar_lab.study.worker import changes, open_board, prepare, run_worker

pytestmark = pytest.mark.usefixtures("alone")

AXES = {"inner.head.components": [1, 2]}
GROWING = {"first": 3, "until": "resolved", "at_most": 12}
SHIFT = {"resolved": 1.0, "unresolved": 0.02}
"""Difference of the two arms; the spread of a run is about 0.05."""


class Machine:
    """Workers that train nothing: they read the study as `arinar work` does and write reports."""

    def __init__(self, shift, fails=(), stops_at=0):
        self.shift = shift
        self.fails = fails
        self.stops_at = stops_at
        self.commands = []
        self.seeds = []

    def work(self, plan, todo, command, workers, console):
        self.commands.append(command)
        if self.stops_at and len(plan.seeds) >= self.stops_at:
            return False

        grown = read_plan(Path(command[4]), read_overrides(command[5:]))
        assert changes(open_board(grown)) == [], "a worker would refuse the study"
        self.seeds.append(grown.seeds)
        for job in grown.jobs:
            if not job.done:
                self._finish(job)
        return True

    def _finish(self, job):
        seed = job.recipes[0].seed
        job.folder.path.mkdir(parents=True, exist_ok=True)
        if (job.arm, seed) in self.fails:
            job.folder.fail(RuntimeError("broken"))
            return

        noise = random.Random(f"{job.arm}{seed}").gauss(0, 0.05)
        is_second = job.arm == "components=2"
        report = report_of(2.0 + noise + self.shift * is_second, distance=10 * math.exp(noise))
        write_sealed(job.folder.path / "DONE", {"steps": 6, "seconds": 1.0})
        for recipe in job.recipes:
            write_sealed(job.folder.evaluation(recipe) / "report.json", report)


@pytest.fixture
def start(monkeypatch, capsys):
    """Run `arinar ablate study.yaml WORDS` on a machine; gives the status and the output."""
    monkeypatch.setattr(forecast, "probe_or_reason", lambda _: "not timed")
    monkeypatch.setattr(ablate, "_measure", lambda *_: [])
    monkeypatch.setattr(ablate, "write_report", lambda _: [Path("report.html")])

    def run(machine, *words):
        monkeypatch.setattr(ablate, "_work", machine.work)
        status = arinar("ablate", "study.yaml", *words)
        return status, capsys.readouterr().out

    return run


def record(name="study"):
    return read_sealed(Path(f"studies/{name}/looks.json"))


def looks(name="study"):
    return [look["seeds"] for look in record(name)["looks"]]


def study(**keys):
    """Only bits/dim decides, unless the study says what matters."""
    return write_study(**{"axes": AXES, "matters": {"bits/dim": 0.001}, **keys})


# The growth


def test_a_study_that_is_resolved_at_first_does_not_grow(start):
    study(seeds=GROWING)
    machine = Machine(SHIFT["resolved"])
    status, _ = start(machine)
    assert status == 0 and machine.seeds == [(0, 1, 2)]
    (look,) = record()["looks"]
    counts = {key: look[key] for key in ("resolved", "equivalent", "unresolved")}
    assert counts == {"resolved": 1, "equivalent": 0, "unresolved": 0}


def test_an_unresolved_study_grows_by_the_schedule_to_its_most_seeds(start):
    study(seeds=GROWING)
    machine = Machine(SHIFT["unresolved"])
    status, output = start(machine)
    counts = [3, 5, 8, 12]
    assert status == 0
    assert machine.seeds == [tuple(range(n)) for n in counts]
    assert looks() == [list(range(n)) for n in counts]
    assert "Look at 3 seeds: 0 resolved, 0 equivalent, 1 unresolved" in output
    assert len(list(Path("studies").iterdir())) == 1
    assert {tuple(command) for command in machine.commands} == {tuple(machine.commands[0])}


def test_the_grown_study_is_what_every_command_sees(start, capsys):
    path = study(seeds=GROWING)
    start(Machine(SHIFT["unresolved"]))
    assert read_plan(path).seeds == tuple(range(12))
    cells = json.loads(Path("studies/study/cells.json").read_text())
    assert len(run_statuses(cells)) == 24
    assert arinar("status", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["states"]["done"] == 24


def test_levels_are_those_of_the_looks_and_are_stated(start):
    path = study(seeds=GROWING)
    start(Machine(SHIFT["unresolved"]))
    results = collect(read_plan(path))
    assert (results.looks, results.most_seeds) == ((3, 5, 8, 12), 12)
    level = level_at((3, 5, 8, 12), 12)
    text = f"look 4, at 3, then 5, then 8, then 12 seeds, and tests at {100 * level:.1f} %"
    analysis = analyse(results)
    assert any(text in line for line in notes(analysis))
    assert text in methods_markdown(analysis)


def test_equivalence_ends_the_growth(start):
    study(seeds=GROWING, matters={"bits/dim": 1.0})
    machine = Machine(SHIFT["unresolved"])
    start(machine)
    assert machine.seeds == [(0, 1, 2)] and record()["looks"][0]["equivalent"] == 1


def test_a_distance_that_matters_keeps_the_study_growing(start):
    study(seeds=GROWING, matters={"bits/dim": 0.001, "FD digits": 0.001})
    machine = Machine(SHIFT["resolved"])
    start(machine)
    assert machine.seeds[-1] == tuple(range(12))


def test_a_look_counts_failed_runs_as_ended(start):
    study(seeds=GROWING)
    machine = Machine(SHIFT["resolved"], fails={("components=1", 2)})
    status, _ = start(machine)
    assert status == 1 and looks() == [[0, 1, 2]]


# Interrupted and resumed


def test_an_interrupted_study_resumes_at_its_look_and_records_none_twice(start):
    path = study(seeds=GROWING)
    status, _ = start(Machine(SHIFT["unresolved"], stops_at=8))
    assert status == 130 and looks() == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert read_plan(path).seeds == tuple(range(8))

    machine = Machine(SHIFT["unresolved"])
    assert start(machine)[0] == 0
    assert machine.seeds == [tuple(range(8)), tuple(range(12))]
    assert list(map(len, looks())) == [3, 5, 8, 12]
    again = Machine(SHIFT["unresolved"])
    assert start(again)[0] == 0
    assert again.seeds == [] and list(map(len, looks())) == [3, 5, 8, 12]


def test_a_study_that_stopped_between_a_look_and_its_growth_goes_on(start, monkeypatch):
    path = study(seeds=GROWING)
    with monkeypatch.context() as patch:
        patch.setattr(ablate, "next_look", lambda *_: None)
        start(Machine(SHIFT["unresolved"]))
    assert looks() == [[0, 1, 2]] and read_plan(path).seeds == (0, 1, 2)

    machine = Machine(SHIFT["unresolved"])
    start(machine)
    assert machine.seeds[0] == (0, 1, 2, 3, 4) and list(map(len, looks())) == [3, 5, 8, 12]


def test_edited_arms_begin_anew(start):
    study(seeds=GROWING)
    start(Machine(SHIFT["unresolved"]))
    path = study(seeds=GROWING, axes={"inner.head.components": [1, 2, 4]})
    assert read_plan(path).seeds == (0, 1, 2)
    start(Machine(SHIFT["resolved"]))
    assert collect(read_plan(path)).looks[0] == 3


def test_a_limit_that_moves_after_a_look_is_refused(start):
    study(seeds=GROWING)
    start(Machine(SHIFT["unresolved"], stops_at=5))
    path = study(seeds={**GROWING, "at_most": 20})
    with pytest.raises(ConfigError, match=r"first: 3, at_most: 12; a limit that moves") as error:
        read_plan(path)
    assert "\n" not in str(error.value)


def test_an_edited_record_is_refused(start, capsys):
    study(seeds=GROWING)
    start(Machine(SHIFT["resolved"]))
    file = Path("studies/study/looks.json")
    file.write_text(file.read_text().replace('"at_most": 12', '"at_most": 50'))
    assert arinar("report", "study.yaml") == 2
    assert "looks.json: damaged or edited" in capsys.readouterr().err


def test_a_worker_without_our_files_does_the_seeds_that_the_study_has_by_now(monkeypatch):
    plan = read_plan(study(seeds=GROWING))
    prepare(replace(plan, seeds=tuple(range(5))))
    ran = []

    def finish(job, plan):
        ran.append(job.recipes[0].seed)
        pretend(job)
        return 1.0

    monkeypatch.setattr(worker, "run_job", finish)
    assert run_worker(plan) == []
    assert sorted(ran) == sorted([0, 1, 2, 3, 4] * 2)


# By the flag


def test_the_flag_lets_a_fixed_study_grow_in_its_own_folder(start):
    path = study(seeds=[4, 7])
    machine = Machine(SHIFT["unresolved"])
    assert start(machine, "--until-resolved", "--at-most", 5)[0] == 0
    assert machine.seeds == [(4, 7), (4, 7, 0), (4, 7, 0, 1, 2)]
    assert [folder.name for folder in Path("studies").iterdir()] == ["study"]
    plan = read_plan(path)
    assert plan.seeds == (4, 7, 0, 1, 2) and plan.growth.at_most == 5


def test_without_the_flag_the_same_study_resumes_to_grow(start):
    study(seeds=[0, 1, 2])
    start(Machine(SHIFT["unresolved"], stops_at=5), "--until-resolved")
    machine = Machine(SHIFT["unresolved"])
    start(machine)
    assert machine.seeds[-1] == tuple(range(12))


def test_other_seeds_in_the_file_end_the_growth(start):
    study(seeds=[0, 1, 2])
    start(Machine(SHIFT["unresolved"], stops_at=5), "--until-resolved")
    plan = read_plan(study(seeds=[5, 6]))
    assert plan.seeds == (5, 6) and plan.growth is None


@pytest.mark.parametrize(
    ("seeds", "words", "message"),
    [
        ([0, 1, 2], ["--until-resolved", "--at-most", 2], "at_most: 2 is below the 3 seeds"),
        ([0], ["--until-resolved"], "first: 1 is below 2, and one seed resolves nothing"),
        ([0, 1], ["--at-most", 5], "--at-most: only with --until-resolved"),
    ],
)
def test_a_growth_that_cannot_be_is_refused_before_anything_is_written(
    seeds, words, message, capsys
):
    study(seeds=seeds)
    assert arinar("ablate", "study.yaml", *words) == 2
    assert message in capsys.readouterr().err
    assert not Path("studies").exists()


# A fixed number of seeds, looked at again


def cautions(plan):
    return [caution.text for caution in analyse(collect(plan)).cautions]


def test_a_second_look_at_more_seeds_is_recorded_and_cautioned(start):
    path = study(seeds=[0, 1, 2])
    start(Machine(SHIFT["unresolved"]))
    assert not any("looked at" in text for text in cautions(read_plan(path)))

    word = "seeds=[0,1,2,3,4]"
    start(Machine(SHIFT["unresolved"]), word)
    more = read_plan(path, read_overrides([word]))
    assert looks() == [[0, 1, 2]] and looks(more.name) == [[0, 1, 2, 3, 4]]
    (caution,) = [text for text in cautions(more) if "looked at" in text]
    assert "looked at with 3, then 5 seeds" in caution and "--until-resolved" in caution

    results = collect(more)
    assert (results.looks, results.most_seeds) == ((3, 5), 0)
    assert not any("looked at" in text for text in cautions(read_plan(path)))


def test_looks_at_other_seeds_or_other_arms_do_not_count(start):
    path = study(seeds=[0, 1, 2])
    start(Machine(SHIFT["unresolved"]))
    for word in ("seeds=[3,4,5,6]", "seeds=[0]"):
        start(Machine(SHIFT["unresolved"]), word)
        assert collect(read_plan(path, read_overrides([word]))).looks == ()

    word = "training.lr=0.001"
    start(Machine(SHIFT["unresolved"]), word, "seeds=[0,1,2,3]")
    assert collect(read_plan(path, read_overrides([word, "seeds=[0,1,2,3]"]))).looks == ()


def test_one_seed_is_no_look(start):
    study(seeds=[0])
    start(Machine(SHIFT["resolved"]))
    assert not Path("studies/study/looks.json").exists()


# What a study can resolve, before it runs


def test_without_a_known_spread_it_is_unknown():
    lines = resolution_lines(read_plan(study()))
    assert lines == ["bits/dim: what 3 seeds can resolve is unknown until some runs are finished."]


def test_the_spread_is_that_of_finished_runs_of_the_same_trainings(start):
    path = study(seeds=[0, 1, 2], matters={"bits/dim": 0.001, "fd_digits": 1})
    start(Machine(SHIFT["resolved"]))
    word = "seeds=[0,1,2,3,4]"
    plan = read_plan(path, read_overrides([word]))
    spread = run_spread(plan, BITS)
    assert 0.01 < spread.deviation < 0.1, "the arms' difference of 1 is no spread"
    assert spread.source == "6 finished runs"
    assert run_spread(plan, FD).deviation == pytest.approx(spread.deviation), "of logarithms"

    bits, distance = resolution_lines(plan)
    assert bits.startswith("bits/dim: 5 seeds resolve a difference of 0.")
    assert distance.startswith("FD digits: 5 seeds resolve a ratio of 1.")


def test_the_table_of_shipped_recipes_is_matched_by_the_training(monkeypatch):
    plan = read_plan(study(seeds=[0, 1, 2]))
    training = plan.arms[0].recipe.training
    key = ("pixels", "causal", training.batch, training.steps, training.lr)
    monkeypatch.setitem(SHIPPED, key, {BITS: (0.065, 2.18), FD: (0.4, 9.4)})
    (line,) = resolution_lines(plan)
    assert "by the spread of a shipped recipe: digits, pixels, causal" in line
    assert "What matters, 0.001, would need more than 100" in line
    assert run_spread(read_plan(study(), read_overrides(["training.steps=7"])), BITS) is None


def test_the_difference_that_is_promised_is_resolved_in_80_percent_of_studies(monkeypatch):
    """Simulated with the promised difference, Welch's test and two arms."""
    import numpy as np
    from scipy.stats import ttest_ind

    from arinar_lab.significance.statistics import detectable_size

    n = 8
    size = detectable_size(n, 2, paired=False)
    rng = np.random.default_rng(0)
    shift = size * math.sqrt(2)
    first = rng.normal(0, 1, (4000, n))
    second = rng.normal(shift, 1, (4000, n))
    share = (ttest_ind(first, second, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert 0.78 < share < 0.86
    with pytest.raises(ValueError, match="n: 1"):
        detectable_size(1)


def test_a_dry_run_says_what_can_be_resolved(monkeypatch, capsys):
    monkeypatch.setattr(ablate, "probe_or_reason", lambda _: "not timed")
    study(seeds=GROWING)
    assert arinar("ablate", "study.yaml", "--dry-run") == 0
    assert "bits/dim: what 12 seeds can resolve is unknown" in capsys.readouterr().out
    assert not Path("studies").exists()
