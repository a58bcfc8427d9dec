"""A picture of a trace: the ranges of the host above, the kernels of the device below, for two hops."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from profiler.nsys_device import CAST, COMP, LINEAR, activities_sql, graft, is_held, role_of
from profiler.nsys_launches import HopRange, Launches
from profiler.nsys_schema import COPY
from profiler.nsys_trace import OpenTrace

_HOPS_SHOWN = 2
_MOST_BARS = 20_000
_COLOURS = {
    CAST: "#d1495b",
    COMP: "#2e6f95",
    LINEAR: "#5aa9c7",
    "other kernels": "#b8b8b8",
    "copies and sets": "#e0b040",
}
_RANGE_COLOUR = "#eef1f4"
_LABEL_SHARE = 0.045


@dataclass(frozen=True)
class _Bar:
    start: int
    end: int
    label: str


@dataclass(frozen=True)
class _Window:
    start: int
    end: int
    title: str
    process: int | None
    """Whose ranges are shown; None: everybody's."""
    host_end: int
    """End of the last shown hop on the host."""


def draw_timeline(trace: OpenTrace, target: Path) -> None:
    """Draw the hop of median length and the one after it, or the whole trace where there are no hops.

    The picture ends when the device is done with both, which is later than the host where hops are queued.

    Args:
        trace: an open trace.
        target: the PNG to write.

    Raises:
        ValueError: there is nothing to draw, or too much for a picture.
    """
    db = trace.schema.export.db
    window = _window(db, trace)
    host = _host_bars(db, trace.launches, window)
    device = _device_bars(trace, window)
    # The device may finish after the host's range has ended.
    ends = [bar.end for row in device.values() for found in row.values() for bar in found]
    window = replace(window, end=max([window.end, *ends]))
    bars = sum(map(len, host.values())) + sum(len(found) for row in device.values() for found in row.values())
    if bars > _MOST_BARS:
        raise ValueError(
            f"{trace.reading.path} has {bars} ranges and kernels in {window.title}, a picture holds {_MOST_BARS}"
        )
    _draw(window, host, device, trace, target)


