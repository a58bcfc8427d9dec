"""Energy by the hardware's counter, by polled power and by rated power times time, side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from analysis.report.figure import Axis, Bars, Figure, Panel
from analysis.report.inputs import Inputs, variants_of
from analysis.report.section import Block, Missing, Section, Table, number, slug, with_interval
from analysis.report.ticks import grouped
from profiler.record import EnergyRow, VariantResult

_SOURCES = (
    ("counter", "counter", "nf4"),
    ("polled", "polled power", "int8"),
    ("hli", "HLI, TDP × time", "fp4"),
)
_SOURCE_OF = {"counter": "nvml_counter", "polled": "nvml_polled", "hli": "hli"}
_MOST_ROWS = 12
_MOST_PANELS = 9


def energy_section(inputs: Inputs) -> Section:
    """Return the three figures of energy of chains and of energy runs."""
    blocks: list[Block] = []
    for machine in inputs.machines:
        for model, records in inputs.chains(machine).items():
            rows: dict[tuple[str, int], VariantResult] = {}
            for record in records:
                for row in variants_of(record):
                    if row.energy_j_per_query is not None and not row.kernel.startswith("null_"):
                        rows[row.kernel, row.batch_size] = row
            if rows:
                blocks += _chain_blocks(list(rows.values()), model, machine)
        loads = {
            (r.load, r.m, r.n, r.k): r
            for record in inputs.of_kind("energy", machine)
            for r in record.results
            if isinstance(r, EnergyRow)
        }
        measured = [row for row in loads.values() if row.energy_j is not None and row.duration_s > 0]
        if measured:
            blocks += _load_blocks(measured, machine)
    if not blocks:
        blocks.append(
            Missing(
                "No run with energy was given",
                "qt-profile chain --energy-windows 3, or python -m benchmarks.energy_check",
            )
        )
    return Section(
        "energy",
        "Energy",
        "Energy: counter, polled and HLI",
        "The counter is the card's own and the figure to use. Polled power is integrated over the same windows. "
        "HLI, the paper's estimate, charges the rated power for the whole time, so it repeats the time.",
        tuple(blocks),
    )


def _chain_blocks(rows: Sequence[VariantResult], model: str, machine: str) -> list[Block]:
    panels = []
    for size in sorted({row.batch_size for row in rows}):
        own = [row for row in rows if row.batch_size == size]
        values = {source: [_joules(row, source) for row in own] for source, _, _ in _SOURCES}
        panels.append(_panel([row.kernel for row in own], values, "J per query", f"B = {size}"))
    drawn = tuple(panel for panel in panels if panel is not None)
    blocks: list[Block] = []
    if drawn:
        least = min(rows, key=lambda row: row.energy_j_per_query or 0.0)
        blocks.append(
            Figure(
                f"energy-{slug(machine)}-{slug(model)}",
                f"{model} on {machine}: energy per query",
                f"Least: {least.kernel} at B = {least.batch_size} with {number(least.energy_j_per_query)} J per query "
                f"({least.energy_source}).",
                drawn,
                columns=2 if len(drawn) > 1 else 1,
            )
        )
    table_rows = tuple(
        (
            row.kernel,
            str(row.batch_size),
            with_interval(row.energy_j_per_query, row.energy_j_per_query_ci95),
            f"{row.energy_source}{', an estimate' if row.energy_is_estimate else ''}",
            *(number(_joules(row, source)) for source, _, _ in _SOURCES),
            number(row.active_j_per_query),
            number(row.idle_w),
            number(row.energy_windows),
        )
        for row in rows
    )
    head = (
        "kernel",
        "B",
        "J per query [95 %]",
        "source",
        "counter",
        "polled",
        "HLI",
        "above idle",
        "idle, W",
        "windows",
    )
    blocks.append(
        Table(f"J per query, {model} on {machine}", head, table_rows, is_folded=len(rows) > _MOST_ROWS)
    )
    return blocks


def _joules(row: VariantResult, source: str) -> float | None:
    value: float | None = getattr(row, f"{source}_j_per_query")
    # Old records hold one figure and its source.
    return row.energy_j_per_query if value is None and row.energy_source == _SOURCE_OF[source] else value


def _load_blocks(rows: Sequence[EnergyRow], machine: str) -> list[Block]:
    shapes: dict[str, list[EnergyRow]] = defaultdict(list)
    for row in rows:
        shapes["" if row.n is None else f"n={row.n:,} k={row.k:,} m={row.m}"].append(row)
    panels = [_power_panel(own, shape or "whole loads") for shape, own in shapes.items()]
    drawn = tuple(panel for panel in panels if panel is not None)[:_MOST_PANELS]
    blocks: list[Block] = []
    if drawn:
        powers = [row.power_w for row in rows if row.power_w is not None]
        said = (
            f"{number(min(powers))} to {number(max(powers))} W over {len(rows)} loads"
            if powers
            else "no power"
        )
        over = [row.hli_over_counter for row in rows if row.hli_over_counter is not None]
        if over:
            said += f"; HLI charges {number(min(over))} to {number(max(over))} times the counter"
        blocks.append(
            Figure(f"power-{slug(machine)}", f"{machine}: mean power of a load", f"Counter: {said}.", drawn)
        )
    table_rows = tuple(
        (
            row.load if row.n is None else f"{row.load} {row.n}×{row.k} m={row.m}",
            with_interval(row.energy_j_per_unit, row.energy_j_per_unit_ci95),
            str(row.energy_source),
            *(number(_watts(row, source)) for source, _, _ in _SOURCES),
            number(row.polled_over_counter),
            number(row.hli_over_counter),
        )
        for row in rows
    )
    head = (
        "load",
        "J per unit [95 %]",
        "source",
        "counter, W",
        "polled, W",
        "HLI, W",
        "polled/counter",
        "HLI/counter",
    )
    blocks.append(Table(f"Power by load, {machine}", head, table_rows, is_folded=len(rows) > _MOST_ROWS))
    return blocks


def _power_panel(rows: Sequence[EnergyRow], title: str) -> Panel | None:
    values = {source: [_watts(row, source) for row in rows] for source, _, _ in _SOURCES}
    return _panel([row.load for row in rows], values, "mean power, W", title)


def _watts(row: EnergyRow, source: str) -> float | None:
    joules: float | None = getattr(row, f"{source}_j")
    return None if joules is None else joules / row.duration_s


def _panel(
    names: Sequence[str], values: dict[str, list[float | None]], unit: str, title: str
) -> Panel | None:
    known = [source for source in _SOURCES if any(v is not None for v in values[source[0]])]
    if not known:
        return None
    places, width = grouped(len(names), len(known))
    bars = []
    for at, (source, label, role) in zip(places, known, strict=True):
        own = values[source]
        said = tuple(f"{name}, {label}: {number(v)} {unit}" for name, v in zip(names, own, strict=True))
        bars.append(Bars(label, tuple(at), tuple(own), role, width, hover=said))
    top = max(v for own in values.values() for v in own if v is not None)
    ticks = tuple((float(i), name.replace("_", "\n", 1)) for i, name in enumerate(names))
    if len(known) == 1:
        title += f", {known[0][1]}"
    x = Axis(ticks=ticks, low=-0.6, high=len(names) - 0.4, has_grid=False)
    return Panel(title, x, Axis(unit, low=0, high=1.08 * top or 1.0), tuple(bars), height=260)
