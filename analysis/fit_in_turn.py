"""What a call takes longer between the small kernels of a hop than behind calls of its own kind, by rows of x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_file import InTurn


@dataclass(frozen=True)
class TurnCell:
    """The extra time of one call.

    Attributes:
        m: rows of x.
        n: out-features.
        k: in-features.
        extra_s: median, s; below 0 where the call is faster there.
    """

    m: int
    n: int
    k: int
    extra_s: float


def in_turn_by_rows(cells: Sequence[TurnCell]) -> list[InTurn]:
    """Average over the shapes at each m, rising in m; the range is that of the shapes."""
    found = []
    for m in sorted({cell.m for cell in cells}):
        extra_s = np.array([cell.extra_s for cell in cells if cell.m == m])
        found.append(
            InTurn(m=m, extra_s=float(extra_s.mean()), range_s=(float(extra_s.min()), float(extra_s.max())))
        )
    return found
