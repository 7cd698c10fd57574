"""The methods paragraphs of a study, generated from its recipes and reports: design, training, evaluation, statistics, machine.

They are right for one run and for many: what all runs share is stated, and what differs is named with who has it.
"""

from __future__ import annotations

from typing import Any

from ..run.schema import flatten, resolved
from . import frontier
from .comparison import PROTOCOL
from .methods import at, kind_of, load, published, runs, span, stated
from .plan import Arm, Plan
from .results import DISTANCE, Results


def varied(plan: Plan) -> list[str]:
    """The keys in which the arms' recipes differ; of a part that differs in kind, the kind alone."""
    recipes = [flatten(resolved(arm.recipe)) for arm in plan.arms]
    keys = sorted({key for recipe in recipes for key in recipe} - {"seed"})
    values = {key: {repr(recipe.get(key)) for recipe in recipes} for key in keys}
    differ = [key for key in keys if len(values[key]) > 1]
    parts = [key.removesuffix("kind") for key in differ if key.endswith(".kind")]
    return [key for key in differ if _own(key, parts, values[key])]


def _own(key: str, parts: list[str], values: set[str]) -> bool:
    """Whether a key differs of its own accord, not because a part above it is of another kind."""
    below = any(key.startswith(part) and key != f"{part}kind" for part in parts)
    return not below or (key.endswith(".kind") and len(values - {"None"}) > 1)


def methods(results: Results) -> str:
    """The methods paragraphs as Markdown."""
    said = [f"**{title}.** {text}\n" for title, text in paragraphs(results)]
    return "\n".join([f"# Methods of {results.plan.name}\n", *said])


def paragraphs(results: Results) -> list[tuple[str, str]]:
    """Title and text of each; the design alone where nothing is finished."""
    parts = {"Design": _design}
    if results.any_report:
        parts |= {"Training": _training, "Evaluation": _evaluation, "Speed": _speed, "Statistics": _statistics,
                  "Software and hardware": _software}  # fmt: skip
    return [(title, text) for title, of in parts.items() if (text := of(results))]


def _design(results: Results) -> str:
    plan, done = results.plan, sum(map(len, results.reports.values()))
    cells, seeds = len(plan.arms) * len(plan.seeds), ", ".join(map(str, plan.seeds))
    keys = varied(plan)
    said = [f"The study asks: {plan.question}"] if plan.question else []
    said += [
        f"It has {_count(len(plan.arms), 'arm')}"
        + (f", which differ in {', '.join(keys)}" if keys else "")
        + f", each trained with {_count(len(plan.seeds), 'seed')} ({seeds}); {done} of {cells} runs are finished."
    ]
    if len(plan.arms) > 1:
        said.append(
            f"The baseline is {plan.baseline}. Runs of one seed share the order of the data, the masks, the dequantisation"
            " and, wherever two arms have the same part, its initial weights; generated images share labels and noise."
        )
    if matched := [f"{arm.name} {arm.matched}" for arm in plan.arms if arm.matched]:
        said.append(f"Widths were solved for equal cost: {', '.join(matched)}.")
    return " ".join(said)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _training(results: Results) -> str:
    def of(name: str) -> str:
        return stated(results, lambda arm, report: getattr(arm.recipe.training, name))

    data = stated(results, lambda arm, report: resolved(arm.recipe)["data"])
    steps = stated(results, lambda arm, report: at(report, "steps"))
    said = [
        f"Data: {data}. Optimisation: {steps or of('steps')} steps of AdamW with batches of {of('batch')}, peak learning rate"
        f" {of('lr')} after {of('warmup')} steps of warm-up, then {of('schedule')}, weight decay {of('weight_decay')}, gradient"
        f" norm clipped at {of('clip')}, precision {of('precision')}. Weights averaged with decay {of('ema')} are evaluated."
    ]
    if parameters := span([at(report, "metrics", "cost/parameters") for *_, report in runs(results)], "{:,.0f}"):
        said.append(f"Trained parameters: {parameters}.")
    if seconds := span([at(report, "metrics", "time/train_seconds") for *_, report in runs(results)], "{:,.0f}"):
        said.append(f"Training took {seconds} s a run.")
    return " ".join(said)


