"""The prose of a report: one list of statements, for the notes, the methods and the captions.

Every statement comes from the settings and the reports themselves, whatever version of the code
wrote them. A value that all runs share is stated once; exceptions are named with their runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..analysis.analyse import Analysis
from ..analysis.conditions import (
    NO_DISTANCES,
    commit_of,
    distinct_values,
    lacks_distances,
    likelihood_kind,
    report_value,
    report_values,
    shared_value,
    units_of,
)
from ..analysis.results import ArmResult, Report, Results
from ..metrics import CLASSIFIER_DISTANCES, ERROR, FEW, HEADINGS, LEVEL, TRUNCATED
from ..output.names import join_names
from ..output.text import markdown_line
from ..significance.looks import level_at

TRAINING_NOISE = "95 % t-interval of the mean over seeds (training noise)"
EVALUATION_NOISE = "95 % interval of one value over images (evaluation noise)"
TESTS = (
    "Differences are paired by seed where an F-test finds at 5 % that seeds move all arms alike, or"
    " where an arm has the baseline's own weights; else the means of all runs are compared."
    " Distances are compared by their logarithms. Few seeds give a poor estimate of a variance. The"
    " test therefore pools it over all arms that pass a homogeneity test (Cochran's), and the line"
    " says of how many arms the spread is. Where an arm's own variance is larger, it counts"
    " instead, with degrees of freedom between those of the pool and its own. p is corrected by"
    " Holm's method over the arms, {family}, and for the looks at a study that"
    " grows; intervals of differences are corrected alike, and exclude zero where p is below 5 %."
    " An arm is equivalent where two one-sided tests find the difference within what matters. d is"
    " Cohen's, with its 95 % interval. Seeds to add are for a power of 0.8 at the observed effect,"
    " over the 80 % interval of the spread."
)
FACTORS = (
    "Main effects and interactions are of an analysis of variance of the grid of axes (sums of"
    " squares of type II), with seeds as repeats, or as a block where they move all arms alike;"
    " distances by their logarithm. F is Holm-corrected over the axes of one metric, and over its"
    " interactions. The mean of each level over all other axes is compared with that of the"
    " baseline's level, Holm-corrected over all levels of all axes. Arms beside the grid do not"
    " count."
)
FRONTS = (
    "An arm is on the front of quality against speed where no other arm's means are at"
    " least as good in both and better in one; in brackets is its attainment, the share of"
    " seeds in whose own front it stands. The front bends at the arm farthest below the"
    " line through its ends, both axes scaled to [0, 1] (knee). Hypervolume is the share"
    " of the box from the best to the worst value seen that a seed's front dominates, with"
    " its 95 % t-interval over seeds. The best of several arms was chosen by the numbers"
    " shown: over other seeds it will look a little worse."
)
IMAGES = (
    "Image by image, the difference in bits/dim has an interval over seeds × images, as if both"
    " were drawn anew. The median image and the share of the worst 1 % of the images show whether"
    " all images make the difference, or a few. Insured bits/dim mix each conditional with 0.1 % of"
    " a broad density, so that no value costs without limit."
)
SECTIONS = ("Design", "Training", "Evaluation", "Speed", "Statistics", "Software and hardware")
MIN_SEEDS_OF_CLAIM = 5  # seeds on which a claim should rest


@dataclass(frozen=True)
class Statement:
    """One fact about the numbers of a study.

    Arguments:
        text: Sentences.
        section: The section of the methods; empty if they leave it out.
        in_notes: Whether it stands under the table.
        in_caption: Whether it stands in the table's caption.
    """

    text: str
    section: str = ""
    in_notes: bool = True
    in_caption: bool = False


def notes(analysis: Analysis) -> list[str]:
    """How to read the table, and the cautions."""
    return [*reading_notes(analysis), *caution_lines(analysis)]


def reading_notes(analysis: Analysis) -> list[str]:
    """How to read the table."""
    if not analysis.results.any_report:
        return ["No cell is finished."]
    return [statement.text for statement in statements(analysis) if statement.in_notes]


def caution_lines(analysis: Analysis) -> list[str]:
    """Missing runs and differences among runs, with the conclusions that they forbid."""
    return [caution.text for caution in analysis.cautions]


def caption(analysis: Analysis) -> list[str]:
    """The meaning of the marks and the intervals in the table."""
    return [statement.text for statement in statements(analysis) if statement.in_caption]


def paragraphs(analysis: Analysis) -> list[tuple[str, str]]:
    """Title and text of each paragraph of the methods; the design alone if no run is finished."""
    texts: dict[str, list[str]] = {}
    for statement in statements(analysis):
        texts.setdefault(statement.section, []).append(statement.text)
    return [(section, " ".join(texts[section])) for section in SECTIONS if section in texts]


def methods_markdown(analysis: Analysis) -> str:
    """The methods as Markdown."""
    blocks = [f"# Methods of {markdown_line(analysis.results.name)}\n"]
    for title, text in paragraphs(analysis):
        blocks.append(f"**{title}.** {markdown_line(text)}\n")
    return "\n".join(blocks)


def statements(analysis: Analysis) -> list[Statement]:
    """All statements on a study, in the order of the notes."""
    results = analysis.results
    if not results.any_report:
        return _design(results)

    return [
        *_design(results),
        *_training(results),
        *_statistics(analysis),
        *_likelihood(analysis),
        *_distances(results),
        *_regimes(results),
        *_papers(results),
        *_speed(results),
        *_software(results),
    ]


def baseline_in_words(results: Results) -> str:
    """The baseline in words."""
    return results.baseline if len(results.baselines) == 1 else "the baseline of its regime"


def value_range(values: list[Any], form: str) -> str:
    """Smallest to largest of the numbers, or the one that all are; empty where there are none."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers:
        return ""
    least = form.format(min(numbers))
    most = form.format(max(numbers))
    return least if least == most else f"{least} to {most}"


