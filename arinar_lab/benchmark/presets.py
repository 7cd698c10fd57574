"""`arinar bench`: the speed of every preset as a record, a picture and a table.

    benchmarks.json      date, machine, commit, peaks, and every repeat of every row; written after
                         each row
    benchmarks.png       images a second, and the share of the machine's peak

A ratio is the median over alternate repeats of one run, with the lowest and the highest.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
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
"""Default cases on a CPU: MAR-B runs with ARINAR's number of steps and with its own."""
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
# rows of parts, of a preset that the published algorithm can run; other presets have one
COMPONENT_ROWS = 9
PROFILES = Path("docs/profiles")


def precisions(device: torch.device) -> list[MatmulDtype]:
    """Precisions that a device has instructions for."""
    if has_native_matmul(device, torch.bfloat16):
        return ["float32", "bfloat16"]
    return ["float32"]


def cases(presets: list[str], device: torch.device) -> list[Case]:
    """The default cases of these presets, or of all; other recipes are timed at batch 1 and 4.

    Raises:
        ConfigError: if a recipe does not exist, or cannot be built or sampled.
    """
    native = precisions(device)
    chosen: list[Case] = []
    for case in GPU if device.type == "cuda" else CPU:
        if case.precision in native and (not presets or case.preset in presets):
            chosen.append(case)

    with_default = {case.preset for case in chosen}
    for name in presets:
        if name not in with_default:
            chosen += [Case(name, 1), Case(name, 4)]

    for case in chosen:
        build(case.recipe(), "meta")
    return chosen


@dataclass
class Record:
    """The measurements of a benchmark so far.

    Arguments:
        how: Options of the benchmark.
        peaks: FLOP/s by precision.
        rows: Timed settings.
        memory: Results of `memory_by_batch`.
        complete: Whether the benchmark is done.
        load: Load average of the minute before it began.
    """

    how: BenchmarkOptions
    peaks: dict[MatmulDtype, float]
    rows: list[Result] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    load: float = 0.0

    def written(self) -> dict[str, Any]:
        """The record as plain data."""
        machine = {
            **environment(),
            "device_type": self.how.device.type,
            "threads": torch.get_num_threads(),
        }
        peak_gflops = {precision: flops / 1e9 for precision, flops in self.peaks.items()}

        return {
            "date": time.strftime("%F %T%z"),
            "complete": self.complete,
            "machine": machine,
            "load_average": self.load,
            "git": git_state(),
            "peak_gflops": peak_gflops,
            "steps_timed": self.how.samples or "all",
            "rows": list(map(self._row, self.rows)),
            "memory": self.memory,
        }

    def _row(self, row: Result) -> dict[str, Any]:
        peak = self.peaks[row.precision]
        plain = asdict(row)
        plain["seconds_median"] = row.median
        plain["a_second"] = row.rate
        plain["share_of_peak"] = row.share(peak)
        if row.others:
            plain["ratio"] = statistics.median(row.ratios)
            plain["ratios"] = row.ratios
            plain["ratio_at_most"] = row.at_most(peak)

        return plain


def run_benchmark(presets: list[str], how: BenchmarkOptions, out: Path, console: Console) -> Record:
    """Measure the cases of these presets, or of all, and the parts of each.

    Raises:
        ConfigError: before any measurement, if a preset cannot be measured.
    """
    cases_of = _by_preset(cases(presets, how.device))
    rows = sum(map(len, cases_of.values())) + COMPONENT_ROWS * len(cases_of)
    load = os.getloadavg()[0]

    with speed_lock(), _progress(console, rows) as advance:
        keep_freed_memory()
        peaks: dict[MatmulDtype, float] = {}
        for precision in precisions(how.device):
            peaks[precision] = peak_flops(how.device, precision)
        record = Record(how, peaks, load=load)

        for name, chosen in cases_of.items():
            for measured in _measure(name, chosen, how):
                advance(name)
                if isinstance(measured, Result):
                    record.rows.append(measured)
                else:
                    record.memory.append(measured)
                write_json(out, record.written())

    record.complete = True
    write_json(out, record.written())

    return record


def _by_preset(chosen: list[Case]) -> dict[str, list[Case]]:
    cases_of: dict[str, list[Case]] = defaultdict(list)
    for case in chosen:
        cases_of[case.preset].append(case)
    return cases_of


def _measure(
    name: str, chosen: list[Case], how: BenchmarkOptions
) -> Iterator[Result | dict[str, Any]]:
    """Measure the cases of one preset, then its parts."""
    model = benchmark_model(chosen[0].recipe(), how.device)
    for case in chosen:
        yield generation(case, model, how)

    if name == FAST:  # it differs from ARINAR-B only in its walk
        return
    if is_published(model):
        for precision in precisions(how.device):
            yield inner_loop(Case(name, 64, guidance=1.0, precision=precision), model, how)
            yield inner_loop(Case(name, 64, precision=precision), model, how)
            yield inner_loop(Case(name, 64, precision=precision, compiled=True), model, how)
            yield training_step(Case(name, 4, precision=precision), how)

    yield memory_by_batch(Case(name, 1), model)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar of at most `total` rows, advanced by the preset's name after each."""
    columns = (description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("peak", total=total)
        yield lambda name: progress.update(task, description=name, advance=1)
        progress.update(task, completed=total)


def write_profiles(
    presets: list[str], how: BenchmarkOptions, folder: Path = PROFILES
) -> list[Path]:
    """Write a profile of each preset's middle step to <folder>/<preset>.txt.

    Raises:
        ConfigError: if a preset does not exist.
    """
    paths: list[Path] = []
    with speed_lock():
        for name, chosen in _by_preset(cases(presets, how.device)).items():
            case = [case for case in chosen if case.precision == "float32"][-1]
            model = benchmark_model(case.recipe(), how.device)
            path = folder / f"{Path(name).stem}.txt"
            write_atomically(path, profile(case, model, how))
            paths.append(path)

    return paths
