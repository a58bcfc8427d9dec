"""Tables of a sweep for people: every header names its statistic and unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from profiler.record import SweepRow

_NONE = "-"


def times_table(rows: Sequence[SweepRow]) -> Table:
    """Time, bandwidth and speed-up of every row; a row without a time says why."""
    table = _table(
        "kernel",
        "implementation",
        "n x k",
        "m",
        "time_us_p50",
        "GB/s",
        "of read bandwidth",
        "speed-up to bf16, p50 [95 %]",
        "rel_error",
    )
    for index, row in enumerate(rows):
        if index and (row.n, row.k, row.m) != (rows[index - 1].n, rows[index - 1].k, rows[index - 1].m):
            table.add_section()
        head = (row.kernel, row.implementation or _NONE, f"{row.n} x {row.k}", str(row.m))
        if row.time_us_p50 is None:
            table.add_row(*head, "not measured", _NONE, _NONE, _NONE, _rel_error(row))
        else:
            share = _NONE if row.read_bandwidth_share is None else f"{100 * row.read_bandwidth_share:.1f} %"
            table.add_row(
                *head, _us(row.time_us_p50), _number(row.gb_s), share, _speedup(row), _rel_error(row)
            )
    return table


def tau_table(tau: Sequence[Mapping[str, Any]]) -> Table:
    """tau_comp and tau_cast of every shape: by ranges for unfused, fused - null for fused kernels."""
    table = _table(
        "kernel", "n x k", "m", "method", "tau_comp_us_p50", "tau_cast_us_p50 [95 %]", "tau_cast / tau_comp"
    )
    for entry in tau:
        low, high = entry["tau_cast_us_ci95"]
        table.add_row(
            str(entry["kernel"]),
            f"{entry['n']} x {entry['k']}",
            str(entry["m"]),
            str(entry["method"]),
            _us(entry["tau_comp_us_p50"]),
            f"{_us(entry['tau_cast_us_p50'])} [{_us(low)}, {_us(high)}]",
            f"{entry['cor_direct']:.2f}",
        )
    return table


def floors_table(rows: Sequence[SweepRow]) -> Table:
    """Traffic and bandwidth floors; every row is marked as not measured."""
    table = _table(
        "kernel", "n x k", "m", "bytes_moved_mb", "gflop", "floor_us (vendor's GB/s)", "time_us_p50"
    )
    for row in rows:
        table.add_row(
            row.kernel,
            f"{row.n} x {row.k}",
            str(row.m),
            f"{(row.bytes_moved or 0) / 1e6:.3f}",
            f"{(row.flops or 0) / 1e9:.4f}",
            _us(row.floor_us),
            "not measured",
        )
    return table


def reasons_and_notes(rows: Sequence[SweepRow]) -> list[str]:
    """Why rows have no time, and what to know about those that have one; equal sentences are counted."""
    lines = [
        f"{row.kernel} {row.n} x {row.k} m={row.m} not measured: {row.not_measured}"
        for row in rows
        if row.not_measured is not None
    ]
    notes = Counter(note for row in rows for note in row.notes)
    return lines + [f"{count} rows: {note}" for note, count in notes.items()]


def _table(*headers: str) -> Table:
    table = Table(header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < 2 else "right", overflow="fold")
    return table


def _speedup(row: SweepRow) -> str:
    if row.speedup_p50 is None or row.speedup_ci95 is None:
        return _NONE
    low, high = row.speedup_ci95
    return f"{row.speedup_p50:.2f} [{low:.2f}, {high:.2f}]"


def _rel_error(row: SweepRow) -> str:
    if row.gate in ("no meaning", "not run"):
        return row.gate
    shown = _NONE if row.rel_error is None else f"{row.rel_error:.1e}"
    return shown if row.gate == "passed" else f"{shown} FAILED"


def _us(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
