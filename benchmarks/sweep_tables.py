"""Tables of a sweep record in Markdown, for the pages that show measured numbers."""

from __future__ import annotations

from collections.abc import Sequence

from profiler.record import RunRecord, SweepRow

_OURS = ("fused_", "native_", "unfused_")


def speedup_table(record: RunRecord, shape: tuple[int, int], *, peers: bool = True) -> str:
    """Time of every kernel at one shape over m, and how many times faster than bf16 it is.

    Args:
        record: a sweep.
        shape: (n, k).
        peers: whether other libraries' rows are shown.
    """
    rows = [row for row in record.results if isinstance(row, SweepRow) and (row.n, row.k) == shape]
    ms = sorted({row.m for row in rows})
    names = list(dict.fromkeys(row.kernel for row in rows if _is_shown(row, rows, peers)))
    lines = [
        f"| {shape[0]}×{shape[1]}, time_us_p50 (× bf16) | " + " | ".join(f"m = {m}" for m in ms) + " |",
        "|---|" + "---:|" * len(ms),
    ]
    by_cell = {(row.kernel, row.m): row for row in rows}
    for name in names:
        cells = [_time(by_cell.get((name, m))) for m in ms]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def floor_table(record: RunRecord, m: int) -> str:
    """Share of the bandwidth floor (stored weight over read bandwidth, both of this run) at one m, by shape."""
    rows = [row for row in record.results if isinstance(row, SweepRow) and row.m == m]
    shapes = sorted({(row.n, row.k) for row in rows}, key=lambda shape: -shape[0] * shape[1])
    names = dict.fromkeys(
        row.kernel for row in rows if row.kernel == "bf16" or row.kernel.startswith("fused_")
    )
    lines = [
        f"| m = {m}, share of the floor | " + " | ".join(f"{n}×{k}" for n, k in shapes) + " |",
        "|---|" + "---:|" * len(shapes),
    ]
    by_cell = {(row.kernel, row.n, row.k): row for row in rows}
    for name in names:
        cells = [_share(by_cell.get((name, *shape))) for shape in shapes]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shapes_of(record: RunRecord) -> Sequence[tuple[int, int]]:
    """Shapes of a sweep, the largest first."""
    shapes = {(row.n, row.k) for row in record.results if isinstance(row, SweepRow)}
    return sorted(shapes, key=lambda shape: -shape[0] * shape[1])


def _is_shown(row: SweepRow, rows: Sequence[SweepRow], peers: bool) -> bool:
    if row.kernel == "bf16" or row.kernel.startswith(_OURS):
        return True
    is_peer = not row.kernel.startswith("null_")
    return peers and is_peer and any(other.kernel == row.kernel and other.time_us_p50 for other in rows)


def _time(row: SweepRow | None) -> str:
    if row is None or row.time_us_p50 is None:
        return "–"
    time = f"{row.time_us_p50:.1f}" if row.time_us_p50 >= 10 else f"{row.time_us_p50:.2f}"
    return time if row.speedup_p50 is None else f"{time} ({row.speedup_p50:.2f})"


def _share(row: SweepRow | None) -> str:
    return "–" if row is None or row.weight_floor_share is None else f"{row.weight_floor_share:.0%}"
