"""`arinar bench`: how fast every preset is, in one run, as a table, a picture and a record.

    benchmarks.json      date, machine, commit, peaks, and every repeat of every row; written
                         as far as it has come
    benchmarks.png       images a second, and the share of the machine's peak that the
                         FLOPs needed make up

Ratios are of repeats that took turns in one run: the median, and from the lowest to the highest.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from ..config.build import build
from ..files.atomic import write_atomically
from ..files.locks import speed_lock
from ..hardware.device import keep_freed_memory
from ..hardware.profiling import MatmulDtype, peak_flops
from ..model.packed_linear import has_native_matmul
from ..output.terminal import description_column
from ..runs.folder import environment, git_state, write_json
from .components import inner_loop, memory_by_batch, profile, training_step
from .generation import BenchmarkOptions, Case, Result, benchmark_model, generation, is_published

ARINAR, CAUSAL = "imagenet256_arinar_b", "imagenet256_arinar_b_causal"
FAST, MAR, FRACTAL = "imagenet256_arinar_b_fast", "imagenet256_mar_b", "imagenet256_fractalmar_b"
CPU = (
    Case(ARINAR, 1, guidance=1.0),
    Case(ARINAR, 4, guidance=1.0),
    Case(ARINAR, 4),
    Case(ARINAR, 4, precision="bfloat16"),
    Case(FAST, 4),
    Case(CAUSAL, 64, guidance=1.0),
    Case(MAR, 4, steps=64),
    Case(MAR, 4),
    Case(FRACTAL, 4),
)
"""What is timed where nothing is asked for: MAR-B at ARINAR's steps and at its own."""
GPU = (
    Case(ARINAR, 1),
    Case(ARINAR, 64),
    Case(ARINAR, 64, precision="bfloat16"),
    Case(FAST, 64),
    Case(CAUSAL, 1),
    Case(CAUSAL, 64),
    Case(CAUSAL, 64, precision="bfloat16"),
    Case(MAR, 64, steps=64),
    Case(MAR, 64),
    Case(FRACTAL, 64),
)
# rows beside generation, of a preset that the published algorithm runs; of others one
COMPONENT_ROWS = 9
PROFILES = Path("docs/profiles")


def precisions(device: torch.device) -> list[MatmulDtype]:
    """Those that a device has instructions for."""
    both: tuple[MatmulDtype, ...] = ("float32", "bfloat16")
    return [precision for precision in both if has_native_matmul(device, getattr(torch, precision))]


def cases(presets: list[str], device: torch.device) -> list[Case]:
    """The cases of these presets, or of all; a recipe that has none here is timed at batch 1 and 4.

    Raises:
        ConfigError: if there is no such recipe, or it cannot be built or sampled so.
    """
    here = precisions(device)
    known = [case for case in (GPU if device.type == "cuda" else CPU) if case.precision in here]
    listed = [case for case in known if not presets or case.preset in presets]
    others = [name for name in presets if name not in {case.preset for case in listed}]
    found = listed + [Case(name, batch) for name in others for batch in (1, 4)]
    for case in found:
        build(case.recipe(), "meta")
    return found


@dataclass
class Record:
    """What a run of the benchmark has measured so far.

    Arguments:
        how: where and how thoroughly; peaks: FLOP/s by precision; rows; memory: see
            `bench_parts.memory`; load: average of the minute before it began.
    """

    how: BenchmarkOptions
    peaks: dict[MatmulDtype, float]
    rows: list[Result] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    load: float = 0.0

    def written(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "date": time.strftime("%F %T%z"),
            "complete": self.complete,
            "machine": {
                **environment(),
                "device_type": self.how.device.type,
                "threads": torch.get_num_threads(),
            },
            "load_average": self.load,
            "git": git_state(),
            "peak_gflops": {precision: flops / 1e9 for precision, flops in self.peaks.items()},
            "steps_timed": self.how.samples or "all",
            "rows": [self._row(row) for row in self.rows],
            "memory": self.memory,
        }

    def _row(self, row: Result) -> dict[str, Any]:
        peak = self.peaks[row.precision]
        rates = {"a_second": row.rate, "share_of_peak": row.share(peak)}
        found = {**asdict(row), "seconds_median": row.median, **rates}

        if not row.others:
            return found
        return {
            **found,
            "ratio": statistics.median(row.ratios),
            "ratios": row.ratios,
            "ratio_at_most": row.at_most(peak),
        }


def run_benchmark(presets: list[str], how: BenchmarkOptions, out: Path, console: Console) -> Record:
    """Measure the cases of these presets, or of all, and of the published algorithm's its parts.

    Raises:
        ConfigError: before anything is measured, if a preset cannot be.
    """
    listed = cases(presets, how.device)
    names = list(dict.fromkeys(case.preset for case in listed))
    load = os.getloadavg()[0]

    with speed_lock(), _shown(console, len(listed) + COMPONENT_ROWS * len(names)) as told:
        keep_freed_memory()
        record = Record(
            how,
            {precision: peak_flops(how.device, precision) for precision in precisions(how.device)},
            load=load,
        )
        for name in names:
            for found in _measured(name, [case for case in listed if case.preset == name], how):
                told(name)
                (record.memory if isinstance(found, dict) else record.rows).append(found)  # type: ignore[arg-type]
                write_json(out, record.written())

    record.complete = True
    write_json(out, record.written())

    return record


def _measured(
    name: str, listed: list[Case], how: BenchmarkOptions
) -> Iterator[Result | dict[str, Any]]:
    """The cases of one preset, then the parts of it."""
    model = benchmark_model(listed[0].recipe(), how.device)
    for case in listed:
        yield generation(case, model, how)
    if name == FAST:  # which differs from ARINAR-B in its walk alone
        return
    if is_published(model):
        for precision in precisions(how.device):
            yield inner_loop(Case(name, 64, guidance=1.0, precision=precision), model, how)
            yield inner_loop(Case(name, 64, precision=precision), model, how)
            yield inner_loop(Case(name, 64, precision=precision, compiled=True), model, how)
            yield training_step(Case(name, 4, precision=precision), how)

    yield memory_by_batch(Case(name, 1), model)


@contextmanager
def _shown(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar: told after each row which preset it is of. The rows that only some
    presets have may not come.
    """
    columns = (description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("peak", total=total)
        yield lambda name: progress.update(task, description=name, advance=1)
        progress.update(task, completed=total)


def write_profiles(
    presets: list[str], how: BenchmarkOptions, folder: Path = PROFILES
) -> list[Path]:
    """Write where the time of each preset's middle step goes: <folder>/<preset>.txt.

    Raises:
        ConfigError: if there is no such preset.
    """
    listed = cases(presets, how.device)
    paths: list[Path] = []
    with speed_lock():
        for name in dict.fromkeys(case.preset for case in listed):
            case = [case for case in listed if case.preset == name and case.precision == "float32"][
                -1
            ]
            paths.append(folder / f"{Path(name).stem}.txt")
            write_atomically(
                paths[-1], profile(case, benchmark_model(case.recipe(), how.device), how)
            )

    return paths
