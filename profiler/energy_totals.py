"""Readings of several windows added up, with the least certain source and every doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from profiler.energy_window import EnergyReading
from profiler.record_types import EnergySource

_BY_CERTAINTY: tuple[EnergySource, ...] = ("nvml_counter", "rapl", "nvml_polled", "hli", "fake", "none")
_MOST_DETAILS = 3


@dataclass(frozen=True)
class EnergyTotals:
    """Sums over windows; None where one window lacks the figure."""

    energy_j: float | None
    """Joules, idle power included."""
    error_j: float | None
    """Most that the counter's ticks can put energy_j off, J."""
    counter_j: float | None
    """Joules by the hardware's counter."""
    polled_j: float | None
    """Joules by polled power."""
    hli_j: float | None
    """TDP times time, J."""
    active_j: float | None
    """Joules above idle power."""
    idle_w: float | None
    """Power at rest, W."""
    duration_s: float
    """Length of all windows, s."""
    source: EnergySource
    """The least certain source of the windows."""
    detail: str
    """The windows' details, each once."""


def add_up(readings: Sequence[EnergyReading]) -> EnergyTotals:
    """Add readings up.

    Args:
        readings: at least one.

    Returns:
        The sums. A sum of joules from sources of different kinds has the least certain one.

    Raises:
        ValueError: no reading.
    """
    if not readings:
        raise ValueError("0 energy readings have no sum")
    details = list(dict.fromkeys(reading.detail for reading in readings))
    more = [f"and {len(details) - _MOST_DETAILS} more remarks"] if len(details) > _MOST_DETAILS else []
    return EnergyTotals(
        energy_j=_sum([reading.energy_j for reading in readings]),
        error_j=_sum([reading.error_j for reading in readings]),
        counter_j=_sum([reading.counter_j for reading in readings]),
        polled_j=_sum([reading.polled_j for reading in readings]),
        hli_j=_sum([reading.hli_j for reading in readings]),
        active_j=_sum([reading.active_j for reading in readings]),
        idle_w=readings[-1].idle_w,
        duration_s=sum(reading.duration_s for reading in readings),
        source=max((reading.source for reading in readings), key=_BY_CERTAINTY.index),
        detail=" | ".join([*details[:_MOST_DETAILS], *more]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
