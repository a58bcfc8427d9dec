"""``python -m benchmarks.kernel_energy``: joules per call of kernels, with intervals.

A CUDA graph of one call per cold copy of the weight is replayed until a window of the energy counter is full;
kernels take turns, and a kernel whose result is wrong gets no energy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks.energy_check import store
from benchmarks.energy_loads import cycles_per_s, wait
from benchmarks.energy_rows import (
    EnergyOutcome,
    Subject,
    energy_row,
    energy_samples,
    energy_table,
    to_record,
    unmeasured_row,
)
from benchmarks.gate import check
from benchmarks.machine import Target, find_target
from benchmarks.plan import Shape, SweepPlan, SweepRequest, make_plan
from benchmarks.stock import DTYPE, Stock, make_stocks
from benchmarks.timer import call_graph
from benchmarks.variants import Variant
from benchmarks.weights import random_x
from profiler.energy import EnergyMeter, Load, best_meter, interleaved_windows
from profiler.energy_fill import Windows
from profiler.gpu_watch import GpuWatch
from profiler.record import EnergyRow, LoadEnergySample
from profiler.timing import QueuedSteps

DEFAULT_KERNELS = "bf16,unfused_nf4,fused_nf4,null_nf4"
DEFAULT_SHAPES = "28672x4096,4096x4096"
DEFAULT_MS = "1,16,64"

_EXIT_BAD_ARGUMENTS, _EXIT_NO_HARDWARE = 2, 3
_TABLE_WIDTH = 200


@dataclass(frozen=True)
class EnergyPlan:
    """How energies of kernels are measured."""

    sweep: SweepPlan
    """Kernels, shapes and rows of x."""
    windows: int = 3
    """Windows of each kernel, shape and m."""
    seconds: float | None = None
    """Length of each window, s; None for what the meter needs."""
    lead_in_s: float = 0.5
    """Time of the load ahead of its window, s."""
    wait_share: float = 0.0
    """Time that a GPU waits after calls, over the time of the calls, so that its power cap does not slow them."""


@dataclass
class _Measured:
    rows: list[EnergyRow] = field(default_factory=list)
    samples: list[LoadEnergySample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def measure_kernels(
    plan: EnergyPlan,
    target: Target,
    meter: EnergyMeter,
    *,
    watch: GpuWatch | None = None,
    on_window: Callable[[str], object] = lambda label: None,
) -> EnergyOutcome:
    """Measure the energy of every kernel at every shape and m.

    Args:
        plan: what to measure.
        target: where.
        meter: measures.
        watch: compares the GPU before and after; None without one.
        on_window: told what was measured after each window.

    Returns:
        A row per kernel, shape and m; after Ctrl-C, those that were measured until then.
    """
    found = _Measured()
    interrupted = False
    try:
        for index, shape in enumerate(plan.sweep.shapes):
            _measure_shape(plan, target, meter, index, shape, found, on_window)
            if target.is_cuda:
                torch.cuda.empty_cache()
    except KeyboardInterrupt:
        interrupted = True
    states = [] if watch is None else watch.states()
    return EnergyOutcome(found.rows, found.samples, states, found.failures, interrupted)


def _measure_shape(
    plan: EnergyPlan,
    target: Target,
    meter: EnergyMeter,
    index: int,
    shape: Shape,
    found: _Measured,
    on_window: Callable[[str], object],
) -> None:
    sweep = plan.sweep
    seed = sweep.seed + index
    x = random_x(max(sweep.ms), shape.k, seed=seed, device=target.device, dtype=DTYPE)
    runnable = [variant for variant in sweep.variants if variant.available(target.device)[0]]
    stocks = make_stocks(sweep, target, shape, seed + 1, x, runnable)
    for m in sweep.ms:
        loads: dict[str, Load] = {}
        subjects: dict[str, Subject] = {}
        for variant in sweep.variants:
            stock = stocks.by_key.get(variant.weight_key)
            is_available, reason = variant.available(target.device)
            subject = Subject(variant.name, "call", None, m, shape.n, shape.k)
            if not is_available or stock is None:
                why = reason if not is_available else stocks.reasons[variant.weight_key]
                found.rows.append(unmeasured_row(subject, why))
                found.failures.append(f"{variant.name} {shape} m={m}: {why}")
                continue
            gate = check(variant, x[:m], stock.weight, stock.reference, wide_bound=stock.wide_bound)
            if not gate.may_be_timed:
                why = gate.reason or "it failed its check"
                found.rows.append(unmeasured_row(subject, why))
                found.failures.append(f"{variant.name} {shape} m={m}: {why}")
                continue
            loads[variant.name], wait_s = kernel_load(variant, x[:m], stock, plan.wait_share)
            subjects[variant.name] = Subject(
                variant.name,
                "call",
                variant.detail(stock.weight, m, DTYPE),
                m,
                shape.n,
                shape.k,
                stock.notes,
                wait_s,
            )
        taken = Windows()

        def told(name: str, label: str = f"{shape} m={m}") -> None:
            on_window(f"{name} {label}")

        try:
            interleaved_windows(
                meter,
                loads,
                taken,
                windows=plan.windows,
                seed=seed + m,
                least_s=plan.seconds,
                lead_in_s=plan.lead_in_s,
                on_window=told,
            )
        finally:
            for name, windows in taken.taken.items():
                found.rows.append(energy_row(subjects[name], windows))
                found.samples += energy_samples(subjects[name], windows)
            _sort(found.rows, sweep)


def _sort(rows: list[EnergyRow], sweep: SweepPlan) -> None:
    """By shape and m, kernels in the order of the plan; windows are taken in a random one."""
    sizes = [(shape.n, shape.k) for shape in sweep.shapes]
    names = [variant.name for variant in sweep.variants]
    rows.sort(key=lambda row: (sizes.index((row.n or 0, row.k or 0)), row.m or 0, names.index(row.load)))


def kernel_load(
    variant: Variant, x: Tensor, stock: Stock, wait_share: float = 0.0
) -> tuple[Load, float | None]:
    """Calls of a kernel on cold weights, for as long as one likes.

    Args:
        variant: the kernel; it has passed its check.
        x: activations [m, k].
        stock: its weight and copies.
        wait_share: time that a GPU waits after a call of every copy, over the time of those calls.

    Returns:
        The load, and the time that a call of it waits, s; None where it does not.
    """
    if not x.is_cuda:
        return Load(lambda: variant.linear(x, stock.ring.take())), None
    graph, wait_s = call_graph(variant, x, stock.ring), None
    if wait_share > 0:
        alone_s = graph.call_s()
        cycles = math.ceil(wait_share * alone_s * graph.calls * cycles_per_s())
        graph = call_graph(variant, x, stock.ring, then=lambda: wait(cycles))
        wait_s = max(0.0, graph.call_s() - alone_s)
    steps = QueuedSteps(graph.replay, graph.replay_s, torch.cuda.Event)
    return Load(steps.step, steps.units * graph.calls, steps.finish), wait_s


def energy_command(
    kernels: Annotated[
        str, typer.Option(help="Kernels, comma-separated; bf16 is always there.")
    ] = DEFAULT_KERNELS,
    shapes: Annotated[
        str, typer.Option(metavar="NxK,...", help="Shapes of the weight, out-features first.")
    ] = DEFAULT_SHAPES,
    m: Annotated[str, typer.Option("--m", metavar="M,...", help="Rows of x.")] = DEFAULT_MS,
    seconds: Annotated[float, typer.Option(help="Length of each window, s.")] = 5.0,
    windows: Annotated[int, typer.Option(help="Windows of each kernel, shape and m.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the random data and of the order.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
) -> None:
    """Measure joules per call of kernels with cold weights.

    Exit codes: 0 done, 1 a check failed or the record could not be written, 2 bad arguments, 3 no readable energy
    counter, 130 interrupted.
    """
    created_utc = datetime.now(timezone.utc)
    try:
        target = find_target("auto")
        if not isinstance(target, Target):
            raise ValueError("the device is not here")
        if seconds <= 0 or windows < 1:
            raise ValueError(f"seconds={seconds:g} must be above 0 and windows={windows} at least 1")
        request = SweepRequest(kernels=kernels, shapes=shapes, m=m, seed=seed)
        plan = EnergyPlan(make_plan(request, target.device.type), windows, seconds)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(_EXIT_BAD_ARGUMENTS) from None
    meter = best_meter(device="cuda" if target.is_cuda else "cpu")
    if meter.is_estimate or meter.source == "none":
        typer.echo(f"error: no energy is measured here: {meter.reason}", err=True)
        raise typer.Exit(_EXIT_NO_HARDWARE)
    if target.is_cuda:
        torch.cuda.synchronize()  # the context must be alive before idle power is measured
    watch = GpuWatch.open() if target.is_cuda else None
    meter.measure_idle()
    outcome = measure_kernels(
        plan, target, meter, watch=watch, on_window=lambda label: typer.echo(label, err=True)
    )
    record = to_record(
        outcome,
        meter,
        slug=f"energy-kernels-{target.arch or target.device.type}",
        command=sys.argv,
        created_utc=created_utc,
        arguments={
            "device": target.device.type,
            "kernels": [variant.name for variant in plan.sweep.variants],
            "shapes": [str(shape) for shape in plan.sweep.shapes],
            "m": list(plan.sweep.ms),
            "seconds": seconds,
            "windows": windows,
            "lead_in_s": plan.lead_in_s,
            "seed": seed,
        },
        derived={"device": target.name, "cache_bytes": target.cache_bytes},
    )
    console = Console(width=_TABLE_WIDTH, highlight=False)
    console.print(energy_table(outcome.rows))
    for sentence in record.warnings:
        console.print(sentence)
    raise typer.Exit(store(record, outcome, out, console))


if __name__ == "__main__":
    typer.run(energy_command)
