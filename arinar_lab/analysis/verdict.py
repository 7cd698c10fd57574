"""The verdict of a study: what one screen says of it, computed from its analysis.

    answer      one sentence on the arms against the baseline, in the metric that ranks them
    rows        a table of at most five columns: arm, mean, difference, distance, images/s
    speed       one line; empty where the speeds are unreliable
    next step   the command to run next, and why

Of a study with regimes it is that of the last, with how far the ranking has lasted. A terminal
shows it by `report/screen.py`, the page of a report by `page.html`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from ..metrics import BITS, COLUMNS, DISTANCES, SPEED, Column
from ..output.names import abridged
from ..significance.statistics import ALPHA, Interval, more_seeds
from .analyse import Analysis
from .comparison import Answer, Effect
from .conditions import unreliable_speeds
from .results import ArmResult, Results

MOST_ROWS = 8
_NAMED = 3  # arms of one answer beyond which the sentence counts them,
_LETTERS = 80  # and letters of their names; one arm is always named
_NAME = 36  # letters of a name in a sentence
_MOST_SEEDS = 12  # to which it is advised to grow
_FEWEST_SEEDS = 3  # with which a study should begin
_ORDER: tuple[Answer | None, ...] = ("better", "worse", "equivalent", "unresolved", None)


@dataclass(frozen=True)
class VerdictCell:
    """The text of a cell, and the answer against the baseline that it is marked by, if any."""

    text: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.mark}".strip()


@dataclass(frozen=True)
class VerdictRow:
    """An arm of the table; `place` is its place in the order of the study."""

    arm: str
    place: int
    cells: tuple[VerdictCell, ...]


@dataclass(frozen=True)
class NextStep:
    """What to do next.

    Arguments:
        reason: Why, as the begin of a line that the command follows.
        words: The command without the program's name.
    """

    reason: str
    words: tuple[str, ...]

    def command(self, program: str = "arinar") -> str:
        """The line to type. program: how this machine starts arinar, as a shell reads it."""
        return f"{program} {shlex.join(self.words)}"


@dataclass(frozen=True)
class Verdict:
    """What one screen says of a study.

    Arguments:
        question: The question of the study, or its name.
        answer: The sentence that answers it.
        headings: Of the columns of the table, five at most.
        rows: All arms, the most important first.
        speed: A sentence on images/s; empty where none can be said.
        margins: The differences that matter, as in `±0.02 bits/dim`.
        cautions: The number of reasons not to conclude what the numbers seem to show.
        step: What to do next; None where there is no study to go on with.
    """

    question: str
    answer: str
    headings: tuple[str, ...]
    rows: tuple[VerdictRow, ...]
    speed: str
    margins: tuple[str, ...]
    cautions: int
    step: NextStep | None

    def shown(self, most: int = MOST_ROWS) -> list[VerdictRow]:
        """The most important rows, in the order of the study."""
        return sorted(self.rows[:most], key=lambda row: row.place)

    def left_out(self, most: int = MOST_ROWS) -> str:
        """`and 12 more arms in report.html`; empty where all rows are shown."""
        count = len(self.rows) - most
        if count < 1:
            return ""
        return f"and {count} more arm{'s' * (count > 1)} in report.html"

    @property
    def legend(self) -> str:
        """What the marks mean, against the baseline."""
        equivalent = f"within {', '.join(self.margins)}" if self.margins else "equivalent"
        return f"▲ better  ▼ worse  ≈ {equivalent}  ? unresolved"

    @property
    def is_marked(self) -> bool:
        """Whether a cell has a mark, so that a legend is needed."""
        cells = chain.from_iterable(row.cells for row in self.rows)
        return any(cell.mark for cell in cells)

    @property
    def caution(self) -> str:
        """`2 cautions limit what may be concluded`; empty without any."""
        if not self.cautions:
            return ""
        noun, verb = ("caution", "limits") if self.cautions == 1 else ("cautions", "limit")
        return f"{self.cautions} {noun} {verb} what may be concluded"


def verdict_of(analysis: Analysis) -> Verdict:
    """The verdict of a study."""
    part = analysis.results.by_regime[-1]
    effects = [effect for effect in analysis.effects if effect.arm in part.by_name]
    metric = _ranking_metric(part, effects)
    distances = [name for name in DISTANCES if name != metric and part.values(name)]
    distance = next(iter(distances), None)
    is_timed = bool(part.values(SPEED)) and not unreliable_speeds(part)
    headings, rows = _table(part, effects, metric, distance, is_timed)

    answer = _answer(part, effects, metric, distance)
    if regime := part.baseline_arm.regime:
        answer = f"At {regime}: {answer}{_lasting(analysis, regime, metric)}"

    return Verdict(
        analysis.results.question or analysis.results.name,
        answer,
        headings,
        rows,
        _speed(part) if is_timed else "",
        _margins(part, filter(None, (metric, distance))),
        len(analysis.cautions),
        _next_step(analysis.results, [effect for effect in effects if effect.metric == metric]),
    )


def _lasting(analysis: Analysis, regime: str, metric: str) -> str:
    """Whether the ranking by a metric in the first regime lasts in this one: a sentence, or ""."""
    for agreement in analysis.agreements:
        if agreement.large == regime and agreement.other_metric == metric:
            return f" Against {agreement.small}, {agreement.change}."
    return ""


def _ranking_metric(results: Results, effects: Sequence[Effect]) -> str:
    """The metric that ranks the arms; a distance where all arms have the same value of it, as
    the likelihood of arms that differ in sampling alone.
    """
    candidates = [results.criterion, *DISTANCES, BITS]
    measured = list(filter(results.values, candidates))
    for metric in measured:
        if any(effect.difference for effect in effects if effect.metric == metric):
            return metric
    return measured[0] if measured else results.criterion


def _margins(results: Results, metrics: Iterable[str]) -> tuple[str, ...]:
    """The differences that matter in some metrics: `±0.02 bits/dim`."""
    margins = []
    for metric in metrics:
        if metric in results.matters:
            margins.append(f"±{results.matters[metric]:g} {COLUMNS[metric].heading}")
    return tuple(margins)


# The table


def _table(
    results: Results,
    effects: Sequence[Effect],
    metric: str,
    distance: str | None,
    is_timed: bool,
) -> tuple[tuple[str, ...], tuple[VerdictRow, ...]]:
    """Headings, and the rows of all arms, the most important first."""
    by_arm = {(effect.arm, effect.metric): effect for effect in effects}
    columns = [COLUMNS[name] for name in (distance, SPEED if is_timed else None) if name]
    is_compared = bool(by_arm)
    difference = ["difference ± 95 %"] if is_compared else []
    headings = ["arm", COLUMNS[metric].heading, *difference, *(c.heading for c in columns)]

    rows = []
    for place, arm in enumerate(results.arms):
        effect = by_arm.get((arm.name, metric))
        cells = [_cell(arm, COLUMNS[metric], effect)]
        if is_compared:
            cells.append(VerdictCell(effect.difference_text if effect else ""))
        for column in columns:
            cells.append(_cell(arm, column, by_arm.get((arm.name, column.metric))))
        name = f"{arm.name} (baseline)" if arm.name == results.baseline else arm.name
        rows.append(VerdictRow(name, place, tuple(cells)))

    def importance(row: VerdictRow) -> tuple[bool, int, float]:
        arm = results.arms[row.place]
        effect = by_arm.get((arm.name, metric))
        rank = _ORDER.index(effect.answer if effect else None)
        return arm.name != results.baseline, rank, _loss(arm, metric)

    return tuple(headings), tuple(sorted(rows, key=importance))


def _cell(arm: ArmResult, column: Column, effect: Effect | None) -> VerdictCell:
    summary = arm.summary(column.metric)
    if summary is None:
        return VerdictCell("n/a" if column.metric == BITS and arm.likelihood == "none" else "")
    return VerdictCell(f"{summary.mean:,.{column.digits}f}", effect.mark if effect else "")


def _loss(arm: ArmResult, metric: str) -> float:
    """The mean of a metric, signed so that less is better; infinite where it was not measured."""
    summary = arm.summary(metric)
    if summary is None:
        return math.inf
    return summary.mean if COLUMNS[metric].less else -summary.mean


# The sentence


def _answer(results: Results, effects: Sequence[Effect], metric: str, distance: str | None) -> str:
    """One sentence on the arms against the baseline."""
    column = COLUMNS[metric]
    baseline = abridged(results.baseline, _NAME)
    compared = [effect for effect in effects if effect.metric == metric]
    finished = [arm for arm in results.arms if arm.values(metric)]
    if not finished:
        return "No run is finished, so nothing can be said."
    if not results.baseline_arm.values(metric):
        return f"Nothing can be said: the baseline, {baseline}, has no finished run."
    if not compared:
        value = results.baseline_arm.summary(metric)
        assert value is not None
        reading = f"{value.text(column.digits)} {column.heading}"
        alone = "" if len(results.arms) == 1 else ", and no other arm can be compared with it"
        return f"{baseline} reaches {reading}{alone}."

    best = min(finished, key=lambda arm: _loss(arm, metric)).name
    standing = _standing(results, column, best)
    if all(effect.n < 2 for effect in compared):
        return f"One seed resolves nothing; {standing}."

    settled = [effect for effect in compared if effect.answer != "unresolved"]
    doubted = [effect for effect in compared if effect.doubt]
    if not settled and not doubted:
        widest = max(effect.half for effect in compared if effect.n > 1)
        return (
            f"Nothing is resolved at {_seeds(results)}: {standing}, but only a difference of more"
            f" than about {widest:.{column.digits}f} would have been resolved."
        )

    clauses = _clauses(compared, column, baseline)
    if distance:
        clauses += _other_clauses(effects, distance)
    return "; ".join(clauses) + "."


def _standing(results: Results, column: Column, best: str) -> str:
    """The arm of the best mean, beside the baseline."""
    mean = _mean(results, best, column)
    if best == results.baseline:
        return f"the baseline, {abridged(best, _NAME)}, has the best mean {column.heading} ({mean})"
    baseline = _mean(results, results.baseline, column)
    return (
        f"{abridged(best, _NAME)} has the best mean {column.heading} ({mean} against {baseline} of"
        f" {abridged(results.baseline, _NAME)})"
    )


def _clauses(effects: Sequence[Effect], column: Column, baseline: str) -> list[str]:
    """A clause for each answer that some arm has, the first with the baseline and the metric."""
    by_answer: dict[str, list[Effect]] = {}
    for effect in effects:
        is_doubted = effect.doubt and effect.answer == "unresolved"
        by_answer.setdefault("doubted" if is_doubted else effect.answer, []).append(effect)
    unsettled = by_answer.keys() & {"unresolved", "doubted"}

    than = f"than {baseline} in {column.heading}"
    shown = "shown to be " if unsettled else ""
    worse = by_answer.get("worse")
    if better := by_answer.get("better"):
        better = sorted(better, key=lambda effect: effect.difference * (1 if column.less else -1))
        clauses = [f"{_named(better)} better {than}"]
        clauses += [f"{_named(worse)} worse"] if worse else []
    elif worse:
        clauses = [f"{_named(worse)} worse {than}", f"no arm is {shown}better"]
    else:
        clauses = [f"No arm is {shown}better {than}"]

    if equivalent := by_answer.get("equivalent"):
        clauses.append(f"{_named(equivalent)} equivalent within ±{equivalent[0].margin:g}")
    if unresolved := by_answer.get("unresolved"):
        clauses.append(f"{_named(unresolved)} unresolved")
    if doubted := by_answer.get("doubted"):
        clauses.append(f"of {_listed(doubted)} nothing is concluded, for {doubted[0].doubt}")
    return clauses


def _other_clauses(effects: Sequence[Effect], metric: str) -> list[str]:
    """What a second metric resolves, and one where it resolves nothing."""
    heading = COLUMNS[metric].heading
    clauses = []
    for answer in ("better", "worse"):
        arms = [effect for effect in effects if (effect.metric, effect.answer) == (metric, answer)]
        if arms:
            clauses.append(f"{_named(arms)} {answer}")
    if not clauses:
        return []
    clauses[0] = f"in {heading} {clauses[0]}"
    return clauses


def _named(effects: Sequence[Effect]) -> str:
    """`a (-0.1 ± 0.02) and b (…) are`, the subject of a clause with its verb."""
    return f"{_listed(effects)} {'is' if len(effects) == 1 else 'are'}"


def _listed(effects: Sequence[Effect]) -> str:
    """Some arms with their differences; the number of the others."""
    names: list[str] = []
    for effect in effects[:_NAMED]:
        name = f"{abridged(effect.arm, _NAME)} ({effect.difference_text})"
        if names and sum(map(len, names)) + len(name) > _LETTERS:
            break
        names.append(name)

    if len(effects) > len(names):
        return f"{', '.join(names)} and {len(effects) - len(names)} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _mean(results: Results, arm: str, column: Column) -> str:
    summary = results.by_name[arm].summary(column.metric)
    return f"{summary.mean:,.{column.digits}f}" if summary else ""


def _seeds(results: Results) -> str:
    count = len(results.seeds)
    return "one seed" if count == 1 else f"{count} seeds an arm"


# Speed


def _speed(results: Results) -> str:
    """The fastest arm against the baseline, where their intervals do not overlap."""
    speeds = {arm.name: arm.summary(SPEED) for arm in results.arms}
    timed = {name: speed for name, speed in speeds.items() if speed}
    own = timed.get(results.baseline)
    if own is None or len(timed) < 2:
        return ""

    fastest = max(timed, key=lambda name: timed[name].mean)
    slowest = min(timed, key=lambda name: timed[name].mean)
    baseline = f"{abridged(results.baseline, _NAME)} makes {own.text(0)} images/s"
    if fastest == results.baseline:
        least = f"{abridged(slowest, _NAME)} makes {timed[slowest].text(0)}"
        return f"{baseline}, the most; {least}."

    other = timed[fastest]
    if not _apart(other, own):
        if _apart(own, timed[slowest]):
            return f"{baseline}, {abridged(slowest, _NAME)} fewer ({timed[slowest].text(0)})."
        return f"{baseline}; no arm differs for certain."
    return f"{abridged(fastest, _NAME)} is the fastest, {other.text(0)} images/s; {baseline}."


def _apart(faster: Interval, slower: Interval) -> bool:
    """Whether the intervals of two speeds do not overlap."""
    halves = [speed.half for speed in (faster, slower) if speed.n > 1]
    return faster.mean - slower.mean > sum(halves)


# What to do next


def _next_step(results: Results, effects: Sequence[Effect]) -> NextStep | None:
    """The command that brings the study nearest to an answer.

    Missing runs come first, then seeds for an interval, then seeds for the arms that are
    unresolved, then a closer look.
    """
    if not results.folder.name:
        return None
    study = str(results.folder)
    again = ("ablate", study)

    if missing := len(results.missing):
        runs = "the run that is" if missing == 1 else f"the {missing} runs that are"
        return NextStep(f"To finish {runs} missing:", again)

    count = len(results.seeds)
    if count < results.most_seeds:
        return NextStep("To go on until it is resolved:", again)
    if effects and count < _FEWEST_SEEDS:
        words = (*again, _grown(results.seeds, _FEWEST_SEEDS))
        return NextStep("For intervals, run three seeds:", words)

    open_effects = [e for e in effects if e.answer == "unresolved" and not e.doubt]
    needed = {effect.arm: count + seeds_to_settle(effect) for effect in open_effects}
    within = {arm: seeds for arm, seeds in needed.items() if seeds <= _MOST_SEEDS}
    if within and not results.most_seeds:
        total = max(within.values())
        return NextStep(
            f"To settle {_short(within)}, as different or as equivalent, {total} seeds are likely"
            " to be enough:",
            (*again, "--until-resolved"),
        )

    look = ("notebooks", study)
    if open_effects and results.most_seeds:
        return NextStep(
            f"All {count} seeds are used, and {_short(needed)} stay unresolved. See why:", look
        )
    if open_effects:
        arms = _short(needed)
        return NextStep(f"More than {_MOST_SEEDS} seeds would be needed for {arms}. See why:", look)
    return NextStep("To look into it by notebooks:", look)


def seeds_to_settle(effect: Effect) -> int:
    """The number of seeds to add so that an unresolved effect is likely to be settled.

    It is either resolved at its present size, in 80 % of studies, or its interval is narrowed until
    it lies within what matters: half-widths fall as 1/√n. The smaller number counts. With one
    seed the spread is unknown, and the number is beyond all that are advised.
    """
    spread = effect.spread
    if spread is None or effect.n < 2:
        return _MOST_SEEDS + 1

    level = ALPHA / max(1, effect.unresolved)
    added = [more_seeds(effect.size, effect.n, spread.arms, level, spread.paired)]
    room = (effect.margin or 0.0) - abs(effect.difference)
    if room > 0 and math.isfinite(effect.half):
        added.append(math.ceil(effect.n * (effect.half / room) ** 2) - effect.n)
    return max(1, min(added))


def _grown(seeds: Sequence[int], count: int) -> str:
    """`seeds=[0,1,2,3,4]`: the same seeds, and the next ones up to a number of them."""
    first = max(seeds) + 1
    grown = [*seeds, *range(first, first + count - len(seeds))]
    return f"seeds=[{','.join(map(str, grown))}]"


def _short(arms: Iterable[str]) -> str:
    """The names of two arms, or the number of more."""
    names = [abridged(arm, _NAME) for arm in arms]
    return " and ".join(names) if len(names) < 3 else f"{len(names)} arms"
