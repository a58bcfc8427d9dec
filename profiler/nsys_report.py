"""What a trace says, as one JSON object and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from profiler.nsys_trace import Figures, HopRow, TraceReading
from profiler.timing import median

_NONE = "–"


def to_json(reading: TraceReading) -> dict[str, Any]:
    """A reading as JSON: times in ns, paths joined by ``/``."""
    return {
        "trace": str(reading.path),
        "product_version": reading.product_version,
        "gpus": list(reading.gpus),
        "domain": reading.domain,
        "ranges": [
            {"process": row.process, "range": "/".join(row.path), "instances": row.instances}
            | _figures_json(row.figures)
            for row in reading.rows
        ],
        "hops": [
            {
                "process": hop.process,
                "range": "/".join(hop.path),
                "index": hop.index,
                "start_ns": hop.start_ns,
            }
            | _figures_json(hop.figures)
            for hop in reading.hops
        ],
        "ablations": [asdict(row) | {"within": "/".join(row.within)} for row in reading.ablations],
        "outside": _figures_json(reading.outside),
        "warnings": list(reading.warnings),
    }


def _figures_json(figures: Figures) -> dict[str, Any]:
    return asdict(figures) | {
        "cor_direct": figures.cor_direct,
        "host_bound_share": figures.host_bound_share,
    }


def print_reading(reading: TraceReading, console: Console) -> None:
    """Print the ranges, the hops by quantiles where there are several, and what to know about them."""
    where = ", ".join(sorted(set(reading.gpus))) or "GPU not named"
    console.print(f"{reading.path}: {where}, NVTX domain {reading.domain}", soft_wrap=True)
    console.print(_range_table(reading))
    hops = _hop_table(reading)
    if hops.row_count:
        console.print(hops)
    if reading.ablations:
        console.print(_ablation_table(reading))
    outside = reading.outside
    if outside.kernels or outside.device_ns:
        console.print(f"outside every range: {outside.kernels} kernels, {_us(outside.device_ns)} µs")
    for warning in reading.warnings:
        console.print(f"note: {warning}", soft_wrap=True)


def _range_table(reading: TraceReading) -> Table:
    several = len({row.process for row in reading.rows}) > 1
    table = Table(title="ranges, sums over their instances, inner ranges included", title_justify="left")
    table.add_column("range", overflow="fold")
    if several:
        table.add_column("process", justify="right")
    for heading in (
        "instances",
        "launches",
        "kernels",
        "wall_us",
        "device_us",
        "gap_us",
        "cast_us",
        "comp_us",
        "cor_direct",
        "host_bound",
    ):
        table.add_column(heading, justify="right")
    for row in reading.rows:
        figures = row.figures
        table.add_row(
            "  " * (len(row.path) - 1) + row.path[-1],
            *([str(row.process)] if several else []),
            f"{row.instances:,}",
            f"{figures.launches:,}",
            f"{figures.kernels:,}",
            _us(figures.wall_ns),
            _us(figures.device_ns),
            _us(figures.gap_ns),
            _us(figures.cast_ns),
            _us(figures.comp_ns),
            _ratio(figures.cor_direct),
            _share(figures.host_bound_share),
        )
    return table


def _hop_table(reading: TraceReading) -> Table:
    table = Table(title="hops", title_justify="left")
    table.add_column("range", overflow="fold")
    for heading in (
        "hops",
        "wall_us_p50",
        "device_us_p50",
        "gap_us_p50",
        "cast_us_p50",
        "comp_us_p50",
        "cor_direct_p50",
        "host_bound_p50",
    ):
        table.add_column(heading, justify="right")
    groups: dict[tuple[int, tuple[str, ...]], list[HopRow]] = {}
    for hop in reading.hops:
        groups.setdefault((hop.process, hop.path), []).append(hop)
    for (_, path), hops in groups.items():
        if len(hops) < 2:
            continue
        figures = [hop.figures for hop in hops]
        table.add_row(
            "/".join(path),
            f"{len(hops):,}",
            _us(_median([f.wall_ns for f in figures])),
            _us(_median([f.device_ns for f in figures])),
            _us(_median([f.gap_ns for f in figures])),
            _us(_median([f.cast_ns for f in figures])),
            _us(_median([f.comp_ns for f in figures])),
            _ratio(_median([f.cor_direct for f in figures])),
            _share(_median([f.host_bound_share for f in figures])),
        )
    return table


def _ablation_table(reading: TraceReading) -> Table:
    table = Table(title="fused kernels by their null twins, per hop", title_justify="left")
    for heading in ("kernel", "within", "hops", "comp_us_mean", "cast_us_mean"):
        table.add_column(heading, justify="left" if heading in ("kernel", "within") else "right")
    for row in reading.ablations:
        table.add_row(
            row.kernel,
            "/".join(row.within),
            f"{row.hops:,}",
            _us(row.comp_ns_mean),
            _us(row.cast_ns_mean),
        )
    return table


def _median(values: Sequence[float | None]) -> float | None:
    held = [value for value in values if value is not None]
    return median(held) if held else None


def _us(ns: float | None) -> str:
    if ns is None:
        return _NONE
    return f"{ns / 1e3:,.3f}" if abs(ns) < 1e7 else f"{ns / 1e3:,.0f}"


def _ratio(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"
