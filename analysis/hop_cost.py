"""What a hop costs as a function of the batch: a function that is linear between knots, exactly.

The model is piecewise linear in B because max() and min() are, so every crossing is a root of a line and none is
searched for. Numbers may be ``Fraction``, which the algebra is tested with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

Number = float | Fraction


@dataclass(frozen=True)
class Line:
    """One piece of a cost: ``fixed + per_row * B`` from ``start`` on.

    Attributes:
        start: batch at which the piece begins.
        fixed: what the batch shares.
        per_row: what every row pays.
    """

    start: Number
    fixed: Number
    per_row: Number

    def at(self, batch: Number) -> Number:
        """Return the cost at a batch size."""
        return self.fixed + self.per_row * batch


@dataclass(frozen=True)
class Cost:
    """A continuous cost over B >= 0 in linear pieces, the first of which starts at 0.

    Attributes:
        pieces: in the order of their starts.
    """

    pieces: tuple[Line, ...]

    def __post_init__(self) -> None:
        """Refuse pieces that are no function."""
        starts = [piece.start for piece in self.pieces]
        if not starts or starts[0] != 0 or any(a >= b for a, b in zip(starts, starts[1:], strict=False)):
            raise ValueError(f"pieces must start at 0 and rise, got {starts}")

    @classmethod
    def line(cls, fixed: Number, per_row: Number = 0) -> Cost:
        """Return ``fixed + per_row * B``."""
        return cls((Line(0, fixed, per_row),))

    def at(self, batch: Number) -> Number:
        """Return the cost at a batch size of at least 0."""
        if batch < 0:
            raise ValueError(f"batch={batch} is below 0")
        piece = self.pieces[0]
        for candidate in self.pieces[1:]:
            if candidate.start > batch:
                break
            piece = candidate
        return piece.at(batch)

    def plus(self, other: Cost) -> Cost:
        """Return the sum."""
        return _combine(self, other, lambda a, b: a + b)

    def minus(self, other: Cost) -> Cost:
        """Return the difference."""
        return _combine(self, other, lambda a, b: a - b)

    def times(self, factor: Number) -> Cost:
        """Return the cost times a number."""
        return Cost(tuple(Line(p.start, p.fixed * factor, p.per_row * factor) for p in self.pieces))

    def until(self, last: int, then: Cost) -> Cost:
        """Return this cost up to ``last`` rows, and another one from ``last + 1`` rows on; a line joins the two."""
        low, high = self.at(last), then.at(last + 1)
        pieces = [piece for piece in self.pieces if piece.start < last]
        pieces.append(Line(last, low - (high - low) * last, high - low))
        pieces.append(_piece_of(then, last + 1))
        return Cost((*pieces, *(piece for piece in then.pieces if piece.start > last + 1)))

    def at_least(self, other: Cost) -> Cost:
        """Return the larger of the two at every batch."""
        gap = self.minus(other)
        pieces = []
        for piece, end in _with_ends(gap.pieces):
            for start in (piece.start, *_root_inside(piece, end)):
                # Just right of the start, where the sign of a line is that of its value or else of its slope.
                ahead = piece.at(start)
                wins = ahead > 0 or (ahead == 0 and piece.per_row > 0)
                if start != piece.start:
                    wins = piece.per_row > 0
                pieces.append(_piece_of(self if wins else other, start))
        return Cost(tuple(pieces))


def hop_time(
    *,
    fixed: Number,
    weights: Number,
    per_row: Number,
    cast_pass: Number = 0,
    cast_row: Number = 0,
    host: Number = 0,
    is_serial: bool = False,
) -> Cost:
    """Return T(B) of one hop.

    G(B) = D + max(W, B x) + A + B r is the device's time; T = max(H, G), or H + G where the kernel makes the host
    wait in every layer.

    Args:
        fixed: D, device overhead of a hop, s.
        weights: W, packed bytes over bandwidth, s.
        per_row: x, arithmetic of one row, s.
        cast_pass: A, casting of one pass over the weights, s.
        cast_row: r, everything else that every row pays, s.
        host: H, s; about 0 under CUDA graphs.
        is_serial: whether host and device take turns.
    """
    device = Cost.line(weights).at_least(Cost.line(0, per_row)).plus(Cost.line(fixed + cast_pass, cast_row))
    return device.plus(Cost.line(host)) if is_serial else device.at_least(Cost.line(host))


def hop_energy(
    time: Cost,
    *,
    static_w: Number,
    pass_j: Number,
    row_j: Number = 0,
) -> Cost:
    """Return E(B) of one hop, P T(B) + e_B bytes + e_cast decoded + B (e_F flops + e_row), J.

    Args:
        time: T(B), s.
        static_w: P, what is drawn all the time, W: P0 and, where the device is busy throughout, Pa.
        pass_j: joules of a pass over the weights: bytes read and weights decoded.
        row_j: joules of one row: arithmetic and its own bytes.
    """
    return time.times(static_w).plus(Cost.line(pass_j, row_j))


def call_cost(parameters: Sequence[float], n: int, k: int) -> Cost:
    """Return the time of a call as a function of m, from the parameters of ``analysis.fit_time``."""
    launch, weight_pass, row, unhidden, edge, depth = map(float, parameters)
    memory, arithmetic = Cost.line(max(weight_pass * n * k, depth * k)), Cost.line(0, row * n * k)
    longer = memory.at_least(arithmetic)
    shorter = memory.plus(arithmetic).minus(longer)
    return longer.plus(shorter.times(unhidden)).plus(Cost.line(launch, edge * (n + k)))


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of costs, 0 for none."""
    whole = Cost.line(0)
    for cost in costs:
        whole = whole.plus(cost)
    return whole


