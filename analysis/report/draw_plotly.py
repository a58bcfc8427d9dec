"""Panels as plotly traces and layouts in plain JSON; colours stay roles, which the page turns into colours."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.report.figure import Bars, Cells, Figure, Item, Line, Panel, Style
from analysis.report.plotly_layout import BAND_ALPHA, FONT_PX, Json, colour, dash_of, escaped, layout_of

_SYMBOLS = {
    "circle": "circle",
    "square": "square",
    "diamond": "diamond",
    "triangle": "triangle-up",
    "cross": "x-thin-open",
    "star": "star",
}


def figure_json(figure: Figure) -> Json:
    """Return a figure for the page's script: its panels, in order, as ``data``, ``layout`` and ``height``."""
    places = {name: place for place, (name, _) in enumerate(figure.legend())}
    panels = []
    for panel in figure.panels:
        found = panel_json(panel)
        found["legend"] = [places.get(name) for name in found.pop("names")]
        panels.append(found)
    return {"key": figure.key, "panels": panels}


def panel_json(panel: Panel) -> Json:
    """Return traces and layout of a panel, and by trace the name of its item.

    A colour is ``{"role": name, "alpha": a}``, never a text.
    """
    drawn = [(_name(item), trace) for item in panel.items for trace in _traces(item)]
    notes = [note for item in panel.items if isinstance(item, Bars) for note in _bar_labels(item)]
    return {
        "data": [trace for _, trace in drawn],
        "names": [name for name, _ in drawn],
        "layout": layout_of(panel, notes),
        "height": panel.height,
    }


def _name(item: Item) -> str:
    return "" if isinstance(item, Cells) else item.name


def _traces(item: Item) -> list[Json]:
    if isinstance(item, Line):
        return _line(item)
    return [_bars(item)] if isinstance(item, Bars) else [_cells(item)]


def _line(line: Line) -> list[Json]:
    style = line.style
    x, y = list(line.x), list(line.y)
    if line.is_closed:
        x, y = [*x, x[0]], [*y, y[0]]
    mode = [
        part
        for part, on in (("lines", style.dash != "none"), ("markers", style.marker != "none"))
        if on and not (part == "markers" and line.is_closed and not line.is_named)
    ]
    trace: Json = {
        "type": "scatter",
        "name": escaped(line.name),
        "x": x,
        "y": y,
        "mode": "+".join(mode) or "lines",
        "line": {"color": colour(style.role), "width": style.width, "dash": dash_of(style)},
        "connectgaps": False,
        "cliponaxis": True,
        "hoverinfo": "text" if line.is_named or line.hover else "skip",
        "hovertext": [escaped(text) for text in line.hover] or _spoken(line.name, line.x, line.y),
    }
    if style.marker != "none":
        trace["marker"] = _marker(style, line.is_hollow)
    if line.is_closed and line.is_named:
        trace |= {"fill": "toself", "fillcolor": colour(style.role, 0.07)}
    if not line.low or not line.high:
        return [trace]
    if not line.is_area:
        trace["error_y"] = _errors(line.y, line.low, line.high, style.role)
        return [trace]
    edge: Json = {
        "type": "scatter",
        "x": x,
        "mode": "lines",
        "line": {"width": 0, "color": colour(style.role)},
        "hoverinfo": "skip",
        "name": escaped(line.name),
    }
    band = {"fill": "tonexty", "fillcolor": colour(style.role, BAND_ALPHA)}
    return [edge | {"y": list(line.low)}, edge | {"y": list(line.high)} | band, trace]


def _bars(bars: Bars) -> Json:
    base = bars.base or (0.0,) * len(bars.x)
    trace: Json = {
        "type": "bar",
        "name": escaped(bars.name),
        "x": list(bars.x),
        "y": [None if y is None else y - b for y, b in zip(bars.y, base, strict=True)],
        "base": list(base),
        "width": bars.width,
        "marker": {"color": colour(bars.role)},
        "hoverinfo": "text",
        "hovertext": [escaped(text) for text in bars.hover] or _spoken(bars.name, bars.x, bars.y),
    }
    if bars.low and bars.high:
        trace["error_y"] = _errors(bars.y, bars.low, bars.high, "ink")
    return trace


def _bar_labels(bars: Bars) -> list[Json]:
    """Numbers beyond the ends of bars and of their intervals."""
    notes = []
    blank: tuple[float | None, ...] = (None,) * len(bars.x)
    parts = (bars.x, bars.y, bars.base or (0.0,) * len(bars.x), bars.low or blank, bars.high or blank)
    for text, x, y, base, low, high in zip(bars.labels, *parts, strict=False):
        if y is None:
            continue
        is_up = y >= base
        end = max(y, high if high is not None else y) if is_up else min(y, low if low is not None else y)
        notes.append(
            {
                "text": escaped(text),
                "showarrow": False,
                "x": x,
                "y": end,
                "yshift": 9 if is_up else -9,
                "font": {"size": FONT_PX - 1, "color": colour("ink")},
            }
        )
    return notes


def _cells(cells: Cells) -> Json:
    return {
        "type": "heatmap",
        "name": "",
        "x": list(range(len(cells.columns))),
        "y": list(range(len(cells.rows))),
        "z": [list(row) for row in cells.values],
        "zmin": -cells.limit,
        "zmax": cells.limit,
        "colorscale": [[0, colour("cell-bad")], [0.5, colour("card")], [1, colour("cell-good")]],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "text": [[escaped(text) for text in row] for row in cells.text],
        "texttemplate": "%{text}",
        "textfont": {"size": FONT_PX - 2, "color": colour("ink")},
        "hoverinfo": "text",
        "hovertext": [[escaped(text) for text in row] for row in cells.hover],
    }


def _marker(style: Style, is_hollow: bool) -> Json:
    symbol = _SYMBOLS[style.marker]
    outline = {"color": colour(style.role), "width": 1.6}
    if is_hollow and not symbol.endswith("-open"):
        symbol += "-open"
    return {"symbol": symbol, "size": 7, "color": colour(style.role), "line": outline}


def _errors(
    y: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None], role: str
) -> Json:
    def reach(ends: Sequence[float | None], sign: int) -> list[float]:
        pairs = zip(y, ends, strict=True)
        return [0.0 if v is None or e is None else max(0.0, sign * (e - v)) for v, e in pairs]

    return {
        "type": "data",
        "symmetric": False,
        "array": reach(high, 1),
        "arrayminus": reach(low, -1),
        "color": colour(role),
        "thickness": 1.2,
        "width": 3,
    }


def _spoken(name: str, x: Sequence[float], y: Sequence[float | None]) -> list[str]:
    return [
        escaped(f"{name}: {a:.4g}, {'–' if b is None else f'{b:.4g}'}") for a, b in zip(x, y, strict=True)
    ]
