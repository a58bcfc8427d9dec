"""Where ticks stand and bars lie."""

from __future__ import annotations

import math
from collections.abc import Iterable


def powers_of_two(values: Iterable[float]) -> tuple[tuple[float, str], ...]:
    """Return ticks at the given places, for batch sizes and rows of x."""
    return tuple((value, f"{value:g}") for value in sorted(set(values)))


def decades(values: Iterable[float]) -> tuple[tuple[float, str], ...]:
    """Return ticks at 1, 2 and 5 times powers of ten, or at powers alone, that cover values above 0."""
    positive = [value for value in values if value > 0]
    if not positive:
        return ()
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    places = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return tuple((place, f"{place:g}") for place in places)


def grouped(groups: int, bars: int, *, filled: float = 0.8) -> tuple[list[list[float]], float]:
    """Place groups of bars side by side around 0, 1, 2...

    Args:
        groups: number of groups.
        bars: bars in each.
        filled: share of the axis that bars cover.

    Returns:
        Places by bar, then group, and the width of a bar.
    """
    width = filled / bars
    return [[g + (b - (bars - 1) / 2) * width for g in range(groups)] for b in range(bars)], 0.92 * width
