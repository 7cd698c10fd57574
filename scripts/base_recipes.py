"""How finely each recipe of a study tells two arms apart: the table of docs/results/bases.md.

    python scripts/base_recipes.py STUDY [STUDY …]

Each STUDY is a finished study whose arms are named `RECIPE K=4` and `RECIPE K=1`. For each recipe
the table has the mean over seeds and the standard deviation of a run, the difference of the two
arms with the standard deviation of a paired difference, the correlation of the two over seeds, what
t the difference has unpaired and paired, and how the runs trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from arinar_lab import api
from arinar_lab.output.text import markdown_table

BITS = "val/bits_per_dim"
DISTANCE = "quality/fd_digits"


def table(study: Path) -> pd.DataFrame:
    """A row for each recipe of a study, numbers as text."""
    analysis = api.open_study(study)
    runs = api.runs(analysis).set_index(["arm", "seed"])
    norms = api.curves(analysis).query("name == 'train/grad_norm'").groupby("arm")["value"].mean()

    rows = {}
    for arm in dict.fromkeys(runs.index.get_level_values("arm")):
        recipe, _, components = arm.rpartition(" K=")
        if components == "4":
            rows[recipe] = _row(runs.loc[arm], runs.loc[f"{recipe} K=1"], norms[arm])
    return pd.DataFrame(rows).T


def _row(four: pd.DataFrame, one: pd.DataFrame, norm: float) -> dict[str, str]:
    row = {"seeds": str(len(four.index.intersection(one.index)))}
    for name, metric, digits in (("bits/dim", BITS, 3), ("FD", DISTANCE, 2)):
        a, b = four[metric].align(one[metric], join="inner")
        difference = b - a
        unpaired = difference.mean() / np.sqrt((a.var() + b.var()) / len(a))
        paired = difference.mean() / np.sqrt(difference.var() / len(a))
        row[f"{name} (SD)"] = f"{a.mean():.{digits}f} ({a.std():.{digits}f})"
        row[f"{name}, K = 1 - K = 4 (SD)"] = (
            f"{difference.mean():+.{digits}f} ({difference.std():.{digits}f})"
        )
        row[f"{name}: correlation of seeds"] = f"{a.corr(b):+.2f}"
        row[f"{name}: t unpaired, paired"] = f"{unpaired:.1f}, {paired:.1f}"

    row["training gap, bits/dim"] = f"{four['train/gap_bits_per_dim'].mean():.3f}"
    row["precision"] = f"{four['quality/precision'].mean():.2f}"
    row["recall"] = f"{four['quality/recall'].mean():.2f}"
    row["gradient norm"] = f"{norm:.1f}"
    row["seconds of training"] = f"{four['time/train_seconds'].median():.0f}"
    return row


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("studies", nargs="+", type=Path, metavar="STUDY")
    for path in arguments.parse_args().studies:
        rows = table(path)
        body = [[str(name), *row] for name, row in zip(rows.index, rows.to_numpy(), strict=True)]
        print("\n".join(markdown_table(["recipe", *rows.columns], body)), end="\n\n")
