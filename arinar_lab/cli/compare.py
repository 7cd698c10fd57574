"""Runs and arms side by side: what differs in how they were made and in what they reached, and
whether that is resolved.

    runs/<arm>/seed_<n>                      one run
    runs/<arm>                               an arm: all its finished seeds
    experiments/ablations/head.yaml:gmm      an arm of a study's file
    studies/head:gmm                         an arm of a study's folder, with the overrides
                                             that it was run with

What is named becomes the arms of a study that has no file, the first of them its baseline. So
intervals, pairing by seed, tests and verdicts are those of every report. Where all are arms of one
study, the spread and Holm's correction are over all arms of that study, and against its baseline
the numbers are those of its report. A run counts as it was evaluated by its own config.yaml; what
was measured under other conditions is said, and never averaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..analysis.comparison import compare_arms, effect_lines
from ..analysis.results import Results
from ..config.recipe import Recipe, parse_recipe, read_overrides, read_recipe
from ..config.schema import flatten, to_plain
from ..errors import ConfigError, did_you_mean
from ..files.workspace import Workspace
from ..output.text import markdown_line, markdown_row, say
from ..report.notes import commit_of, outlier_lines
from ..report.tables import plain_table
from ..runs.folder import RunFolder
from ..study.collect import collect
from ..study.plan import Arm, Plan, read_plan
from ..study.status import study_file

Sheet = list[list[str]]
"""A table as text, its headings first."""
NO_VALUE = "–"
HINT = "name runs/ARM, runs/ARM/seed_N, FILE.yaml:ARM or studies/NAME:ARM"


@dataclass(frozen=True)
class Entry:
    """One thing that is compared.

    Arguments:
        word: what the user called it; name: the last of it.
        recipe: of all its seeds; folders: seed → run folder.
        plan: of the study that it was named as an arm of; None of a folder.
    """

    word: str
    name: str
    recipe: Recipe
    folders: dict[int, RunFolder]
    plan: Plan | None = None

    @property
    def reports(self) -> dict[int, dict[str, Any]]:
        """Seed → report.json, of those that are finished."""
        found = {seed: folder.report(self.recipe) for seed, folder in self.folders.items()}
        return {seed: report for seed, report in found.items() if report}

    @property
    def missing(self) -> list[str]:
        return [f"{self.name} seed {seed}" for seed in self.folders if seed not in self.reports]


@dataclass(frozen=True)
class Compared(Results):
    """What is compared, as the results of a study.

    Arguments:
        study: the whole study (of one budget) with the first as its baseline, where all are
            arms of one; else None.
        report: name of the study whose report has these very numbers; empty where none has.
        folders: arm → seed → run folder.
    """

    study: Results | None = None
    report: str = ""
    folders: dict[str, dict[int, RunFolder]] = field(default_factory=dict)


def gather_runs(words: list[str]) -> tuple[Compared, list[str]]:
    """What is named, as the results of a study whose baseline is the first; and the runs
    that are not finished.

    Raises:
        ConfigError: if there are fewer than two, one is no run or arm, has nothing
            finished, or is named twice.
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
    folders = {entry.name: entry.folders for entry in entries}
    study, report = _study_of(entries)

    return Compared(plan, reports, {}, study, report, folders), [
        name for entry in entries for name in entry.missing
    ]


def _study_of(entries: list[Entry]) -> tuple[Results | None, str]:
    """The study that all are arms of, the first its baseline; and its name where that is the
    baseline of its report, too.
    """
    plan = entries[0].plan
    if plan is None or any(entry.plan is not plan for entry in entries):
        return None, ""
    budgets = {arm.budget for arm in plan.arms if arm.name in {entry.name for entry in entries}}
    if len(budgets) > 1:
        return None, ""

    part = plan.at(budgets.pop()) if plan.budgets else plan
    first = entries[0].name

    return collect(replace(part, baseline=first)), plan.name if first == part.baseline else ""


def _entry(word: str) -> Entry:
    file, colon, arm = word.partition(":")
    found = (
        _of_study(word, Path(file), arm) if colon and not Path(word).exists() else _of_folder(word)
    )
    if not found.reports:
        asked = "no seed of it is finished" if len(found.folders) > 1 else "is not finished"
        raise ConfigError(
            f"{word}: {asked}, or evaluated as its configuration says; arinar evaluate "
            "RUN does that"
        )

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
        return parse_recipe(read_recipe(file))
    except ConfigError as error:
        raise ConfigError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None


def _of_study(word: str, path: Path, name: str) -> Entry:
    plan = _plan(path.absolute())
    arms = {arm.name: arm for arm in plan.arms}
    if name not in arms:
        raise ConfigError(
            f"{word}: {name!r} is no arm; one of {', '.join(arms)}{did_you_mean(name, list(arms))}"
        )
    folders = {seed: plan.cell(arms[name], seed)[0] for seed in plan.seeds}
    return Entry(word, name, arms[name].recipe, folders, plan)


@cache
def _plan(path: Path) -> Plan:
    """A study, read once for all its arms that are named."""
    if not path.is_dir():
        return read_plan(path)
    workspace = Workspace(path.parent.parent)
    file, words = study_file(path, workspace)
    return read_plan(file, read_overrides(words), workspace)


def _refuse_twins(entries: list[Entry]) -> None:
    seen: dict[tuple[str, str, int], str] = {}
    for entry in entries:
        for seed in entry.folders:
            key = (entry.recipe.training_signature, entry.recipe.evaluation_signature, seed)
            if key in seen:
                raise ConfigError(
                    f"{entry.word}: seed {seed} is the same run as in {seen[key]}; name it once"
                )
            seen[key] = entry.word


