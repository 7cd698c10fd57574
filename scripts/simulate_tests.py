"""Simulates studies, and counts how often the tests of a report are wrong, and how often right.

    python scripts/simulate_tests.py [--studies 2000] [--seed 0] [--design fixed|baseline|growing]

prints Markdown tables. For a study of a fixed number of seeds: false calls, coverage and power,
beside tests that are always paired by seed; and the same where the baseline alone has more seeds.
For a study that grows until every arm is resolved or
equivalent: false calls, power and runs. The tests are the package's own. All of it takes a quarter
of an hour of one core.

Runs of an arm have a standard deviation of one. No arm differs from the baseline, or the first
differs by two standard deviations of a run. Differences and spreads of the tests do not depend on
each other's means, so that both kinds of study are read from the same draws: the difference is
added to the mean of the test. The last arm is the one that is called wild or broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import starmap
from operator import attrgetter

import numpy as np
from scipy.stats import t as student

from arinar_lab.significance.arm_tests import against_baseline
from arinar_lab.significance.looks import level_at, schedule
from arinar_lab.significance.statistics import ALPHA, holm_factors

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
LAYOUTS = ((2, 3), (4, 3), (4, 5), (15, 3))
"""Arms, the baseline among them, and seeds of each."""
BASELINE_SEEDS = (3, 6, 11)  # of a baseline whose other arms have 3
ARMS = (2, 4, 15)  # of growing studies
FIRST, MOST = 3, 12  # seeds of growing studies
DIFFERENCE = 2.0  # of the first arm
MARGIN = 1.0  # below which arms are equivalent


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal errors."""
    return rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exponential errors, less their mean."""
    return rng.standard_exponential(shape) - 1


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Errors of Student's t with three degrees of freedom, of variance one."""
    return rng.standard_t(3, shape) / 3**0.5


