"""Studies as they are when their runs have finished, without a training: files as runs write them,
with numbers of ours.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tiny import write_study

from arinar_lab.analysis.analyse import Analysis, analyse
from arinar_lab.analysis.results import Results
from arinar_lab.files.atomic import write_atomically
from arinar_lab.files.workspace import HERE, Workspace
from arinar_lab.runs.folder import write_sealed
from arinar_lab.study.collect import collect
from arinar_lab.study.plan import Plan, read_plan

BITS, FD = "val/bits_per_dim", "quality/fd_digits"
OURS = "that of the arm"
Reports = dict[tuple[str, int], dict[str, Any]]
"""(arm, seed) → report.json."""


def report_of(
    bits: float,
    *,
    distance: float = 10.0,
    kind: str = "exact",
    steps: int | None = None,
    unit: str = "pixel",
    commit: str = "abc",
    speed: bool = True,
    **metrics: float,
) -> dict[str, Any]:
    """A report.json with what every version of evaluation wrote."""
    values = {
        BITS: bits,
        "val/bits_per_dim_at_level": bits - 0.1,
        FD: distance,
        "quality/fd_digits_floor": 2.17,
        "quality/kid_digits": 0.5,
        "quality/precision": 0.5,
        "quality/recall": 0.5,
        "quality/truncated_share": 0.0,
        "cost/parameters": 12345,
        **metrics,
    }
    report: dict[str, Any] = {
        "metrics": values,
        "likelihood": {"kind": kind, "unit": unit, "steps": steps, "images": 360, "draws": 1},
        "quality": {
            "images": 100,
            "reference": 1437,
            "floor_images": 360,
            "kid": "over all images",
        },
        "git": {"commit": commit, "dirty": False},
    }
    if speed:
        values["speed/images_per_second"] = 1000 / bits
        report["speed"] = {
            "batch": 4,
            "repeats": 1,
            "threads": 1,
            "compile": False,
            "device": "a CPU",
            "device_type": "cpu",
            "precision": "32-true",
            "load_average": 1.0,
        }

    return report


def full_report(bits: float, **sections: Any) -> dict[str, Any]:
    """The same with what today's evaluation adds: noise over images, diagnosis, parts of
    the speed, environment.
    """
    report = report_of(bits, **sections)
    shares = [0.05 + 0.01 * math.sin(i) for i in range(20)]

    report |= {
        "noise": {BITS: 0.004, FD: 0.6},
        "diagnosis": {
            "by_feature": [bits] * 4,
            "by_token": [bits - 1, bits + 1],
            "pit": shares,
            "pit_distance": 0.02,
        },
        "steps": 6,
        "training_signature": OURS,
        "evaluation_signature": "5678efab",
        "environment": {
            "arinar_lab": "0.1.0",
            "python": "3.11.7",
            "torch": "2.15.0",
            "lightning": "2.6.6",
            "system": "Linux",
            "device": "a CPU",
            "cpus": 2,
        },
    }
    if "speed" in report:
        report["speed"]["seconds_by_part"] = {
            "outer": 0.2,
            "inner": 0.1,
            "head": 0.3,
            "codec": 0.01,
        }

    return report


def study(
    reports: Reports,
    seeds: tuple[int, ...] = (0, 1, 2),
    full: bool = False,
    workspace: Workspace = HERE,
    **keys: Any,
) -> Plan:
    """A plan of three numbers of components, or of other `keys`, and the finished cells among them.

    Arguments:
        full: whether each has its history, samples and beliefs, too. workspace: where they lie.
    """
    keys = {"axes": {"inner.head.components": [1, 2, 4]}, "question": "How many?", **keys}
    path = write_study(seeds=list(seeds), **keys)

    plan = _plan(path, path.read_text(), workspace)
    for arm in plan.arms:
        for seed in seeds:
            if (arm.name, seed) in reports:
                folder, recipe = plan.cell(arm, seed)
                write_sealed(folder.path / "DONE", {"steps": 6, "seconds": 1.0})
                report = dict(reports[arm.name, seed])
                if report.get("training_signature") == OURS:
                    report["training_signature"] = recipe.training_signature
                write_sealed(folder.evaluation(recipe) / "report.json", report)
                if full:
                    _fill(folder.path, folder.evaluation(recipe), seed)

    return plan


def analysed(plan: Plan) -> Analysis:
    """The analysis of what the run folders of a study hold."""
    return analyse(collect(plan))


def with_reports(results: Results, reports: dict[str, dict[int, dict[str, Any]]]) -> Results:
    """Results with other reports: arm → seed → report."""
    return replace(
        results, arms=tuple(replace(arm, reports=reports[arm.name]) for arm in results.arms)
    )


@cache
def _plan(path: Path, content: str, workspace: Workspace) -> Plan:
    """The plan of a study file; to build every arm takes longer than most tests of a report."""
    return read_plan(path, None, workspace)


def _fill(run: Path, evaluation: Path, seed: int) -> None:
    """A history of three steps, twelve images and real ones, and the beliefs about two features."""
    rows = [
        f"{step},{name},{2.5 - step / 10 + seed / 10}"
        for step in (1, 2, 3)
        for name in ("train/loss", BITS)
    ]
    write_atomically(run / "metrics.csv", "\n".join(["step,name,value", *rows, ""]))
    (evaluation / "samples").mkdir()
    rng = np.random.default_rng(seed)
    np.save(evaluation / "samples" / "images.npy", rng.integers(0, 17, (12, 1, 8, 8), np.uint8))
    real = np.arange(12 * 64).reshape(12, 1, 8, 8) % 17
    np.savez_compressed(evaluation / "samples" / "real.npz", images=real, labels=np.arange(12) % 5)
    grid = np.tile(np.linspace(-2, 2, 30, dtype=np.float32), (2, 1))
    density = np.exp(-(grid**2) / 2)[None] / math.sqrt(2 * math.pi)
    np.savez_compressed(
        evaluation / "beliefs.npz",
        grid=grid,
        density=density,
        true=np.zeros((1, 2)),
        token=0,
        drawn=0,
    )


def whole() -> Reports:
    """All arms and seeds; each arm better than the one before it, by the same in every seed."""
    spread = {0: 0.0, 1: 0.3, 2: -0.2}
    return {
        (f"components={k}", seed): report_of(
            2.5 - i / 10 + spread[seed] + i * seed / 1000, distance=20 + seed
        )
        for i, k in enumerate((1, 2, 4))
        for seed in spread
    }


def whole_and_full() -> Reports:
    return {
        cell: full_report(report["metrics"][BITS], distance=20 + cell[1])
        for cell, report in whole().items()
    }
