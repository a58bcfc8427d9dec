"""What a report is made of: sections of sentences, cards, tables and figures, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from analysis.report.figure import Figure

UNKNOWN = "–"
Tone = Literal["good", "bad", "warn", "muted"]
MARKS: Mapping[Tone, str] = {"good": "✓", "bad": "✗", "warn": "≈"}
"""What a cell of a table begins with to be coloured, and to be told apart without colours."""


@dataclass(frozen=True)
class Words:
    """A paragraph; ``is_warning`` sets it off."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Missing:
    """What cannot be shown, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True)
class Table:
    """Rows of text; columns after the first are numbers where ``is_numeric``."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_numeric: bool = True
    is_folded: bool = False

    def __post_init__(self) -> None:
        """Refuse rows that do not fit the head."""
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(
                    f"table {self.title!r}: a row of {len(row)} cells under {len(self.head)} columns"
                )


@dataclass(frozen=True)
class Badge:
    """A verdict in a word or two, after the quantity that it is about."""

    quantity: str
    verdict: str
    tone: Tone


@dataclass(frozen=True)
class Card:
    """The verdict on one variant."""

    title: str
    subtitle: str
    badges: tuple[Badge, ...]
    reason: str


@dataclass(frozen=True)
class Cards:
    """Verdicts side by side, folded away under a title where they have one."""

    cards: tuple[Card, ...]
    title: str = ""


@dataclass(frozen=True)
class Items:
    """A list of sentences, folded away where there are many."""

    title: str
    lines: tuple[str, ...]


Block = Words | Missing | Table | Cards | Items | Figure


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        key: anchor on the page.
        nav: name in the navigation.
        title: heading.
        lead: what the section shows, in a sentence or two.
        blocks: its content.
    """

    key: str
    nav: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = ()

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Its figures."""
        return tuple(block for block in self.blocks if isinstance(block, Figure))


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure, in order."""
        return tuple(figure for section in self.sections for figure in section.figures)


def number(value: float | None, digits: int = 3) -> str:
    """Print with so many significant digits, counts whole; an en dash where nothing is known."""
    if isinstance(value, int):
        return f"{value:,}"
    if value is None or not math.isfinite(value):
        return UNKNOWN if value is None or math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    # Rounded first: 0.0999 is 0.100 and not 0.0999 or 0.1000.
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    places = digits - 1 - power
    # Above the digits asked for, a number stays whole: 4,393 and not 4,390.
    text = f"{value:,.{max(0, places)}f}" if -4 < power < 9 else f"{value:.{digits}g}"
    return f"−{text[1:]}" if text.startswith("-") else text


def with_interval(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """Print ``1.80 [1.71, 1.92]``; without an interval the value alone."""
    if value is None or interval is None:
        return number(value, digits)
    return f"{number(value, digits)} [{number(interval[0], digits)}, {number(interval[1], digits)}]"


def percent(share: float | None, digits: int = 1) -> str:
    """Print a share in percent."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f} %".replace("-", "−")


def listed(words: Sequence[str]) -> str:
    """Join with commas and ``and``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def slug(text: str) -> str:
    """Turn a name into a part of a key: lower-case letters, digits and hyphens."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split()) or "x"
