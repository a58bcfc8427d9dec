"""Tables of sweep records in Markdown, for the pages that show measured numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.markdown import table
from benchmarks.published import rows_of, source_line
from profiler.record import RunRecord, SweepRow, load_record

_OURS = ("bf16", "gemv_", "fused_", "native_", "unfused_")


def sweep_page(by_shape: Mapping[tuple[int, int], Path]) -> str:
    """Every shape's times and the floors at one row of x.

    Args:
        by_shape: record of every shape (n, k).
    """
    records = {shape: load_record(path) for shape, path in by_shape.items()}
    times = [speedup_table(record, shape) for shape, record in records.items()]
    return "\n\n".join([*times, floor_table(records, 1), *_sources(by_shape)])


def sweep_summary(by_shape: Mapping[tuple[int, int], Path], ms: Sequence[int]) -> str:
    """How many times faster than bf16 every kernel is at the largest shape, for some m; peers in their order.

    Args:
        by_shape: record of every shape (n, k), the largest first.
        ms: rows of x.
    """
    shape, path = next(iter(by_shape.items()))
    rows = rows_of(load_record(path), shape)
    names = [n for n in _names(rows) if not n.startswith("unfused_") or n == "unfused_nf4"]
    by_cell = {(row.kernel, row.m): row for row in rows}
    summary = table(
        f"× bf16 at {shape[0]}×{shape[1]}",
        [f"m = {m}" for m in ms],
        {f"`{name}`": [_speedup(by_cell.get((name, m))) for m in ms] for name in names if name != "bf16"},
    )
    return f"{summary}\n\n{source_line(load_record(path), path)}"


def speedup_table(record: RunRecord, shape: tuple[int, int]) -> str:
    """Time of every kernel at one shape over m, and how many times faster than bf16 it is.

    Args:
        record: a sweep.
        shape: (n, k).
    """
    rows = rows_of(record, shape)
    ms = sorted({row.m for row in rows})
    by_cell = {(row.kernel, row.m): row for row in rows}
    return table(
        f"{shape[0]}×{shape[1]}, time_us_p50 (× bf16)",
        [f"m = {m}" for m in ms],
        {f"`{name}`": [_time(by_cell.get((name, m))) for m in ms] for name in _names(rows)},
    )


def floor_table(records: Mapping[tuple[int, int], RunRecord], m: int) -> str:
    """Share of the bandwidth floor (stored weight over read bandwidth, both of the run) at one m, by shape.

    Args:
        records: record of every shape (n, k).
        m: rows of x.
    """
    cells: dict[str, dict[tuple[int, int], SweepRow]] = {}
    for shape, record in records.items():
        for row in rows_of(record, shape):
            if row.m == m and row.kernel.startswith(("bf16", "gemv_", "fused_")):
                cells.setdefault(f"`{row.kernel}`", {})[shape] = row
    return table(
        f"m = {m}, share of the floor",
        [f"{n}×{k}" for n, k in records],
        {name: [_share(by_shape.get(shape)) for shape in records] for name, by_shape in cells.items()},
    )


def _names(rows: Sequence[SweepRow]) -> list[str]:
    """Kernels that mean something, ours ahead of the peers."""
    names = dict.fromkeys(row.kernel for row in rows if not row.kernel.startswith("null_"))
    return sorted(names, key=lambda name: not name.startswith(_OURS))


def _sources(by_shape: Mapping[tuple[int, int], Path]) -> list[str]:
    paths = dict.fromkeys(by_shape.values())
    return [source_line(load_record(path), path) for path in paths]


def _time(row: SweepRow | None) -> str:
    if row is None or row.time_us_p50 is None:
        return "–"
    time = f"{row.time_us_p50:.1f}" if row.time_us_p50 >= 10 else f"{row.time_us_p50:.2f}"
    return time if row.speedup_p50 is None else f"{time} ({row.speedup_p50:.2f})"


def _speedup(row: SweepRow | None) -> str:
    return "–" if row is None or row.speedup_p50 is None else f"{row.speedup_p50:.2f}"


def _share(row: SweepRow | None) -> str:
    return "–" if row is None or row.weight_floor_share is None else f"{row.weight_floor_share:.0%}"
