"""What a figure shows, whoever draws it: panels of lines, bars, cells, marks and labels with colours by role.

Both back ends, ``draw_plotly`` for the page and ``draw_matplotlib`` for files, draw exactly this and add nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Values = tuple[float | None, ...]
Dash = Literal["solid", "dash", "dot", "dashdot", "none"]
_LONG = 44
Marker = Literal["circle", "square", "diamond", "triangle", "cross", "star", "none"]


@dataclass(frozen=True)
class Style:
    """How a kernel is drawn.

    Attributes:
        role: its colour, a key of ``colours.LIGHT`` and ``colours.DARK``.
        dash: its line; ``none`` for points alone.
        marker: its points.
        width: of the line, px.
    """

    role: str
    dash: Dash = "solid"
    marker: Marker = "circle"
    width: float = 2.0


@dataclass(frozen=True)
class Line:
    """A line, or points, with intervals where they are known; None leaves a gap.

    Attributes:
        name: in the legend and in what is said about a point.
        x: places.
        y: values.
        style: how it is drawn.
        low: lower ends of intervals.
        high: upper ends.
        is_area: whether intervals are a band and not bars.
        hover: what to say about each point; made from the values where empty.
        is_named: whether it stands in the legend.
        is_closed: whether the last point is joined to the first one and the inside is tinted.
        is_hollow: whether markers are outlines.
    """

    name: str
    x: tuple[float, ...]
    y: Values
    style: Style
    low: Values = ()
    high: Values = ()
    is_area: bool = False
    hover: tuple[str, ...] = ()
    is_named: bool = True
    is_closed: bool = False
    is_hollow: bool = False

    def __post_init__(self) -> None:
        """Refuse lists of different lengths and numbers that cannot be drawn."""
        _same_lengths(self.name, self.x, self.y, self.low, self.high, self.hover)
        _finite(self.name, (*self.x, *self.y, *self.low, *self.high))


@dataclass(frozen=True)
class Bars:
    """Bars of one colour.

    Attributes:
        name: in the legend and in what is said about a bar.
        x: places of their middles.
        y: their ends; None leaves one out.
        role: colour.
        width: in units of x.
        base: where each begins; 0 where empty.
        low: lower ends of intervals.
        high: upper ends.
        labels: written at the ends of the bars.
        hover: what to say about each bar.
        is_named: whether they stand in the legend.
    """

    name: str
    x: tuple[float, ...]
    y: Values
    role: str
    width: float = 0.8
    base: tuple[float, ...] = ()
    low: Values = ()
    high: Values = ()
    labels: tuple[str, ...] = ()
    hover: tuple[str, ...] = ()
    is_named: bool = True

    def __post_init__(self) -> None:
        """Refuse lists of different lengths and numbers that cannot be drawn."""
        _same_lengths(self.name, self.x, self.y, self.low, self.high, self.labels, self.hover, self.base)
        _finite(self.name, (*self.x, *self.y, *self.low, *self.high, *self.base))


@dataclass(frozen=True)
class Cells:
    """A grid of cells coloured from ``bad`` over the background to ``good``.

    Attributes:
        columns: names, from the left.
        rows: names, from the bottom.
        values: by row, then column; 0 is neutral.
        limit: value of the full colour, either way.
        text: in each cell.
        hover: about each cell.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[Values, ...]
    limit: float
    text: tuple[tuple[str, ...], ...]
    hover: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        """Refuse a grid that is none."""
        for part in (self.values, self.text, self.hover):
            if len(part) != len(self.rows) or any(len(row) != len(self.columns) for row in part):
                raise ValueError(f"cells are not {len(self.rows)} rows of {len(self.columns)} columns")
        if self.limit <= 0:
            raise ValueError(f"limit={self.limit} is not above 0")
        _finite("cells", tuple(value for row in self.values for value in row))