@dataclass(frozen=True)
class Noise:
    """How runs of one design scatter.

    Arguments:
        name: Its row of the table.
        draw: Independent errors of variance one.
        correlation: Of runs of two arms under one seed.
        correlated: The share of the arms whose seeds correlate with the baseline's.
        same_training: Whether these arms are samples of the baseline's own weights.
        wild: Whose errors are three times as large: nobody's, an arm's or the baseline's.
        broken: Whose first run is off by ten standard deviations.
    """

    name: str
    draw: Draw = normal
    correlation: float = 0.0
    correlated: float = 1.0
    same_training: bool = False
    wild: str = ""
    broken: str = ""

    def fits(self, arms: int) -> bool:
        """Whether a study of so many arms can have it."""
        return self.correlated == 1 or arms > 2

    def paired_arms(self, arms: int) -> int:
        """The number of arms that correlate with the baseline, itself not counted."""
        return round(self.correlated * (arms - 1))

    def studies(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
        """Runs of [studies, arms, seeds] in which no arm differs; the baseline comes first."""
        runs = self.draw(rng, shape)
        common = self.draw(rng, (shape[0], 1, shape[2]))
        paired = slice(1 + self.paired_arms(shape[1]))
        own = (1 - self.correlation) ** 0.5 * runs[:, paired]
        runs[:, paired] = own + self.correlation**0.5 * common

        index = {"arm": -1, "baseline": 0}
        if self.wild:
            runs[:, index[self.wild]] *= 3
        if self.broken:
            runs[:, index[self.broken], 0] += 10
        return runs


NOISES = (
    Noise("normal"),
    Noise("skewed (exponential)", skewed),
    Noise("heavy tails (t of 3 df)", heavy),
    Noise("one arm 3 × as wild", wild="arm"),
    Noise("baseline 3 × as wild", wild="baseline"),
    Noise("skewed, one arm 3 × as wild", skewed, wild="arm"),
    Noise("skewed, baseline 3 × as wild", skewed, wild="baseline"),
    Noise("a broken run of an arm", broken="arm"),
    Noise("a broken run of the baseline", broken="baseline"),
    Noise("seeds correlate by 0.5", correlation=0.5),
    Noise("seeds correlate by 0.9", correlation=0.9),
    Noise("skewed, seeds correlate by 0.9", skewed, correlation=0.9),
    Noise("half the arms correlate by 0.9", correlation=0.9, correlated=0.5),
    Noise(
        "half the arms of the baseline's weights",
        correlation=0.9,
        correlated=0.5,
        same_training=True,
    ),
)


@dataclass(frozen=True)
class Fixed:
    """Shares of studies of a fixed number of seeds.

    Arguments:
        false: Studies without a difference in which an arm is called better or worse.
        coverage: Intervals at 95 % without correction that contain the true difference.
        corrected: Intervals as shown, corrected over the arms, that contain it; one arm differs.
        power: Studies that call the first arm worse where it is.
    """

    false: float
    coverage: float
    corrected: float
    power: float


@dataclass(frozen=True)
class Growing:
    """Shares of studies that grow until every arm is resolved or equivalent.

    Arguments:
        false: Studies without a difference that call an arm better or worse at any look.
        power: Studies that call the first arm worse where it is, at their last look.
        runs: Mean share of the runs of the largest study, where no arm differs, one and all do.
        equivalent: Studies that call the first arm equivalent at any look where it differs by
            just what matters.
        fixed: The same of studies of the most seeds, looked at once; without runs.
    """

    false: float
    power: float
    runs: tuple[float, float, float] | None
    equivalent: float
    fixed: Growing | None = None


class StudyTests:
    """Tests of many studies: mean, standard error and df, each of [studies, arms but the baseline].

    Arguments:
        runs: [studies, arms, seeds]
        paired: Arms that are always paired.
        seeds: The number of runs of each arm but the baseline; all by default.
    """

    def __init__(
        self, runs: np.ndarray, paired: Sequence[int] = (), seeds: int | None = None
    ) -> None:
        table = np.empty((3, len(runs), runs.shape[1] - 1))
        names = list(map(str, range(runs.shape[1])))
        same_training = set(map(str, paired))
        for study, arms in enumerate(runs):
            values = {name: dict(enumerate(arms[int(name)][:seeds].tolist())) for name in names}
            values["0"] = dict(enumerate(arms[0].tolist()))
            tests = against_baseline(values, "0", same_training=same_training)
            for arm, test in enumerate(tests.values()):
                assert test.spread is not None  # of two seeds and more
                table[:, study, arm] = test.mean, test.error, test.spread.df
        self.mean, self.error, self.df = table

    def p(self, difference: np.ndarray | float = 0.0) -> np.ndarray:
        """Two-sided p where arms differ by so much more (`ArmTest.p`)."""
        return np.asarray(2 * student.sf(np.abs(self.mean + difference) / self.error, self.df))

    def equivalence(self, difference: np.ndarray | float = 0.0) -> np.ndarray:
        """p of equivalence where arms differ by so much more (`ArmTest.equivalence`)."""
        mean = self.mean + difference
        above = student.sf((mean + MARGIN) / self.error, self.df)
        below = student.cdf((mean - MARGIN) / self.error, self.df)
        return np.maximum(above, below)


def factors(ps: np.ndarray) -> np.ndarray:
    """Holm's factors of each study, [studies, arms]."""
    return np.array(list(map(holm_factors, ps.tolist())))


def first_arm(arms: int, difference: float) -> np.ndarray:
    """True differences of which the first arm's alone is not zero, [arms but the baseline]."""
    differences = np.zeros(arms - 1)
    differences[0] = difference
    return differences


def always_paired(noise: Noise, arms: int) -> range:
    """The arms that the procedure pairs whatever the seeds do."""
    return range(1, 1 + noise.paired_arms(arms) if noise.same_training else 1)


def fixed(
    noise: Noise, arms: int, seeds: int, studies: int = 2000, seed: int = 0
) -> tuple[Fixed, Fixed]:
    """The procedure of the package, and tests that are always paired by seed."""
    rng = np.random.default_rng([seed, arms, seeds])
    runs = noise.studies(rng, (studies, arms, seeds))
    rule = StudyTests(runs, always_paired(noise, arms))
    return _fixed(rule), _fixed(StudyTests(runs, range(1, arms)))


def _fixed(tests: StudyTests) -> Fixed:
    ps = tests.p()
    shifted = tests.p(first_arm(ps.shape[1] + 1, DIFFERENCE))
    holm = factors(shifted)
    called = (holm * shifted < ALPHA)[:, 0] & (tests.mean[:, 0] + DIFFERENCE > 0)

    return Fixed(
        false=float((factors(ps) * ps < ALPHA).any(1).mean()),
        coverage=float((ps >= ALPHA).mean()),
        corrected=float((ps >= ALPHA / holm).mean()),
        power=float(called.mean()),
    )


def growing(noise: Noise, arms: int, studies: int = 2000, seed: int = 0) -> Growing:
    """Studies that look at 3, 5, 8 and 12 seeds, beside those of 12 seeds."""
    rng = np.random.default_rng([seed, arms])
    runs = noise.studies(rng, (studies, arms, MOST))
    paired = always_paired(noise, arms)
    looks = schedule(FIRST, MOST)
    tests = [StudyTests(runs[:, :, :seeds], paired) for seeds in looks]
    return _growing(tests, looks, _growing(tests[-1:], (MOST,)))


def _growing(
    tests: list[StudyTests], looks: tuple[int, ...], fixed: Growing | None = None
) -> Growing:
    arms = tests[0].mean.shape[1] + 1
    none = _grow(tests, looks, np.zeros(arms - 1))
    one = _grow(tests, looks, first_arm(arms, DIFFERENCE))
    every = _grow(tests, looks, np.full(arms - 1, DIFFERENCE))
    edge = _grow(tests, looks, first_arm(arms, MARGIN))

    return Growing(
        false=float(none.called.any((0, 2)).mean()),
        power=float((one.last(one.called)[:, 0] & (one.means[:, 0] > 0)).mean()),
        runs=(none.runs, one.runs, every.runs) if fixed else None,
        equivalent=float(edge.equivalent[:, :, 0].any(0).mean()),
        fixed=fixed,
    )


@dataclass(frozen=True)
class Grown:
    """What studies say at each look until they end; nothing after.

    Arguments:
        called, equivalent: Whether an arm is called so, [looks, studies, arms].
        means: Differences at the last look, [studies, arms].
        end: The index of the last look, [studies].
        runs: The mean share of the runs of the largest study.
    """

    called: np.ndarray
    equivalent: np.ndarray
    means: np.ndarray
    end: np.ndarray
    runs: float

    def last(self, answers: np.ndarray) -> np.ndarray:
        """Answers at each study's last look, [studies, arms]."""
        return np.asarray(answers[self.end, range(len(self.end))])


def _grow(tests: list[StudyTests], looks: tuple[int, ...], differences: np.ndarray) -> Grown:
    alpha = ALPHA / len(differences)
    called = []
    equivalent = []
    for index, test in enumerate(tests):
        looking = alpha / level_at(looks[: index + 1], looks[-1], alpha)
        ps = test.p(differences)
        equivalences = test.equivalence(differences)
        within = factors(equivalences) * equivalences * looking < ALPHA
        equivalent.append(within)
        called.append((factors(ps) * ps * looking < ALPHA) & ~within)

    done = (np.array(called) | np.array(equivalent)).all(2)
    done[-1] = True
    end = done.argmax(0)
    going_on = (np.arange(len(looks))[:, None] <= end)[:, :, None]
    means = np.array([test.mean for test in tests])[end, range(len(end))] + differences
    runs = float(np.array(looks)[end].mean() / looks[-1])
    return Grown(np.array(called) & going_on, np.array(equivalent) & going_on, means, end, runs)


def percent(*shares: float) -> str:
    """`4.4 / 3.1`, in percent."""
    return " / ".join(f"{100 * share:.1f}" for share in shares)


def of_arms(*shares: float) -> str:
    """The same for each number of arms; a dash for the fewest where a noise does not fit them."""
    return "– / " * (len(ARMS) - len(shares)) + percent(*shares)


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown under a title."""
    lines = [["Noise", *heads], ["---", *["--:"] * len(heads)], *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def fixed_tables(studies: int, seed: int) -> str:
    """Tables of studies of a fixed number of seeds."""
    false: list[list[str]] = []
    coverage: list[list[str]] = []
    power: list[list[str]] = []
    for noise in NOISES:
        print(noise.name, file=sys.stderr, flush=True)
        cells = []
        for arms, seeds in LAYOUTS:
            if noise.fits(arms):
                rule, always = fixed(noise, arms, seeds, studies, seed)
                false_calls = percent(rule.false, always.false)
                intervals = percent(rule.coverage, rule.corrected)
                cells.append((false_calls, intervals, percent(rule.power, always.power)))
            else:
                cells.append(("–",) * 3)

        for rows, column in zip((false, coverage, power), zip(*cells, strict=True), strict=True):
            rows.append([noise.name, *column])

    heads = list(starmap("{} arms × {}".format, LAYOUTS))
    titles = (
        "Studies of equal arms that call one better or worse, in %: this procedure / always paired",
        "Intervals that contain the true difference, in %: at 95 % / as shown",
        "Studies that find a difference of two standard deviations, in %: this / always paired",
    )
    return "\n".join(map(table, titles, [heads] * 3, (false, coverage, power)))


def baseline_table(studies: int, seed: int) -> str:
    """A table of studies whose baseline has more seeds than the other arms."""
    arms, seeds = LAYOUTS[-1]
    rows = []
    for noise in NOISES:
        if not noise.fits(arms) or noise.same_training:
            continue
        print(noise.name, file=sys.stderr, flush=True)
        rng = np.random.default_rng([seed, arms, seeds])
        runs = noise.studies(rng, (studies, arms, max(BASELINE_SEEDS)))
        shares = [_fixed(StudyTests(runs[:, :, :most], (), seeds)) for most in BASELINE_SEEDS]
        false = percent(*(share.false for share in shares))
        coverage = percent(*(share.coverage for share in shares))
        rows.append([noise.name, false, coverage, percent(*(share.power for share in shares))])

    counts = " / ".join(map(str, BASELINE_SEEDS))
    title = f"{arms} arms × {seeds}, of the baseline {counts} seeds, in %"
    return table(title, ("false calls", "coverage at 95 %", "power"), rows)


def growing_tables(studies: int, seed: int) -> str:
    """Tables of studies that grow."""
    calls = []
    endings = []
    for noise in NOISES:
        of_noise = []
        for arms in filter(noise.fits, ARMS):
            print(noise.name, arms, file=sys.stderr, flush=True)
            of_noise.append(growing(noise, arms, studies, seed))

        at_end = [grown.fixed for grown in of_noise]
        cells = {}
        for share in ("false", "power", "equivalent"):
            of_share = attrgetter(share)
            cells[share] = [of_arms(*map(of_share, of_noise)), of_arms(*map(of_share, at_end))]

        none, one, every = zip(*(grown.runs for grown in of_noise if grown.runs), strict=True)
        calls.append([noise.name, *cells["false"], *cells["power"], of_arms(*one)])
        endings.append([noise.name, *cells["equivalent"], of_arms(*none), of_arms(*every)])

    numbers = " / ".join(map(str, ARMS))
    return "\n".join(
        [
            table(
                f"Studies that grow from {FIRST} to {MOST} seeds, in %: {numbers} arms",
                ("false calls", f"at {MOST} seeds", "power", f"at {MOST} seeds", "runs"),
                calls,
            ),
            table(
                f"Equivalence at a difference of just what matters, and runs, in %: {numbers} arms",
                ("falsely equivalent", f"at {MOST} seeds", "runs, none differs", "all differ"),
                endings,
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--studies", type=int, default=2000, metavar="N", help="(default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the studies (default 0)")
    parser.add_argument(
        "--design", choices=["fixed", "baseline", "growing"], help="(default: both)"
    )
    arguments = parser.parse_args()

    designs = {"fixed": fixed_tables, "baseline": baseline_table, "growing": growing_tables}
    for design, tables in designs.items():
        if arguments.design in (None, design):
            print(tables(arguments.studies, arguments.seed), flush=True)


if __name__ == "__main__":
    main()
