"""What an energy meter is: a window of time goes in, joules and their source come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from profiler.record_types import EnergySource, is_energy_estimate

SHORTEST_WINDOW_S = 5.0
"""A window should last at least this long: an end that is off by one 100 ms tick is then worth 2 %."""


@dataclass(frozen=True)
class EnergyWindow:
    """The start of a window."""

    start_ns: int
    """Clock at the start, ns."""
    counters_j: tuple[float, ...]
    """Counters at the start, J; empty for meters without any."""
    notes: tuple[str, ...] = ()
    """Doubts about the start, for the reading's detail."""


@dataclass(frozen=True)
class EnergyReading:
    """The energy of one window."""

    energy_j: float | None
    """Joules of the window, idle power included; None when there is no source."""
    duration_s: float
    """Length of the window, s."""
    source: EnergySource
    """Where the joules come from."""
    idle_w: float | None
    """Power before the run with the context alive, W; None when it was not measured."""
    detail: str
    """Counters used and doubts about them."""

    def __post_init__(self) -> None:
        if self.energy_j is not None and not 0 <= self.energy_j < float("inf"):
            raise ValueError(
                f"energy_j={self.energy_j:g} of a window of duration_s={self.duration_s:g} is not an energy"
            )
        if self.duration_s < 0:
            raise ValueError(f"duration_s={self.duration_s:g} is negative")

    @property
    def is_estimate(self) -> bool:
        """Whether the joules are no measurement."""
        return is_energy_estimate(self.source)

    @property
    def active_j(self) -> float | None:
        """Energy above idle power, J; None unless energy and idle power were both measured."""
        if self.energy_j is None or self.idle_w is None:
            return None
        return self.energy_j - self.idle_w * self.duration_s


class EnergyMeter(Protocol):
    """Anything that turns a window of time into joules.

    ``window = meter.begin()`` ... ``reading = meter.end(window)``; the caller synchronises the device before
    both calls. Windows may overlap.
    """

    @property
    def source(self) -> EnergySource:
        """Where the joules come from."""
        ...

    @property
    def is_estimate(self) -> bool:
        """Whether the joules are no measurement."""
        ...

    @property
    def reason(self) -> str:
        """Why this meter was chosen, in a sentence."""
        ...

    def begin(self) -> EnergyWindow:
        """Start a window."""
        ...

    def end(self, window: EnergyWindow) -> EnergyReading:
        """End a window.

        Args:
            window: what :meth:`begin` returned.

        Returns:
            The energy since then.
        """
        ...

    def measure_idle(self, duration_s: float = SHORTEST_WINDOW_S) -> float | None:
        """Measure power at rest and put it into later readings.

        Args:
            duration_s: how long to rest, s.

        Returns:
            Idle power, W; None for a meter that measures nothing.
        """
        ...
