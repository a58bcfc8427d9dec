"""Two pictures of a sweep: achieved bandwidth under the machine's limits, and speed-up over bf16, against m."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.variants import BASELINE
from kernels.registry import KERNELS
from kernels.traffic import Scheme
from profiler.hardware import GpuSpec
from profiler.record import SweepRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_SHAPES = 6
_PANEL_INCHES = (3.3, 3.0)
_LEGEND_INCHES = 2.2
_DPI = 110
_BLACK = "#222222"
_OURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#17becf", "#e377c2")
_PEERS = ("#8c564b", "#7f7f7f", "#bcbd22", "#393b79", "#c49c94", "#637939", "#7b4173", "#e7969c", "#5254a3")
_PEER_MARKERS = "svD^<>PpX"


@dataclass(frozen=True)
class Machine:
    """What the pictures say about the machine."""

    name: str
    """The device."""
    read_gb_s: float
    """Read bandwidth measured in the run, GB/s."""
    spec: GpuSpec | None
    """Its row of the hardware table."""


@dataclass(frozen=True)
class _Line:
    """How one kernel is drawn."""

    colour: str
    style: str
    marker: str
    width: float


def draw_pictures(rows: Sequence[SweepRow], machine: Machine) -> tuple[dict[str, bytes], list[str]]:
    """Draw both pictures.

    Args:
        rows: rows of a sweep.
        machine: where they were measured.

    Returns:
        PNG by file name, and a sentence for each picture that could not be drawn.
    """
    drawings: dict[str, Callable[[], bytes]] = {
        "roofline.png": lambda: roofline_png(rows, machine),
        "speedup.png": lambda: speedup_png(rows, machine),
    }
    pictures, problems = {}, []
    for name, draw in drawings.items():
        try:
            pictures[name] = draw()
        except Exception as error:  # a picture must not cost a run that took an hour
            problems.append(f"{name} was not drawn: {type(error).__name__}: {error}")
    return pictures, problems


def roofline_png(rows: Sequence[SweepRow], machine: Machine) -> bytes:
    """Achieved GB/s by the traffic model against m, under the measured bandwidth and the vendor's limits.

    The vendor's bf16 peak is drawn as the bandwidth at which a kernel of those bits would reach it.

    Args:
        rows: rows of a sweep.
        machine: its measured bandwidth, and where the table knows it, its vendor's peaks.

    Raises:
        ValueError: no row has a time.
    """
    timed = [row for row in _timed(rows) if row.gb_s and row.flops and not _is_unfused(row.kernel)]
    if not timed:
        raise ValueError(f"0 of {len(rows)} rows have a time and a bandwidth")

    def decorate(axes: Axes, own: Sequence[SweepRow], shown: Sequence[SweepRow]) -> None:
        axes.axhline(
            machine.read_gb_s, color=_BLACK, lw=1.3, label=f"measured read, {machine.read_gb_s:,.0f} GB/s"
        )
        if machine.spec is not None:
            _vendor_limits(axes, machine.spec, own)
        axes.set_ylim(0, 1.12 * max(machine.read_gb_s, *(row.gb_s or 0 for row in timed)))

    return _grid(
        f"achieved bandwidth (traffic model over time_us_p50), {machine.name}",
        timed,
        "GB/s",
        lambda row: row.gb_s,
        decorate,
    )


def speedup_png(rows: Sequence[SweepRow], machine: Machine) -> bytes:
    """Speed-up over bf16 against m, a panel per shape and number of bits; peers are dashed.

    Args:
        rows: rows of a sweep.
        machine: named in the title.

    Raises:
        ValueError: no kernel was timed beside bf16.
    """
    timed = [row for row in _timed(rows) if row.speedup_p50 is not None]
    if not timed:
        raise ValueError(f"0 of {len(rows)} rows have a speed-up over {BASELINE}")

    def decorate(axes: Axes, own: Sequence[SweepRow], shown: Sequence[SweepRow]) -> None:
        axes.axhline(1, color=_BLACK, lw=1, label=f"{BASELINE}, 1")
        axes.set_ylim(0, 1.08 * max(1.0, *(row.speedup_p50 or 0 for row in shown)))

    return _grid(
        f"speed-up over {BASELINE} (p50), {machine.name}",
        timed,
        f"times faster than {BASELINE}",
        lambda row: row.speedup_p50,
        decorate,
    )


def _grid(
    title: str,
    rows: Sequence[SweepRow],
    ylabel: str,
    value: Callable[[SweepRow], float | None],
    decorate: Callable[[Axes, Sequence[SweepRow], Sequence[SweepRow]], None],
) -> bytes:
    """Panels of ``value`` over m: a column per shape, a line of panels with its own legend per bits."""
    from matplotlib.figure import Figure

    shapes = _shapes(rows)
    all_bits = sorted({row.bits for row in rows if row.bits and not _is_native(row.kernel)}) or [16]
    width, height = _PANEL_INCHES
    size = (width * len(shapes) + _LEGEND_INCHES, height * len(all_bits) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    count = len({(row.n, row.k) for row in rows})
    which = "" if count == len(shapes) else f", the {len(shapes)} largest of {count} shapes"
    figure.suptitle(title + which, fontsize=11)
    grid = figure.subplots(len(all_bits), len(shapes), squeeze=False)
    ms = sorted({row.m for row in rows})
    for line, bits in zip(grid, all_bits, strict=True):
        shown = [row for row in rows if row.bits == bits or _is_native(row.kernel)]
        styles = _styles(row.kernel for row in shown)
        for axes, shape in zip(line, shapes, strict=True):
            own = [row for row in shown if (row.n, row.k) == shape]
            for kernel, style in styles.items():
                _plot(axes, [row for row in own if row.kernel == kernel], kernel, style, value)
            decorate(axes, own, shown)
            axes.set_xscale("log", base=2)
            axes.set_xticks(ms, [str(m) for m in ms], fontsize=7)
            axes.set_xticks([], minor=True)
            axes.set_xlabel("m, rows of x", fontsize=8)
            axes.set_title(f"n={shape[0]:,} k={shape[1]:,}, {bits}-bit weights", fontsize=9)
        line[0].set_ylabel(ylabel)
        line[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7, frameon=False)
    return _png(figure)


def _plot(
    axes: Axes,
    rows: Sequence[SweepRow],
    kernel: str,
    style: _Line,
    value: Callable[[SweepRow], float | None],
) -> None:
    points = [(row.m, value(row)) for row in sorted(rows, key=lambda row: row.m)]
    # Without points the line still stands in the legend of its line of panels.
    axes.plot(
        [m for m, _ in points],
        [float("nan") if y is None else y for _, y in points],
        style.style,
        color=style.colour,
        marker=style.marker,
        lw=style.width,
        ms=4,
        label=kernel,
    )


def _vendor_limits(axes: Axes, spec: GpuSpec, own: Sequence[SweepRow]) -> None:
    axes.axhline(
        spec.memory_gb_s,
        color=_BLACK,
        lw=1,
        ls=":",
        label=f"vendor's bandwidth, {spec.memory_gb_s:,.0f} GB/s",
    )
    fused = [row for row in own if not _is_native(row.kernel) and row.weight_only and row.flops]
    by_m = {row.m: (row.bytes_moved or 0) / (row.flops or 1) for row in fused}
    ms = sorted(by_m)
    axes.plot(
        ms,
        [spec.bf16_tflops * 1e3 * by_m[m] for m in ms],
        color=_BLACK,
        lw=1,
        ls="--",
        label=f"vendor's bf16 peak, {spec.bf16_tflops:,.0f} TFLOP/s",
    )


def _timed(rows: Iterable[SweepRow]) -> list[SweepRow]:
    """Rows with a time whose result means something."""
    return [row for row in rows if row.time_us_p50 and row.gate == "passed"]


def _shapes(rows: Sequence[SweepRow]) -> list[tuple[int, int]]:
    """The largest shapes, the smallest of them first."""
    found = sorted({(row.n, row.k) for row in rows}, key=lambda shape: shape[0] * shape[1])
    return found[-_MOST_SHAPES:]


def _is_native(name: str) -> bool:
    return name in KERNELS and KERNELS[name].scheme is Scheme.NATIVE


def _is_unfused(name: str) -> bool:
    return name in KERNELS and KERNELS[name].scheme is Scheme.UNFUSED


def _styles(names: Iterable[str]) -> dict[str, _Line]:
    """Ours solid with dots, unfused dotted in the colour of its format, peers dashed with other marks.

    Native kernels are black, all but the baseline dashed.
    """
    styles: dict[str, _Line] = {}
    colours: dict[str, str] = {}
    peers = 0
    for name in dict.fromkeys(names):
        kernel = KERNELS.get(name)
        if kernel is None:
            colour, marker = _PEERS[peers % len(_PEERS)], _PEER_MARKERS[peers % len(_PEER_MARKERS)]
            styles[name] = _Line(colour, "--", marker, 1.1)
            peers += 1
        elif kernel.format is None:
            styles[name] = _Line(_BLACK, "-" if name == BASELINE else "--", "o", 1.6)
        else:
            colour = colours.setdefault(kernel.format.name, _OURS[len(colours) % len(_OURS)])
            styles[name] = {
                Scheme.FUSED: _Line(colour, "-", "o", 1.9),
                Scheme.UNFUSED: _Line(colour, ":", "x", 1.0),
            }.get(kernel.scheme, _Line(colour, "-.", "*", 1.4))
    return styles


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
