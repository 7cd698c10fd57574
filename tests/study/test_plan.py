"""Plans: which arms, seeds and jobs a study file stands for, and what it is refused for."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from command import arinar
from tiny import EXPERIMENTS, tiny, write_study

from arinar_lab.config.files import read_overrides
from arinar_lab.config.schema import to_plain
from arinar_lab.errors import ConfigError
from arinar_lab.metrics import MATTERS
from arinar_lab.output.names import short_value
from arinar_lab.runs.folder import RunFolder, slug, write_sealed
from arinar_lab.study.collect import collect
from arinar_lab.study.override import study_name
from arinar_lab.study.plan import read_plan

pytestmark = pytest.mark.usefixtures("alone")

K = {"inner.head.components": [1, 2]}


def plan_of(*overrides, name="study", **keys):
    return read_plan(write_study(name, **keys), read_overrides(list(overrides)))


def refused(words, **keys):
    with pytest.raises(ConfigError) as error:
        plan_of(**keys)
    line = str(error.value)
    assert "\n" not in line and line.startswith("study.yaml: ")
    assert all(word in line for word in words), line


# Arms


def test_one_axis_is_an_arm_for_each_value():
    plan = plan_of(axes={"inner.head.components": [1, 2, 4]})
    assert [arm.name for arm in plan.arms] == ["components=1", "components=2", "components=4"]
    assert [arm.values for arm in plan.arms] == [(1,), (2,), (4,)]
    assert [arm.recipe.inner.arguments["head"].arguments["components"] for arm in plan.arms] == [
        1,
        2,
        4,
    ]
    assert plan.axes == ("inner.head.components",)


def test_two_axes_are_a_full_grid():
    plan = plan_of(axes={"outer.norm": ["layer", "rms"], "inner.norm": ["layer", "rms", "dyt"]})
    assert len(plan.arms) == 6
    # the last word alone would not tell them apart
    assert plan.arms[1].name == "outer.norm=layer,inner.norm=rms"
    assert len({arm.recipe.training_signature for arm in plan.arms}) == 6


def test_arms_have_names_and_any_changes():
    plan = plan_of(
        arms={
            "plain": None,
            "wide": {"outer.width": 32, "inner.head": {"kind": "gmm", "components": 2}},
        }
    )
    plain, wide = plan.arms
    assert plain.recipe.training_signature == tiny().training_signature
    assert (
        wide.recipe.training_signature
        == tiny("outer.width=32", "inner.head.components=2").training_signature
    )
    assert plan.axes == () and wide.values == ()


def test_axes_and_arms_stand_together():
    plan = plan_of(axes=K, arms={"bins": {"inner.head": {"kind": "discrete", "bins": 17}}})
    assert [arm.name for arm in plan.arms] == ["components=1", "components=2", "bins"]


def test_an_arm_of_another_kind_drops_the_arguments_of_the_base():
    plan = plan_of(arms={"bins": {"inner.head": {"kind": "discrete", "bins": 17}}})
    assert plan.arms[0].recipe.inner.arguments["head"].arguments == {"bins": 17}


def test_parameters_are_counted():
    one, two = plan_of(axes=K).arms
    # a mean, a variance and a weight more from 8 + 1 inputs
    assert two.parameters - one.parameters == 27


def test_baseline_and_seeds_have_defaults():
    plan = plan_of(axes=K)
    assert (plan.baseline, plan.seeds, plan.references, plan.question) == (
        "components=1",
        (0, 1, 2),
        False,
        "",
    )


def test_what_matters_is_named_by_heading_key_or_last_word():
    named = {"bits/dim": 0.05, "quality/fid": 2, "fd_dinov2": 9, "bits/dim at Δ": 0.1}
    plan = plan_of(axes=K, matters=named, pool="none")
    margins = {
        "val/bits_per_dim": 0.05,
        "quality/fid": 2.0,
        "quality/fd_dinov2": 9.0,
        "val/bits_per_dim_at_level": 0.1,
    }
    assert (plan.matters, plan.pooled) == (margins, False)
    results = collect(plan)
    assert (results.matters, results.pooled) == (margins, False)


def test_what_matters_has_a_default_and_may_be_nothing():
    assert (plan_of(axes=K).matters, plan_of(axes=K).pooled) == (MATTERS, True)
    assert collect(plan_of(axes=K, matters={})).matters == {}
    assert plan_of("matters={bits/dim: 0.3}", axes=K).matters == {"val/bits_per_dim": 0.3}


def test_what_matters_and_no_arm_measures_is_said(capsys):
    plan = plan_of(axes=K, matters={"bits/dim": 0.1, "fid": 1, "bits/dim at stated Δ": 0.1})
    assert [line.partition(":")[0] for line in plan.cautions] == [
        "matters.FID",
        "matters.bits/dim at stated Δ",
    ]
    assert arinar("check", "study.yaml") == 0
    assert "matters.FID: no arm of this study measures it" in capsys.readouterr().out
    stated = plan_of("evaluation.resolution=0.1", axes=K, matters={"bits/dim at stated Δ": 0.1})
    assert plan_of(axes=K).cautions == stated.cautions == ()


def test_seeds_may_grow():
    plan = plan_of(axes=K, seeds={"first": 4, "until": "resolved", "at_most": 9})
    assert plan.seeds == (0, 1, 2, 3) and plan.growth.at_most == 9
    assert plan_of(axes=K, seeds={}).growth.first == 3
    results = collect(plan)
    assert (results.looks, results.most_seeds) == ((4,), 9)
    assert collect(plan_of(axes=K)).looks == ()


def test_baseline_seeds_question_and_references_are_the_files():
    plan = plan_of(
        axes=K, baseline="components=2", seeds=[5, 3], question="Which?", references=True
    )
    assert (plan.baseline, plan.seeds, plan.references, plan.question) == (
        "components=2",
        (5, 3),
        True,
        "Which?",
    )


def test_the_base_lies_beside_the_study():
    Path("below").mkdir()
    write_study()
    Path("below/study.yaml").write_text(yaml.safe_dump({"base": "../base.yaml", "axes": K}))
    assert len(read_plan(Path("below/study.yaml")).arms) == 2


# One factor at a time


def test_one_factor_at_a_time_is_the_base_and_every_single_change():
    plan = plan_of(vary={"outer.norm": ["rms", "dyt"], "inner.head.components": [1, 2]})
    assert [arm.name for arm in plan.arms] == [
        "base",
        "norm=rms",
        "norm=dyt",
        "components=1",
        "components=2",
    ]
    assert plan.baseline == "base"
    assert to_plain(plan.arms[0].recipe) == to_plain(tiny())
    assert [arm.recipe.training_signature for arm in plan.arms[1:]] == [
        tiny(word).training_signature
        for word in (
            "outer.norm=rms",
            "outer.norm=dyt",
            "inner.head.components=1",
            "inner.head.components=2",
        )
    ]


def test_a_value_that_the_baseline_has_is_the_baseline():
    plan = plan_of(vary={"inner.head.components": [2, 4, 8], "outer.norm": ["layer"]})
    assert [arm.name for arm in plan.arms] == ["base", "components=2", "components=8"]


def test_factors_may_be_varied_around_a_named_arm():
    wide = {"outer.width": 32, "inner.head.components": 2}
    plan = plan_of(arms={"wide": wide}, vary={"inner.head.components": [1, 2]}, baseline="wide")
    assert [arm.name for arm in plan.arms] == ["wide", "components=1"]
    expected = tiny("outer.width=32", "inner.head.components=1")
    assert plan.arms[1].recipe.training_signature == expected.training_signature


# Cells and jobs


def test_a_cell_is_a_run_folder_and_a_recipe_of_its_seed():
    plan = plan_of(axes=K)
    folder, recipe = plan.cell(plan.arms[1], 2)
    assert recipe.seed == 2
    assert folder.path == Path(f"runs/components=2-{recipe.training_signature}/seed_2")


def test_jobs_come_seed_by_seed():
    jobs = plan_of(axes=K, seeds=[0, 7]).jobs
    assert [(job.arm, job.recipes[0].seed) for job in jobs] == [
        ("components=1", 0),
        ("components=2", 0),
        ("components=1", 7),
        ("components=2", 7),
    ]
    assert len({job.key for job in jobs}) == 4


def test_the_baseline_may_have_more_seeds():
    plan = plan_of(axes=K, baseline="components=2", seeds=[1, 4], baseline_seeds=4)
    assert [plan.seeds_of(arm) for arm in plan.arms] == [(1, 4), (1, 4, 0, 2)]
    assert [(job.arm, job.recipes[0].seed) for job in plan.jobs] == [
        ("components=1", 1),
        ("components=2", 1),
        ("components=1", 4),
        ("components=2", 4),
        ("components=2", 0),
        ("components=2", 2),
    ]
    results = collect(plan)
    assert results.planned == len(results.missing) == 6


def test_the_baseline_of_each_budget_has_more_seeds():
    plan = plan_of(axes=K, seeds=[0, 1], baseline_seeds=3, budget={"training.steps": [1, 2]})
    counts = {arm.name: len(plan.seeds_of(arm)) for arm in plan.arms}
    assert counts == {
        "components=1 @ steps×1": 3,
        "components=2 @ steps×1": 2,
        "components=1 @ steps×2": 3,
        "components=2 @ steps×2": 2,
    }
    assert collect(plan).planned == 10


def test_a_growing_study_outgrows_the_seeds_of_its_baseline():
    growth = {"first": 3, "at_most": 8}
    plan = plan_of(axes=K, seeds=growth, baseline_seeds=6)
    assert plan.all_seeds == (0, 1, 2, 3, 4, 5)
    grown = replace(plan, seeds=tuple(range(8)))
    assert grown.all_seeds == tuple(range(8))


def test_arms_that_differ_in_the_sampler_share_one_job_a_seed():
    plan = plan_of(axes={"sampler.guidance": [1.0, 2.0, 3.0]}, seeds=[0, 1])
    assert len(plan.arms) == 3 and len(plan.jobs) == 2
    assert [recipe.sampler.guidance for recipe in plan.jobs[1].recipes] == [1.0, 2.0, 3.0]
    assert {recipe.seed for recipe in plan.jobs[1].recipes} == {1}


def test_the_shipped_guidance_study_trains_once_a_seed():
    plan = read_plan(EXPERIMENTS / "ablations" / "guidance.yaml")
    assert len(plan.arms) == 4 and len(plan.jobs) == 3


def test_a_run_of_another_study_is_shared_under_its_name():
    a = plan_of(axes=K, name="a")
    folder, _ = a.cell(a.arms[1], 0)
    folder.path.mkdir(parents=True)
    b = plan_of(arms={"two": {"inner.head.components": 2}}, name="b")
    assert b.cell(b.arms[0], 0)[0] == folder
    assert b.cell(b.arms[0], 1)[0].path.parent == folder.path.parent


def test_a_job_is_done_when_every_evaluation_is():
    job = plan_of(axes={"sampler.guidance": [1.0, 2.0]}).jobs[0]
    assert not job.done
    write_sealed(job.folder.path / "DONE", {"steps": 1})
    write_sealed(job.folder.evaluation(job.recipes[0]) / "report.json", {"metrics": {"n": 1}})
    assert not job.done
    write_sealed(job.folder.evaluation(job.recipes[1]) / "report.json", {"metrics": {"n": 1}})
    assert job.done


def test_a_report_without_done_is_no_done_job():
    job = plan_of(axes=K).jobs[0]
    write_sealed(job.folder.evaluation(job.recipes[0]) / "report.json", {"metrics": {"n": 1}})
    assert not job.done


# Overrides and names


def test_overrides_change_the_base():
    plan = plan_of("training.steps=9", "outer.width=32", axes=K)
    assert all(arm.recipe.training.steps == 9 for arm in plan.arms)
    assert all(arm.recipe.outer.arguments["width"] == 32 for arm in plan.arms)


def test_overrides_change_the_studys_own_keys():
    plan = plan_of("seeds=[4]", "baseline=components=2", "references=true", axes=K)
    assert (plan.seeds, plan.baseline, plan.references) == ((4,), "components=2", True)


def test_a_study_without_overrides_has_its_files_name():
    plan = plan_of(axes=K, name="how-many_2")
    assert plan.name == "how-many_2" and plan.folder == Path("studies/how-many_2")


@pytest.mark.parametrize(
    "stems",
    [
        ("a b", "a_b", "_a_b"),
        ("…", "?", ".", "..", "_"),
        ("字" * 100, "字" * 101),
        ("a" * 250, "a" * 251),
    ],
)
def test_different_files_have_different_folders(stems):
    names = [study_name(stem, {}) for stem in stems]
    assert len(set(names)) == len(stems)
    for name in names:
        assert (
            Path("studies", name).resolve().parent == Path("studies").resolve()
            and slug(name) == name
        )
        Path("studies", name, "worker_0.log").parent.mkdir(parents=True)


def test_shipped_studies_keep_their_names():
    for folder in (EXPERIMENTS / "ablations", EXPERIMENTS.parent / "sweeps"):
        assert all(study_name(file.stem, {}) == file.stem for file in folder.glob("*.yaml"))


def test_a_second_file_of_the_same_name_is_refused(capsys):
    file = write_study(axes=K)
    assert arinar("slurm", file) == 0
    Path("other").mkdir()
    other = Path("other", file.name)
    other.write_text(file.read_text().replace("base: ", "base: ../"))
    before = sorted(Path("studies").rglob("*"))
    capsys.readouterr()
    for verb in ("slurm", "ablate", "status", "report", "work"):
        assert arinar(verb, other) == 2
        stderr = capsys.readouterr().err
        assert (
            "belongs to" in stderr and "rename one of the two" in stderr and stderr.count("\n") == 1
        )
        assert sorted(Path("studies").rglob("*")) == before
    file.unlink()  # the file was moved

    assert arinar("slurm", other) == 0


def test_a_folder_of_work_may_be_copied_with_its_studies(monkeypatch):
    file = write_study(axes=K)
    assert arinar("slurm", file) == 0
    shutil.copytree(".", "../copied")
    monkeypatch.chdir("../copied")
    assert arinar("slurm", file) == 0


def test_a_copy_of_a_run_is_not_taken_for_the_run():
    recipe = tiny()
    own, copy = (Path(f"runs/{name}-{recipe.training_signature}") for name in ("tiny", "backup"))
    for folder in (own, copy):
        folder.mkdir(parents=True)
    assert RunFolder.of(recipe, "tiny").path.parent == own
    with pytest.raises(ConfigError, match="hold the same training; keep one of them"):
        RunFolder.of(recipe, "another name")
    copy.rmdir()

    assert RunFolder.of(recipe, "another name").path.parent == own


def test_an_overridden_study_has_a_folder_of_its_own():
    names = {
        plan_of(*words, axes=K).name
        for words in (
            [],
            ["training.steps=9"],
            ["training.steps=8"],
            ["training.steps=9", "seeds=[1]"],
        )
    }
    assert names == {
        "study",
        "study-training.steps=9",
        "study-training.steps=8",
        "study-seeds=1-training.steps=9",
    }


def test_the_order_of_the_overrides_does_not_matter():
    words = ["training.steps=9", "outer.width=32"]
    assert plan_of(*words, axes=K).name == plan_of(*words[::-1], axes=K).name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["outer.width=32"], ["inner.width=32"]),
        (["outer.width=32", "inner.width=8"], ["outer.width=64", "inner.width=8"]),
        (["inner.head.min_std=0.1"], ["inner.head.min_std=0.10001"]),
    ],
    ids=" ".join,
)
def test_studies_with_different_overrides_never_share_a_folder(one, other):
    assert plan_of(*one, axes=K).folder != plan_of(*other, axes=K).folder


def test_a_study_with_many_overrides_still_has_a_folder():
    words = [
        f"{section}.{key}={value!r}"
        for section, keys in MANY.items()
        for key, value in keys.items()
    ]
    plan = plan_of(*words, axes=K)
    plan.folder.mkdir(parents=True)


MANY = {
    "training": {
        "steps": 5,
        "batch": 16,
        "lr": 0.001,
        "warmup": 1,
        "weight_decay": 0.01,
        "clip": 0.5,
        "ema": 0.9,
    },
    "evaluation": {
        "draws": 1,
        "images": 50,
        "batch": 10,
        "kid_subset": 10,
        "speed_batch": 2,
        "speed_repeats": 1,
    },
    "outer": {
        "width": 16,
        "depth": 1,
        "heads": 2,
        "mlp_ratio": 2.5,
        "prefix": 2,
        "qk_norm": 1 > 0,
        "dropout": 0.125,
    },
    "inner": {"group": 2, "order": "variance", "mlp_ratio": 3.5},
    "sampler": {"temperature": 0.95, "schedule": "constant", "candidates": 7},
}


def test_a_seed_override_is_not_swallowed():
    """`seed` is one of `seeds`; a study that takes it in silence runs seeds 0,
    1 and 2 all the same.
    """
    with pytest.raises(ConfigError, match="seeds"):
        plan_of("seed=5", axes=K)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4, "4"),
        (0.5, "0.5"),
        ("rms", "rms"),
        ([1, "a"], "1+a"),
        ({"kind": "gmm", "components": 4}, "gmm components=4"),
        ({"kind": "gmm"}, "gmm"),
        (None, "None"),
    ],
)
def test_values_are_short_in_names(value, text):
    assert short_value(value) == text


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("masked, 16 steps", "masked,_16_steps"),
        ("a/b\\c", "a_b_c"),
        ("σ ≤ 1", "σ_1"),
        ("a=1,b=x+y", "a=1,b=x+y"),
    ],
)
def test_names_of_folders_are_safe(name, folder):
    assert slug(name) == folder


def test_an_arms_folder_lies_in_runs_whatever_its_name():
    plan = plan_of(arms={"../../up": {}})
    folder = RunFolder.of(plan.arms[0].recipe, plan.arms[0].name)
    assert folder.path.resolve().parent.parent == Path("runs").resolve()


# What is refused


def test_twins_are_refused():
    refused(["arms a and b are the same"], arms={"a": {}, "b": {"outer.norm": "layer"}})


def test_twins_across_axes_and_arms_are_refused():
    refused(
        ["arms components=2 and b are the same"], axes=K, arms={"b": {"inner.head.components": 2}}
    )


def test_a_value_named_twice_is_refused():
    refused(["components"], axes={"inner.head.components": [2, 2]})


def test_an_arm_cannot_take_the_name_of_a_cell():
    refused(["components=2"], axes=K, arms={"components=2": {"inner.head.components": 3}})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"axis": K}, ["axis: unknown key", "axes", "did you mean axes?"]),
        (
            {"axes": K, "baseline": "components=3"},
            ["baseline: 'components=3' is no arm", "components=1", "did you mean"],
        ),
        ({"axes": K, "seeds": 3}, ["seeds: 3 is neither a list nor a mapping"]),
        ({"axes": K, "seeds": {"first": 1}}, ["seeds.first: 1 is below 2"]),
        ({"axes": K, "seeds": {"first": 5, "at_most": 4}}, ["seeds.at_most: 4 is below the 5"]),
        ({"axes": K, "seeds": {"until": "tired"}}, ["seeds.until: 'tired' is not one of"]),
        ({"axes": K, "seeds": {"most": 4}}, ["seeds.most: unknown key"]),
        (
            {"axes": K, "seeds": [0, 1, 2], "baseline_seeds": 2},
            ["baseline_seeds: 2 is below the 3"],
        ),
        ({"axes": K, "family": "all"}, ["family: 'all' is not one of metric, matters"]),
        ({"axes": K, "matters": {"fd_digit": 1}}, ["matters.fd_digit: ", "mean fd_digits?"]),
        ({"axes": K, "matters": {"images/s": 1}}, ["matters.images/s: no metric that is tested"]),
        ({"axes": K, "matters": {"bits/dim": 0}}, ["matters.bits/dim: 0 is not above 0"]),
        ({"axes": K, "matters": {"FID": "a"}}, ["matters.FID: 'a' is not a number"]),
        ({"axes": K, "matters": [1]}, ["matters: [1] is not a mapping"]),
        (
            {"axes": K, "matters": {"fd_digits": 1, "FD digits": 2}},
            ["matters.FD digits: FD digits stands there twice"],
        ),
        ({"axes": K, "pool": "all"}, ["pool: 'all' is not one of arms, none"]),
        ({"axes": K, "seeds": []}, ["seeds: [] is not a list"]),
        ({"axes": K, "seeds": [1, 1]}, ["seeds: [1, 1] is not a list of different"]),
        ({"axes": K, "seeds": [0.5]}, ["seeds.0: 0.5 is not a whole number"]),
        ({"axes": K, "seeds": [True]}, ["seeds.0: true is not a whole number"]),
        (
            {"axes": K, "references": "yes please"},
            ["references: 'yes please' is neither true or false nor a list"],
        ),
        ({}, ["axes: missing"]),
        ({"axes": {}, "arms": {}}, ["axes: missing"]),
        ({"axes": ["inner.head.components"]}, ["axes: ['inner.head.components'] is not a mapping"]),
        ({"axes": {"inner.head.components": 4}}, ["axes.inner.head.components: 4 is not a list"]),
        ({"axes": {"inner.head.components": []}}, ["axes.inner.head.components: [] is not a list"]),
        ({"axes": {5: [1]}}, ["5"]),
        (
            {"axes": {"inner.head.component": [4]}},
            ["arm component=4: inner.head.component: unknown key", "components?"],
        ),
        (
            {"axes": {"inner.head.components": [0]}},
            ["arm components=0: inner.head.components: 0 is too few"],
        ),
        ({"axes": {"inner.group": [1, 3]}}, ["arm group=3: inner.group: 3 does not divide"]),
        ({"vary": {"outer.norm": "rms"}}, ["vary.outer.norm: 'rms' is not a list"]),
        ({"vary": K, "baseline": "none"}, ["baseline: 'none' is no arm to vary; one of base"]),
        ({"vary": K, "baseline": ["none"]}, ["baseline: ['none'] is no arm to vary; one of base"]),
        (
            {"vary": K, "arms": {"components=2": {}}},
            ["vary: the arm components=2 stands there twice"],
        ),
        ({"axes": K, "match": 3}, ["match: 3 is not a section"]),
        (
            {"axes": K, "match": {"cost": "gflop"}},
            ["match.cost: 'gflop' is not one of", "did you mean gflops?"],
        ),
        (
            {"axes": K, "match": {"bye": "outer.width"}},
            ["match.bye: unknown key", "did you mean by?"],
        ),
        (
            {"axes": K, "match": {"by": "outer.widht"}},
            ["match.by: 'outer.widht' is no", "did you mean outer.width?"],
        ),
        ({"axes": K, "match": {"by": "outer.norm"}}, ["match.by: 'outer.norm' is no whole number"]),
        ({"axes": K, "match": {"to": "nobody"}}, ["match.to: 'nobody' is no arm"]),
        ({"axes": K, "match": {"tolerance": 0}}, ["match.tolerance: 0.0 is not above 0"]),
        ({"arms": ["a"]}, ["arms: ['a'] is not a mapping"]),
        ({"arms": {"a": 5}}, ["arms.a: 5 is not a mapping"]),
        (
            {"arms": {"a": {"outer.kind": "casual"}}},
            ["arm a: outer.kind: unknown kind 'casual'", "did you mean causal?"],
        ),
    ],
    ids=str,
)
def test_a_fault_is_told_in_one_line(keys, words):
    refused(words, **keys)


def test_a_study_needs_a_base():
    Path("study.yaml").write_text("axes: {outer.norm: [rms]}")
    with pytest.raises(ConfigError, match=r"^study.yaml: base: missing; [^\n]*$"):
        read_plan(Path("study.yaml"))


def test_a_missing_base_is_named():
    Path("study.yaml").write_text("base: nowhere.yaml\naxes: {outer.norm: [rms]}")
    with pytest.raises(ConfigError, match=r"^nowhere.yaml: no such file"):
        read_plan(Path("study.yaml"))


@pytest.mark.parametrize("letter", ["a", "é", "字"])
def test_a_long_name_is_cut_so_that_a_folder_may_have_it(letter):
    """255 bytes are what systems take; names that begin alike stay different, and those that
    fit stay as they are.
    """
    long, other, short = (slug(letter * n) for n in (300, 301, 60))
    assert short == letter * 60 and long != other
    for name in (long, other):
        folder = RunFolder.of(tiny(), name)
        folder.path.mkdir(parents=True)
        assert folder.path.is_dir() and name.startswith(letter * 20) and slug(name) == name
        folder.path.parent.rename("gone-" + name[-8:])
