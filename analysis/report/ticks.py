"""Where ticks stand and bars lie."""

from __future__ import annotations

import math
from collections.abc import Iterable

# Nearer ones would write over each other, as a share of a logarithmic axis.
_APART = 0.08


def powers_of_two(values: Iterable[float]) -> tuple[tuple[float, str], ...]:
    """Return ticks at the given places above 0, for batch sizes and rows of x on a logarithmic axis.

    Where many stand close, powers of two are kept first, then the others, each from the smallest.
    """
    places = sorted({value for value in values if value > 0})
    kept: list[float] = []
    least = _APART * math.log2(places[-1] / places[0]) if places else 0.0
    for value in sorted(places, key=lambda value: (not math.log2(value).is_integer(), value)):
        if all(abs(math.log2(value / other)) >= least for other in kept):
            kept.append(value)
    return tuple((value, f"{value:g}") for value in sorted(kept))


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