def above_zero_intervals(cost: Cost, low: Number, high: Number) -> tuple[tuple[Number, Number], ...]:
    """Return where a cost is above 0 within [low, high], as intervals from root to root.

    Raises:
        ValueError: bounds that are no interval of batch sizes.
    """
    if not 0 <= low < high:
        raise ValueError(f"[{low}, {high}] is no interval of batch sizes")
    found: list[tuple[Number, Number]] = []
    for piece, end in _with_ends(cost.pieces):
        left, right = max(piece.start, low), high if end is None else min(end, high)
        if left >= right:
            continue
        cuts = [left, *(root for root in _root_inside(piece, end) if left < root < right), right]
        for a, b in zip(cuts, cuts[1:], strict=False):
            if piece.at((a + b) / 2) > 0:
                if found and found[-1][1] == a:
                    found[-1] = (found[-1][0], b)
                else:
                    found.append((a, b))
    return tuple(found)


def _combine(first: Cost, second: Cost, join: Callable[[Number, Number], Number]) -> Cost:
    pieces = []
    ours, theirs = first.pieces, second.pieces
    i = j = 0
    start: Number = 0
    while True:
        a, b = ours[i], theirs[j]
        pieces.append(Line(start, join(a.fixed, b.fixed), join(a.per_row, b.per_row)))
        ends = [cost[place + 1].start for cost, place in ((ours, i), (theirs, j)) if place + 1 < len(cost)]
        if not ends:
            return Cost(tuple(pieces))
        start = min(ends)
        i += i + 1 < len(ours) and ours[i + 1].start == start
        j += j + 1 < len(theirs) and theirs[j + 1].start == start


def _piece_of(cost: Cost, start: Number) -> Line:
    piece = [p for p in cost.pieces if p.start <= start][-1]
    return Line(start, piece.fixed, piece.per_row)


def _with_ends(pieces: Sequence[Line]) -> list[tuple[Line, Number | None]]:
    ends: list[Number | None] = [piece.start for piece in pieces[1:]]
    return list(zip(pieces, [*ends, None], strict=True))


def _root_inside(piece: Line, end: Number | None) -> tuple[Number, ...]:
    """The root of a piece strictly between its start and its end."""
    if piece.per_row == 0:
        return ()
    root = -piece.fixed / piece.per_row
    return (root,) if root > piece.start and (end is None or root < end) else ()
