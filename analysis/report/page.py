"""A report as one HTML page that needs nothing else: script, style and data inside, nothing loaded.

Every text of the page may come from a record, so every text is escaped where it is written.
"""

from __future__ import annotations

import html
import json
from importlib import resources

from analysis.report.colours import DARK, LIGHT
from analysis.report.draw_plotly import figure_json
from analysis.report.figure import Figure, Style
from analysis.report.section import MARKS, Block, Cards, Items, Missing, Report, Section, Table, Words

# The browser may run what is in the page and load nothing.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
_LEAST_PX = {1: 420, 2: 420, 3: 300}
_MOST_ITEMS = 6
# Width of a panel on A4 and on Letter, alone and beside another; the style sheet has the same widths.
_PAPER_PX = {"one": 560, "two": 330}
_DASHES = {"solid": "", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3", "none": ""}


def page(report: Report) -> str:
    """Write a report as a page of HTML.

    Args:
        report: what to write.

    Returns:
        The whole file.
    """
    nav = "".join(_nav(section) for section in report.sections)
    body = "".join(_section(section) for section in report.sections)
    data = {
        "light": dict(LIGHT),
        "dark": dict(DARK),
        "paper": _PAPER_PX,
        "figures": {figure.key: figure_json(figure) for figure in report.figures},
    }
    scripts = ""
    if report.figures:
        scripts = (
            f'<script type="application/json" id="report-data">{_json(data)}</script>'
            f'<script type="text/plain" id="plotly">{_plotly()}</script><script>{_own("page.js")}</script>'
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{_text(report.title)}</title><style>{_variables()}{_own('page.css')}</style></head><body>"
        f"<header><div><h1>{_text(report.title)}</h1><p>{_text(report.subtitle)}</p></div></header>"
        f'<nav aria-label="Sections"><div>{nav}</div></nav><main>{body}'
        "<noscript><p>The figures need JavaScript; the tables hold the same numbers.</p></noscript>"
        f"<footer>Written by qt-profile report. Click a name in a legend to hide it.</footer></main>{scripts}"
        "</body></html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


def _json(data: object) -> str:
    # "</script>" and "<!--" inside a text would end the element; these escapes are JSON for the same characters.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _own(name: str) -> str:
    return resources.files("analysis.report").joinpath(name).read_text("utf-8")


def _plotly() -> str:
    return resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")


def _variables() -> str:
    def block(colours: dict[str, str]) -> str:
        return "".join(f"--{role}:{colour};" for role, colour in colours.items())

    light, dark = block(dict(LIGHT)), block(dict(DARK))
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _nav(section: Section) -> str:
    shown = any(not isinstance(block, Missing) for block in section.blocks)
    mark = "" if shown else ' class="empty"'
    return f'<a href="#{_text(section.key)}"{mark}>{_text(section.nav)}</a>'


def _section(section: Section) -> str:
    blocks = "".join(_block(block) for block in section.blocks)
    key, title, lead = _text(section.key), _text(section.title), _text(section.lead)
    return f'<section id="{key}"><h2>{title}</h2><p class="lead">{lead}</p>{blocks}</section>'


def _block(block: Block) -> str:
    if isinstance(block, Words):
        return f'<p class="words{" warning" if block.is_warning else ""}">{_text(block.text)}</p>'
    if isinstance(block, Missing):
        return f'<p class="missing">{_text(block.what)}. Made by <code>{_text(block.command)}</code></p>'
    if isinstance(block, Items):
        lines = "".join(f"<li>{_text(line)}</li>" for line in block.lines)
        is_open = " open" if len(block.lines) <= _MOST_ITEMS else ""
        head = f"<summary>{_text(block.title)}: {len(block.lines)}</summary>"
        return f'<details class="items"{is_open}>{head}<ul>{lines}</ul></details>'
    if isinstance(block, Cards):
        return _cards(block)
    return _table(block) if isinstance(block, Table) else _figure(block)


def _cards(block: Cards) -> str:
    cards = []
    for card in block.cards:
        badges = "".join(
            f'<span class="badge tone-{b.tone}"><span>{_text(b.quantity)}</span> <b>{_text(b.verdict)}</b></span>'
            for b in card.badges
        )
        tone = card.badges[0].tone if card.badges else "muted"
        cards.append(
            f'<article class="card tone-{tone}"><h3>{_text(card.title)}</h3><p class="sub">{_text(card.subtitle)}</p>'
            f'<p class="badges">{badges}</p><p class="why">{_text(card.reason)}</p></article>'
        )
    inner = f'<div class="cards">{"".join(cards)}</div>'
    if not block.title:
        return inner
    return f"<details><summary>{_text(block.title)}: {len(cards)}</summary>{inner}</details>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in table.rows
    )
    is_marked = any(cell.startswith(tuple(MARKS.values())) for row in table.rows for cell in row)
    kind = "numeric" if table.is_numeric else "grid" if is_marked else "wordy"
    caption = "" if table.is_folded else f'<p class="caption">{_text(table.title)}</p>'
    inner = (
        f'{caption}<div class="scroll" tabindex="0" role="region" aria-label="{_text(table.title)}">'
        f'<table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return f"<details><summary>{_text(table.title)}</summary>{inner}</details>" if table.is_folded else inner


def _cell(cell: str) -> str:
    tone = next((tone for tone, mark in MARKS.items() if cell.startswith(f"{mark} ")), None)
    kind = "" if tone is None else f' class="tone-{tone}"'
    return f"<td{kind}>{_text(cell)}</td>"


def _figure(figure: Figure) -> str:
    legend = figure.legend()
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-place="{i}">{_swatch(style)}{_text(name)}</button>'
        for i, (name, style) in enumerate(legend)
    )
    panels = "".join(
        f'<div class="panel"><h4>{_text(panel.title)}</h4>'
        f'<div class="plot" role="img" aria-label="{_text(figure.alt)}" data-figure="{figure.key}" data-panel="{i}" '
        f'style="height:{panel.height}px"></div></div>'
        for i, panel in enumerate(figure.panels)
    )
    caption = f"<figcaption><b>{_text(figure.title)}</b><span>{_text(figure.alt)}</span></figcaption>"
    keys = f'<div class="legend">{buttons}</div>' if len(legend) > 1 else ""
    least = _LEAST_PX.get(figure.columns, 300)
    one = " one" if len(figure.panels) == 1 else ""
    return (
        f'<figure id="{figure.key}" data-key="{figure.key}">{caption}{keys}'
        f'<div class="panels{one}" style="--least:{least}px">{panels}</div></figure>'
    )


def _swatch(style: Style) -> str:
    colour = f"var(--{style.role})"
    line = ""
    if style.dash != "none":
        dash = f' stroke-dasharray="{_DASHES[style.dash]}"' if _DASHES[style.dash] else ""
        line = f'<path d="M1 6H29" stroke="{colour}" stroke-width="2"{dash}/>'
    shapes = {
        "circle": f'<circle cx="15" cy="6" r="3.6" fill="{colour}"/>',
        "square": f'<rect x="11.5" y="2.5" width="7" height="7" fill="{colour}"/>',
        "diamond": f'<path d="M15 1.6L19.4 6L15 10.4L10.6 6Z" fill="{colour}"/>',
        "triangle": f'<path d="M15 2L19.4 9.6H10.6Z" fill="{colour}"/>',
        "cross": f'<path d="M12 3L18 9M18 3L12 9" stroke="{colour}" stroke-width="1.8"/>',
        "star": f'<path d="M15 1L16.5 4.6L20 6L16.5 7.4L15 11L13.5 7.4L10 6L13.5 4.6Z" fill="{colour}"/>',
        "none": "",
    }
    return f'<svg viewBox="0 0 30 12" aria-hidden="true">{line}{shapes[style.marker]}</svg>'
