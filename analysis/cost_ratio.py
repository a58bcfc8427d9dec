"""What a variant of a chain costs over its baseline, with every value that the intervals of both allow."""

from __future__ import annotations

from analysis.stats import Interval
from profiler.record import VariantResult

Ends = tuple[float, float]


def quotient(
    own: float | None, own_ends: Ends | None, other: float | None, other_ends: Ends | None
) -> Interval | None:
    """Return own / other with every value that their intervals allow; None where one is missing or reaches 0."""
    if own is None or own_ends is None or not other or other_ends is None or other_ends[0] <= 0:
        return None
    return Interval(own / other, own_ends[0] / other_ends[1], own_ends[1] / other_ends[0])


def time_ratio(row: VariantResult, native: VariantResult | None) -> Interval | None:
    """Return hop time over the baseline's: of replayed hops, pair by pair, else by the intervals of both medians.

    Args:
        row: a variant; its ``cor_tps`` is against the baseline of its run.
        native: the baseline's row of the same run and batch size; None where there is none.
    """
    if row.cor_tps is not None and row.cor_tps_ci95 is not None:
        low, high = row.cor_tps_ci95
        return Interval(1 + row.cor_tps, 1 + low, 1 + high)
    if native is None or native is row:
        return None
    return quotient(row.hop_ms_p50, row.hop_ms_p50_ci95, native.hop_ms_p50, native.hop_ms_p50_ci95)


def energy_ratio(row: VariantResult, native: VariantResult | None) -> Interval | None:
    """Return J per query over the baseline's of the same run and batch size; None where either was not measured.

    The interval holds every ratio that those of the two energies allow: Student's over the windows, widened by the
    counter's ticks. It is wider than the run's own verdict, which resamples pairs of a few windows.
    """
    if native is None or native is row or native.energy_is_estimate or row.energy_is_estimate:
        return None
    return quotient(
        row.energy_j_per_query,
        row.energy_j_per_query_ci95,
        native.energy_j_per_query,
        native.energy_j_per_query_ci95,
    )