def _window(db: sqlite3.Connection, trace: OpenTrace) -> _Window:
    launches = trace.launches
    if launches.hops:
        by_length = sorted(launches.hops, key=lambda hop: hop.end_ns - hop.start_ns)
        median = by_length[(len(by_length) - 1) // 2]
        process = launches.paths.known[median.path][0]
        own = [hop for hop in launches.hops if launches.paths.known[hop.path][0] == process]
        first = own.index(median)
        shown = own[first : first + _HOPS_SHOWN]
        title = " and ".join(_name(hop, launches.paths.known[hop.path][1]) for hop in shown)
        end = max(max(hop.end_ns, trace.hop_ends.get(hop.range_id, 0)) for hop in shown)
        return _Window(shown[0].start_ns, end, title, process, max(hop.end_ns for hop in shown))
    start, end = db.execute("SELECT min(start), max(stop) FROM main.range").fetchone()
    if start is None:
        raise ValueError("no range of the trace launched anything, so there is nothing to draw")
    return _Window(start, end, "all ranges", None, end)


def _name(hop: HopRange, path: Sequence[str]) -> str:
    """What a hop is called: its number, and the range around it, which names the kernel in a replay."""
    name = "a hop" if hop.index is None else f"hop {hop.index}"
    return f"{name} of {path[-2]}" if len(path) > 1 else name


def _host_bars(db: sqlite3.Connection, launches: Launches, window: _Window) -> dict[int, list[_Bar]]:
    """Ranges that lie in the window, by depth; those that begin after the shown hops belong to later ones."""
    rows: dict[int, list[_Bar]] = {}
    for depth, start, stop, path in db.execute(
        "SELECT depth, start, stop, path FROM main.range WHERE start < ? AND stop > ? ORDER BY depth, start",
        (window.host_end, window.start),
    ):
        process, names = launches.paths.known[path]
        if window.process not in (None, process):
            continue
        name = names[-1]
        rows.setdefault(depth, []).append(_Bar(max(start, window.start), min(stop, window.end), name))
    return rows


def _device_bars(trace: OpenTrace, window: _Window) -> dict[tuple[int, int], dict[str, list[_Bar]]]:
    """Activities in the window, by device and stream and by colour."""
    known = trace.launches.paths.known
    db = trace.schema.export.db
    rows: dict[tuple[int, int], dict[str, list[_Bar]]] = {}
    inner = activities_sql(trace.schema, f", a.device, a.stream, {_PATH}")
    sql = f"SELECT * FROM ({inner}) WHERE start < ? AND end > ?"
    for _, _, _, capture, kind, start, end, device, stream, launch in db.execute(
        sql, (window.end, window.start)
    ):
        outer = () if launch is None else known[launch][1]
        if is_held(outer):
            continue
        role = role_of(outer if capture is None else graft(outer, known[capture][1]))
        kind_of = "copies and sets" if kind == COPY else role or "other kernels"
        bar = _Bar(max(start, window.start), end, "")
        rows.setdefault((device, stream), {}).setdefault(kind_of, []).append(bar)
    return rows


_PATH = "(SELECT path FROM main.range WHERE id = o.range)"


def _draw(
    window: _Window,
    host: Mapping[int, Sequence[_Bar]],
    device: Mapping[tuple[int, int], Mapping[str, Sequence[_Bar]]],
    trace: OpenTrace,
    target: Path,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    scale, unit = _unit(window.end - window.start)
    lanes = len(host) + len(device)
    figure = Figure(figsize=(12, 1.6 + 0.42 * lanes), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    width = (window.end - window.start) / scale
    labels = []
    for lane, depth in enumerate(sorted(host)):
        spans = [((bar.start - window.start) / scale, (bar.end - bar.start) / scale) for bar in host[depth]]
        axes.broken_barh(
            spans, (lane - 0.4, 0.8), facecolor=_RANGE_COLOUR, edgecolor="#7a828a", linewidth=0.6
        )
        for (left, length), bar in zip(spans, host[depth], strict=True):
            if length > _LABEL_SHARE * width:
                axes.text(
                    left + length / 2, lane, bar.label, ha="center", va="center", fontsize=8, clip_on=True
                )
        labels.append("ranges" if not lane else "")
    for lane, (number, stream) in enumerate(sorted(device), start=len(host)):
        # A kernel that starts early and waits overlaps the one that it waits for: what has a role lies on top.
        for kind, bars in sorted(
            device[number, stream].items(), key=lambda item: item[0] in (CAST, COMP, LINEAR)
        ):
            spans = [((bar.start - window.start) / scale, (bar.end - bar.start) / scale) for bar in bars]
            colour = _COLOURS[kind]
            axes.broken_barh(spans, (lane - 0.4, 0.8), facecolor=colour, edgecolor=colour, linewidth=0.4)
        labels.append(f"GPU {number} stream {stream}")
    axes.set_yticks(range(lanes), labels)
    axes.set_ylim(lanes - 0.4, -0.6)
    axes.set_xlim(0, width)
    axes.set_xlabel(f"time, {unit}")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    held = {kind for row in device.values() for kind in row}
    handles = [Patch(facecolor=colour, label=kind) for kind, colour in _COLOURS.items() if kind in held]
    if handles:
        axes.legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(handles),
            frameon=False,
            fontsize=8,
        )
    gpus = ", ".join(sorted(set(trace.reading.gpus))) or "GPU not named in the trace"
    axes.set_title(f"{trace.reading.path.name}: {window.title}, {gpus}", loc="left", fontsize=10)
    figure.savefig(target, dpi=130)


def _unit(span_ns: int) -> tuple[float, str]:
    return (1e3, "µs") if span_ns < 10_000_000 else (1e6, "ms")
