"""What a variant of a chain costs over its baseline, with every value that the intervals of both allow."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.stats import Interval, paired_ratio
from profiler.record import EnergySample, VariantResult

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
    counter's ticks. The run's own verdict knows which windows were measured side by side and pairs them.
    """
    if native is None or native is row or native.energy_is_estimate or row.energy_is_estimate:
        return None
    return quotient(
        row.energy_j_per_query,
        row.energy_j_per_query_ci95,
        native.energy_j_per_query,
        native.energy_j_per_query_ci95,
    )


def ratio_of_windows(own: Sequence[EnergySample], native: Sequence[EnergySample]) -> Interval:
    """Return J per query over the baseline's from energy windows measured side by side.

    Student's interval over the pairs, widened by the counter's ticks in the windows of both.

    Args:
        own: at least two windows of a variant, with joules.
        native: the baseline's, in the same order.
    """
    ratio = paired_ratio(*([(s.energy_j or 0.0) / s.queries for s in windows] for windows in (own, native)))
    ticks = sum(
        sum(s.energy_error_j or 0.0 for s in windows) / sum(s.energy_j or 0.0 for s in windows)
        for windows in (own, native)
    )
    return Interval(ratio.point, ratio.low * max(0.0, 1 - ticks), ratio.high * (1 + ticks))
