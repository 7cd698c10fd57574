"""Runs and arms side by side: what differs in how they were made and in what they reached, and
whether that is resolved.

    runs/<arm>/seed_<n>                      one run
    runs/<arm>                               an arm: all its finished seeds
    experiments/ablations/head.yaml:gmm      an arm of a study's file
    studies/head:gmm                         an arm of a study's folder, with the overrides
                                             that it was run with

What is named becomes results like a study's, with the first as the baseline. So intervals, pairing
by seed, tests and verdicts are those of every report. Where all are arms of one study, the spread
and Holm's correction are over all arms of that study, and against its baseline the numbers are
those of its report. A run counts as it was evaluated by its own config.yaml; what was measured
under other conditions is said, and never averaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..analysis.analyse import Analysis, analyse, outlier_cautions
from ..analysis.conditions import commit_of
from ..analysis.results import ArmResult, Folders, Results
from ..config.files import read_overrides, read_recipe
from ..config.schema import flatten, to_plain
from ..config.sections import Recipe, parse_recipe
from ..errors import ConfigError, did_you_mean, located
from ..files.workspace import Workspace
from ..output.text import markdown_list, markdown_table, say
from ..report.tables import headings_of, row_of
from ..runs.folder import RunFolder
from ..study.collect import collect, inexact_parts
from ..study.plan import Plan, read_plan
from ..study.status import study_file

Sheet = list[list[str]]
"""A table as text, its headings first."""
NO_VALUE = "–"
HINT = "name runs/ARM, runs/ARM/seed_N, FILE.yaml:ARM or studies/NAME:ARM"


@dataclass(frozen=True)
class Entry:
    """One thing that is compared.

    Arguments:
        word: what the user called it. arm: its results.
        study: that it was named as an arm of, at its budget; None of a folder.
    """

    word: str
    arm: ArmResult
    study: Results | None = None


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Arguments:
        results: of what is named, the first of it the baseline.
        analysis: over all arms of their study, with the first as its baseline, where all are arms
            of one; else of the results.
        family: over which arms spreads and Holm's correction are, in words.
    """

    results: Results
    analysis: Analysis
    family: str


def gather_runs(words: list[str]) -> Comparison:
    """What is named, with the first as the baseline.

    Raises:
        ConfigError: if there are fewer than two, one is no run or arm, has nothing
            finished, or is named twice.
    """
    if len(words) < 2:
        raise ConfigError(f"compare: needs at least two to put side by side; {HINT}")
    studies: dict[Path, Results] = {}
    entries = [_entry(word, studies) for word in words]
    names = [entry.arm.name for entry in entries]
    _refuse_twins(entries)

    arms = []
    for entry in entries:
        is_ambiguous = names.count(entry.arm.name) > 1
        arms.append(replace(entry.arm, name=entry.word) if is_ambiguous else entry.arm)
    seeds = tuple(sorted({seed for arm in arms for seed in arm.reports}))
    results = Results("compare", tuple(arms), arms[0].name, seeds)

    study = entries[0].study
    if study is None or any(entry.study != study for entry in entries):
        family = (
            "what is named here; a study's report has them over all its arms, and its ± "
            "and p may differ"
        )
        return Comparison(results, analyse(results), family)
    family = (
        "their study, against the first; its report has another baseline, and so other "
        "spreads and p"
    )
    if study.baseline == results.baseline:
        family = f"the study {study.name}, as in its report"
    return Comparison(results, analyse(replace(study, baseline=results.baseline)), family)


def _entry(word: str, studies: dict[Path, Results]) -> Entry:
    """studies: file or folder → its results, read once for all its arms that are named."""
    file, colon, name = word.partition(":")
    if colon and not Path(word).exists():
        entry = _of_study(word, Path(file).absolute(), name, studies)
    else:
        entry = Entry(word, _of_folder(word))

    if not entry.arm.reports:
        seeds = "no seed of it is finished" if len(entry.arm.folders) > 1 else "is not finished"
        raise ConfigError(
            f"{word}: {seeds}, or evaluated as its configuration says; arinar evaluate "
            "RUN does that"
        )

    return entry


def _of_folder(word: str) -> ArmResult:
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
    paths = {recipe.seed: path for path, recipe in recipes.items()}
    where = path.resolve()
    name = f"{_unsigned(where.parent)}/{where.name}" if single else _unsigned(where)
    return _arm_of(name, next(iter(recipes.values())), dict(sorted(paths.items())))


def _arm_of(name: str, recipe: Recipe, paths: dict[int, Path]) -> ArmResult:
    """The results of one recipe. paths: seed → run folder."""
    reports, folders = {}, {}
    for seed, path in paths.items():
        folder = RunFolder(path)
        folders[seed] = Folders(path, folder.evaluation(recipe))
        if report := folder.report(recipe):
            reports[seed] = report

    kind = next((report["likelihood"]["kind"] for report in reports.values()), "none")
    signature = recipe.training_signature

    return ArmResult(
        name, to_plain(recipe), reports, folders, kind, inexact_parts(recipe), signature=signature
    )


def _unsigned(arm: Path) -> str:
    """The name of an arm's folder without its signature."""
    return re.sub(r"-[0-9a-f]{8}$", "", arm.name)


