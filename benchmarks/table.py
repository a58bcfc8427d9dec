"""Tables of a sweep for people: every header names its statistic and unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from profiler.record import SweepRow

_NONE = "-"


def times_table(rows: Sequence[SweepRow]) -> Table:
    """Time, bandwidth and speed-up of every row that was tried; a time that the check refused is no time."""
    rows = [row for row in rows if row.gate != "not run" or row.time_us_p50 is not None]
    table = _table(
        "kernel",
        "implementation",
        "n x k",
        "m",
        "time_us_p50",
        "GB/s",
        "of read bandwidth",
        "of floor",
        "speed-up to bf16, p50 [95 %]",
        "rel_error",
    )
    for index, row in enumerate(rows):
        if index and (row.n, row.k, row.m) != (rows[index - 1].n, rows[index - 1].k, rows[index - 1].m):
            table.add_section()
        head = (row.kernel, _implementation(row), f"{row.n} x {row.k}", str(row.m))
        if row.time_us_p50 is None:
            table.add_row(*head, "not measured", _NONE, _NONE, _NONE, _NONE, _rel_error(row))
        else:
            shares = (_percent(row.read_bandwidth_share), _percent(row.weight_floor_share))
            speedup = _ratio(row.speedup_p50, row.speedup_ci95)
            table.add_row(*head, _us(row.time_us_p50), _number(row.gb_s), *shares, speedup, _rel_error(row))
    table.caption = (
        "of read bandwidth: all traffic; of floor: reading the stored weight once; both over the time"
    )
    return table


def peers_table(rows: Sequence[SweepRow]) -> Table:
    """Our kernels against the fastest weight-only peer of the same bits."""
    table = _table(
        "kernel", "best peer", "bits", "n x k", "m", "time_us_p50", "times faster than it, p50 [95 %]"
    )
    for row in rows:
        if row.best_peer is not None:
            table.add_row(
                row.kernel,
                row.best_peer,
                str(row.bits),
                f"{row.n} x {row.k}",
                str(row.m),
                _us(row.time_us_p50),
                _ratio(row.best_peer_speedup_p50, row.best_peer_speedup_ci95),
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
            _NONE if row.bytes_moved is None else f"{row.bytes_moved / 1e6:.3f}",
            f"{(row.flops or 0) / 1e9:.4f}",
            _us(row.floor_us),
            "not measured",
        )
    return table


def reasons_and_notes(rows: Sequence[SweepRow]) -> list[str]:
    """Why rows have no time, and what to know about those that have one; equal sentences are counted."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.not_measured is not None:
            cell = f"{row.n} x {row.k} m={row.m}"
            where.setdefault((row.kernel, row.not_measured), []).append(cell)
    lines = [
        f"{kernel} {cells[0] if len(cells) == 1 else f'at {len(cells)} shapes and m'} not measured: {reason}"
        for (kernel, reason), cells in where.items()
    ]
    notes = Counter(note for row in rows for note in row.notes)
    return lines + [f"{count} rows: {note}" for note, count in notes.items()]


def _table(*headers: str) -> Table:
    table = Table(header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < 2 else "right", overflow="fold")
    return table


def _implementation(row: SweepRow) -> str:
    """The implementation without the configuration that peers name after a colon."""
    return _NONE if row.implementation is None else row.implementation.partition(": ")[0]


def _ratio(point: float | None, interval: tuple[float, float] | None) -> str:
    if point is None or interval is None:
        return _NONE
    return f"{point:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.1f} %"


def _rel_error(row: SweepRow) -> str:
    if row.gate in ("no meaning", "not run"):
        return row.gate
    shown = _NONE if row.rel_error is None else f"{row.rel_error:.1e}"
    return shown if row.gate == "passed" else f"{shown} FAILED"


def _us(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
