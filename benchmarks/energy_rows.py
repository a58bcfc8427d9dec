"""From windows full of repeated work to the rows, samples, table and record of an energy run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import JsonValue
from rich.table import Table

from profiler.energy import EnergyMeter, FilledWindow, NvmlCounterMeter, energy_per_unit
from profiler.energy_totals import add_up
from profiler.environment import capture_environment
from profiler.gpu_watch import throttling_sentence
from profiler.record import (
    EnergyRow,
    GpuRunState,
    LoadEnergySample,
    RunRecord,
    is_energy_estimate,
    new_run_id,
)


@dataclass(frozen=True)
class Subject:
    """What a row is about."""

    load: str
    """Name of the load or kernel."""
    unit: Literal["none", "call", "hop"]
    """What one unit of work is."""
    implementation: str | None = None
    """Implementation that runs, or the loop in words."""
    m: int | None = None
    """Rows of x."""
    n: int | None = None
    """Out-features."""
    k: int | None = None
    """In-features."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""
    wait_s: float | None = None
    """Time that a unit of work only waits, s; None for none."""


def energy_row(subject: Subject, windows: Sequence[FilledWindow]) -> EnergyRow:
    """Add the windows of one load up.

    Args:
        subject: what ran.
        windows: at least one.

    Returns:
        The row; figures that a window lacks are None, and without joules the row says why.
    """
    readings = [window.reading for window in windows]
    total = add_up(readings)
    units = sum(window.units for window in windows)
    fields: dict[str, object] = {}
    energies_j = [reading.energy_j for reading in readings if reading.energy_j is not None]
    if total.energy_j is not None and total.duration_s:
        lengths_s = [reading.duration_s for reading in readings]
        powers_w = [energy_j / t for energy_j, t in zip(energies_j, lengths_s, strict=True) if t]
        fields["power_w"] = total.energy_j / total.duration_s
        mean_w = sum(powers_w) / len(powers_w)
        if len(powers_w) > 1 and mean_w:
            fields["repeat_spread_share"] = (max(powers_w) - min(powers_w)) / mean_w
    if total.energy_j is not None and units:
        fields["energy_j_per_unit"] = total.energy_j / units
        fields["active_j_per_unit"] = None if total.active_j is None else total.active_j / units
        figure = energy_per_unit(
            energies_j, [window.units for window in windows], [reading.error_j for reading in readings]
        )
        if figure is not None:
            fields["energy_j_per_unit_ci95"] = (figure.low_j, figure.high_j)
    if total.counter_j:
        for name, value in (("polled", total.polled_j), ("hli", total.hli_j)):
            fields[f"{name}_over_counter"] = None if value is None else value / total.counter_j
    return EnergyRow.model_validate(
        {
            "load": subject.load,
            "unit": subject.unit,
            "implementation": subject.implementation,
            "m": subject.m,
            "n": subject.n,
            "k": subject.k,
            "windows": len(windows),
            "units": units,
            "duration_s": total.duration_s,
            "wait_s": None if subject.wait_s is None else subject.wait_s * units,
            "energy_j": total.energy_j,
            "energy_source": total.source,
            "energy_error_j": total.error_j,
            "counter_j": total.counter_j,
            "polled_j": total.polled_j,
            "hli_j": total.hli_j,
            "idle_w": total.idle_w,
            "active_j": total.active_j,
            "not_measured": total.detail if total.energy_j is None else None,
            "notes": [*subject.notes, total.detail],
            **fields,
        }
    )


def unmeasured_row(subject: Subject, reason: str) -> EnergyRow:
    """A row without windows."""
    return EnergyRow(
        load=subject.load,
        unit=subject.unit,
        implementation=subject.implementation,
        m=subject.m,
        n=subject.n,
        k=subject.k,
        windows=0,
        units=0,
        duration_s=0.0,
        energy_source="none",
        not_measured=reason,
        notes=list(subject.notes),
    )


