"""Runs and arms side by side: what differs in how they were made and in what they reached, and whether that is resolved.

    runs/<arm>/seed_<n>                      one run
    runs/<arm>                               an arm: all its finished seeds
    experiments/ablations/head.yaml:gmm      an arm of a study's file
    studies/head:gmm                         an arm of a study's folder, with the overrides that it was run with

What is named becomes the arms of a study that has no file, the first of them its baseline. So intervals, pairing by seed and
verdicts are those of every report. Arms that share no seed are compared by Welch's interval, which is wider. A run counts
as it was evaluated by its own config.yaml; what was measured under other conditions is said, and never averaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.stats import ttest_ind

from ..run.config import Recipe, parse, read_overrides, read_recipe
from ..run.folder import RunFolder
from ..run.schema import ConfigError, flatten, nearest, resolved
from .comparison import compare, effects
from .methods import commit
from .plan import Arm, Plan, read_plan
from .results import BITS, DISTANCES, GAP, LEVEL, Column, Results
from .stats import Interval
from .status import named
from .tables import rows

Sheet = list[list[str]]
"""A table as text, its headings first."""
ABSENT = "–"
HINT = "name runs/ARM, runs/ARM/seed_N, FILE.yaml:ARM or studies/NAME:ARM"


@dataclass(frozen=True)
class Entry:
    """One thing that is compared.

    Arguments:
        word: what the user called it; name: the last of it.
        recipe: of all its seeds; folders: seed → run folder.
    """

    word: str
    name: str
    recipe: Recipe
    folders: dict[int, RunFolder]

    @property
    def reports(self) -> dict[int, dict[str, Any]]:
        """Seed → report.json, of those that are finished."""
        found = {seed: folder.report(self.recipe) for seed, folder in self.folders.items()}
        return {seed: report for seed, report in found.items() if report}

    @property
    def missing(self) -> list[str]:
        return [f"{self.name} seed {seed}" for seed in self.folders if seed not in self.reports]


def gather(words: list[str]) -> tuple[Results, list[str]]:
    """What is named, as the results of a study whose baseline is the first; and the runs that are not finished.

    Raises:
        ConfigError: if there are fewer than two, one is no run or arm, has nothing finished, or is named twice.
    """
    if len(words) < 2:
        raise ConfigError(f"compare: needs at least two to put side by side; {HINT}")
    entries = [_entry(word) for word in words]
    names = [entry.name for entry in entries]
    entries = [replace(e, name=e.word) if names.count(e.name) > 1 else e for e in entries]
    _refuse_twins(entries)
    arms = tuple(_arm(entry) for entry in entries)
    seeds = tuple(sorted({seed for entry in entries for seed in entry.reports}))
    plan = Plan("compare", "", (), arms, arms[0].name, seeds)
    reports = {entry.name: entry.reports for entry in entries}
    return Results(plan, reports, {}), [name for entry in entries for name in entry.missing]


def _entry(word: str) -> Entry:
    file, colon, arm = word.partition(":")
    found = _of_study(word, Path(file), arm) if colon and not Path(word).exists() else _of_folder(word)
    if not found.reports:
        asked = "no seed of it is finished" if len(found.folders) > 1 else "is not finished"
        raise ConfigError(f"{word}: {asked}, or evaluated as its configuration says; arinar evaluate RUN does that")
    return found


def _of_folder(word: str) -> Entry:
    path = Path(word)
    if (path.suffix == ".yaml" and path.is_file()) or (path / "cells.json").is_file():
        raise ConfigError(f"{word}: a study; name one of its arms, as in {word}:ARM")
    single = (path / "config.yaml").is_file()
    files = [path / "config.yaml"] if single else sorted(path.glob("seed_*/config.yaml"))
    if not files:
        raise ConfigError(f"{word}: no run and no arm; {HINT}")
    for file in files:
        RunFolder(file.parent).refuse_edited(file.name)
    recipes = {file.parent: _recipe(file) for file in files}
    folders = {recipe.seed: RunFolder(folder) for folder, recipe in recipes.items()}
    where = path.resolve()
    name = f"{_unsigned(where.parent)}/{where.name}" if single else _unsigned(where)
    return Entry(word, name, next(iter(recipes.values())), dict(sorted(folders.items())))


def _unsigned(arm: Path) -> str:
    """The name of an arm's folder without its signature."""
    return re.sub(r"-[0-9a-f]{8}$", "", arm.name)