def _stated(results: Results, *keys: str) -> str:
    """The value of report[key][key]… in all runs, or the most common one with the exceptions."""
    return shared_value(results, lambda arm, report: report_value(report, *keys))


def _spanned(results: Results, *keys: str, form: str) -> str:
    """The range of report[key][key]… over all runs."""
    return value_range(report_values(results.every_report, *keys), form)


def _any(results: Results, has: Callable[[Report], Any]) -> bool:
    """Whether a condition holds for a report."""
    return any(map(has, results.every_report))


def _methods(texts: list[str], section: str) -> list[Statement]:
    """Statements that stand in the methods alone."""
    return [Statement(text, section, in_notes=False) for text in texts]


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


# Design and training


def _design(results: Results) -> list[Statement]:
    done = len(list(results.runs))
    planned = results.planned
    varied = f", which differ in {', '.join(results.varied)}" if results.varied else ""
    seeds = f"{_count(len(results.seeds), 'seed')} ({', '.join(map(str, results.seeds))})"
    more = len(results.baseline_seeds)
    of_baseline = f", the baseline with {more}" if more > len(results.seeds) else ""

    texts = [f"The study asks: {results.question}"] if results.question else []
    texts.append(
        f"It has {_count(len(results.arms), 'arm')}{varied}, each trained with"
        f" {seeds}{of_baseline}; {done} of {planned} runs are finished."
    )
    if len(results.arms) > 1:
        verb = "is" if len(results.baselines) == 1 else "of each regime is, in turn,"
        texts.append(
            f"The baseline {verb} {join_names(results.baselines)}. Runs of one seed share the"
            " order of the data, the masks, the dequantisation and, wherever two arms have the"
            " same part, its initial weights; generated images share labels and noise."
        )
    for names in _sharing(results):
        texts.append(
            f"One training serves {join_names(names)}, which differ in sampling or "
            "evaluation alone."
        )
    matched = [f"{arm.name} {arm.matched}" for arm in results.arms if arm.matched]
    if matched:
        texts.append(f"Widths were solved for equal cost: {', '.join(matched)}.")
    return _methods(texts, "Design")


def _sharing(results: Results) -> list[list[str]]:
    """Names of arms that share their trained weights."""
    groups: dict[str, list[str]] = {}
    for arm in results.arms:
        groups.setdefault(arm.signature, []).append(arm.name)
    return [names for names in groups.values() if len(names) > 1]