def _evaluation(results: Results) -> str:
    def of(*keys: str) -> str:
        return stated(results, lambda arm, report: at(report, *keys))

    said = []
    if kinds := stated(results, lambda arm, report: kind_of(report)):
        said.append(
            f"Likelihood ({kinds}) is taken on {of('likelihood', 'images')} held-out items,"
            f" {of('likelihood', 'draws')} draw(s) of the noise for each."
        )
    if any(DISTANCE in report["metrics"] for *_, report in runs(results)):
        said.append(
            f"Sample quality is that of {of('quality', 'images')} generated images with the labels of the training images,"
            f" against {of('quality', 'reference')} training images, in the features of a small digits classifier (so no"
            f" FID); KID on subsets of {of('quality', 'kid_subset')}."
        )
    said += published(results.any_report)
    if any(name.startswith("quality/") for *_, report in runs(results) for name in report["metrics"]):
        said.append(f"Sampler: {stated(results, lambda arm, report: _sampler(arm))}.")
    return " ".join(said)


def _sampler(arm: Arm) -> str:
    s = arm.recipe.sampler
    guidance = f"guidance {s.guidance:g} ({s.schedule})" if s.guidance != 1 else "no guidance"
    steps = f", {s.steps} steps" if s.steps else ""
    candidates = f", {s.candidates} candidates" if s.candidates else ""
    return f"{guidance}, temperature {s.temperature:g}{steps}{candidates}"


def _speed(results: Results) -> str:
    if not any("speed" in report for *_, report in runs(results)):
        return ""

    def of(name: str) -> str:
        return stated(results, lambda arm, report: at(report, "speed", name))

    return (
        f"Generation is timed in a pass of its own, alone on the machine, device synchronised: batch {of('batch')} and batch"
        f" 1, median of {of('repeats')} after a warm-up, {of('threads')} thread(s) of {of('device')}, {of('precision')}"
        f"{load(results)}. GFLOPs are torch's count of matrix products and attention."
    )


def _statistics(results: Results) -> str:
    n, arms = len(results.plan.seeds), len(results.plan.arms)
    if max(map(len, results.reports.values())) < 2:
        return "Each arm has one seed at most, which says nothing of training noise; no difference is called resolved."
    said = [f"± is the 95 % t-interval of the mean over seeds (training noise); n is {n} where all are finished."]
    noisy = any(report.get("noise") for *_, report in runs(results))
    if noisy:
        said.append("In brackets stands the 95 % interval of one value over images (evaluation noise).")
    if arms > 1:
        said.append(f"Arms are compared with {results.plan.baseline}. {PROTOCOL}")
        said.append("What is not resolved is called so; no best of n is reported.")
        said += [frontier.PROTOCOL] if frontier.frontier(results) else []
    return " ".join(said)


def _software(results: Results) -> str:
    def of(name: str) -> str:
        return stated(results, lambda arm, report: at(report, "environment", name))

    commit = stated(results, lambda arm, report: _commit(report))
    names = {"arinar_lab": "arinar_lab", "python": "Python", "torch": "torch", "lightning": "Lightning"}
    versions = [f"{title} {value}" for name, title in names.items() if (value := of(name))]
    said = [f"{', '.join(versions)}" + (f"; code at commit {commit}" if commit else "")] if versions or commit else []
    machine = [f"{value}" for value in (of("device"), of("cpus") and f"{of('cpus')} CPUs", of("system")) if value]
    said += [", ".join(machine)] if machine else []
    return ". ".join(said) + "." if said else ""


def _commit(report: dict[str, Any]) -> str:
    commit = at(report, "git", "commit")
    return f"{commit[:10]}{' with changes' if at(report, 'git', 'dirty') else ''}" if commit else ""