def _recipe(file: Path) -> Recipe:
    try:
        return parse(read_recipe(file))
    except ConfigError as error:
        raise ConfigError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None


def _of_study(word: str, path: Path, name: str) -> Entry:
    plan = _plan(path.absolute())
    arms = {arm.name: arm for arm in plan.arms}
    if name not in arms:
        raise ConfigError(f"{word}: {name!r} is no arm; one of {', '.join(arms)}{nearest(name, list(arms))}")
    folders = {seed: plan.cell(arms[name], seed)[0] for seed in plan.seeds}
    return Entry(word, name, arms[name].recipe, folders)


@cache
def _plan(path: Path) -> Plan:
    """A study, read once for all its arms that are named."""
    if not path.is_dir():
        return read_plan(path)
    file, words = named(path)
    plan = read_plan(file, read_overrides(words))
    return replace(plan, roots=(path.parent, path.parent.parent / "runs"))


def _refuse_twins(entries: list[Entry]) -> None:
    seen: dict[tuple[str, str, int], str] = {}
    for entry in entries:
        for seed in entry.folders:
            key = (entry.recipe.training_signature, entry.recipe.evaluation_signature, seed)
            if key in seen:
                raise ConfigError(f"{entry.word}: seed {seed} is the same run as in {seen[key]}; name it once")
            seen[key] = entry.word


def _arm(entry: Entry) -> Arm:
    report = next(iter(entry.reports.values()))
    count, kind = report["metrics"].get("cost/parameters", 0), report["likelihood"]["kind"]
    return Arm(entry.name, (), entry.recipe, count, kind)


# What differs


def configuration(results: Results) -> Sheet:
    """The keys in which the recipes differ, and the value of each; the seed and the machine are no part of a recipe."""
    plain = [flatten({**resolved(arm.recipe), "seed": None, "machine": None}) for arm in results.plan.arms]
    parts = {key.removesuffix(".kind") for one in plain for key in one if key.endswith(".kind")}
    aligned = [{f"{k}.kind" if k in parts else k: v for k, v in one.items()} for one in plain]
    keys = list(dict.fromkeys(key for one in aligned for key in one))
    body = [[key, *(str(one.get(key, ABSENT)) for one in aligned)] for key in keys]
    return [["", *(arm.name for arm in results.plan.arms)], *(row for row in body if len(set(row[1:])) > 1)]


def readings(results: Results) -> Sheet:
    """Every metric of each arm, with its interval over seeds; and which seeds those are."""
    headings, body = rows(results, results.columns)
    seeds = [", ".join(map(str, results.reports[arm.name])) for arm in results.plan.arms]
    sheet = [list(line) for line in zip(headings, *body[: len(seeds)], strict=True)]
    sheet[0][0] = ""
    return [["seeds", *seeds] if line[0] == "seeds" else line for line in sheet]


def conclusions(results: Results) -> list[str]:
    """A line for each difference to the first: paired by seed where seeds are shared, else by Welch's interval."""
    note = (
        "The spread of a difference, and Holm's correction, are of what is named here. A study's report has them of all its"
        " arms, and its p may therefore differ."
    )
    return [
        *effects(results),
        *_unpaired(results),
        *([note] if any(effect.spread for effect in compare(results)) else []),
    ]


def _unpaired(results: Results) -> Iterator[str]:
    for column in [c for c in results.columns if c.metric in (BITS, LEVEL, GAP, *DISTANCES)]:
        baseline = results.values(results.baseline, column.metric)
        for arm in results.plan.arms[1:]:
            values = results.values(arm, column.metric)
            if values and baseline and not values.keys() & baseline.keys():
                yield _welch(list(values.values()), list(baseline.values()), column, f"{arm.name} against "
                             f"{results.plan.baseline}")  # fmt: skip


def _welch(values: list[float], baseline: list[float], column: Column, whose: str) -> str:
    counts = f"no seed in common, n = {len(values)} and {len(baseline)}"
    difference = sum(values) / len(values) - sum(baseline) / len(baseline)
    said = f"{column.heading}: {whose}: {difference:+.{column.digits}f}"
    if min(len(values), len(baseline)) < 2:
        return f"{said} ({counts}): one seed resolves nothing"
    found = Interval(difference, _welch_half(values, baseline), len(values))
    better = "better" if (difference < 0) == bool(column.less) else "worse"
    verdict = better if found.resolved else "not resolved"
    return f"{said} ± {found.half:.{column.digits}f} ({counts}): {verdict}"


