"""Overrides of what a study varies: they give other values, or are refused with the words that
work; none is in vain.
"""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from command import arinar
from tiny import EXPERIMENTS, tiny, write_study

from arinar_lab.config.files import read_overrides
from arinar_lab.config.schema import to_plain
from arinar_lab.errors import ConfigError
from arinar_lab.study.override import study_name
from arinar_lab.study.plan import read_plan
from arinar_lab.sweep.dashboard import open_queue_of_file
from arinar_lab.sweep.sweep import read_sweep

pytestmark = pytest.mark.usefixtures("alone")

COMPONENTS = "inner.head.components"
K = {COMPONENTS: [1, 2, 4]}
MASKED = {"kind": "masked", "width": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
SEARCH = {
    "outer": {"categorical": {"causal": {"kind": "causal", "depth": 1}, "masked": MASKED}},
    COMPONENTS: {"categorical": [1, 2]},
    "sampler.temperature": {"float": [0.5, 1.0]},
    "sampler.steps": {"int": [2, 8], "when": {"outer": "masked"}},
}


def plan_of(*words, **keys):
    return read_plan(write_study(**keys), read_overrides(list(words)))


def names(plan):
    return [arm.name for arm in plan.arms]


def sweep_of(*words, search=SEARCH):
    Path("base.yaml").write_text(yaml.safe_dump(to_plain(tiny())))
    content = {
        "base": "base.yaml",
        "search": search,
        "objectives": [{"metric": "quality/fd_digits", "direction": "minimize"}],
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return read_sweep(Path("sweep.yaml"), read_overrides(list(words)))


def refused(call, *words):
    with pytest.raises(ConfigError) as error:
        call()
    line = str(error.value)
    assert "\n" not in line and all(word in line for word in words), line
    return line


# Studies


@pytest.mark.parametrize(
    "word",
    [
        f"{COMPONENTS}=[1,16]",
        f"{COMPONENTS}=1,16",
        f"axes.{COMPONENTS}=[1,16]",
        f"axes.{COMPONENTS}=1,16",
    ],
)
def test_a_list_replaces_the_values_of_an_axis(word):
    plan = plan_of(word, axes=K)
    assert names(plan) == ["components=1", "components=16"]
    assert [arm.recipe.inner.arguments["head"].arguments["components"] for arm in plan.arms] == [
        1,
        16,
    ]
    assert plan.name == f"study-{COMPONENTS}=1+16"


def test_the_shipped_study_asks_for_a_baseline_and_takes_it(capsys):
    words = ["check", EXPERIMENTS / "ablations" / "gmm_k.yaml", f"{COMPONENTS}=[1,16,64]"]
    assert arinar(*words) == 2
    stderr = capsys.readouterr().err

    assert (
        "baseline: 'components=4' is no arm; one of components=1, components=16, components=64"
        in stderr
    )
    assert stderr.endswith("name another, as in baseline=components=1\n")
    assert arinar(*words, "baseline=components=1") == 0
    assert "3 arms × 3 seeds, baseline components=1" in capsys.readouterr().out


@pytest.mark.parametrize("value", [16, 2])
def test_one_value_of_an_axis_is_refused_with_words_that_work(value):
    study = {"axes": K, "baseline": "components=2"}
    line = refused(
        lambda: plan_of(f"{COMPONENTS}={value}", **study),
        f"{COMPONENTS}: is varied by this study, in [1, 2, 4]",
    )
    word = shlex.split(line[line.index("write ") + 6 :])[0]
    assert f"components={value}" in names(plan_of(word, **study))


def test_one_value_within_a_part_is_refused_too():
    refused(
        lambda: plan_of("inner.head={kind: gmm, components: 8}", axes=K), "is varied by this study"
    )
    refused(lambda: plan_of(f"axes.{COMPONENTS}=8", axes=K), f"{COMPONENTS}=[1, 2, 4, 8]")


def test_axes_are_added_and_taken_out():
    plan = plan_of("axes.outer.width=[16,32]", axes={COMPONENTS: [1, 2]})
    assert (
        names(plan)[:2] == ["components=1,width=16", "components=1,width=32"]
        and len(plan.arms) == 4
    )
    assert names(
        plan_of(f"axes.{COMPONENTS}=null", axes={**K, "outer.norm": ["layer", "rms"]})
    ) == [
        "norm=layer",
        "norm=rms",
    ]
    assert names(plan_of(f"axes={{{COMPONENTS}: [8]}}", axes={**K, "outer.norm": ["layer"]})) == [
        "components=8"
    ]
    refused(
        lambda: plan_of("axes.outer.with=null", axes=K),
        "axes.outer.with: null takes out what is not there",
    )


def test_a_list_replaces_the_values_of_a_factor_and_one_value_changes_the_centre():
    vary = {"outer.norm": ["rms", "dyt"]}
    assert names(plan_of("outer.norm=[none,dyt]", vary=vary)) == ["base", "norm=none", "norm=dyt"]
    plan = plan_of("outer.norm=rms", vary=vary)
    assert names(plan) == ["base", "norm=dyt"]
    assert to_plain(plan.arms[0].recipe) == to_plain(tiny("outer.norm=rms"))


def test_an_override_that_reaches_no_arm_is_refused_with_a_word_that_works():
    arms = {
        "a": {"inner.head": {"kind": "gmm", "components": 1}},
        "b": {"inner.head": {"kind": "gmm", "components": 2}},
    }
    line = refused(
        lambda: plan_of(f"{COMPONENTS}=8", arms=arms), f"{COMPONENTS}: would reach no arm"
    )

    plan = plan_of(shlex.split(line[line.index("write ") + 6 :])[0], arms=arms)
    assert [arm.recipe.inner.arguments["head"].arguments["components"] for arm in plan.arms] == [
        8,
        2,
    ]


def test_an_override_below_an_axis_that_bundles_it_is_refused():
    heads = [{"kind": "gmm", "components": 1}, {"kind": "gmm", "components": 2}]
    refused(
        lambda: plan_of(f"{COMPONENTS}=8", axes={"inner.head": heads}),
        "would reach no arm",
        "'axes.inner.head=[…]'",
    )


def test_an_override_that_misses_some_arms_is_told(capsys):
    arms = {
        "plain": {},
        "bins": {"inner.head": {"kind": "discrete", "bins": 9}},
        "wide": {"outer": {"width": 32}},
    }
    plan = plan_of("outer.width=48", "inner.head.min_std=0.1", arms=arms)
    assert plan.cautions == (
        "outer.width=48 does not reach wide: set there, or no such key",
        "inner.head.min_std=0.1 does not reach bins: set there, or no such key",
    )
    assert arinar("check", "study.yaml", "outer.width=48") == 0
    assert "outer.width=48 does not reach wide" in capsys.readouterr().out


def test_what_budget_and_match_multiply_and_solve_is_not_in_vain():
    plan = plan_of("training.steps=10", arms={"a": {}}, budget={"training.steps": [1, 2]})
    assert [arm.recipe.training.steps for arm in plan.arms] == [10, 20]
    plan = plan_of("budget.training.steps=[1,3]", arms={"a": {}}, budget={"training.steps": [1, 2]})
    assert [arm.recipe.training.steps for arm in plan.arms] == [6, 18]
    plan = plan_of(
        "outer.width=32",
        "match.by=outer.width",
        axes={COMPONENTS: [1, 2]},
        match={"tolerance": 0.3},
    )
    assert all(arm.recipe.outer.arguments["width"] == 32 for arm in plan.arms)
    words = "training.steps: [10, 20] are no multiples", "'budget.training.steps=[1, 4]'"
    refused(
        lambda: plan_of(
            "training.steps=[10,20]", arms={"a": {}}, budget={"training.steps": [1, 2]}
        ),
        *words,
    )


@pytest.mark.parametrize(
    ("arms", "baseline", "meant"),
    [
        ({"1": {}, "2": {"outer.width": 32}}, 2, "2"),
        ({"on": {}, "off": {"outer.qk_norm": False}}, "off", "off"),
    ],
)
def test_a_baseline_is_an_arm_as_people_write_it(arms, baseline, meant):
    assert plan_of(arms=arms, baseline=baseline).baseline == meant


def test_a_baseline_may_spell_its_numbers_otherwise():
    Path("study.yaml").write_text(
        "base: base.yaml\naxes: {training.lr: [1e-3, 3e-3]}\nbaseline: lr=3e-3\n"
    )
    Path("base.yaml").write_text(yaml.safe_dump(to_plain(tiny())))
    assert read_plan(Path("study.yaml")).baseline == "lr=0.003"


# Names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "axes.training.betas=[[0.9,0.95],[0.8,0.9]]",
            "axes.training.betas=[[0.9,0.95,0.8],[0.9]]",
        ),
        ("seeds=[1,2]", "seeds=1+2"),
        ("x=a/b", "x=a_b"),
        ("x=1", "x='1'"),
        ("x=[{kind: gmm}]", "x=[gmm]"),
    ],
)
def test_different_overrides_have_different_names(one, other):
    first, second = (study_name("study", read_overrides([word])) for word in (one, other))
    assert first != second


