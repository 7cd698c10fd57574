"""A study that grows until it is resolved: its looks, and the seeds of the next one.

    first seeds → look → more seeds → look → …     until nothing is unresolved, or at the most seeds

`looks.json` in the study's folder holds the growth (first, at_most, the present seeds) and every
look. Each command that reads the study's file reads the present seeds there (`study/plan.py`), so
that workers, status, report and an interrupted study that resumes agree on them.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

from ..analysis.analyse import Analysis
from ..errors import located
from ..runs.folder import read_sealed, write_sealed
from ..significance.looks import schedule
from ..study.plan import LOOKS, Plan, extended_seeds, refuse_moved_limit
from ..study.plan_file import GrowingSeeds
from ..study.status import save_cells, study_file


def until_resolved(plan: Plan, at_most: int | None) -> Plan:
    """The plan of a study that grows from its seeds.

    Arguments:
        at_most: The most seeds; None for those that the study has already, or the default.

    Raises:
        ConfigError: if they are fewer than the first, or others than those of a recorded look.
    """
    if plan.growth is None:
        with located("--until-resolved", ValueError):
            limit = GrowingSeeds.at_most if at_most is None else at_most
            growth = GrowingSeeds(first=len(plan.seeds), at_most=limit)
        return replace(plan, growth=growth)

    if at_most in (None, plan.growth.at_most):
        return plan
    refuse_moved_limit(plan, plan.growth)
    with located("--at-most", ValueError):
        growth = replace(plan.growth, at_most=at_most)
    return replace(plan, growth=growth)


def save_growth(plan: Plan) -> None:
    """Record the growth of a study and the seeds that it has by now; nothing of a fixed one."""
    if plan.growth is None:
        return
    content = read_sealed(plan.folder / LOOKS)
    content["growth"] = {
        "arms": plan.arms_signature,
        "first": plan.growth.first,
        "at_most": plan.growth.at_most,
        "seeds": list(plan.seeds),
    }
    write_sealed(plan.folder / LOOKS, content)


def record_look(plan: Plan, analysis: Analysis) -> None:
    """Record a look, once, if it can resolve something and all its runs are finished or failed."""
    open_runs = [arm for arm, seed in analysis.results.missing if seed not in arm.failures]
    if open_runs or len(plan.seeds) < 2:
        return

    content = read_sealed(plan.folder / LOOKS)
    looks = content.setdefault("looks", [])
    look = {"arms": plan.arms_signature, "seeds": sorted(plan.seeds)}
    if any(look.items() <= recorded.items() for recorded in looks):
        return
    looks.append({**look, "time": time.strftime("%F %T"), **look_counts(analysis)})
    write_sealed(plan.folder / LOOKS, content)


def look_counts(analysis: Analysis) -> dict[str, Any]:
    """How many comparisons are resolved, equivalent and unresolved, of those that end a growth."""
    answers = Counter(effect.answer for effect in analysis.deciding)
    return {
        "resolved": answers["better"] + answers["worse"],
        "equivalent": answers["equivalent"],
        "unresolved": answers["unresolved"],
    }


def next_look(plan: Plan, analysis: Analysis) -> Plan | None:
    """The plan with the seeds of the next look; None where the study has no reason to grow, has
    runs to finish first, or may not grow further.
    """
    is_incomplete = any(seed not in arm.failures for arm, seed in analysis.results.missing)
    if plan.growth is None or is_incomplete or not analysis.undecided:
        return None

    looks = schedule(plan.growth.first, plan.growth.at_most)
    larger = [count for count in looks if count > len(plan.seeds)]
    if not larger:
        return None
    return replace(plan, seeds=extended_seeds(plan.seeds, larger[0]))


def grow(plan: Plan) -> None:
    """Make the seeds of a plan those of its study, for every command that reads its file."""
    file, words = study_file(plan.folder, plan.workspace)
    save_growth(plan)
    save_cells(plan, file, words)
