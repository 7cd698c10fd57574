"""What a study costs beside its trainings: arms that take no time, from the file to the report.

    .venv/bin/python benchmarks/study_overhead.py [--arms 200] [--workers 2] [--tracking off]

Training, evaluation and the pass that measures speed are replaced by the files that they would
leave. Everything else is what `arinar ablate` does, in a new folder: reading and checking the
study, two worker processes, MLflow, tables, figures, and what `arinar status` and `arinar report`
then take. Prints seconds in all and an arm.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from arinar_lab import pipeline
from arinar_lab.cli import ablate
from arinar_lab.output.terminal import Terminal
from arinar_lab.runs.folder import RunFolder, git_state, write_sealed
from arinar_lab.study import worker
from arinar_lab.study.collect import collect
from arinar_lab.study.cost import Cost
from arinar_lab.study.plan import Plan, read_plan
from arinar_lab.study.status import run_statuses, save_cells

DIGITS = Path(__file__).parents[1] / "experiments" / "digits.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--arms", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tracking", choices=["on", "off"], default="on")
    words = parser.parse_args()
    os.environ["ARINAR_TRACKING"] = words.tracking
    os.environ.pop("ARINAR_STORAGE", None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    vars(pipeline).update(train=_train, evaluate_with_reference=_evaluate)
    vars(ablate).update(probe_or_reason=lambda _: Cost(1, 1.0, 1.0, 0.0), run_workers=_forked)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        file = Path("study.yaml")
        rates = [1e-3 + i * 1e-6 for i in range(words.arms)]
        file.write_text(f"base: {DIGITS}\nseeds: [0]\naxes: {{training.lr: {rates}}}\n")
        with _timed(seconds, "read"):
            plan = read_plan(file)
        content = save_cells(plan, file, [])
        global _PLAN
        _PLAN = plan
        with _timed(seconds, "ablate"), open("output.txt", "w") as output:
            status = ablate.run_study(plan, [], words.workers, Terminal(file=output))
        with _timed(seconds, "status"):
            done = sum(cell.state == "done" for cell in run_statuses(content))
        with _timed(seconds, "report"), open("output.txt", "a") as output:
            ablate.report_study(plan, collect(plan), Terminal(file=output))
        os.chdir("/")

    assert status == 0 and done == words.arms, f"{done} of {words.arms} arms are done"
    whole = seconds["read"] + seconds["ablate"]
    print(", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
    print(
        f"{words.arms} arms, {words.workers} workers, tracking {words.tracking}: "
        f"{whole / words.arms:.3f} s an arm"
    )


_PLAN: Plan


def _forked(
    folder: Path, command: list[str], workers: int, threads: int, watch: Any, console: Terminal
) -> bool:
    """Workers as forks of this process, which hold the replaced training; they end
    with what `work` says.
    """
    children = []
    for _ in range(workers):
        child = os.fork()
        if not child:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                failed = worker.run_worker(_PLAN)
            os._exit(len(failed))
        children.append(child)

    return all(os.waitpid(child, 0)[1] == 0 for child in children)


def _train(recipe: Any, folder: RunFolder, *_: Any) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    write_sealed(folder.path / "DONE", {"steps": recipe.training.steps, "seconds": 0.0})


def _evaluate(recipe: Any, folder: RunFolder, *_: Any) -> dict[str, Any]:
    bits = 2 + recipe.training.lr
    metrics = {
        "val/bits_per_dim": bits,
        "quality/fd_digits": 10 * bits,
        "quality/fd_digits_floor": 2.0,
    }
    report = {
        "metrics": {**metrics, "speed/images_per_second": 100.0},
        "likelihood": {"kind": "exact", "unit": "pixel", "steps": None, "images": 360, "draws": 1},
        "quality": {"images": 100, "reference": 1437, "floor_images": 360, "kid_subset": 10},
        "speed": {
            "batch": 4,
            "repeats": 1,
            "threads": 1,
            "device": "none",
            "device_type": "cpu",
            "compile": False,
            "precision": "32-true",
            "load_average": 1.0,
        },
        "steps": recipe.training.steps,
        "git": git_state(),
    }
    write_sealed(folder.evaluation(recipe) / "report.json", report)

    return report


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begun


if __name__ == "__main__":
    main()
