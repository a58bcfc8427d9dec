"""What a power cap makes of a hop: the card runs at lower clocks, at the power that it may draw, and longer.

    T' = T·((P − P0) / (P_held − P0))^(1/k)        where P = E/T is above P_held
    E' = P_held·T'

Above the static power P0 what a card draws goes with the k-th power of its clocks, because its voltage falls with
them, and time goes with their inverse. That holds for work that the clocks pace; what waits for memory alone is held at
its power and takes hardly longer.
"""

from __future__ import annotations

import numpy as np

from analysis.hop_cost import Cost, Line, above_zero_intervals

HELD_SHARE = 0.985
"""Share of the cap at which an H200 was seen to be held, 688 to 692 W of 700 in nine energy windows."""
POWER_OF_CLOCKS = 2.0
"""k: 1.6 to 2.5 by three calls at full clocks and under the cap (docs/predict.md)."""
_KNOTS = 24


def held_w(cap_w: float) -> float:
    """Return the mean power that a capped card is held at, W."""
    return HELD_SHARE * cap_w


def capped(time: Cost, energy: Cost, *, cap_w: float, static_w: float, most: int) -> tuple[Cost, Cost]:
    """Return time and energy of a hop as a power cap leaves them.

    Args:
        time: T(B) at full clocks, s.
        energy: E(B) at full clocks, J.
        cap_w: power cap, W.
        static_w: P0, W.
        most: largest batch that is asked for, above 1; beyond it nothing is held down further.

    Returns:
        T'(B) and E'(B), exact where nothing is held down and at the batch sizes that are knots, and lines between
        them. As they were where nothing draws that much, or where the static power alone is above the cap.
    """
    held = held_w(cap_w)
    over = above_zero_intervals(energy.minus(time.times(held)), 1, most)
    if not over or static_w >= held:
        return time, energy
    times, energies = time, energy
    for low, high in over:
        batches = _knots(float(low), float(high), time)
        longer = [_held_s(time, energy, batch, held, static_w) for batch in batches]
        times = _replaced(times, batches, longer)
        energies = _replaced(energies, batches, [held * taken_s for taken_s in longer])
    return times, energies


def _held_s(time: Cost, energy: Cost, batch: float, held: float, static_w: float) -> float:
    taken_s = float(time.at(batch))
    power_w = float(energy.at(batch)) / taken_s
    share = (power_w - static_w) / (held - static_w)
    # A root of the power is a rounding away from the cap.
    return float(taken_s * max(1.0, share) ** (1 / POWER_OF_CLOCKS))


def _knots(low: float, high: float, time: Cost) -> list[float]:
    """Batches between which a line is close enough: whole ones where they are few, and where the time bends."""
    whole = np.arange(np.floor(low) + 1, np.ceil(high))
    if len(whole) > _KNOTS:
        whole = np.unique(np.round(np.geomspace(low, high, _KNOTS + 2)[1:-1]))
    bends = [float(piece.start) for piece in time.pieces]
    inside = {float(batch) for batch in (*whole, *bends) if low < batch < high}
    return [low, *sorted(inside), high]


def _replaced(cost: Cost, batches: list[float], values: list[float]) -> Cost:
    """A cost with straight lines through the values between the first and the last batch.

    Ahead of them it is what it was; where the last value is another, it goes on in parallel.
    """
    first, last = batches[0], batches[-1]
    pieces = [piece for piece in cost.pieces if piece.start < first]
    for left, right, begin, end in zip(batches, batches[1:], values, values[1:], strict=False):
        slope = (end - begin) / (right - left)
        pieces.append(Line(left, begin - slope * left, slope))
    raised = values[-1] - float(cost.at(last))
    after = [p for p in cost.pieces if p.start > last]
    there = [p for p in cost.pieces if p.start <= last][-1]
    pieces.append(Line(last, there.fixed + raised, there.per_row))
    return Cost((*pieces, *(Line(p.start, p.fixed + raised, p.per_row) for p in after)))
