"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def number(value: float | None, spec: str) -> str:
    """A number by its format specification; a dash for none."""
    return "–" if value is None else format(value, spec)


def ends(interval: Sequence[float] | None, spec: str) -> str:
    """The ends of an interval in brackets, behind a number; nothing for none."""
    return "" if interval is None else f" [{interval[0]:{spec}}, {interval[1]:{spec}}]"


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table with a label per row and its numbers to the right.

    Args:
        title: heading of the labels.
        columns: headings of the others.
        rows: cells by label.
    """
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    return "\n".join([*lines, *(f"| {label} | " + " | ".join(cells) + " |" for label, cells in rows.items())])
