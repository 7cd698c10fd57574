"""The methods paragraphs of a study, generated from its recipes and reports: design, training,
evaluation, statistics, machine.

They are right for one run and for many: what all runs share is stated, and what differs is
named with who has it.
"""

from __future__ import annotations

from typing import Any

from ..analysis import pareto
from ..analysis.comparison import TEST_PROTOCOL
from ..analysis.conditions import finished_runs, report_value
from ..analysis.results import Results
from ..analysis.text import join_names
from ..config.schema import flatten, to_plain
from ..metrics import DISTANCE
from ..output.text import markdown_line
from ..study.plan import Arm, Plan
from .notes import (
    baseline_text,
    commit_of,
    likelihood_kind,
    load_note,
    protocol_note,
    shared_value,
    timing_note,
    value_range,
)


def varied_keys(plan: Plan) -> list[str]:
    """The keys in which the arms' recipes differ; below a part that differs in kind, those that
    differ within one kind.
    """
    recipes = [flatten(to_plain(arm.recipe)) for arm in plan.arms]
    keys = sorted({key for recipe in recipes for key in recipe} - {"seed"})
    differ = [key for key in keys if _differ(recipes, key)]
    kinds = [key for key in differ if key.endswith(".kind")]
    return [
        key for key in differ if _own(key, [kind for kind in kinds if _below(key, kind)], recipes)
    ]


def _differ(recipes: list[dict[str, Any]], key: str) -> bool:
    return len({repr(recipe.get(key)) for recipe in recipes}) > 1


def _below(key: str, kind: str) -> bool:
    """Whether a key is of the part that a kind is of."""
    return key != kind and key.startswith(kind.removesuffix("kind"))


