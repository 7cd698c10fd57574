"""Runs and arms side by side: what differs in how they were made and in what they reached, and
whether that is resolved.

    runs/<arm>/seed_<n>                      one run
    runs/<arm>                               an arm: all its finished seeds
    experiments/ablations/head.yaml:gmm      an arm of a study's file
    studies/head:gmm                         an arm of a study's folder, under the overrides
                                             of its last run

The named runs and arms become results like a study's, with the first as the baseline. Intervals,
pairing by seed, tests and verdicts are therefore those of every report. Where all are arms of one
study, the spread and Holm's correction are over all arms of that study, and against its baseline
the numbers are those of its report. The margins, and whether spreads are pooled, are those of the
studies that the named arms are of; where these differ, a line says what holds. A run counts by the
evaluation of its own config.yaml. Measurements under other conditions are reported, and never
averaged.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
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
from ..metrics import HEADINGS, MATTERS
from ..output.text import markdown_list, markdown_table, say
from ..report.tables import headings_of, row_of
from ..runs.folder import RunFolder
from ..study.collect import collect, inexact_parts, read_beside
from ..study.plan import Plan, read_plan
from ..study.status import study_file

Sheet = list[list[str]]
"""A table as text, its headings first."""
NO_VALUE = "–"
HINT = "name runs/ARM, runs/ARM/seed_N, FILE.yaml:ARM or studies/NAME:ARM"


@dataclass(frozen=True)
class Entry:
    """One run or arm of the comparison.

    Arguments:
        word: The user's word for it.
        arm: Its results.
        study: The study whose arm the user named, at its regime; None for a folder.
    """

    word: str
    arm: ArmResult
    study: Results | None = None


@dataclass(frozen=True)
class Comparison:
    """The results of the named runs and arms, and their analysis.

    Arguments:
        results: The named results, with the first as the baseline.
        analysis: The analysis of all arms of their study, with the first as its baseline, where
            they are arms of one study; else of the results.
        family: The arms behind spreads and Holm's correction, in words.
        rules: A sentence on margins and pooling where the studies differ in them; else empty.
    """

    results: Results
    analysis: Analysis
    family: str
    rules: str = ""


def gather_runs(words: list[str]) -> Comparison:
    """The comparison of the named runs and arms, with the first as the baseline.

    Raises:
        ConfigError: if there are fewer than two, one is no run or arm, has nothing finished, or is
            named twice.
    """
    if len(words) < 2:
        raise ConfigError(f"compare: needs at least two to put side by side; {HINT}")

    studies: dict[Path, Results] = {}
    entries = [_entry(word, studies) for word in words]
    _refuse_twins(entries)

    counts = Counter(entry.arm.name for entry in entries)
    arms = []
    for entry in entries:
        is_ambiguous = counts[entry.arm.name] > 1
        arms.append(replace(entry.arm, name=entry.word) if is_ambiguous else entry.arm)
    seeds: set[int] = set()
    for arm in arms:
        seeds.update(arm.reports)
    matters, pooled, rules = _rules(entries)
    results = Results(
        "compare",
        tuple(arms),
        arms[0].name,
        tuple(sorted(seeds)),
        matters=matters,
        pooled=pooled,
    )

    study = entries[0].study
    if study is None or any(entry.study != study for entry in entries):
        family = (
            "what is named here; a study's report has them over all its arms, and its ± "
            "and p may differ"
        )
        return Comparison(results, analyse(results), family, rules)

    if study.baseline == results.baseline:
        return Comparison(results, analyse(study), f"the study {study.name}, as in its report")

    family = (
        "their study, against the first; its report has another baseline, and so other "
        "spreads and p"
    )
    other = replace(study, baseline=results.baseline, baseline_seeds=())
    return Comparison(results, analyse(other), family)


def _rules(entries: Sequence[Entry]) -> tuple[Mapping[str, float], bool, str]:
    """What matters, whether spreads are pooled, and a sentence where the studies of the named arms
    differ in one of them: then the margins are the defaults, and each arm has its own spread.
    """
    margins: list[Mapping[str, float]] = []
    pools = set()
    for entry in entries:
        if entry.study is not None:
            pools.add(entry.study.pooled)
            if entry.study.matters not in margins:
                margins.append(entry.study.matters)

    sentences = []
    if len(margins) > 1:
        shown = [f"{margin:g} {HEADINGS[metric]}" for metric, margin in MATTERS.items()]
        sentences.append(
            f"Their studies state different margins (matters); the default holds here: "
            f"{', '.join(shown)}."
        )
    if len(pools) > 1:
        sentences.append("One of their studies says pool: none, so each pair has its own spread.")
    matters = margins[0] if len(margins) == 1 else MATTERS
    return matters, False not in pools, " ".join(sentences)


def _entry(word: str, studies: dict[Path, Results]) -> Entry:
    """The named run or arm. studies: file or folder → its results, a cache."""
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
    """The results of a run folder, or of an arm's folder."""
    path = Path(word)
    if (path.suffix == ".yaml" and path.is_file()) or (path / "cells.json").is_file():
        raise ConfigError(f"{word}: a study; name one of its arms, as in {word}:ARM")

    is_run = (path / "config.yaml").is_file()
    files = [path / "config.yaml"] if is_run else sorted(path.glob("seed_*/config.yaml"))
    if not files:
        raise ConfigError(f"{word}: no run and no arm; {HINT}")
    for file in files:
        RunFolder(file.parent).refuse_edited(file.name)

    recipes = list(map(_recipe, files))
    paths = {recipe.seed: file.parent for file, recipe in zip(files, recipes, strict=True)}
    folder = path.resolve()
    name = f"{_unsigned(folder.parent)}/{folder.name}" if is_run else _unsigned(folder)
    return _arm_of(name, recipes[0], dict(sorted(paths.items())))