def _arm(entry: Entry) -> Arm:
    report = next(iter(entry.reports.values()))
    count, kind = report["metrics"].get("cost/parameters", 0), report["likelihood"]["kind"]
    return Arm(entry.name, (), entry.recipe, count, kind)


# What differs


def differing_keys(results: Results) -> Sheet:
    """The keys in which the recipes differ, and the value of each; the seed and the machine are
    no part of a recipe.
    """
    plain = [
        flatten({**to_plain(arm.recipe), "seed": None, "machine": None})
        for arm in results.plan.arms
    ]
    parts = {key.removesuffix(".kind") for one in plain for key in one if key.endswith(".kind")}
    aligned = [{f"{k}.kind" if k in parts else k: v for k, v in one.items()} for one in plain]
    keys = list(dict.fromkeys(key for one in aligned for key in one))
    body = [[key, *(str(one.get(key, NO_VALUE)) for one in aligned)] for key in keys]

    return [
        ["", *(arm.name for arm in results.plan.arms)],
        *(row for row in body if len(set(row[1:])) > 1),
    ]


def metric_rows(results: Results) -> Sheet:
    """Every metric of each arm, with its interval over seeds; and which seeds those are."""
    headings, body = plain_table(results, results.columns)
    seeds = [", ".join(map(str, results.reports[arm.name])) for arm in results.plan.arms]
    sheet = [list(line) for line in zip(headings, *body[: len(seeds)], strict=True)]
    sheet[0][0] = ""
    return [["seeds", *seeds] if line[0] == "seeds" else line for line in sheet]


def comparison_lines(results: Compared) -> list[str]:
    """A line for each difference to the first, by the tests of every report; and over which
    arms they are corrected.
    """
    whole = results.study or results
    lines = effect_lines(whole, [arm.name for arm in results.plan.arms])
    if not any(effect.spread for effect in compare_arms(whole)):
        return lines
    if results.report:
        family = f"the study {results.report}, as in its report"
    elif results.study:
        family = (
            "their study, against the first; its report has another baseline, and so other "
            "spreads and p"
        )
    else:
        family = (
            "what is named here; a study's report has them over all its arms, and its ± "
            "and p may differ"
        )

    return [*lines, f"Spreads and Holm's correction are over all arms of {family}."]


# Under which conditions

_CONDITIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Versions of the code differ": lambda r: commit_of(r) or "unknown",
    "Versions of torch differ": lambda r: r.get("environment", {}).get("torch", ""),
    "Devices differ": lambda r: r.get("environment", {}).get("device", ""),
    "Speed was measured differently": lambda r: _protocol(r.get("speed", {})),
    "Readings are of other numbers of items": lambda r: _items(r),
    "Likelihoods are of different kinds": lambda r: " of ".join(
        (r["likelihood"]["kind"], r["likelihood"]["unit"])
    ),
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
    return (
        ", ".join([speed.get("device", ""), *(f"{name} {speed[name]}" for name in names)])
        if speed
        else ""
    )


def comparison_cautions(results: Compared, missing: list[str]) -> list[str]:
    """What stands between the numbers and a conclusion: unfinished runs, and conditions
    that were not the same.
    """
    lines = (
        [f"Missing: {', '.join(missing)}: not finished, or not evaluated alike."] if missing else []
    )
    keys = [row[0] for row in differing_keys(results)[1:]]
    for section, said in _SECTIONS.items():
        if differing := [key for key in keys if key.split(".")[0] == section]:
            lines.append(f"Caution: {said} ({', '.join(differing)}).")
    for said, of in _CONDITIONS.items():
        told = {
            arm: {of(report) for report in found.values()} - {""}
            for arm, found in results.reports.items()
        }
        if len(set().union(*told.values())) > 1:
            lines.append(
                f"Caution: {said}: "
                + "; ".join(f"{a}: {', '.join(sorted(v))}" for a, v in told.items())
            )

    def folder(arm: Arm, seed: int) -> Path | None:
        run = results.folders.get(arm.name, {}).get(seed)
        return run.path if run else None

    return lines + [caution.text for caution in outlier_lines(results.study or results, folder)]


# Shown


def print_comparison(words: list[str], console: Console, markdown: bool = False) -> None:
    """Print the comparison: for the terminal, or as Markdown.

    Raises:
        ConfigError: as `gather_runs`.
    """
    results, missing = gather_runs(words)
    sheets = {"Configuration": differing_keys(results), "Result": metric_rows(results)}
    lines = {
        "Differences to the first": comparison_lines(results),
        "Conditions": comparison_cautions(results, missing),
    }

    if markdown:
        say(_as_markdown(sheets, lines))
        return

    for title, sheet in sheets.items():
        console.print(_as_table(title, sheet) if len(sheet) > 1 else f"{title}: no difference")
    for line in [line for part in lines.values() for line in part]:
        console.print(line, soft_wrap=True)


def _as_table(title: str, sheet: Sheet) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for i, heading in enumerate(sheet[0]):
        table.add_column(
            heading, justify="left" if i == 0 else "right", overflow="fold", no_wrap=i == 0
        )
    for row in sheet[1:]:
        table.add_row(*row)
    return table


def _as_markdown(sheets: dict[str, Sheet], lines: dict[str, list[str]]) -> str:
    said: list[str] = []
    for title, sheet in sheets.items():
        table = [markdown_row(row) for row in sheet]
        table.insert(1, "|:--" + "|--:" * (len(sheet[0]) - 1) + "|")
        said += [f"## {title}", "", *(table if len(sheet) > 1 else ["No difference."]), ""]

    for title, part in lines.items():
        said += (
            [f"## {title}", "", *(f"- {markdown_line(line)}" for line in part), ""] if part else []
        )

    return "\n".join(said).rstrip()
