"""Figures as PNG and SVG files, drawn by matplotlib from the same description as the page's."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from analysis.report.colours import LIGHT
from analysis.report.figure import Axis, Bars, Cells, Figure, Line, Mark, Panel, Style

# By panels side by side.
_PANEL_INCHES = {1: 6.4, 2: 4.7}
_LEAST_INCHES = 3.9
_TITLE_PER_INCH = 11
_PX_PER_INCH = 88
_LEGEND_INCHES = 0.24
_NAME_INCHES = 1.7
_TITLE_INCHES = 0.45
_DPI = 160
_FONT = 9
# Height of a label of a mark, as a share of the axes.
_LABEL = 0.085
_BAND = 0.16
_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle": "^",
    "cross": "x",
    "star": "*",
    "none": "",
}
_DASHES: Mapping[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "none": ""}
# Texts come from records: a dollar sign is a dollar sign, and fonts stay text in the SVG.
_SETTINGS: Any = {"text.parse_math": False, "svg.fonttype": "none", "font.size": _FONT}


def draw_files(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Write every figure as ``<key>.png`` and ``<key>.svg``.

    Args:
        figures: with keys of their own.
        folder: made when missing.

    Returns:
        The files, in order.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures:
        with rc_context(_SETTINGS):
            canvas = draw(figure)
            for ending in ("png", "svg"):
                path = folder / f"{figure.key}.{ending}"
                # Without a date the same records give the same bytes.
                metadata = {"Date": None} if ending == "svg" else None
                canvas.savefig(path, dpi=_DPI, metadata=metadata)
                written.append(path)
    return written


def draw(figure: Figure) -> Canvas:
    """Draw a figure in the light colours."""
    columns = min(figure.columns, len(figure.panels))
    lines = -(-len(figure.panels) // columns)
    legend = figure.legend() if len(figure.legend()) > 1 else []
    width = columns * _PANEL_INCHES.get(columns, _LEAST_INCHES)
    across = max(1, round(width / _NAME_INCHES))
    rows_height = sum(
        max(p.height for p in figure.panels[i * columns : (i + 1) * columns]) / _PX_PER_INCH
        for i in range(lines)
    )
    height = rows_height + _TITLE_INCHES + _LEGEND_INCHES * -(-len(legend) // across)
    canvas = Canvas(figsize=(width, height), layout="constrained", facecolor=LIGHT["page"])
    grid = canvas.subplots(lines, columns, squeeze=False)
    for axes, panel in zip(grid.flat, figure.panels, strict=False):
        _panel(axes, panel)
    for axes in list(grid.flat)[len(figure.panels) :]:
        axes.set_axis_off()
    title = textwrap.fill(figure.title, round(_TITLE_PER_INCH * width))
    canvas.suptitle(title, fontsize=_FONT + 1.5, fontweight="bold", color=LIGHT["ink"])
    if legend:
        names = [_shown(name) for name, _ in legend]
        handles = [_handle(style) for _, style in legend]
        canvas.legend(
            handles, names, loc="outside lower center", ncols=min(len(names), across), frameon=False
        )
    return canvas


def _panel(axes: Axes, panel: Panel) -> None:
    axes.set_facecolor(LIGHT["page"])
    axes.set_title(panel.title, fontsize=_FONT, color=LIGHT["ink"], loc="left")
    for item in panel.items:
        if isinstance(item, Line):
            _line(axes, item)
        elif isinstance(item, Bars):
            _bars(axes, item)
        else:
            _cells(axes, item)
    cells = next((item for item in panel.items if isinstance(item, Cells)), None)
    _axis(axes, "x", panel.x if cells is None else _named(cells.columns, panel.x))
    _axis(axes, "y", panel.y if cells is None else _named(cells.rows, panel.y))
    labels = sum(bool(mark.label) for mark in panel.marks if mark.axis == "x")
    if labels:
        # The labels stand above what is drawn, a line each.
        low, high = axes.transData.inverted().transform(
            axes.transAxes.transform([(0, 0), (0, 1 + _LABEL * labels)])
        )
        axes.set_ylim(low[1], high[1])
    for number, mark in enumerate(panel.marks):
        _mark(axes, mark, panel, number)
    for label in panel.labels:
        where = {"left": "left", "middle": "center", "right": "right"}[label.anchor]
        axes.text(
            label.x, label.y, label.text, ha=where, va="center", color=LIGHT[label.role], fontsize=_FONT - 1
        )
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(LIGHT["grid"])
    if panel.is_square:
        axes.set_aspect("equal")
    if panel.x.is_hidden and panel.y.is_hidden:
        axes.set_axis_off()


def _line(axes: Axes, line: Line) -> None:
    style, colour = line.style, LIGHT[line.style.role]
    x, y = np.array(line.x, dtype=float), _array(line.y)
    if line.is_closed:
        x, y = np.append(x, x[0]), np.append(y, y[0])
        if line.is_named:
            axes.fill(x, y, color=colour, alpha=0.07)
    hides_points = line.is_closed and not line.is_named
    axes.plot(
        x,
        y,
        linestyle=_DASHES[style.dash],
        marker="" if hides_points else _MARKERS[style.marker],
        color=colour,
        linewidth=0.75 * style.width,
        markersize=4.5,
        markerfacecolor=LIGHT["page"] if line.is_hollow else colour,
    )
    if line.low and line.high and not line.is_closed:
        low, high = _array(line.low), _array(line.high)
        if line.is_area:
            axes.fill_between(x, low, high, color=colour, alpha=_BAND, linewidth=0)
        else:
            axes.errorbar(
                x, y, yerr=_reach(y, low, high), fmt="none", ecolor=colour, elinewidth=0.9, capsize=2
            )


def _bars(axes: Axes, bars: Bars) -> None:
    y = _array(bars.y)
    base = np.array(bars.base or (0.0,) * len(bars.x))
    axes.bar(bars.x, y - base, bars.width, bottom=base, color=LIGHT[bars.role])
    if bars.low and bars.high:
        reach = _reach(y, _array(bars.low), _array(bars.high))
        axes.errorbar(bars.x, y, yerr=reach, fmt="none", ecolor=LIGHT["ink"], elinewidth=0.9, capsize=2)
    ends = y if not bars.high else np.fmax(y, _array(bars.high))
    for place, value, begin, text in zip(bars.x, ends, base, bars.labels, strict=False):
        if np.isfinite(value):
            above = value >= begin
            axes.annotate(
                text,
                (place, value),
                xytext=(0, 3 if above else -3),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=_FONT - 1.5,
                color=LIGHT["ink"],
            )
    if bars.labels:
        axes.margins(y=0.12)


def _cells(axes: Axes, cells: Cells) -> None:
    ramp = [LIGHT["cell-bad"], LIGHT["card"], LIGHT["cell-good"]]
    colours = LinearSegmentedColormap.from_list("verdict", ramp)
    values = np.array([_array(row) for row in cells.values])
    edges = [np.arange(count + 1) - 0.5 for count in (len(cells.columns), len(cells.rows))]
    axes.pcolormesh(
        *edges,
        values,
        cmap=colours,
        vmin=-cells.limit,
        vmax=cells.limit,
        edgecolors=LIGHT["page"],
        linewidth=1,
    )
    for i, row in enumerate(cells.text):
        for j, text in enumerate(row):
            axes.text(j, i, text, ha="center", va="center", fontsize=_FONT - 3, color=LIGHT["ink"])


def _named(names: tuple[str, ...], axis: Axis) -> Axis:
    return Axis(axis.title, ticks=tuple((float(i), name) for i, name in enumerate(names)), has_grid=False)


def _axis(axes: Axes, which: str, axis: Axis) -> None:
    own: Any = axes.xaxis if which == "x" else axes.yaxis
    set_scale: Any = axes.set_xscale if which == "x" else axes.set_yscale
    set_limits: Any = axes.set_xlim if which == "x" else axes.set_ylim
    if axis.is_log:
        set_scale("log")
    limits = set_limits()
    if axis.ticks:
        own.set_ticks([place for place, _ in axis.ticks], [text for _, text in axis.ticks])
        own.set_minor_locator(NullLocator())
    set_limits(
        limits[0] if axis.low is None else axis.low,
        limits[1] if axis.high is None else axis.high,
    )
    own.set_tick_params(labelsize=_FONT - 1.5, colors=LIGHT["muted"], length=0)
    own.label.set_color(LIGHT["muted"])
    own.label.set_size(_FONT - 0.5)
    own.set_label_text(axis.title)
    if axis.has_grid and not axis.is_hidden:
        own.grid(True, color=LIGHT["grid"], linewidth=0.7)


def _mark(axes: Axes, mark: Mark, panel: Panel, number: int) -> None:
    colour = LIGHT[mark.role]
    line: Any = axes.axvline if mark.axis == "x" else axes.axhline
    span: Any = axes.axvspan if mark.axis == "x" else axes.axhspan
    if mark.low is not None and mark.high is not None:
        span(mark.low, mark.high, color=colour, alpha=_BAND, linewidth=0)
    line(mark.at, color=colour, linewidth=1, linestyle=_DASHES[mark.dash])
    if not mark.label:
        return
    if mark.axis == "x":
        to_right = axes.transAxes.inverted().transform(axes.transData.transform((mark.at, 1)))[0] < 0.5
        place, transform = (mark.at, 1 - _LABEL * number), axes.get_xaxis_transform()
        offset, where = (3 if to_right else -3, -2), ("left" if to_right else "right", "top")
    else:
        place, transform = (0.99, mark.at), axes.get_yaxis_transform()
        offset, where = (0, 2), ("right", "bottom")
    axes.annotate(
        mark.label,
        place,
        xycoords=transform,
        xytext=offset,
        textcoords="offset points",
        ha=where[0],
        va=where[1],
        fontsize=_FONT - 1.5,
        color=colour,
        # Other marks may pass behind a label.
        bbox={"facecolor": LIGHT["page"], "edgecolor": "none", "alpha": 0.85, "pad": 1},
        zorder=6,
    )


def _handle(style: Style) -> Line2D:
    marker, colour = _MARKERS[style.marker], LIGHT[style.role]
    return Line2D(
        [],
        [],
        linestyle=_DASHES[style.dash],
        marker=marker,
        color=colour,
        linewidth=0.75 * style.width,
        markersize=5,
    )


def _shown(name: str) -> str:
    # A leading underscore means "not in the legend" to matplotlib.
    return f"\u200b{name}" if name.startswith("_") else name


def _array(values: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _reach(y: Any, low: Any, high: Any) -> Any:
    return np.nan_to_num(np.array([np.fmax(0, y - low), np.fmax(0, high - y)]))