def test_a_long_name_keeps_the_overrides_that_fit_and_a_hash():
    words = ["evaluation.speed_repeats=1", "training.steps=100", "training.warmup=10"]
    short = study_name("gmm_k", read_overrides(words))
    assert short == "gmm_k-evaluation.speed_repeats=1-training.steps=100-training.warmup=10"

    many = [*words, "evaluation.images=500", "outer.width=32"]
    long = study_name("gmm_k", read_overrides(many))
    assert re.fullmatch(
        r"gmm_k-evaluation.images=500-evaluation.speed_repeats=1-outer.width=32-[0-9a-f]{8}", long
    )
    other = study_name("gmm_k", read_overrides([*many[:-1], "outer.width=48"]))
    assert other.rpartition("-")[2] != long.rpartition("-")[2] and len(long) <= 80
    assert len(study_name("é" * 200, read_overrides(many)).encode()) < 255


@pytest.mark.parametrize("count", [4, 5])
def test_a_study_that_was_begun_under_a_longer_name_keeps_it(count):
    words = [f"training.a_long_word_{i}={i}" for i in range(count)]
    former = "-".join(["study", *words])
    if len(former) > 120:
        former = "study-" + study_name("study", read_overrides(words)).rpartition("-")[2]
    assert study_name("study", read_overrides(words)) != former
    Path("studies", former).mkdir(parents=True)
    assert study_name("study", read_overrides(words)) == former