@dataclass(frozen=True)
class Mark:
    """A line across the panel, with a band around it where an interval is known.

    Attributes:
        axis: the axis that ``at`` lies on.
        at: the place.
        role: colour.
        label: what it is; empty for none.
        low: begin of the band.
        high: end of the band.
        dash: of the line.
    """

    axis: Literal["x", "y"]
    at: float
    role: str
    label: str = ""
    low: float | None = None
    high: float | None = None
    dash: Dash = "dash"


@dataclass(frozen=True)
class Label:
    """Words at a place."""

    x: float
    y: float
    text: str
    role: str = "muted"
    anchor: Literal["left", "middle", "right"] = "middle"


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: quantity and unit.
        is_log: whether it is logarithmic.
        ticks: place and text; chosen by the back end where empty.
        low: begin; chosen by the back end where None.
        high: end.
        is_hidden: whether neither it nor its grid is drawn.
        has_grid: whether lines run across from its ticks; not for names.
    """

    title: str = ""
    is_log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    low: float | None = None
    high: float | None = None
    is_hidden: bool = False
    has_grid: bool = True

    @property
    def is_long(self) -> bool:
        """Whether its names may not fit side by side, so that they are turned."""
        widths = [max(map(len, text.split("\n"))) for _, text in self.ticks]
        return not self.has_grid and sum(widths) > _LONG

    def __post_init__(self) -> None:
        """Refuse a log axis that reaches 0."""
        if self.is_log and any(end is not None and end <= 0 for end in (self.low, self.high)):
            raise ValueError(f"a log axis needs ends above 0, got {self.low} to {self.high}")


Item = Line | Bars | Cells


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        x: horizontal axis.
        y: vertical axis.
        items: drawn in this order.
        marks: lines across.
        labels: words inside.
        height: px on the page.
        is_square: whether both axes have one scale.
    """

    title: str
    x: Axis
    y: Axis
    items: tuple[Item, ...]
    marks: tuple[Mark, ...] = ()
    labels: tuple[Label, ...] = ()
    height: int = 300
    is_square: bool = False

    def __post_init__(self) -> None:
        """Refuse a panel without a value."""
        if not any(_has_value(item) for item in self.items):
            raise ValueError(f"panel {self.title!r} has nothing to draw")


@dataclass(frozen=True)
class Figure:
    """Panels that share a legend.

    Attributes:
        key: file name without its ending, and anchor on the page.
        title: what is seen.
        alt: the same for those who cannot see it, with the main numbers.
        panels: from left to right, then down.
        columns: most panels side by side.
    """

    key: str
    title: str
    alt: str
    panels: tuple[Panel, ...]
    columns: int = 3

    def __post_init__(self) -> None:
        """Refuse a figure without panels, and a key that is no file name."""
        if not self.panels:
            raise ValueError(f"figure {self.key} has no panels")
        if not self.key or not all(c.islower() or c.isdigit() or c == "-" for c in self.key):
            raise ValueError(f"key={self.key!r} is not made of lower-case letters, digits and hyphens")

    def legend(self) -> list[tuple[str, Style]]:
        """Return name and style of everything that the legend lists, once, in the order of drawing."""
        found: dict[str, Style] = {}
        for panel in self.panels:
            for item in panel.items:
                if isinstance(item, Line) and item.is_named:
                    found.setdefault(item.name, item.style)
                elif isinstance(item, Bars) and item.is_named:
                    found.setdefault(item.name, Style(item.role, "none", "square"))
        return list(found.items())


def _has_value(item: Item) -> bool:
    rows: Sequence[Values] = item.values if isinstance(item, Cells) else (item.y,)
    return any(value is not None for row in rows for value in row)


def _same_lengths(name: str, x: Sequence[object], y: Sequence[object], *optional: Sequence[object]) -> None:
    lengths = [len(x), len(y), *(len(part) for part in optional if part)]
    if len(set(lengths)) > 1:
        raise ValueError(f"{name} has lists of lengths {lengths}")


def _finite(name: str, values: Values) -> None:
    bad = sum(value is not None and not math.isfinite(value) for value in values)
    if bad:
        raise ValueError(f"{bad} of {len(values)} numbers of {name} are NaN or infinite")
