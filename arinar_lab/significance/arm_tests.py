"""One metric of all arms, each tested against the baseline: scale, pairing, spread and t.

    scale       a distance by its logarithm, for its spread grows with its mean; all else as it is
    pairing     seed by seed where seeds move all arms alike: F = MS(seeds) / MS(seeds × arms) of
                the arms' common seeds has p < 5 %, or the arm shares the baseline's training, or
                all its values; else the means of all runs
    spread      pooled over the arms that agree, or an arm's own where that is larger
                (`pooled_variance.py`)
    t           difference / √(s_arm² / n_arm + s_baseline² / n_baseline), or of paired differences

Pairing removes what seeds do to all arms, and costs degrees of freedom. Four arms of three seeds
resolve a difference of two standard deviations of a run in 15 % of studies if they are always
paired, and in 20 % if they are paired by this rule. Where seeds correlate by 0.9 it is 90 % by
both, and 35 % if arms are never paired. Equal arms are called better or worse in 2.5 %; the most of
any layout simulated is 5.7 % with normal noise (6.6 % where an arm is seven times as wild), and
10 % where noise is skewed and the baseline three times as wild. `scripts/simulate_tests.py`
simulates it; `docs/explanation/error_bars.md` has its tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import t as student

from .pooled_variance import BySeed, homogeneous_arms, pool_spread, spreads
from .statistics import PooledSD, cohens_d, p_value, unpaired_spread, welch

PAIRING_LEVEL = 0.05  # of the test that seeds move all arms alike


@dataclass(frozen=True)
class ArmTest:
    """The difference of one arm to the baseline on the scale of the test.

    Arguments:
        mean: The difference of the means.
        n: The number of pairs, or of runs of the arm with fewer.
        spread: The spread of the difference as of n pairs; None for one seed.
        counts: Runs of the arm and of the baseline, where they are not paired.
        center: The baseline's mean on the scale of the metric where the test's is logarithmic;
            else None.
    """

    mean: float
    n: int
    spread: PooledSD | None
    counts: tuple[int, int] | None = None
    center: float | None = None

    @property
    def error(self) -> float:
        """The standard error of the difference; infinite for one seed."""
        return math.inf if self.spread is None else self.spread.deviation / math.sqrt(self.n)

    @property
    def p(self) -> float | None:
        """Two-sided p; None for one seed."""
        if self.spread is None:
            return None
        return p_value(cohens_d(self.mean, self.spread), self.n, self.spread.df)

    def bounds(self, level: float) -> tuple[float, float]:
        """The interval of the difference in the metric's unit that excludes zero where
        p < `level`.
        """
        if self.spread is None:
            return -math.inf, math.inf
        half = float(student.ppf(1 - level / 2, self.spread.df)) * self.error
        return self.in_unit(self.mean - half), self.in_unit(self.mean + half)

    def in_unit(self, difference: float) -> float:
        """A difference on the test's scale in the metric's unit: c (e^difference - 1) above
        a baseline of c where the scale is logarithmic.
        """
        return difference if self.center is None else self.center * math.expm1(difference)

    def equivalence(self, margin: float) -> float:
        """The larger p of the two one-sided tests that the difference is below -margin, or above
        margin; 1 for one seed (Schuirmann, 1987, J. of Pharmacokinetics and Biopharmaceutics 15).
        """
        if self.spread is None:
            return 1.0

        low, high = -margin, margin
        if self.center is not None:
            low = math.log1p(low / self.center) if margin < self.center else -math.inf
            high = math.log1p(high / self.center)
        if self.error == 0:
            return 0.0 if low < self.mean < high else 1.0

        above = student.sf((self.mean - low) / self.error, self.spread.df)
        below = student.cdf((self.mean - high) / self.error, self.spread.df)
        return float(max(above, below))


def against_baseline(
    values: BySeed,
    baseline: str,
    *,
    logarithmic: bool = False,
    pooled: bool = True,
    same_training: Collection[str] = (),
) -> dict[str, ArmTest]:
    """Test every arm against the baseline, in the order of the arms.

    Arguments:
        values: Arm → seed → value, the baseline among them.
        logarithmic: Whether logarithms are compared; values that are not above 0 are compared as
            they are.
        pooled: Whether spreads are pooled over arms.
        same_training: Arms whose runs are samples of the baseline's own weights; always paired.
    """
    smallest = min((min(of_arm.values()) for of_arm in values.values() if of_arm), default=0.0)
    center = None
    if logarithmic and smallest > 0 and values[baseline]:
        center = statistics.fmean(values[baseline].values())
        values = logarithms(values)

    differences = _differences(values, baseline)
    paired = {arm for arm, pair in differences.items() if len(pair) > 1 and not any(pair.values())}
    paired |= set(same_training) & differences.keys()
    if len(paired) < len(differences) and seeds_move_all(_without(values, paired), baseline):
        paired = set(differences)

    tests = _paired_tests({arm: differences[arm] for arm in differences if arm in paired}, pooled)
    tests |= _unpaired_tests(_without(values, paired), baseline, pooled)
    ordered = {}
    for arm in values:
        if arm in tests:
            test = tests[arm]
            ordered[arm] = ArmTest(test.mean, test.n, test.spread, test.counts, center)
    return ordered


def logarithms(values: BySeed) -> dict[str, Mapping[int, float]]:
    """The same arms and seeds → natural logarithm of the value."""
    of_arms: dict[str, Mapping[int, float]] = {}
    for arm, by_seed in values.items():
        of_arms[arm] = dict(zip(by_seed, map(math.log, by_seed.values()), strict=True))
    return of_arms


def _without(values: BySeed, arms: Collection[str]) -> dict[str, Mapping[int, float]]:
    return {arm: of_arm for arm, of_arm in values.items() if arm not in arms}


def _differences(values: BySeed, baseline: str) -> dict[str, dict[int, float]]:
    """Arm → seed → value - baseline's, of arms that share a seed with it; 0 where rounding alone
    sets the two apart.
    """
    differences = {}
    for arm, of_arm in values.items():
        if arm == baseline:
            continue
        of_pair = {}
        for seed in sorted(of_arm.keys() & values[baseline].keys()):
            a = of_arm[seed]
            b = values[baseline][seed]
            of_pair[seed] = 0.0 if math.isclose(a, b, rel_tol=1e-12) else a - b
        if of_pair:
            differences[arm] = of_pair
    return differences


def seeds_move_all(values: BySeed, baseline: str) -> bool:
    """Whether a seed moves all arms alike, by the F-test of seeds in a table of arms × the seeds
    that all of them have.

    Arms that are one model under this metric count once. Left out are arms without two seeds of
    the baseline's, and those that stray far more than the others, unless the baseline does.
    """
    agreeing = homogeneous_arms(values, paired=False)
    names = agreeing if baseline in agreeing and len(agreeing) > 1 else list(values)
    seeds = set(values[baseline])
    names = [arm for arm in names if len(seeds & values[arm].keys()) > 1]
    common_seeds = sorted(seeds.intersection(*(values[arm] for arm in names)))
    rows: list[list[float]] = []
    for arm in names:
        row = [values[arm][seed] for seed in common_seeds]
        if not any(np.allclose(row, other, rtol=1e-12, atol=0) for other in rows):
            rows.append(row)

    arms = len(rows)
    if arms < 2 or len(common_seeds) < 2:
        return False

    deviations = np.array(rows) - np.mean(rows, axis=1, keepdims=True)
    common = deviations.mean(0)
    square = arms * (common**2).sum() / (len(common_seeds) - 1)
    df = (len(common_seeds) - 1) * (arms - 1)
    residual = ((deviations - common) ** 2).sum() / df
    if residual == 0:
        return bool(square > 0)
    return float(f_distribution.sf(square / residual, len(common_seeds) - 1, df)) < PAIRING_LEVEL


def _paired_tests(differences: BySeed, pooled: bool) -> dict[str, ArmTest]:
    """Tests of paired differences; arms that are one model under this metric count
    once in the pool.
    """
    distinct: dict[str, Mapping[int, float]] = {}
    twin_of: dict[str, str] = {}
    for arm, pair in differences.items():
        twin_of[arm] = next((name for name in distinct if distinct[name] == pair), arm)
        distinct.setdefault(twin_of[arm], pair)

    spread_of = spreads(distinct, pooled=pooled)
    tests = {}
    for arm, pair in differences.items():
        mean = statistics.fmean(pair.values())
        tests[arm] = ArmTest(mean, len(pair), spread_of.get(twin_of[arm]))
    return tests


def _unpaired_tests(values: BySeed, baseline: str, pooled: bool) -> dict[str, ArmTest]:
    """Tests of means of all runs; without a pool Welch's."""
    spread_of = spreads(values, paired=False, pooled=pooled)
    agreeing = {arm: values[arm] for arm, spread in spread_of.items() if spread.arms > 1}
    common_df = pool_spread(agreeing, paired=False).df if agreeing else 1.0
    of_baseline = list(values[baseline].values())

    tests = {}
    for arm, by_seed in values.items():
        of_arm = list(by_seed.values())
        if arm == baseline or not of_arm or not of_baseline:
            continue

        counts = (len(of_arm), len(of_baseline))
        spread = None
        if min(counts) > 1:
            own = spread_of[arm]
            other = spread_of[baseline]
            spread = unpaired_spread(own, counts[0], other, counts[1], common_df)
            if max(own.arms, other.arms) == 1:
                spread = welch(of_arm, of_baseline)
        mean = statistics.fmean(of_arm) - statistics.fmean(of_baseline)
        mean = 0.0 if abs(mean) < 1e-12 * abs(statistics.fmean(of_baseline)) else mean
        tests[arm] = ArmTest(mean, min(counts), spread, counts)
    return tests