def energy_samples(subject: Subject, windows: Sequence[FilledWindow]) -> list[LoadEnergySample]:
    """One sample per window."""
    return [
        LoadEnergySample(
            kernel=subject.load,
            m=subject.m,
            n=subject.n,
            k=subject.k,
            repeat=index,
            units=window.units,
            energy_j=window.reading.energy_j,
            energy_error_j=window.reading.error_j,
            duration_s=window.reading.duration_s,
            energy_source=window.reading.source,
            counter_j=window.reading.counter_j,
            polled_j=window.reading.polled_j,
            hli_j=window.reading.hli_j,
            idle_w=window.reading.idle_w,
            energy_detail=window.reading.detail,
        )
        for index, window in enumerate(windows)
    ]


@dataclass(frozen=True)
class EnergyOutcome:
    """What an energy run measured."""

    rows: Sequence[EnergyRow]
    """One per load."""
    samples: Sequence[LoadEnergySample]
    """One per window."""
    gpu_states: Sequence[GpuRunState]
    """The GPUs before and after."""
    failures: Sequence[str] = ()
    """What failed a check, a sentence each."""
    interrupted: bool = False
    """Whether Ctrl-C ended the run."""


def to_record(
    outcome: EnergyOutcome,
    meter: EnergyMeter,
    *,
    slug: str,
    command: Sequence[str],
    created_utc: datetime,
    arguments: dict[str, JsonValue],
    derived: dict[str, JsonValue],
) -> RunRecord:
    """The record of an energy run.

    Args:
        outcome: what was measured.
        meter: what measured it.
        slug: a few words for the run's name.
        command: command line.
        created_utc: start of the run.
        arguments: settings.
        derived: further figures.
    """
    environment = capture_environment(command)
    warnings = [*outcome.failures, f"energy: {meter.reason}"]
    throttled = throttling_sentence(outcome.gpu_states)
    period = meter.period if isinstance(meter, NvmlCounterMeter) else None
    ticks: dict[str, JsonValue] = {}
    if period is not None:
        ticks = {"counter_tick_s": period.tick_s, "counter_tick_spread_s": period.spread_s}
    return RunRecord(
        run_id=new_run_id(slug, created_utc),
        kind="energy",
        status="interrupted" if outcome.interrupted or not outcome.rows else "complete",
        created_utc=created_utc,
        command=environment.command,
        environment=environment,
        arguments=arguments,
        results=list(outcome.rows),
        gpu_states=list(outcome.gpu_states),
        derived=ticks | derived,
        warnings=warnings if throttled is None else [*warnings, throttled],
    )


def energy_table(rows: Sequence[EnergyRow]) -> Table:
    """The rows for people; every mean says what it is per."""
    table = Table(title="energy", title_justify="left")
    for heading in (
        "load",
        "n x k, m",
        "windows, s",
        "units",
        "power W (source)",
        "polled/counter - 1",
        "HLI/counter",
        "spread of windows",
        "idle W",
        "J per unit [95 %]",
        "J per unit above idle",
    ):
        table.add_column(heading)
    for row in rows:
        size = "" if row.n is None else f"{row.n}x{row.k}, {row.m}"
        if row.not_measured is not None:
            table.add_row(row.load, size, f"not measured: {row.not_measured}")
            continue
        source = row.energy_source + (" estimate" if is_energy_estimate(row.energy_source) else "")
        table.add_row(
            row.load,
            size,
            f"{row.windows} x {row.duration_s / max(1, row.windows):.2f}",
            f"{row.units} {row.unit}" if row.units else "",
            "" if row.power_w is None else f"{row.power_w:.1f} ({source})",
            _percent(None if row.polled_over_counter is None else row.polled_over_counter - 1),
            "" if row.hli_over_counter is None else f"{row.hli_over_counter:.2f}x",
            _percent(row.repeat_spread_share, sign=False),
            "" if row.idle_w is None else f"{row.idle_w:.1f}",
            _interval(row),
            "" if row.active_j_per_unit is None else f"{row.active_j_per_unit:.4g}",
        )
    return table


def _percent(share: float | None, *, sign: bool = True) -> str:
    if share is None:
        return ""
    return f"{share:+.2%}" if sign else f"{share:.2%}"


def _interval(row: EnergyRow) -> str:
    if row.energy_j_per_unit is None:
        return ""
    ends = row.energy_j_per_unit_ci95
    shown = "" if ends is None else f" [{ends[0]:.4g}, {ends[1]:.4g}]"
    return f"{row.energy_j_per_unit:.4g}{shown}"