def _welch_half(values: list[float], baseline: list[float]) -> float:
    """Half-width of Welch's 95 % interval of a difference of means; none where nothing varies."""
    if len(set(values)) == len(set(baseline)) == 1:
        return 0.0
    bounds = ttest_ind(values, baseline, equal_var=False).confidence_interval()
    return float(bounds.high - bounds.low) / 2


# Under which conditions

_CONDITIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Versions of the code differ": lambda r: commit(r) or "unknown",
    "Versions of torch differ": lambda r: r.get("environment", {}).get("torch", ""),
    "Devices differ": lambda r: r.get("environment", {}).get("device", ""),
    "Speed was measured differently": lambda r: _protocol(r.get("speed", {})),
    "Readings are of other numbers of items": lambda r: _items(r),
    "Likelihoods are of different kinds": lambda r: " of ".join((r["likelihood"]["kind"], r["likelihood"]["unit"])),
}
_SECTIONS = {
    "data": "The data differ: these are not one task",
    "codec": "Codecs differ: bits/dim may be of different things",
    "evaluation": "Evaluation settings differ: the readings are not of one protocol",
}


def _items(report: dict[str, Any]) -> str:
    """`360 held-out, 1 draw(s), 1437 generated`, as far as it is said."""
    likelihood, quality = report["likelihood"], report.get("quality", {})
    said = {
        "held-out": likelihood.get("images"),
        "draw(s)": likelihood.get("draws"),
        "generated": quality.get("images"),
    }
    return ", ".join(f"{count} {of}" for of, count in said.items() if count is not None)


def _protocol(speed: dict[str, Any]) -> str:
    names = [name for name in ("batch", "threads", "precision") if name in speed]
    return ", ".join([speed.get("device", ""), *(f"{name} {speed[name]}" for name in names)]) if speed else ""


def cautions(results: Results, missing: list[str]) -> list[str]:
    """What stands between the numbers and a conclusion: unfinished runs, and conditions that were not the same."""
    lines = [f"Missing: {', '.join(missing)}: not finished, or not evaluated alike."] if missing else []
    keys = [row[0] for row in configuration(results)[1:]]
    for section, said in _SECTIONS.items():
        if differing := [key for key in keys if key.split(".")[0] == section]:
            lines.append(f"Caution: {said} ({', '.join(differing)}).")
    for said, of in _CONDITIONS.items():
        told = {arm: {of(report) for report in found.values()} - {""} for arm, found in results.reports.items()}
        if len(set().union(*told.values())) > 1:
            lines.append(f"Caution: {said}: " + "; ".join(f"{a}: {', '.join(sorted(v))}" for a, v in told.items()))
    return lines


# Shown


def show(words: list[str], console: Console, markdown: bool = False) -> None:
    """Print the comparison: for the terminal, or as Markdown.

    Raises:
        ConfigError: as `gather`.
    """
    results, missing = gather(words)
    sheets = {"Configuration": configuration(results), "Result": readings(results)}
    lines = {"Differences to the first": conclusions(results), "Conditions": cautions(results, missing)}
    if markdown:
        print(_as_markdown(sheets, lines))
        return
    for title, sheet in sheets.items():
        console.print(_as_table(title, sheet) if len(sheet) > 1 else f"{title}: no difference")
    for line in [line for part in lines.values() for line in part]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _as_table(title: str, sheet: Sheet) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for i, heading in enumerate(sheet[0]):
        table.add_column(escape(heading), justify="left" if i == 0 else "right", overflow="fold", no_wrap=i == 0)
    for row in sheet[1:]:
        table.add_row(*map(escape, row))
    return table


def _as_markdown(sheets: dict[str, Sheet], lines: dict[str, list[str]]) -> str:
    said: list[str] = []
    for title, sheet in sheets.items():
        table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in sheet]
        table.insert(1, "|:--" + "|--:" * (len(sheet[0]) - 1) + "|")
        said += [f"## {title}", "", *(table if len(sheet) > 1 else ["No difference."]), ""]
    for title, part in lines.items():
        said += [f"## {title}", "", *(f"- {line}" for line in part), ""] if part else []
    return "\n".join(said).rstrip()
