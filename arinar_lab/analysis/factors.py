"""Main effects and interactions of a study whose arms are a grid of two axes or more.

    F          of each axis and interaction, by analysis of variance (`significance/factorial.py`)
    p of F     Holm-corrected over the axes of one metric, and over its interactions
    levels     each against the baseline's level, as means over all other axes; p, interval and
               answer as of arms (`comparison.py`), Holm-corrected over all levels of all axes
    looks      of a study that grows: all p are corrected for them, too
    refused    with a reason, where a cell is missing, cells share a training with some others, or
               their numbers are not of one kind

Arms that stand beside the grid do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..metrics import COLUMNS, DISTANCES
from ..output.names import join_names, short_value
from ..significance.arm_tests import ArmTest
from ..significance.factorial import Factorial, TermTest, factorial
from ..significance.statistics import ALPHA, holm, holm_factors
from .comparison import CLAIMS, Effect, look_factor, p_value_text
from .conditions import doubt, is_comparable
from .results import ArmResult, Results


@dataclass(frozen=True)
class Term:
    """An axis, or an interaction of several.

    Arguments:
        name: `outer norm`, or `outer norm × inner norm`.
        test: Its F-test.
        adjusted: p after the corrections.
        levels: Of an axis, each other level against the baseline's.
    """

    name: str
    test: TermTest
    adjusted: float
    levels: tuple[Effect, ...] = ()

    @property
    def resolved(self) -> bool:
        """Whether the adjusted p is below 5 %."""
        return self.adjusted < ALPHA

    @property
    def test_text(self) -> str:
        """`F(3, 12.6) = 12.2, adjusted p = 0.001`."""
        p = p_value_text(self.adjusted)
        sign = "" if p.startswith("<") else "= "
        df, error_df = self.test.df
        return f"F({df}, {error_df:.3g}) = {self.test.statistic:.1f}, adjusted p {sign}{p}"

    @property
    def line(self) -> str:
        """`outer norm: F(3, 12.6) = 12.2, adjusted p = 0.001: none against layer -0.125 ± 0.096 ▲`,
        with all levels.
        """
        start = f"{self.name}: {self.test_text}"
        if not self.levels:
            return start
        levels = [f"{level.arm} {level.difference_text} {level.mark}" for level in self.levels]
        return f"{start}: against {self.levels[0].baseline}: {join_names(levels)}"

    @property
    def clause(self) -> str:
        """What a resolved axis does: `outer norm matters (F(3, 32) = …): none is 0.125 ± 0.096
        bits/dim better than layer`.
        """
        by_answer: dict[str, list[Effect]] = {}
        for level in self.levels:
            by_answer.setdefault(level.answer, []).append(level)

        clear = [*by_answer.get("better", ()), *by_answer.get("worse", ())]
        parts = [f"{level.arm} is {_size(level)} {level.answer}" for level in clear]
        base = self.levels[0].baseline
        start = f"{self.name} matters ({self.test_text})"
        if parts:
            return f"{start}: {join_names(parts)} than {base}"
        if len(by_answer.get("equivalent", ())) == len(self.levels):
            margin = self.levels[0].margin
            return f"{self.name} has an effect ({self.test_text}), within ±{margin:g} of {base}"
        return f"{start}, though no level alone is told from {base}"


def _size(level: Effect) -> str:
    """`0.125 ± 0.096 bits/dim`, without a sign."""
    text = level.difference_text
    heading = level.column.heading
    if level.difference >= 0:
        return f"{text.replace('+', '')} {heading}"
    if level.test.center is None:
        return f"{text.replace('-', '')} {heading}"
    digits = level.column.digits
    low, high = level.interval
    return f"{-level.difference:.{digits}f} [{-high:.{digits}f}, {-low:.{digits}f}] {heading}"


@dataclass(frozen=True)
class FactorAnalysis:
    """The main effects and interactions in one metric, in one regime.

    Arguments:
        metric: The metric's name.
        regime: The label of the regime; empty in a study without regimes.
        axes, interactions: The terms; none where the analysis was refused.
        blocked: Whether seeds were a block.
        uneven: Arms that vary more from seed to seed than the others do.
        reason: Why the analysis was refused; else empty.
    """

    metric: str
    regime: str = ""
    axes: tuple[Term, ...] = ()
    interactions: tuple[Term, ...] = ()
    blocked: bool = False
    uneven: tuple[str, ...] = ()
    reason: str = ""

    @property
    def heading(self) -> str:
        """`bits/dim`, `bits/dim at steps×4`."""
        at_regime = f" at {self.regime}" if self.regime else ""
        return f"{COLUMNS[self.metric].heading}{at_regime}"

    @property
    def lines(self) -> list[str]:
        """A line for each term, and one for what makes them doubtful."""
        seeds = "seeds as a block" if self.blocked else "seeds as repeats"
        lines = []
        for term in (*self.axes, *self.interactions):
            lines.append(f"{self.heading}: {term.line} ({seeds})")
        if self.uneven:
            lines.append(
                f"{self.heading}: caution: {join_names(self.uneven)} vary more from seed to seed"
                " than the other arms, and F assumes that all vary alike"
            )
        return lines

    @property
    def sentence(self) -> str:
        """`Outer norm matters (F(3, 12.6) = 12.2, adjusted p = 0.001): none is 0.125 ± 0.096
        bits/dim better than layer; inner norm shows no effect in bits/dim.`

        Empty where the analysis was refused.
        """
        clauses = [axis.clause for axis in self.axes if axis.resolved]
        for term in self.interactions:
            if term.resolved:
                clauses.append(f"{term.name} interact ({term.test_text}): read them arm by arm")

        harmless: list[str] = []
        silent: list[str] = []
        for axis in self.axes:
            if not axis.resolved:
                is_within = all(level.answer == "equivalent" for level in axis.levels)
                (harmless if is_within else silent).append(axis.name)
        if harmless:
            margin = self.axes[0].levels[0].margin
            verb = "makes" if len(harmless) == 1 else "make"
            within = f"no difference beyond ±{margin:g} {self.heading}"
            clauses.append(f"{_conjoin(harmless)} {verb} {within}")
        if silent:
            verb = "shows" if len(silent) == 1 else "show"
            clauses.append(f"{_conjoin(silent)} {verb} no effect in {self.heading}")

        text = "; ".join(clauses)
        return f"{text[0].upper()}{text[1:]}." if text else ""


def _conjoin(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def analyse_factors(
    results: Results, metrics: Sequence[str] = CLAIMS
) -> tuple[FactorAnalysis, ...]:
    """The analysis of each measured metric, in each regime; none where fewer than two axes have two
    levels or more, or no run is finished.
    """
    analyses = []
    for part in results.by_regime:
        for metric in filter(part.columns_by_metric.__contains__, metrics):
            if analysis := _analysis(part, metric):
                analyses.append(analysis)
    return tuple(analyses)


def factor_sentences(analyses: Sequence[FactorAnalysis]) -> list[str]:
    """One sentence for each analysis that was not refused, in their order."""
    return [analysis.sentence for analysis in analyses if analysis.sentence]


def factor_lines(analyses: Sequence[FactorAnalysis]) -> list[str]:
    """All lines of all analyses; a reason to refuse stands once, with its metrics."""
    lines = []
    refused: dict[str, list[str]] = {}
    for analysis in analyses:
        lines += analysis.lines
        if analysis.reason:
            refused.setdefault(analysis.reason, []).append(analysis.heading)
    for reason, headings in refused.items():
        lines.append(f"{join_names(headings)}: main effects are not computed: {reason}")
    return lines


def _analysis(results: Results, metric: str) -> FactorAnalysis | None:
    """The analysis of one metric; None where there is no grid, or no arm of it has a value."""
    arms = [arm for arm in results.arms if arm.factors and len(arm.factors) == len(results.axes)]
    varied = []
    for i in range(len(results.axes)):
        if len({short_value(arm.factors[i]) for arm in arms}) > 1:
            varied.append(i)
    values = {arm.name: arm.values(metric) for arm in arms}
    if len(varied) < 2 or not any(values.values()):
        return None

    regime = arms[0].regime
    if reason := _refusal(results, arms, varied, metric):
        return FactorAnalysis(metric, regime, reason=reason)

    levels = {arm.name: _levels(arm, varied) for arm in arms}
    table = factorial(
        values,
        levels,
        results.baseline if results.baseline in levels else arms[0].name,
        logarithmic=metric in DISTANCES,
        same_training=len({arm.signature for arm in arms} - {""}) == 1,
    )
    if table is None:
        reason = "the runs of an arm do not vary, or are too few to say how much they do"
        return FactorAnalysis(metric, regime, reason=reason)
    names = [results.axes[i].replace(".", " ").replace("_", " ") for i in varied]
    return _with_terms(results, metric, regime, names, levels, table)


def _levels(arm: ArmResult, varied: Sequence[int]) -> tuple[str, ...]:
    return tuple(short_value(arm.factors[i]) for i in varied)


def _refusal(
    results: Results, arms: Sequence[ArmResult], varied: Sequence[int], metric: str
) -> str:
    """Why the arms of a grid are not analysed; empty where they are."""
    missing = [arm.name for arm in arms if not arm.values(metric)]
    if missing:
        names = join_names(missing) if len(missing) <= 4 else f"{len(missing)} of {len(arms)} arms"
        return f"no run of {names} is finished and measured"

    cells = {_levels(arm, varied) for arm in arms}
    full = math.prod(len(set(levels)) for levels in zip(*cells, strict=True))
    if len(cells) != len(arms) or len(cells) != full:
        return "the arms are no full grid"

    baseline = results.baseline_arm if results.baseline_arm in arms else arms[0]
    for arm in arms:
        if not is_comparable(results, arm, metric):
            return f"numbers of {arm.name} are of other data than the baseline's"
        # a doubt may hold in one direction alone
        if reason := doubt(arm, baseline, metric, 1.0) or doubt(arm, baseline, metric, -1.0):
            return reason

    signatures = {arm.signature for arm in arms if arm.signature}
    if 1 < len(signatures) < len(arms):
        return "some arms share a training, so their runs are no repeats of each other"
    return ""


def _with_terms(
    results: Results,
    metric: str,
    regime: str,
    names: Sequence[str],
    levels: dict[str, tuple[str, ...]],
    table: Factorial,
) -> FactorAnalysis:
    base = levels[results.baseline] if results.baseline in levels else next(iter(levels.values()))
    effects = _level_effects(results, metric, base, table)
    axes = [test for test in table.terms if len(test.axes) == 1]
    interactions = [test for test in table.terms if len(test.axes) > 1]

    terms: list[list[Term]] = []
    for family in (axes, interactions):
        looking = look_factor(results, len(family))
        terms.append([])
        for test, p in zip(family, holm([test.p for test in family]), strict=True):
            name = " × ".join(names[i] for i in test.axes)
            of_axis = effects[test.axes[0]] if len(test.axes) == 1 else []
            terms[-1].append(Term(name, test, min(1.0, looking * p), tuple(of_axis)))
    return FactorAnalysis(
        metric, regime, tuple(terms[0]), tuple(terms[1]), table.blocked, table.uneven
    )


def _level_effects(
    results: Results, metric: str, base: Sequence[str], table: Factorial
) -> list[list[Effect]]:
    """For each axis the effects of its levels, Holm-corrected over all levels of all axes."""
    margin = results.matters.get(metric)
    tests = list(table.levels.values())
    ps = [1.0 if test.p is None else test.p for test in tests]
    equivalences = [_equivalence(test, margin) for test in tests]
    looking = look_factor(results, len(tests))
    factors = holm_factors(ps)
    unresolved = sum(looking * factor * p >= ALPHA for factor, p in zip(factors, ps, strict=True))

    effects: list[list[Effect]] = [[] for _ in base]
    rows = zip(table.levels, tests, ps, factors, holm(equivalences), strict=True)
    for (axis, level), test, p, factor, equivalence in rows:
        effect = Effect(
            level,
            base[axis],
            metric,
            test,
            test.bounds(ALPHA / (looking * factor)),
            min(1.0, looking * factor * p),
            margin,
            min(1.0, looking * equivalence),
            unresolved,
        )
        effects[axis].append(effect)
    return effects


def _equivalence(test: ArmTest, margin: float | None) -> float:
    """p of a difference within the margin; 1 where none is stated."""
    return 1.0 if margin is None else test.equivalence(margin)