def _own(key: str, kinds: list[str], recipes: list[dict[str, Any]]) -> bool:
    """Whether a key differs of its own accord, not because a part above it is of another kind."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for recipe in recipes:
        alike.setdefault(repr([recipe.get(kind) for kind in kinds]), []).append(recipe)
    several = (
        key.endswith(".kind") and len({recipe[key] for recipe in recipes if key in recipe}) > 1
    )
    return several or any(_differ(group, key) for group in alike.values())


def methods_markdown(results: Results) -> str:
    """The methods paragraphs as Markdown."""
    said = [f"**{title}.** {markdown_line(text)}\n" for title, text in paragraphs(results)]
    return "\n".join([f"# Methods of {markdown_line(results.plan.name)}\n", *said])


def paragraphs(results: Results) -> list[tuple[str, str]]:
    """Title and text of each; the design alone where nothing is finished."""
    parts = {"Design": _design}
    if results.any_report:
        parts |= {
            "Training": _training,
            "Evaluation": _evaluation,
            "Speed": _speed,
            "Statistics": _statistics,
            "Software and hardware": _software,
        }

    return [(title, text) for title, of in parts.items() if (text := of(results))]


def _design(results: Results) -> str:
    plan, done = results.plan, sum(map(len, results.reports.values()))
    cells, seeds = len(plan.arms) * len(plan.seeds), ", ".join(map(str, plan.seeds))
    keys = varied_keys(plan)
    said = [f"The study asks: {plan.question}"] if plan.question else []
    said += [
        f"It has {_count(len(plan.arms), 'arm')}"
        + (f", which differ in {', '.join(keys)}" if keys else "")
        + f", each trained with {_count(len(plan.seeds), 'seed')} ({seeds}); {done} of {cells} "
        "runs are finished."
    ]

    if len(plan.arms) > 1:
        baselines = "is" if len(plan.baselines) == 1 else "of each budget is, in turn,"
        said.append(
            f"The baseline {baselines} {join_names(plan.baselines)}. Runs of one seed share the"
            " order of the data, the masks, the dequantisation and, wherever two arms have the"
            " same part, its initial weights; generated images share labels and noise."
        )

    said += [
        f"One training serves {join_names(names)}, which differ in sampling or evaluation alone."
        for names in _sharing(plan)
    ]
    if matched := [f"{arm.name} {arm.matched}" for arm in plan.arms if arm.matched]:
        said.append(f"Widths were solved for equal cost: {', '.join(matched)}.")

    return " ".join(said)


def _sharing(plan: Plan) -> list[list[str]]:
    """Arms that are the same trained weights."""
    signatures = [arm.recipe.training_signature for arm in plan.arms]
    groups = [
        [a.name for a in plan.arms if a.recipe.training_signature == s]
        for s in dict.fromkeys(signatures)
    ]
    return [names for names in groups if len(names) > 1]


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _training(results: Results) -> str:
    def of(name: str) -> str:
        return shared_value(results, lambda arm, report: getattr(arm.recipe.training, name))

    data = shared_value(results, lambda arm, report: to_plain(arm.recipe)["data"])
    steps = shared_value(results, lambda arm, report: report_value(report, "steps"))
    said = [
        (
            f"Data: {data}. Optimisation: {steps or of('steps')} steps of AdamW with batches of"
            f" {of('batch')}, peak learning rate {of('lr')} after {of('warmup')} steps of warm-up,"
            f" then {of('schedule')}, weight decay {of('weight_decay')}, gradient norm clipped at"
            f" {of('clip')}, precision {of('precision')}. Weights averaged with decay {of('ema')}"
            " are evaluated."
        )
    ]
    if parameters := value_range(
        [
            report_value(report, "metrics", "cost/parameters")
            for *_, report in finished_runs(results)
        ],
        "{:,.0f}",
    ):
        said.append(f"Trained parameters: {parameters}.")
    if seconds := value_range(
        [
            report_value(report, "metrics", "time/train_seconds")
            for *_, report in finished_runs(results)
        ],
        "{:,.0f}",
    ):
        said.append(f"Training took {seconds} s a run.")
    return " ".join(said)


def _evaluation(results: Results) -> str:
    def of(*keys: str) -> str:
        return shared_value(results, lambda arm, report: report_value(report, *keys))

    said = []
    if kinds := shared_value(results, lambda arm, report: likelihood_kind(report)):
        said.append(
            f"Likelihood ({kinds}) is taken on {of('likelihood', 'images')} held-out items,"
            f" {of('likelihood', 'draws')} draw(s) of the noise for each."
        )
    if any(DISTANCE in report["metrics"] for *_, report in finished_runs(results)):
        said.append(
            f"Sample quality is that of {of('quality', 'images')} generated images with the labels"
            f" of the training images, against {of('quality', 'reference')} training images, in"
            " the features of a small digits classifier (so no FID); KID over all images."
        )
    said += protocol_note(results.any_report)
    if any(
        name.startswith("quality/")
        for *_, report in finished_runs(results)
        for name in report["metrics"]
    ):
        said.append(f"Sampler: {shared_value(results, lambda arm, report: _sampler(arm))}.")
    return " ".join(said)


def _sampler(arm: Arm) -> str:
    s = arm.recipe.sampler
    guidance = f"guidance {s.guidance:g} ({s.schedule})" if s.guidance != 1 else "no guidance"
    steps = f", {s.steps} steps" if s.steps else ""
    candidates = f", {s.candidates} candidates" if s.candidates else ""
    hastened = "".join(f", {name} {value}" for name, value in s.accelerators.items())
    return f"{guidance}, temperature {s.temperature:g}{steps}{candidates}{hastened}"


def _speed(results: Results) -> str:
    if not any("speed" in report for *_, report in finished_runs(results)):
        return ""
    return (
        "Generation is timed in a pass of its own, with no other run of the study beside it,"
        f" device synchronised: {timing_note(results)}{load_note(results)}. GFLOPs are torch's"
        " count of matrix products and attention."
    )


def _statistics(results: Results) -> str:
    n, arms = len(results.plan.seeds), len(results.plan.arms)
    if max(map(len, results.reports.values())) < 2:
        return (
            "Each arm has one seed at most, which says nothing of training noise; no difference "
            "is called resolved."
        )

    said = [
        (
            f"± is the 95 % t-interval of the mean over seeds (training noise); n is {n} where "
            "all are finished."
        )
    ]
    noisy = any(report.get("noise") for *_, report in finished_runs(results))
    if noisy:
        said.append(
            "In brackets stands the 95 % interval of one value over images (evaluation noise)."
        )

    if arms > 1:
        said.append(f"An arm is compared with {baseline_text(results.plan)}. {TEST_PROTOCOL}")
        said.append("What is not resolved is called so; no best of n is reported.")
        said += [pareto.FRONT_PROTOCOL] if pareto.frontier(results) else []

    return " ".join(said)


def _software(results: Results) -> str:
    def of(name: str) -> str:
        return shared_value(results, lambda arm, report: report_value(report, "environment", name))

    code = shared_value(results, lambda arm, report: commit_of(report))
    names = {
        "arinar_lab": "arinar_lab",
        "python": "Python",
        "torch": "torch",
        "lightning": "Lightning",
    }
    versions = [f"{title} {value}" for name, title in names.items() if (value := of(name))]
    said = (
        [f"{', '.join(versions)}" + (f"; code at commit {code}" if code else "")]
        if versions or code
        else []
    )
    machine = [
        f"{value}"
        for value in (of("device"), of("cpus") and f"{of('cpus')} CPUs", of("system"))
        if value
    ]
    said += [", ".join(machine)] if machine else []
    return ". ".join(said) + "." if said else ""
