"""Runs a sweep shape by shape and cell by cell; keeps what it has when it is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from pydantic import JsonValue

from benchmarks.bandwidth import Bandwidth, measure_bandwidth
from benchmarks.cell import CellResult, run_cell
from benchmarks.machine import Target
from benchmarks.plan import Shape, SweepPlan
from benchmarks.rows import Context, unmeasured_row
from benchmarks.stock import DTYPE, make_stocks
from benchmarks.variants import KernelVariant, Variant
from benchmarks.weights import random_x
from kernels.compile_ahead import compile_ahead
from kernels.ranges import NO_RANGES, RangeHook
from profiler.nvtx import open_range, ranges_on
from profiler.record import KernelSample, SweepRow

CellKey = tuple[int, int, int]
"""n, k and m."""

OnProgress = Callable[[float, str], object]
"""Called with the number of finished shape-and-m pairs (a part of one counts) and what is being done."""


@dataclass
class SweepOutcome:
    """What a sweep has measured so far."""

    rows: list[SweepRow] = field(default_factory=list)
    """One row per variant, shape and m."""
    samples: list[KernelSample] = field(default_factory=list)
    """Every sample."""
    tau: list[dict[str, JsonValue]] = field(default_factory=list)
    """tau_cast and tau_comp per kernel, shape and m."""
    peer_ratios: list[dict[str, JsonValue]] = field(default_factory=list)
    """Ours against each peer of the same bits, per shape and m."""
    bandwidth: Bandwidth | None = None
    """Bandwidth of this machine in this run; None where the run ended before."""
    failures: list[str] = field(default_factory=list)
    """Kernels of ours that failed the gate or could not be timed, and why, a sentence each."""
    warnings: list[str] = field(default_factory=list)
    """The same of peers, whose failure is no failure of the sweep."""
    unfinished: list[CellKey] = field(default_factory=list)
    """Cells that were begun and not finished."""
    interrupted: bool = False
    """Whether Ctrl-C ended the sweep."""

    def add(self, cell: CellResult, key: CellKey) -> None:
        """Add what was measured at one shape and m."""
        self.rows += cell.rows
        self.samples += cell.samples
        self.tau += cell.tau
        self.peer_ratios += cell.peer_ratios
        self.failures += cell.failures
        self.warnings += cell.warnings
        if not cell.is_whole:
            self.unfinished.append(key)


@dataclass(frozen=True)
class _Job:
    """What every shape of a sweep needs."""

    plan: SweepPlan
    target: Target
    earlier: Mapping[CellKey, CellResult]
    outcome: SweepOutcome
    runnable: list[Variant]
    reasons: Mapping[str, str]
    ranges: RangeHook
    on_progress: OnProgress
    on_cell: Callable[[SweepOutcome], object]


def run_sweep(
    plan: SweepPlan,
    target: Target,
    *,
    earlier: Mapping[CellKey, CellResult] | None = None,
    on_progress: OnProgress = lambda done, text: None,
    on_cell: Callable[[SweepOutcome], object] = lambda outcome: None,
    bandwidth: Callable[[Target], Bandwidth] = measure_bandwidth,
) -> SweepOutcome:
    """Measure everything in a plan.

    Args:
        plan: what to measure.
        target: where.
        earlier: cells that an earlier run finished; they are taken over and not measured again.
        on_progress: told how far the sweep is.
        on_cell: given what was measured so far after each cell.
        bandwidth: measures the machine's bandwidth.

    Returns:
        What was measured; after Ctrl-C, what was measured until then.
    """
    outcome = SweepOutcome()
    try:
        runnable, reasons = _available(plan, target)
        ranges = open_range if ranges_on() else NO_RANGES
        job = _Job(plan, target, earlier or {}, outcome, runnable, reasons, ranges, on_progress, on_cell)
        on_progress(0.0, "read bandwidth")
        outcome.bandwidth = bandwidth(target)
        with job.ranges("sweep"):
            for index, shape in enumerate(plan.shapes):
                _run_shape(job, index, shape, outcome.bandwidth.read_gb_s_p50)
                if target.is_cuda:
                    torch.cuda.empty_cache()
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome


def _run_shape(job: _Job, index: int, shape: Shape, read_gb_s: float) -> None:
    plan, target, outcome = job.plan, job.target, job.outcome
    done, seed = index * len(plan.ms), plan.seed + index
    keys = {m: (shape.n, shape.k, m) for m in plan.ms}
    if all(key in job.earlier for key in keys.values()):
        for key in keys.values():
            outcome.add(job.earlier[key], key)
        return
    job.on_progress(done, f"{shape}: weights")
    reasons = dict(job.reasons)
    x = random_x(max(plan.ms), shape.k, seed=seed, device=target.device, dtype=DTYPE)
    stocks = make_stocks(plan, target, shape, seed + 1, x, job.runnable)
    for variant in job.runnable:
        reason = stocks.reasons.get(variant.weight_key)
        if reason is not None:
            reasons[variant.name] = reason
            told = outcome.warnings if variant.is_peer else outcome.failures
            told.append(f"{variant.name} {shape}: {reason}")
    job.on_progress(done, f"{shape}: compiling")
    compile_ahead(
        (variant.kernel, stocks.by_key[variant.weight_key].weight, m)
        for variant in job.runnable
        if isinstance(variant, KernelVariant)
        and variant.implementation == "cuda"
        and variant.weight_key in stocks.by_key
        for m in plan.ms
        if keys[m] not in job.earlier
    )
    for number, m in enumerate(plan.ms):
        key = keys[m]
        if key in job.earlier:
            outcome.add(job.earlier[key], key)
            continue
        context = Context(plan, shape, m, target.arch, read_gb_s, target.is_cuda)
        cell = CellResult()
        cell.rows += [
            unmeasured_row(context, variant, reasons[variant.name], notes=[])
            for variant in plan.variants
            if variant.name in reasons
        ]
        timed = [variant for variant in plan.variants if variant.name not in reasons]
        try:
            with job.ranges(f"{shape} m={m}"):
                run_cell(
                    context,
                    timed,
                    x[:m],
                    stocks.by_key,
                    cell,
                    ranges=job.ranges,
                    on_progress=_offset(job.on_progress, done + number),
                )
        finally:
            order = [variant.name for variant in plan.variants]
            cell.rows.sort(key=lambda row: order.index(row.kernel))
            outcome.add(cell, key)
        job.on_cell(outcome)


def _available(plan: SweepPlan, target: Target) -> tuple[list[Variant], dict[str, str]]:
    """Variants that run on the target, and why the others do not."""
    runnable, reasons = [], {}
    for variant in plan.variants:
        is_available, reason = variant.available(target.device)
        if is_available:
            runnable.append(variant)
        else:
            reasons[variant.name] = reason
    return runnable, reasons


def _offset(on_progress: OnProgress, done: int) -> OnProgress:
    return lambda more, text: on_progress(done + more, text)