def _arm_of(name: str, recipe: Recipe, paths: dict[int, Path]) -> ArmResult:
    """The results of one recipe. paths: seed → run folder."""
    reports = {}
    folders = {}
    damaged: dict[Path, str] = {}
    image_bits: dict[int, np.ndarray] = {}
    for seed, path in paths.items():
        folder = RunFolder(path)
        folders[seed] = Folders(path, folder.evaluation(recipe))
        report = folder.report(recipe)
        if report:
            reports[seed] = report
            bits, faults = read_beside(folder, recipe, report)
            if bits is not None:
                image_bits[seed] = bits
            damaged |= faults

    likelihood = "none"
    if reports:
        likelihood = next(iter(reports.values()))["likelihood"]["kind"]
    return ArmResult(
        name=name,
        settings=to_plain(recipe),
        reports=reports,
        folders=folders,
        likelihood=likelihood,
        inexact=inexact_parts(recipe),
        signature=recipe.training_signature,
        damaged=damaged,
        image_bits=image_bits,
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
    arms = study.by_name
    if name not in arms:
        raise ConfigError(
            f"{word}: {name!r} is no arm; one of {', '.join(arms)}{did_you_mean(name, list(arms))}"
        )

    arm = arms[name]
    return Entry(word, arm, study.at(arm.regime) if arm.regime else study)


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
    keys = dict.fromkeys(itertools.chain.from_iterable(recipes))
    kinds = {key for key in keys if key.endswith(".kind")}

    # a part that has a kind in another recipe stands in the same row as that
    rows: dict[str, list[str]] = {}
    for i, recipe in enumerate(recipes):
        for key, value in recipe.items():
            name = f"{key}.kind" if f"{key}.kind" in kinds else key
            row = rows.setdefault(name, [NO_VALUE] * len(recipes))
            row[i] = str(value)

    sheet = [["", *(arm.name for arm in results.arms)]]
    for key, values in rows.items():
        if len(set(values)) > 1:
            sheet.append([key, *values])
    return sheet


def metric_rows(results: Results) -> Sheet:
    """Every metric of each arm, with its interval over seeds; and which seeds those are."""
    columns = results.columns
    lines = [headings_of(columns)]
    seeds = []
    for arm in results.arms:
        lines.append(row_of(results, arm, columns).texts())
        seeds.append(", ".join(map(str, arm.reports)))

    sheet = list(map(list, zip(*lines, strict=True)))
    sheet[0][0] = ""
    sheet[1][1:] = seeds
    return sheet


def comparison_lines(comparison: Comparison) -> list[str]:
    """A line for each difference to the first, by the tests of every report; and the arms of their
    correction.
    """
    names = comparison.results.reports
    effects = comparison.analysis.effects
    lines = [effect.line for effect in effects if effect.arm in names]
    if any(effect.spread for effect in effects):
        lines.append(f"Spreads and Holm's correction are over all arms of {comparison.family}.")
    if comparison.rules:
        lines.append(comparison.rules)
    return lines


# Under which conditions


def _likelihood(report: dict[str, Any]) -> str:
    """The kind and the unit of a report's likelihood."""
    return f"{report['likelihood']['kind']} of {report['likelihood']['unit']}"


def _items(report: dict[str, Any]) -> str:
    """`360 held-out, 1 draw(s), 1437 generated`, as far as the report holds it."""
    likelihood = report["likelihood"]
    counts = {
        "held-out": likelihood.get("images"),
        "draw(s)": likelihood.get("draws"),
        "generated": report.get("quality", {}).get("images"),
    }
    return ", ".join(f"{count} {items}" for items, count in counts.items() if count is not None)


def _protocol(report: dict[str, Any]) -> str:
    """The device and the settings of a report's measurement of speed."""
    speed = report.get("speed")
    if not speed:
        return ""
    settings = [
        f"{name} {speed[name]}" for name in ("batch", "threads", "precision") if name in speed
    ]
    return ", ".join([speed.get("device", ""), *settings])


_CONDITIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Versions of the code differ": lambda report: commit_of(report) or "unknown",
    "Versions of torch differ": lambda report: report.get("environment", {}).get("torch", ""),
    "Devices differ": lambda report: report.get("environment", {}).get("device", ""),
    "Speed was measured differently": _protocol,
    "Readings are of other numbers of items": _items,
    "Likelihoods are of different kinds": _likelihood,
}
_SECTIONS = {
    "data": "The data differ: these are not one task",
    "codec": "Codecs differ: bits/dim may be of different things",
    "evaluation": "Evaluation settings differ: the readings are not of one protocol",
}


