"""The printed forms of a chain with several batch sizes, and of its waterfalls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from profiler.record import RunRecord, VariantResult, is_energy_estimate

_UNKNOWN = "–"
_PARTS = (
    ("reference", "baseline"),
    ("saving", "− saving"),
    ("exposed_cast", "+ exposed cast"),
    ("other", "+ other"),
    ("host", "+ host"),
    ("variant", "variant"),
)


def sweep_table(title: str, rows: Sequence[VariantResult]) -> Table:
    """One line per batch size and kernel.

    Args:
        title: of the table.
        rows: of one mode.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("B", justify="right")
    table.add_column("kernel", no_wrap=True)
    cells = [(heading, cell) for heading, cell in _COLUMNS if any(cell(row) != _UNKNOWN for row in rows)]
    for heading, _ in cells:
        table.add_column(heading, justify="right", no_wrap=True)
    size = rows[0].batch_size
    for row in sorted(rows, key=lambda r: r.batch_size):
        if row.batch_size != size:
            table.add_section()
            size = row.batch_size
        table.add_row(str(row.batch_size), row.kernel, *(cell(row) for _, cell in cells))
    return table


def waterfall_tables(record: RunRecord) -> list[Table]:
    """Where the time of a hop goes, a table per batch size, a line per variant; ms per hop with 95 % intervals."""
    tables = []
    by_size: Any = record.derived.get("by_batch_size", {})
    for size, derived in by_size.items():
        falls = derived.get("waterfall", {})
        if not falls:
            continue
        table = Table(
            title=f"where a replayed hop's time goes, ms_p50 [95 %], batch {size}", title_justify="left"
        )
        # A part that no variant has, such as waiting for the host under CUDA graphs, is left out.
        parts = [(part, heading) for part, heading in _PARTS if any(f[f"{part}_ms"] for f in falls.values())]
        table.add_column("variant", no_wrap=True)
        for _, heading in parts:
            table.add_column(heading, justify="right")
        table.add_column("off by", no_wrap=True)
        for name, fall in falls.items():
            cells = (_milliseconds(fall[f"{part}_ms"], fall.get(f"{part}_ms_ci95")) for part, _ in parts)
            # The interval below its figure: six parts side by side would not fit.
            table.add_row(name, *(cell.replace(" [", "\n[") for cell in cells), _check(fall))
        tables.append(table)
    return tables


def _check(fall: dict[str, Any]) -> str:
    """How far the linear layers' own times are from explaining the variant's hop."""
    gap = fall.get("gap_share")
    if gap is None:
        return "not checked"
    return f"{gap:+.1%}" if fall["adds_up"] else f"{gap:+.1%}\nmore than 5 %"


def _number(value: float | None, digits: int = 1) -> str:
    return _UNKNOWN if value is None else f"{value:,.{digits}f}"


def _milliseconds(value: float | None, interval: Sequence[float] | None) -> str:
    """Three digits that count, or four."""
    size = 0.0 if value is None else abs(value)
    return _with_interval(value, interval, 3 if size < 1 else 2 if size < 100 else 1)


def _with_interval(value: float | None, interval: Sequence[float] | None, digits: int = 2) -> str:
    if value is None or interval is None:
        return _number(value, digits)
    return f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _energy(row: VariantResult) -> str:
    if row.energy_j_per_query is None:
        return _UNKNOWN
    return f"{row.energy_j_per_query:.3g}{' estimate' if is_energy_estimate(row.energy_source) else ''}"


_COLUMNS: tuple[tuple[str, Callable[[VariantResult], str]], ...] = (
    ("hop_ms_p50 [95 %]", lambda r: _milliseconds(r.hop_ms_p50, r.hop_ms_p50_ci95)),
    ("TPS", lambda r: _number(r.tps)),
    ("COR TPS [95 %]", lambda r: _with_interval(r.cor_tps, r.cor_tps_ci95)),
    ("prefill_s", lambda r: _number(r.prefill_s, 3)),
    ("peak GB", lambda r: _number(None if r.peak_memory_bytes is None else r.peak_memory_bytes / 1e9, 2)),
    ("J/query", _energy),
    ("correct", lambda r: _UNKNOWN if r.accuracy is None else f"{r.accuracy:.0%}"),
    ("time", lambda r: r.verdict_time or _UNKNOWN),
    ("energy", lambda r: r.verdict_energy or _UNKNOWN),
)