# Sweeps


def test_the_dashboard_opens_the_storage_of_the_same_name(monkeypatch):
    words = [f"{COMPONENTS}=[4,8]"]
    sweep = sweep_of(*words)
    sweep.folder.mkdir(parents=True)
    (sweep.folder / "queue.db").touch()
    monkeypatch.setattr("arinar_lab.sweep.dashboard.open_storage", lambda url: url.database)
    assert (
        Path(open_queue_of_file(Path("sweep.yaml"), words)) == (sweep.folder / "queue.db").resolve()
    )


def choices(sweep):
    return {p.path: list(p.choices) for p in sweep.parameters if p.choices}


def test_a_list_replaces_the_choices_of_a_searched_key():
    assert choices(sweep_of(f"{COMPONENTS}=[4,8]"))[COMPONENTS] == [4, 8]
    assert choices(sweep_of(f"{COMPONENTS}=4,8"))[COMPONENTS] == [4, 8]
    assert choices(sweep_of("outer=[masked]"))["outer"] == ["masked"]
    assert (
        len({sweep_of(word).name for word in ("outer=[masked]", f"{COMPONENTS}=[4]", "trials=40")})
        == 3
    )


def test_one_value_of_a_searched_key_is_refused_with_the_word_that_works():
    line = refused(lambda: sweep_of(f"{COMPONENTS}=4"), f"{COMPONENTS}: is searched; write ")
    assert choices(sweep_of(shlex.split(line[line.index("write ") + 6 :])[0]))[COMPONENTS] == [4]
    line = refused(
        lambda: sweep_of("outer=causal"), "outer: is searched; write 'search.outer=[causal]'"
    )
    refused(
        lambda: sweep_of("outer=[small]"),
        "outer: 'small' is none of its choices, which are causal, masked",
    )


def test_a_range_is_replaced_by_a_range_or_by_choices():
    line = refused(
        lambda: sweep_of("sampler.temperature=0.7"), "is searched in {float: [0.5, 1.0]}"
    )
    words = [word for word in shlex.split(line) if word.startswith("search.")]
    assert words == [
        "search.sampler.temperature={float: [0.5, 1.0]}",
        "search.sampler.temperature=[0.7]",
    ]
    assert choices(sweep_of(words[1]))["sampler.temperature"] == [0.7]

    p = next(
        p
        for p in sweep_of("search.sampler.steps={int: [2, 4]}").parameters
        if p.path == "sampler.steps"
    )
    assert (p.extremes, p.when) == ([2, 4], {"outer": ("masked",)})


def test_a_searched_key_is_taken_out():
    sweep = sweep_of("outer=[causal]", "search.sampler.steps=null")
    assert "sampler.steps" not in {p.path for p in sweep.parameters}
    refused(
        lambda: sweep_of("outer=[causal]"), "search.sampler.steps=null leaves sampler.steps out"
    )