def _training(results: Results) -> list[Statement]:
    def of(name: str) -> str:
        return shared_value(results, lambda arm, report: arm.settings["training"][name])

    data = shared_value(results, lambda arm, report: arm.settings["data"])
    steps = _stated(results, "steps") or of("steps")
    texts = [
        f"Data: {data}. Optimisation: {steps} steps of AdamW with batches of {of('batch')},"
        f" peak learning rate {of('lr')} after {of('warmup')} steps of warm-up, then"
        f" {of('schedule')}, weight decay {of('weight_decay')}, gradient norm clipped at"
        f" {of('clip')}, precision {of('precision')}. Weights averaged with decay {of('ema')}"
        " are evaluated."
    ]
    if parameters := _spanned(results, "metrics", "cost/parameters", form="{:,.0f}"):
        texts.append(f"Trained parameters: {parameters}.")
    if seconds := _spanned(results, "metrics", "time/train_seconds", form="{:,.0f}"):
        texts.append(f"Training took {seconds} s a run.")
    return _methods(texts, "Training")


# Statistics


def _statistics(analysis: Analysis) -> list[Statement]:
    results = analysis.results
    section = "Statistics"
    seeds = max(map(len, results.reports.values()))
    if seeds < 2:
        text = (
            "Each arm has one seed at most, which says nothing of training noise; no difference "
            "is called resolved."
        )
        return [Statement(text, section)]

    count = f"n is {len(results.seeds)} where all are finished"
    if len(results.baseline_seeds) > len(results.seeds):
        count = f"{count}, and {len(results.baseline_seeds)} of the baseline"
    statements = [Statement(f"± is the {TRAINING_NOISE}; {count}.", section, in_caption=True)]
    if _any(results, lambda report: report.get("noise")):
        statements.append(
            Statement(f"In brackets is the {EVALUATION_NOISE}.", section, in_caption=True)
        )
    if seeds < MIN_SEEDS_OF_CLAIM:
        statements.append(Statement(f"A claim should rest on {MIN_SEEDS_OF_CLAIM} seeds."))

    if analysis.effects:
        statements += _tests(analysis, section)
    if any(factors.axes for factors in analysis.factors):
        statements.append(Statement(FACTORS, section))
    if results.most_seeds:
        statements.append(Statement(_growth(analysis), section))
    if analysis.fronts:
        statements.append(Statement(FRONTS, section, in_notes=False))
    return statements


def _tests(analysis: Analysis, section: str) -> list[Statement]:
    """How arms are compared, and how the table marks them."""
    against = baseline_in_words(analysis.results)
    metrics = dict.fromkeys(effect.metric for effect in analysis.effects)
    marks = (
        f"Bold is better and italic is worse than {against}, resolved at 5 % after Holm's"
        " correction. All else is not resolved, or not tested."
    )
    family = "separately for each metric"
    if analysis.results.family == "matters":
        joint = filter(analysis.results.matters.__contains__, metrics)
        family = f"together for {join_names(map(HEADINGS.__getitem__, joint))}"
    headings = ", ".join(map(HEADINGS.__getitem__, metrics))
    tests = f"An arm is compared with {against} in {headings}. {TESTS.format(family=family)}"
    policy = "What is not resolved is called so; no best of n is reported."
    return [
        Statement(marks, in_caption=True),
        Statement(tests, section),
        Statement(policy, section, in_notes=False),
    ]


def _growth(analysis: Analysis) -> str:
    """How a study grows, its looks so far, and the level of the present one."""
    results = analysis.results
    headings = dict.fromkeys(effect.column.heading for effect in analysis.deciding)
    level = level_at(results.looks, results.most_seeds)
    return (
        f"Seeds are added until each arm is better, worse or equivalent in"
        f" {join_names(list(headings))}, to {results.most_seeds} at most. This is look"
        f" {len(results.looks)}, at {', then '.join(map(str, results.looks))} seeds, and tests at"
        f" {100 * level:.1f} % before Holm's correction: a group-sequential design spends its 5 %"
        " over all looks (Lan and DeMets, 1983). p and the intervals are corrected for it."
    )


def _papers(results: Results) -> list[Statement]:
    return [Statement(paper.note) for paper in results.papers]


def _regimes(results: Results) -> list[Statement]:
    if not results.regimes:
        return []
    text = (
        "Each arm is compared with the baseline in its own regime. Of a ranking's agreement, p is"
        " how often two orders that have nothing to do with each other agree as well or as badly;"
        " a small one says that they are related, not that they are the same."
    )
    return [Statement(text)]


