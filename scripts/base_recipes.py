"""How finely each recipe of a study tells two arms apart: the tables of docs/results/bases.md.

    python scripts/base_recipes.py STUDY [STUDY …]

Each STUDY is a finished study whose arms are named `RECIPE K=4` and `RECIPE K=1`. A table for each
metric has the mean over seeds with the standard deviation of a run, the difference of the two arms
with the standard deviation of a paired difference, the correlation of the two over seeds, and what
t the difference has unpaired and paired. A last table says how the runs trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from arinar_lab import api
from arinar_lab.metrics import BITS, COLUMNS, DISTANCE
from arinar_lab.output.text import markdown_table

Row = dict[str, str]


def tables(study: Path) -> dict[str, dict[str, Row]]:
    """Title → recipe → heading → text, of a study."""
    analysis = api.open_study(study)
    runs = api.runs(analysis).set_index(["arm", "seed"])
    norms = api.curves(analysis).query("name == 'train/grad_norm'").groupby("arm")["value"].mean()

    rows: dict[str, dict[str, Row]] = {}
    for arm in dict.fromkeys(runs.index.get_level_values("arm")):
        recipe, _, components = arm.rpartition(" K=")
        if components != "4":
            continue
        four = runs.loc[arm]
        one = runs.loc[f"{recipe} K=1"]
        for metric in (BITS, DISTANCE):
            heading = COLUMNS[metric].heading
            rows.setdefault(heading, {})[recipe] = resolution(four[metric], one[metric], metric)
        rows.setdefault("training", {})[recipe] = training(four, norms[arm])
    return rows


def resolution(four: pd.Series, one: pd.Series, metric: str) -> Row:
    """Means, spreads and t of two arms."""
    digits = COLUMNS[metric].digits
    a, b = four.align(one, join="inner")
    difference = b - a
    unpaired = difference.mean() / np.sqrt((a.var() + b.var()) / len(a))
    paired = difference.mean() / np.sqrt(difference.var() / len(a))
    return {
        "seeds": str(len(a)),
        "K = 4 (SD)": f"{a.mean():.{digits}f} ({a.std():.{digits}f})",
        "K = 1 less K = 4 (SD)": f"{difference.mean():+.{digits}f} ({difference.std():.{digits}f})",
        "correlation of seeds": f"{a.corr(b):+.2f}",
        "t, unpaired": f"{unpaired:.1f}",
        "t, paired": f"{paired:.1f}",
    }


def training(four: pd.DataFrame, norm: float) -> Row:
    """How the runs of K = 4 trained, and what their samples are like."""
    return {
        "seconds": f"{four['time/train_seconds'].median():.0f}",
        "gradient norm": f"{norm:.1f}",
        "held-out less training, bits/dim": f"{four['train/gap_bits_per_dim'].mean():.3f}",
        "precision": f"{four['quality/precision'].mean():.2f}",
        "recall": f"{four['quality/recall'].mean():.2f}",
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("studies", nargs="+", type=Path, metavar="STUDY")
    merged: dict[str, dict[str, Row]] = {}
    for path in arguments.parse_args().studies:
        for title, rows in tables(path).items():
            merged.setdefault(title, {}).update(rows)

    for title, rows in merged.items():
        headings = list(next(iter(rows.values())))
        body = [[recipe, *row.values()] for recipe, row in rows.items()]
        print(f"**{title}**\n", *markdown_table(["recipe", *headings], body), "", sep="\n")
