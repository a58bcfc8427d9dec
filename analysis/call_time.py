"""The time of a call over m: the fitted formula, and what measured calls of near shapes differ from it.

    t(m; n, k) = formula(m; n, k) + deviation(m; n, k)

The time between the linears of a hop, and that of the linears in their order, are taken likewise, with sequences as m
and the widths of a layer as n and k.

The formula of ``analysis.fit_time`` is smooth in the sizes. A kernel's configurations are not: they change with m and
with the matrix, so that whole ranges of m lie off it in the same direction. What a fit's own residuals say of that is
carried to other shapes: at each measured m the logarithm of observed over formula, averaged over the measured shapes
with the weights 1 / D^2, where D is the distance in octaves of n and k (Shepard 1968), and with a pull of weight 1
towards 0, so that far from all that was measured the formula stays. Between two measured m the deviation is a line,
before the first and beyond the last it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.fit_file import Residual
from analysis.hop_cost import Cost, Line, call_cost

_PULL = 1.0


@dataclass(frozen=True)
class Deviations:
    """Measurements of one kernel, by how much each differs from the formula.

    Attributes:
        by_rows: for each m, pairs of a shape (n, k) and the logarithm of observed over formula.
    """

    by_rows: Mapping[int, Sequence[tuple[tuple[int, int], float]]] = field(default_factory=dict)
    _known: dict[tuple[int, int], dict[int, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, residuals: Iterable[Residual]) -> Deviations:
        """Take over stored residuals."""
        found: dict[int, list[tuple[tuple[int, int], float]]] = {}
        for cell in residuals:
            found.setdefault(cell.m, []).append(((cell.n, cell.k), float(np.log1p(-cell.residual_share))))
        return cls(dict(sorted(found.items())))

    def factors(self, n: int, k: int) -> dict[int, float]:
        """Return observed over formula as expected of a shape, by measured m, rising."""
        found = self._known.get((n, k))
        if found is None:
            found = self._known[n, k] = {m: _expected(cells, n, k) for m, cells in self.by_rows.items()}
        return found


NO_DEVIATIONS = Deviations()


def call_time(parameters: Sequence[float], deviations: Deviations, n: int, k: int) -> Cost:
    """Return the time of a call as a function of m, s.

    Args:
        parameters: in the order of ``analysis.fit_time.TIME_PARAMETERS``.
        deviations: of the same kernel.
        n: out-features.
        k: in-features.
    """
    return deviating(call_cost(parameters, n, k), deviations, n, k)


def deviating(formula: Cost, deviations: Deviations, n: int, k: int) -> Cost:
    """Return a formula over m with the deviations that are expected of a shape, s.

    Args:
        formula: of that shape.
        deviations: of the measurements that it was fitted to.
        n: out-features, or the width inside the feed-forward block.
        k: in-features, or the width of the residual stream.
    """
    knots = [(m, float(formula.at(m)) * (factor - 1)) for m, factor in deviations.factors(n, k).items()]
    return formula.plus(through(knots)) if knots else formula


def through(knots: Sequence[tuple[int, float]]) -> Cost:
    """Return lines through values at rising m, level before the first and after the last."""
    pieces = [Line(0, knots[0][1], 0)]
    for (m, value), (next_m, next_value) in zip(knots, knots[1:], strict=False):
        slope = (next_value - value) / (next_m - m)
        pieces.append(Line(m, value - slope * m, slope))
    pieces.append(Line(knots[-1][0], knots[-1][1], 0))
    return Cost(tuple(pieces))


def _expected(cells: Sequence[tuple[tuple[int, int], float]], n: int, k: int) -> float:
    sizes, logs = (
        np.array([shape for shape, _ in cells], dtype=np.float64),
        np.array([log for _, log in cells]),
    )
    squares = np.sum(np.log2(sizes / [n, k]) ** 2, axis=1)
    if not squares.all():
        return float(np.exp(logs[squares == 0].mean()))
    weights = 1 / squares
    return float(np.exp(weights @ logs / (weights.sum() + _PULL)))
