"""What one pass of a kernel over a chain is worth: its hops drift, and so would those of another pass."""

from __future__ import annotations

from analysis.chain_waterfall import Places
from analysis.stats import Interval, drift_share
from profiler.record import VariantResult


def energy_ends(row: VariantResult, hops: Places) -> tuple[float, float] | None:
    """Return the interval of the joules of a row with one energy window, widened by the drift of its hops, J.

    Args:
        row: with the interval that the counter's ticks give.
        hops: its hop times.

    Returns:
        None where the row has no energy, several windows, whose spread says more, or too few hops.
    """
    joules, ends = row.energy_j_per_query, row.energy_j_per_query_ci95
    if row.energy_windows != 1 or joules is None or ends is None:
        return None
    places = sorted(hops)
    share = drift_share([hop for _, _, hop in places], [hops[place] for place in places])
    return None if share is None else (max(0.0, ends[0] - share * joules), ends[1] + share * joules)


def widened(ratio: Interval, own: Places, reference: Places) -> Interval:
    """Return a ratio of hop times that holds how the host drifts, which paced the kernels one after the other.

    Args:
        ratio: of the hops that both have.
        own: hop times of the variant.
        reference: those of the baseline.
    """
    shared = sorted(own.keys() & reference.keys())
    share = (
        drift_share([hop for _, _, hop in shared], [own[place] / reference[place] for place in shared]) or 0.0
    )
    return Interval(ratio.point, max(0.0, ratio.low * (1 - share)), ratio.high * (1 + share))
