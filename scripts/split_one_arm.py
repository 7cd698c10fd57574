"""Splits the runs of one arm into studies of equal arms, and counts how many call one different.

    python scripts/split_one_arm.py STUDY [--studies 100] [--seed 0]

STUDY is a finished study with one arm of twelve seeds or more. A fake study deals some of its runs
at random to fake arms; any answer but *equivalent* or *unresolved* is a false call, at 5 % over the
arms. The fake studies share runs, so that their number says less than as many independent ones.
The table has a row for each layout: false calls in each metric, and the median half-width of the
intervals as shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from arinar_lab import api
from arinar_lab.metrics import BITS, COLUMNS, DISTANCE, DISTANCES
from arinar_lab.output.text import markdown_table
from arinar_lab.significance.arm_tests import against_baseline
from arinar_lab.significance.statistics import ALPHA, holm_factors

LAYOUTS = ((2, 3), (2, 5), (2, 10), (4, 3), (4, 5))
"""Fake arms, the baseline among them, and seeds of each."""


def fake_study(
    values: np.ndarray, arms: int, seeds: int, logarithmic: bool, rng: np.random.Generator
) -> tuple[bool, float]:
    """Whether a fake study calls an arm different, and its median half-width.

    Arguments:
        values: The metric of each run, [runs].
        logarithmic: Whether logarithms are compared, as of distances.
    """
    dealt = rng.permutation(values)[: arms * seeds].reshape(arms, seeds)
    table = {str(arm): dict(enumerate(of_arm)) for arm, of_arm in enumerate(dealt.tolist())}
    tests = list(against_baseline(table, "0", logarithmic=logarithmic).values())

    ps = [1.0 if test.p is None else test.p for test in tests]
    factors = holm_factors(ps)
    halves = []
    for test, factor in zip(tests, factors, strict=True):
        low, high = test.bounds(ALPHA / factor)
        halves.append((high - low) / 2)
    return bool((np.array(ps) * factors < ALPHA).any()), float(np.median(halves))


def rows(values: dict[str, np.ndarray], studies: int, seed: int) -> list[list[str]]:
    """A row for each layout that the runs suffice for."""
    table = []
    for arms, seeds in LAYOUTS:
        row = [f"{arms} × {seeds}"]
        for metric, of_runs in values.items():
            if arms * seeds > len(of_runs):
                break
            rng = np.random.default_rng([seed, arms, seeds])
            is_distance = metric in DISTANCES
            fakes = [fake_study(of_runs, arms, seeds, is_distance, rng) for _ in range(studies)]
            called, halves = zip(*fakes, strict=True)
            row += [str(sum(called)), f"{np.median(halves):.{COLUMNS[metric].digits}f}"]
        else:
            table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, metavar="STUDY")
    parser.add_argument("--studies", type=int, default=100, metavar="N", help="(default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the splits (default 0)")
    arguments = parser.parse_args()

    runs = api.runs(api.open_study(arguments.study))
    if runs["arm"].nunique() != 1 or len(runs) < 12:
        parser.error(f"{arguments.study}: needs one arm with twelve finished seeds or more")
    values = {metric: runs[metric].to_numpy(float) for metric in (BITS, DISTANCE)}
    headings = [f"arms × seeds, of {len(runs)} runs"]
    for metric, of_runs in values.items():
        heading = COLUMNS[metric].heading
        headings += [f"called in {heading}", f"half-width, {heading}"]
        digits = COLUMNS[metric].digits + 1
        mean, deviation = of_runs.mean(), of_runs.std(ddof=1)
        print(f"{heading}: {mean:.{digits}f}, standard deviation {deviation:.{digits}f}")

    print(f"\nOf {arguments.studies} fake studies:\n")
    print(*markdown_table(headings, rows(values, arguments.studies, arguments.seed)), sep="\n")


if __name__ == "__main__":
    main()
