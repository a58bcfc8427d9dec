"""A report as Markdown: the same verdicts, tables and main numbers, pictures as links where they were drawn."""

from __future__ import annotations

from analysis.report.figure import Figure
from analysis.report.section import Block, Cards, Items, Missing, Report, Table, Words

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\|<>[]`*"})


def markdown(report: Report, *, pictures: str | None = None) -> str:
    """Write a report as Markdown.

    Args:
        report: what to write.
        pictures: folder of the PNG files as seen from the Markdown file; None where none were drawn.

    Returns:
        The text.
    """
    lines = [f"# {plain(report.title)}", "", plain(report.subtitle), ""]
    for section in report.sections:
        lines += [f"## {plain(section.title)}", "", plain(section.lead), ""]
        for block in section.blocks:
            lines += [*_block(block, pictures), ""]
    return "\n".join(lines).rstrip() + "\n"


def plain(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    return " ".join(text.split()).translate(_SPECIAL)


def _block(block: Block, pictures: str | None) -> list[str]:
    if isinstance(block, Words):
        return [f"> {plain(block.text)}" if block.is_warning else plain(block.text)]
    if isinstance(block, Missing):
        return [f"*Not shown.* {plain(block.what)}. Made by `{block.command}`."]
    if isinstance(block, Items):
        return [f"**{plain(block.title)}**", "", *(f"- {plain(line)}" for line in block.lines)]
    if isinstance(block, Cards):
        return [
            f"- **{plain(card.title)}** ({plain(card.subtitle)}): "
            + ", ".join(f"{plain(b.quantity)} **{plain(b.verdict)}**" for b in card.badges)
            + f". {plain(card.reason)}"
            for card in block.cards
        ]
    if isinstance(block, Table):
        return _table(block)
    return _figure(block, pictures)


def _table(table: Table) -> list[str]:
    aligned = ["---", *(["---:" if table.is_numeric else "---"] * (len(table.head) - 1))]
    rows = [table.head, aligned, *table.rows]
    cells = [[cell if i == 1 else plain(cell) for cell in row] for i, row in enumerate(rows)]
    return [f"**{plain(table.title)}**", "", *(f"| {' | '.join(row)} |" for row in cells)]


def _figure(figure: Figure, pictures: str | None) -> list[str]:
    words = f"**{plain(figure.title)}.** {plain(figure.alt)}"
    return (
        [words] if pictures is None else [words, "", f"![{plain(figure.title)}]({pictures}/{figure.key}.png)"]
    )