# Likelihood and quality


def _likelihood(analysis: Analysis) -> list[Statement]:
    results = analysis.results
    statements = []
    if kinds := shared_value(results, lambda arm, report: likelihood_kind(report)):
        images = _stated(results, "likelihood", "images")
        draws = _stated(results, "likelihood", "draws")
        text = (
            f"Likelihood ({kinds}) is taken on {images} held-out items, {draws} draw(s) of the "
            "noise for each."
        )
        statements.append(Statement(text, "Evaluation", in_notes=False))

    if results.values(LEVEL):
        text = (
            "Bits/dim is of the uniformly dequantised pixels: exact as a density, a bound for the"
            " integers. Half of the pixels of digits and Fashion-MNIST are level 0, and bits/dim"
            " rewards components that fill that level's box evenly. Bits/dim at Δ asks only for the"
            " probability of the grey level itself (its centre ± Δ/2). Read both."
        )
        statements.append(Statement(text))

    statements += _images(analysis)
    if TRUNCATED in results.columns_by_metric:
        text = (
            "Truncated: share of the guided conditionals of one feature that could not be "
            "normalised and were cut."
        )
        statements.append(Statement(text))

    if names := results.without_likelihood:
        ranking = f"Arms are ranked by {HEADINGS[results.criterion]}."
        statements.append(Statement(f"No likelihood (n/a): {join_names(names)}. {ranking}"))

    if results.values(ERROR):
        text = (
            "An estimate of bits/dim comes from integrating an equation; its error is how far the"
            " mean moves when the steps are doubled."
        )
        statements.append(Statement(text))
    return [*statements, *_units(results)]


def _images(analysis: Analysis) -> list[Statement]:
    """How a difference in bits/dim reads image by image, and where mean and median disagree."""
    if not analysis.image_shifts:
        return []

    notes = []
    for shift in analysis.image_shifts:
        notes += shift.notes
    return [Statement(IMAGES, "Evaluation"), *map(Statement, notes)]


def _units(results: Results) -> list[Statement]:
    """The unit of bits/dim where it is not the pixel, and data that differ."""
    arms: dict[str, list[str]] = {}
    images: dict[str, list[str]] = {}
    for arm in results.arms:
        for unit in units_of(arm):
            arms.setdefault(unit, []).append(arm.name)
        for held_out in distinct_values(arm.reports.values(), "likelihood", "held_out"):
            images.setdefault(held_out, []).append(arm.name)

    named = ""
    if len(arms) > 1:
        named = "; ".join(f"of {unit}s: {join_names(names)}" for unit, names in arms.items())
    elif len(images) > 1:
        named = "held-out images of " + "; of ".join(map(join_names, images.values()))
    if named:
        return [Statement(f"Bits/dim of different data cannot be compared, and are not ({named}).")]
    if arms and "pixel" not in arms:
        return [Statement(f"Bits/dim is of the raw {next(iter(arms))}s, not of pixels.")]
    return []


def _distances(results: Results) -> list[Statement]:
    """The images and features of the distances, their floor, and the sampler."""
    statements = _published(results.any_report)
    of_regimes: dict[Statement, None] = {}
    for part in results.by_regime:
        of_regimes |= dict.fromkeys([*_compared(part), *_floor(part.any_report)])
    statements += of_regimes

    if results.every_report and all(map(lacks_distances, results.every_report)):
        statements.append(Statement(f"{NO_DISTANCES}.", "Evaluation"))

    if _any(results, _has_quality):
        sampler = shared_value(results, lambda arm, report: _sampler(arm))
        statements.append(Statement(f"Sampler: {sampler}.", "Evaluation", in_notes=False))

    return statements


def _compared(results: Results) -> list[Statement]:
    """What the distances in features of a classifier compare."""
    statements = []
    for classifier, distance in CLASSIFIER_DISTANCES.items():
        if results.values(distance):
            part = _stated(results, "quality", "part") or "training"
            text = (
                f"FD, KID, precision and recall compare {_stated(results, 'quality', 'images')}"
                f" generated images with {_stated(results, 'quality', 'reference')} {part} images,"
                f" whose labels they have, in the features of a {classifier} classifier (not"
                " Inception, so no FID), KID over all images."
            )
            statements.append(Statement(text, "Evaluation"))
    return statements


