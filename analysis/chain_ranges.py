"""What to know about a variant's times by ranges."""

from __future__ import annotations

from collections.abc import Sequence

from profiler.record import RangeSample


def range_notes(samples: Sequence[RangeSample]) -> list[str]:
    """Sentences about ranges whose own cost could not be taken off.

    Args:
        samples: of one variant.

    Returns:
        Notes for the record; none where there is nothing to say.
    """
    notes = []
    unknown = sum(sample.range_cost_s == 0 for sample in samples)
    if unknown:
        notes.append(
            f"ranges: measuring what a range costs made no sense for {unknown} of {len(samples)} hops, whose times "
            "hold it"
        )
    at_zero = sum(sample.ranges_at_zero or 0 for sample in samples)
    if at_zero:
        every = sum(sample.ranges or 0 for sample in samples)
        notes.append(f"ranges: {at_zero} of {every} took less than a range costs, and count 0")
    return notes