def test_a_key_that_every_choice_sets_is_refused_and_one_that_some_set_is_told():
    refused(lambda: sweep_of("outer.depth=2"), "outer.depth: would reach no trial")
    assert sweep_of("outer.dropout=0.1").unreached == (
        "outer.dropout=0.1 does not reach outer=masked",
    )


def test_the_recipes_sampler_is_no_algorithm():
    sweep = sweep_of("sampler.schedule=constant", "trials=3")
    assert (sweep.algorithm, sweep.trials) == ("tpe", 3)
    assert sweep.targets[0].content["sampler"]["schedule"] == "constant"
    refused(lambda: sweep_of("sampler=random"), "sampler: is called algorithm now")


def test_conditions_name_choices_as_people_write_them():
    sizes = {"1": {"width": 16}, "yes": {"width": 32}}
    for value, name in ((1, "1"), ("yes", "yes")):
        steps = {"int": [1, 2], "when": {"outer": value}}
        sweep = sweep_of(search={"outer": {"categorical": sizes}, "inner.depth": steps})
        assert sweep.parameters[1].when == {"outer": (name,)}


def test_a_range_without_end_is_refused():
    refused(
        lambda: sweep_of(search={"training.lr": {"float": [0.1, float("inf")]}}),
        "search.training.lr.float.1",
        "inf is not a finite number",
    )


# The command line


@pytest.mark.parametrize("verb", ["ablate", "sweep"])
def test_help_shows_overrides(capsys, verb):
    assert arinar(verb, "--help") == 0
    stdout = capsys.readouterr().out
    assert f"'{COMPONENTS}=[1,16" in stdout and "examples:" in stdout


@pytest.mark.parametrize(
    "verb", ["check", "ablate", "sweep", "work", "status", "report", "slurm", "sync", "dashboard"]
)
def test_a_file_that_cannot_be_read_is_one_line_from_every_verb(capsys, verb):
    Path("study.yaml").write_bytes("question: Was heißt gut?\n".encode("latin-1"))
    assert arinar(verb, "study.yaml") == 2
    stderr = capsys.readouterr().err
    assert (
        stderr.startswith("arinar: study.yaml: not readable as YAML: line 1: it is not UTF-8")
        and stderr.count("\n") == 1
    )
    assert sorted(map(str, Path().iterdir())) == ["study.yaml"]


def test_a_sweep_is_a_sweep_however_its_keys_are_spelled(capsys):
    sweep_of()
    text = Path("sweep.yaml").read_text()
    Path("sweep.yaml").write_text("\ufeff" + text.replace("search:", '"search":'))
    assert arinar("status", "sweep.yaml") == 0
    assert arinar("ablate", "sweep.yaml") == 2
    assert "run it by arinar sweep sweep.yaml" in capsys.readouterr().err
    write_study(axes=K)

    assert arinar("sweep", "study.yaml") == 2
    assert "run it by arinar ablate study.yaml" in capsys.readouterr().err


def test_a_key_and_its_axis_are_not_both_overridden(alone):
    path = write_study(axes={"inner.head.components": [1, 2]}, seeds=[0])
    words = ["inner.head.components=[1,4]", "axes.inner.head.components=[4,8]"]
    for order in (words, words[::-1]):
        with pytest.raises(ConfigError, match=r"are both overridden; leave one of the two out"):
            read_plan(path, read_overrides(order))


def test_seeds_are_a_list_as_axes_are(alone):
    path = write_study(axes={"inner.head.components": [1, 2]}, seeds=[0])
    assert read_plan(path, read_overrides(["seeds=1,2"])).seeds == (1, 2)


@pytest.mark.parametrize("verb", ["ablate", "slurm", "sweep"])
def test_an_address_that_is_none_is_refused_before_anything_is_written(alone, monkeypatch, verb):
    monkeypatch.setenv("ARINAR_STORAGE", "")  # so that it is put back
    search = {
        "search": {"inner.head.components": {"categorical": [1, 2]}},
        "trials": 1,
        "hours": 0.01,
        "objectives": [{"metric": "val/bits_per_dim", "direction": "minimize"}],
    }
    path = write_study(
        **({"axes": {"inner.head.components": [1, 2]}} if verb != "sweep" else search)
    )
    before = sorted(Path().rglob("*"))

    assert arinar(verb, path, "storage=&a [*a]") == 2
    assert sorted(Path().rglob("*")) == before