def _has_quality(report: Report) -> bool:
    """Whether a report has a metric of samples."""
    return any(name.startswith("quality/") for name in report["metrics"])


def _published(report: Report) -> list[Statement]:
    """The published protocol, where the runs were measured by it."""
    measured = report.get("fidelity")
    if not measured:
        return []

    count = measured["reference"].get("images")
    reference = measured["reference"]["file"] + (f" ({count:,} images)" if count else "")
    text = (
        f"By the published protocol: features of {measured['extractor']}, {measured['images']:,}"
        f" generated images against {reference}; label i modulo the classes and seed i for image i."
    )
    if held_out := measured.get("floor_images", 0):
        text += (
            f" Floor: {held_out:,} held-out images, encoded and decoded by the codec, against the"
            " same."
        )

    return [Statement(text, "Evaluation")]


def _floor(report: Report) -> list[Statement]:
    """The distance of held-out images, for scale."""
    metrics = report["metrics"]
    quality = report.get("quality", {})
    measured = [name for name in CLASSIFIER_DISTANCES.values() if f"{name}_floor" in metrics]
    if not measured or not quality:
        return []

    (distance,) = measured
    count = quality.get("floor_images", 0)
    part = "training" if quality.get("part") == "held-out" else "held-out"
    floor = metrics[f"{distance}_floor"]
    text = f"For scale: FD of {count:,} {part} images against the same is {floor:.2f}"
    if count < quality.get("images", 0):
        text += "; so few images are farther off by their number alone, and an arm may be nearer"
        if (few := distance + FEW) in metrics:
            text += f" ({HEADINGS[few]} is of {count:,} generated images, to set against it)"
    if (restored := f"{distance}_codec") in metrics:
        text += (
            "; that of the compared images themselves, encoded and decoded by the codec, is "
            f"{metrics[restored]:.2f}"
        )

    return [Statement(f"{text}.")]


def _sampler(arm: ArmResult) -> str:
    """The sampler of an arm in words."""
    sampler = arm.settings["sampler"]
    words = ["no guidance"]
    if sampler["guidance"] != 1:
        words = [f"guidance {sampler['guidance']:g} ({sampler['schedule']})"]

    words.append(f"temperature {sampler['temperature']:g}")
    if sampler["steps"]:
        words.append(f"{sampler['steps']} steps")
    if sampler["candidates"]:
        words.append(f"{sampler['candidates']} candidates")
    for name, value in arm.accelerators.items():
        words.append(f"{name} {value}")
    return ", ".join(words)


# Speed and machine


def _speed(results: Results) -> list[Statement]:
    if not _any(results, lambda report: "speed" in report):
        return []

    def of(name: str) -> str:
        return _stated(results, "speed", name)

    load = _spanned(results, "speed", "load_average", form="{:.1f}")
    loaded = f", load average {load}" if load else ""
    text = (
        "Speed is measured in a pass of its own, with no other run of the study beside it: batch"
        f" {of('batch')} and batch 1, median of {of('repeats')} after a warm-up, {of('threads')}"
        f" thread(s) of {of('device')}, {of('precision')}, device synchronised{loaded}."
    )
    operations = "GFLOPs are torch's count of matrix products and attention."
    return [Statement(text, "Speed"), Statement(operations, "Speed", in_notes=False)]


def _software(results: Results) -> list[Statement]:
    def of(name: str) -> str:
        return _stated(results, "environment", name)

    titles = {
        "arinar_lab": "arinar_lab",
        "python": "Python",
        "torch": "torch",
        "lightning": "Lightning",
    }
    versions = [f"{title} {of(name)}" for name, title in titles.items() if of(name)]
    code = shared_value(results, lambda arm, report: commit_of(report))
    software = ", ".join(versions) + (f"; code at commit {code}" if code else "")

    cpus = f"{of('cpus')} CPUs" if of("cpus") else ""
    machine = ", ".join(filter(None, (of("device"), cpus, of("system"))))

    texts = [f"{text}." for text in (software, machine) if text]
    return _methods(texts, "Software and hardware")
