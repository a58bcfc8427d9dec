"""The report in one picture: where a hop's time goes, B*, and the speed-up of single calls."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from analysis.report.colours import styles
from analysis.report.figure import Figure, Line, Panel, Style
from analysis.report.section import Report

_KEY = "headline"


def headline_figure(report: Report) -> Figure | None:
    """Put the panels that say most side by side.

    Args:
        report: with its figures.

    Returns:
        A waterfall; time over the batch, of the same model where there is one, as a chain measured it where that shows
        a B*, else by the fits; the speed-up at the largest shape. What was not drawn is left out; None where nothing of
        it was.
    """
    waterfall = _waterfall(report)
    subject = "" if waterfall is None else _subject(waterfall[0].title)
    chosen = (waterfall, _batch(report, subject), _speedup(report))
    found = [pair for pair in chosen if pair is not None]
    if not found:
        return None
    titles = "; ".join(figure.title for figure, _ in found)
    panels = tuple(_named(panel, figure.title) for figure, panel in found)
    # Other libraries' kernels have a style by figure; here one name needs one style.
    names = [item.name for panel in panels for item in panel.items if isinstance(item, Line)]
    panels = tuple(_styled(panel, styles(names)) for panel in panels)
    return Figure(_KEY, report.title, titles, panels, columns=len(panels))


def _waterfall(report: Report) -> tuple[Figure, Panel] | None:
    figures = _of(report, "waterfall-")
    return (figures[0], figures[0].panels[0]) if figures else None


def _batch(report: Report, subject: str) -> tuple[Figure, Panel] | None:
    fitted = _of(report, "batch-fits-")
    measured = [figure for figure in _of(report, "batch-") if figure not in fitted]
    with_star = [figure for figure in (*measured, *fitted) if figure.panels[0].marks]
    same = [figure for figure in measured if _subject(figure.title) == subject]
    figures = [*same, *with_star, *measured, *fitted]
    return (figures[0], figures[0].panels[0]) if figures else None


def _speedup(report: Report) -> tuple[Figure, Panel] | None:
    figures = _of(report, "speedup-")
    return (figures[0], max(figures[0].panels, key=_weights)) if figures else None


def _of(report: Report, prefix: str) -> list[Figure]:
    return [figure for figure in report.figures if figure.key.startswith(prefix)]


def _weights(panel: Panel) -> int:
    """The weights of the shape that a panel's title names, such as n=1,024 k=3,072."""
    return math.prod(int(size.replace(",", "")) for size in re.findall(r"[nk]=([\d,]+)", panel.title))


def _subject(title: str) -> str:
    """What a figure's title is about, such as a model on a machine."""
    return title.split(":")[0]


def _named(panel: Panel, title: str) -> Panel:
    return replace(panel, title=f"{_subject(title)}\n{panel.title}")


def _styled(panel: Panel, look: Mapping[str, Style]) -> Panel:
    items = (replace(item, style=look[item.name]) if isinstance(item, Line) else item for item in panel.items)
    return replace(panel, items=tuple(items))