def comparison_cautions(comparison: Comparison) -> list[str]:
    """Cautions about unfinished runs, and about conditions that were not the same."""
    results = comparison.results
    lines = []
    missing = []
    for arm in results.arms:
        missing += [f"{arm.name} seed {seed}" for seed in arm.folders if seed not in arm.reports]
    if missing:
        lines.append(f"Missing: {', '.join(missing)}: not finished, or not evaluated alike.")

    keys = [row[0] for row in differing_keys(results)[1:]]
    for section, text in _SECTIONS.items():
        differing = [key for key in keys if key.split(".")[0] == section]
        if differing:
            lines.append(f"Caution: {text} ({', '.join(differing)}).")

    for text, condition in _CONDITIONS.items():
        values = {}
        for arm in results.arms:
            values[arm.name] = set(map(condition, arm.reports.values())) - {""}
        if len(set().union(*values.values())) > 1:
            stated = [f"{arm}: {', '.join(sorted(texts))}" for arm, texts in values.items()]
            lines.append(f"Caution: {text}: {'; '.join(stated)}")

    for caution in outlier_cautions(results, comparison.analysis.outlying):
        lines.append(caution.text)
    return lines


# Shown


def print_comparison(words: list[str], console: Console, markdown: bool = False) -> None:
    """Print the comparison: for the terminal, or as Markdown.

    Raises:
        ConfigError: as `gather_runs`.
    """
    comparison = gather_runs(words)
    sheets = {
        "Configuration": differing_keys(comparison.results),
        "Result": metric_rows(comparison.results),
    }
    lines = {
        "Differences to the first": comparison_lines(comparison),
        "Conditions": comparison_cautions(comparison),
    }

    if markdown:
        say(_as_markdown(sheets, lines))
        return

    for title, sheet in sheets.items():
        console.print(_as_table(title, sheet) if len(sheet) > 1 else f"{title}: no difference")
    for line in itertools.chain.from_iterable(lines.values()):
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
