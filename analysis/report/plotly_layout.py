"""The layout of a panel for plotly: axes, margins, marks and labels; what it shares with the traces."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from analysis.report.figure import Axis, Cells, Label, Mark, Panel, Style

Json = dict[str, Any]

BAND_ALPHA = 0.16
FONT_PX = 12
_LABEL_STEP = 0.085
_CHARACTER_PX = 6.4
_LINE_PX = 14


def escaped(text: str) -> str:
    """Escape a text for plotly, which reads a little HTML, and TeX between dollar signs."""
    return html.escape(text, quote=False).replace("\n", "<br>").replace("$", "&#36;")


def colour(role: str, alpha: float = 1.0) -> Json:
    """Name a colour for the page's script."""
    return {"role": role, "alpha": alpha}


def dash_of(style: Style) -> str:
    """Return plotly's name of a line's dashes."""
    return "solid" if style.dash == "none" else style.dash


def layout_of(panel: Panel, notes: Sequence[Json]) -> Json:
    """Return the layout of a panel.

    Args:
        panel: what is laid out.
        notes: annotations of its items.
    """
    shapes = [shape for mark in panel.marks for shape in _shapes(mark, panel)]
    own = [_mark_label(mark, panel, i) for i, mark in enumerate(m for m in panel.marks if m.label)]
    own += [_label(label, panel) for label in panel.labels]
    layout: Json = {
        "xaxis": _axis(panel.x),
        "yaxis": _axis(panel.y),
        "shapes": shapes,
        "annotations": [*own, *notes],
        "showlegend": False,
        "barmode": "overlay",
        "dragmode": False,
        "margin": _margins(panel),
        "hovermode": "closest",
    }
    cells = next((item for item in panel.items if isinstance(item, Cells)), None)
    if cells is not None:
        for name, texts in (("xaxis", cells.columns), ("yaxis", cells.rows)):
            places = list(range(len(texts)))
            layout[name] |= {
                "tickvals": places,
                "ticktext": [escaped(text) for text in texts],
                "range": [-0.5, len(places) - 0.5],
                "showgrid": False,
                "zeroline": False,
            }
    if panel.is_square:
        layout["yaxis"] |= {"scaleanchor": "x", "scaleratio": 1}
    return layout


def _axis(axis: Axis) -> Json:
    found: Json = {
        "title": {"text": escaped(axis.title), "font": {"size": FONT_PX}, "standoff": 6},
        "type": "log" if axis.is_log else "linear",
        "automargin": axis.is_long,
        "fixedrange": True,
        "showgrid": axis.has_grid,
        "zeroline": axis.has_grid,
        "gridcolor": colour("grid"),
        "linecolor": colour("grid"),
        "zerolinecolor": colour("muted"),
        "zerolinewidth": 1,
        "tickfont": {"size": FONT_PX - 1},
        "tickangle": "auto" if axis.is_long else 0,
    }
    if axis.ticks:
        found |= {
            "tickvals": [place for place, _ in axis.ticks],
            "ticktext": [escaped(text) for _, text in axis.ticks],
        }
    if axis.low is not None and axis.high is not None:
        found["range"] = [_place(axis.low, axis), _place(axis.high, axis)]
    elif axis.low is not None or axis.high is not None:
        found["range"] = [axis.low, axis.high]
        found["autorange"] = "max" if axis.high is None else "min"
    if axis.is_hidden:
        found |= {"visible": False}
    return found


def _margins(panel: Panel) -> Json:
    """Room for ticks and titles by the length of the texts: letting plotly measure them draws everything twice."""
    cells = next((item for item in panel.items if isinstance(item, Cells)), None)
    names = [text for _, text in panel.y.ticks] if cells is None else list(cells.rows)
    longest = max((len(name) for name in names), default=5)
    if panel.x.is_hidden and panel.y.is_hidden:
        return {"l": 4, "r": 4, "t": 4, "b": 4}
    lines = max((text.count("\n") + 1 for _, text in panel.x.ticks), default=1)
    left = 14 + _CHARACTER_PX * longest + (20 if panel.y.title else 0)
    return {"l": left, "r": 12, "t": 10, "b": 14 + _LINE_PX * lines + (20 if panel.x.title else 0)}


def _place(value: float, axis: Axis) -> float:
    return math.log10(value) if axis.is_log else value


def _shapes(mark: Mark, panel: Panel) -> list[Json]:
    across, along = ("x", "y") if mark.axis == "x" else ("y", "x")
    whole = {f"{along}ref": f"{along} domain", f"{along}0": 0, f"{along}1": 1, f"{across}ref": across}
    line = {
        "type": "line",
        "layer": "below",
        f"{across}0": mark.at,
        f"{across}1": mark.at,
        "line": {"color": colour(mark.role), "width": 1.4, "dash": dash_of(Style(mark.role, mark.dash))},
    }
    if mark.low is None or mark.high is None:
        return [whole | line]
    band = {
        "type": "rect",
        "layer": "below",
        f"{across}0": mark.low,
        f"{across}1": mark.high,
        "fillcolor": colour(mark.role, BAND_ALPHA),
        "line": {"width": 0},
    }
    return [whole | band, whole | line]


def _mark_label(mark: Mark, panel: Panel, number: int) -> Json:
    note: Json = {
        "text": escaped(mark.label),
        "showarrow": False,
        "font": {"size": FONT_PX - 1, "color": colour(mark.role)},
    }
    if mark.axis == "x":
        place = {
            "x": _place(mark.at, panel.x),
            "xref": "x",
            "y": 1 - number * _LABEL_STEP,
            "yref": "y domain",
        }
        return note | place | {"xanchor": "left" if _is_left(mark.at, panel.x) else "right", "yanchor": "top"}
    place = {"x": 0.99, "xref": "x domain", "y": _place(mark.at, panel.y), "yref": "y"}
    return note | place | {"xanchor": "right", "yanchor": "bottom"}


def _is_left(at: float, axis: Axis) -> bool:
    """Whether there is more room to the right of a place."""
    if axis.low is None or axis.high is None:
        return True
    return _place(at, axis) < (_place(axis.low, axis) + _place(axis.high, axis)) / 2


def _label(label: Label, panel: Panel) -> Json:
    anchors = {"left": "left", "middle": "center", "right": "right"}
    return {
        "text": escaped(label.text),
        "showarrow": False,
        "x": _place(label.x, panel.x),
        "y": _place(label.y, panel.y),
        "xanchor": anchors[label.anchor],
        "font": {"size": FONT_PX - 1, "color": colour(label.role)},
    }
