"""``python -m benchmarks.energy_check``: does the energy counter agree with polled power, and with itself?

Four loads (rest, memory-bound, compute-bound, eager decoding of one sequence) fill windows by the counter, by
polled power and by TDP times time at once, and the whole is repeated.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.energy_loads import compute_load, decode_load, idle_load, memory_load
from benchmarks.energy_rows import (
    EnergyOutcome,
    Subject,
    energy_row,
    energy_samples,
    energy_table,
    to_record,
)
from benchmarks.machine import Target, find_target
from profiler.energy import EnergyMeter, Load, best_meter, fill_window
from profiler.energy_fill import Windows
from profiler.gpu_watch import GpuWatch
from profiler.record import EnergyRow, RecordError, RunRecord, write_run

AGREEMENT_SHARE = 0.03
"""Counter and polled power may differ by this share under a steady load."""

REPEAT_SHARE = 0.02
"""Two windows of one load may differ by this share."""

STEADY = ("memory_bound", "compute_bound")
"""Loads whose power does not change within a window, so that two ways of measuring must agree."""

_EXIT_FAILED, _EXIT_NO_HARDWARE, _EXIT_INTERRUPTED = 1, 3, 130
_LEAD_IN_S = 2.0
_REST_S = 10.0
_TABLE_WIDTH = 200


@dataclass(frozen=True)
class CheckPlan:
    """How a check measures."""

    seconds: float = 12.0
    """Length of each window, s."""
    repeats: int = 2
    """Times that the whole is measured."""
    lead_in_s: float = _LEAD_IN_S
    """Time of a steady load ahead of its window, s."""
    rest_s: float = _REST_S
    """The same for loads near idle power, s: what a hot GPU draws falls for seconds after work."""


def run_check(
    meter: EnergyMeter,
    loads: Mapping[str, tuple[Subject, Load]],
    plan: CheckPlan,
    *,
    watch: GpuWatch | None = None,
    on_window: Callable[[str], object] = lambda name: None,
) -> EnergyOutcome:
    """Measure every load, and the whole again; a round runs ahead unmeasured, so that all begin as warm as they end.

    Args:
        meter: measures.
        loads: what is measured, by name, in this order.
        plan: lengths and repeats.
        watch: compares the GPU before and after; None without one.
        on_window: told the load's name after each window.

    Returns:
        Rows, samples and what failed; after Ctrl-C, what was measured until then.
    """
    taken = Windows()
    interrupted = False
    try:
        for name, (_subject, load) in loads.items():
            _run_for(load, _lead_in_s(name, plan) + plan.seconds)
        for _ in range(plan.repeats):
            for name, (_subject, load) in loads.items():
                window = fill_window(meter, load, least_s=plan.seconds, lead_in_s=_lead_in_s(name, plan))
                taken.taken.setdefault(name, []).append(window)
                on_window(name)
    except KeyboardInterrupt:
        interrupted = True
    rows = [energy_row(loads[name][0], windows) for name, windows in taken.taken.items()]
    return EnergyOutcome(
        rows=rows,
        samples=[s for name, w in taken.taken.items() for s in energy_samples(loads[name][0], w)],
        gpu_states=[] if watch is None else watch.states(),
        failures=[sentence for row in rows for sentence in failures(row)],
        interrupted=interrupted,
    )


def _lead_in_s(name: str, plan: CheckPlan) -> float:
    return plan.lead_in_s if name in STEADY else plan.rest_s


def _run_for(load: Load, seconds: float) -> None:
    start_s = time.perf_counter()
    while time.perf_counter() - start_s < seconds:
        load.step()
    load.finish()


def failures(row: EnergyRow) -> list[str]:
    """What a load fails of agreement and repeatability, a sentence each."""
    found = []
    if row.not_measured is not None:
        return [f"{row.load} was not measured: {row.not_measured}"]
    if row.energy_source not in ("nvml_counter", "fake"):
        found.append(f"{row.load} was measured by {row.energy_source} and not by the counter")
    if row.load in STEADY:
        if row.polled_over_counter is None:
            found.append(f"{row.load} has no polled energy to compare the counter with")
        elif abs(row.polled_over_counter - 1) > AGREEMENT_SHARE:
            found.append(
                f"{row.load}: polled over counter is {row.polled_over_counter:.4f}, further from 1 than "
                f"{AGREEMENT_SHARE:.0%}"
            )
    if row.repeat_spread_share is not None and row.repeat_spread_share > REPEAT_SHARE:
        found.append(
            f"{row.load}: windows differ by {row.repeat_spread_share:.2%}, more than {REPEAT_SHARE:.0%}"
        )
    return found


def make_loads(target: Target, model: str) -> dict[str, tuple[Subject, Load]]:
    """The four loads on a GPU.

    Args:
        target: the device.
        model: key of the model table, decoded with random weights.
    """
    from reasoning.model import load_model

    loaded = load_model(model, device=target.device.type, weights="random", seed=0)
    return {
        "idle": (
            Subject("idle", "none", "rest with the CUDA context and the loads' memory alive"),
            idle_load(),
        ),
        "memory_bound": (Subject("memory_bound", "call", "copy of a buffer"), memory_load(target)),
        "compute_bound": (Subject("compute_bound", "call", "bf16 product 8192^3"), compute_load(target)),
        "eager_decode": (
            Subject("eager_decode", "hop", f"{model}, random weights, bf16, one sequence, eager"),
            decode_load(loaded),
        ),
    }


def check_command(
    seconds: Annotated[float, typer.Option(help="Length of each window, s.")] = 12.0,
    repeats: Annotated[int, typer.Option(help="Times that the whole is measured.")] = 2,
    model: Annotated[str, typer.Option(help="Model of the table that is decoded.")] = "qwen3-0.6b",
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
) -> None:
    """Compare the energy counter with polled power and with TDP times time, under four loads, twice.

    Exit codes: 0 done and within the bounds, 1 a bound was missed or the record could not be written, 2 bad
    arguments, 3 no GPU with a readable counter, 130 interrupted.
    """
    if seconds <= 0 or repeats < 1:
        raise typer.BadParameter(f"seconds={seconds:g} must be above 0 and repeats={repeats} at least 1")
    created_utc = datetime.now(timezone.utc)
    meter = best_meter(device="cuda")
    if meter.source != "nvml_counter":
        typer.echo(f"error: no energy counter is readable here: {meter.reason}", err=True)
        raise typer.Exit(_EXIT_NO_HARDWARE)
    target = find_target("auto")
    if not isinstance(target, Target) or not target.is_cuda:
        typer.echo("error: torch sees no GPU here, so there is no load to measure", err=True)
        raise typer.Exit(_EXIT_NO_HARDWARE)
    plan = CheckPlan(seconds, repeats)
    loads = make_loads(target, model)
    watch = GpuWatch.open()
    meter.measure_idle()
    outcome = run_check(
        meter, loads, plan, watch=watch, on_window=lambda name: typer.echo(f"{name}: window done", err=True)
    )
    record = to_record(
        outcome,
        meter,
        slug=f"energy-check-{target.arch or 'gpu'}",
        command=sys.argv,
        created_utc=created_utc,
        arguments={
            "seconds": seconds,
            "repeats": repeats,
            "model": model,
            "lead_in_s": plan.lead_in_s,
            "rest_s": plan.rest_s,
        },
        derived={"agreement_share": AGREEMENT_SHARE, "repeat_share": REPEAT_SHARE},
    )
    console = Console(width=_TABLE_WIDTH, highlight=False)
    console.print(energy_table(outcome.rows))
    for sentence in record.warnings:
        console.print(sentence)
    raise typer.Exit(store(record, outcome, out, console))


def store(record: RunRecord, outcome: EnergyOutcome, out: Path, console: Console) -> int:
    """Write the run and return the exit code."""
    try:
        console.print(f"run record: {write_run(out, record, outcome.samples)}")
    except RecordError as error:
        typer.echo(f"error: {error}", err=True)
        return _EXIT_FAILED
    if outcome.interrupted:
        return _EXIT_INTERRUPTED
    return _EXIT_FAILED if outcome.failures else 0


if __name__ == "__main__":
    typer.run(check_command)