def _recipe(file: Path) -> Recipe:
    content = read_recipe(file)
    with located(file):
        return parse_recipe(content)


def _of_study(word: str, path: Path, name: str, studies: dict[Path, Results]) -> Entry:
    if path not in studies:
        studies[path] = collect(_plan(path))
    study = studies[path]
    arms = {arm.name: arm for arm in study.arms}
    if name not in arms:
        raise ConfigError(
            f"{word}: {name!r} is no arm; one of {', '.join(arms)}{did_you_mean(name, list(arms))}"
        )

    arm = arms[name]
    return Entry(word, arm, study.at(arm.budget) if arm.budget else study)


def _plan(path: Path) -> Plan:
    """A study, named by its file or by its folder."""
    if not path.is_dir():
        return read_plan(path)
    workspace = Workspace(path.parent.parent)
    file, words = study_file(path, workspace)
    return read_plan(file, read_overrides(words), workspace)


def _refuse_twins(entries: list[Entry]) -> None:
    words: dict[tuple[str, str, int], str] = {}
    for entry in entries:
        for seed, folders in entry.arm.folders.items():
            key = (entry.arm.signature, folders.evaluation.name, seed)
            if key in words:
                raise ConfigError(
                    f"{entry.word}: seed {seed} is the same run as in {words[key]}; name it once"
                )
            words[key] = entry.word


# What differs


def differing_keys(results: Results) -> Sheet:
    """The keys in which the recipes differ, and the value of each; the seed and the machine are
    no part of a recipe.
    """
    recipes = [flatten({**arm.settings, "seed": None, "machine": None}) for arm in results.arms]
    parts = {
        key.removesuffix(".kind") for recipe in recipes for key in recipe if key.endswith(".kind")
    }
    aligned = []
    for recipe in recipes:
        aligned.append(
            {f"{key}.kind" if key in parts else key: value for key, value in recipe.items()}
        )

    sheet = [["", *(arm.name for arm in results.arms)]]
    for key in dict.fromkeys(key for recipe in aligned for key in recipe):
        values = [str(recipe.get(key, NO_VALUE)) for recipe in aligned]
        if len(set(values)) > 1:
            sheet.append([key, *values])
    return sheet


def metric_rows(results: Results) -> Sheet:
    """Every metric of each arm, with its interval over seeds; and which seeds those are."""
    columns = results.columns
    lines = [headings_of(columns), *(row_of(results, arm, columns).texts() for arm in results.arms)]
    sheet = [list(line) for line in zip(*lines, strict=True)]
    sheet[0][0] = ""
    sheet[1][1:] = [", ".join(map(str, arm.reports)) for arm in results.arms]
    return sheet


def comparison_lines(compared: Comparison) -> list[str]:
    """A line for each difference to the first, by the tests of every report; and over which
    arms they are corrected.
    """
    names = compared.results.reports
    effects = compared.analysis.effects
    lines = [effect.line for effect in effects if effect.arm in names]
    if any(effect.spread for effect in effects):
        lines.append(f"Spreads and Holm's correction are over all arms of {compared.family}.")
    return lines


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


def comparison_cautions(compared: Comparison) -> list[str]:
    """What stands between the numbers and a conclusion: unfinished runs, and conditions
    that were not the same.
    """
    results = compared.results
    missing = []
    for arm in results.arms:
        missing += [f"{arm.name} seed {seed}" for seed in arm.folders if seed not in arm.reports]
    lines = (
        [f"Missing: {', '.join(missing)}: not finished, or not evaluated alike."] if missing else []
    )
    keys = [row[0] for row in differing_keys(results)[1:]]
    for section, text in _SECTIONS.items():
        if differing := [key for key in keys if key.split(".")[0] == section]:
            lines.append(f"Caution: {text} ({', '.join(differing)}).")

    for text, of in _CONDITIONS.items():
        stated = {
            arm.name: {of(report) for report in arm.reports.values()} - {""} for arm in results.arms
        }
        if len(set().union(*stated.values())) > 1:
            named = [f"{arm}: {', '.join(sorted(values))}" for arm, values in stated.items()]
            lines.append(f"Caution: {text}: {'; '.join(named)}")

    return lines + [
        caution.text for caution in outlier_cautions(results, compared.analysis.outlying)
    ]


# Shown


def print_comparison(words: list[str], console: Console, markdown: bool = False) -> None:
    """Print the comparison: for the terminal, or as Markdown.

    Raises:
        ConfigError: as `gather_runs`.
    """
    compared = gather_runs(words)
    sheets = {
        "Configuration": differing_keys(compared.results),
        "Result": metric_rows(compared.results),
    }
    lines = {
        "Differences to the first": comparison_lines(compared),
        "Conditions": comparison_cautions(compared),
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
    blocks: list[str] = []
    for title, sheet in sheets.items():
        table = markdown_table(sheet[0], sheet[1:]) if len(sheet) > 1 else ["No difference."]
        blocks += [f"## {title}", "", *table, ""]
    for title, part in lines.items():
        blocks += [f"## {title}", "", *markdown_list(part), ""] if part else []
    return "\n".join(blocks).rstrip()
