"""What an energy meter is: a window of time goes in, joules and their source come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from profiler.nvml_counter import Tick
from profiler.record_types import EnergySource, is_energy_estimate

SHORTEST_WINDOW_S = 5.0
"""A window by a counter that ticks every 100 ms lasts at least this long: one tick is then worth 2 %."""

KeepBusy = Callable[[], object]
"""Called again and again while a meter waits for a tick, so that the device stays loaded."""


@dataclass(frozen=True)
class EnergyWindow:
    """The start of a window."""

    start_ns: int
    """Clock at the start, ns."""
    counters_j: tuple[float, ...]
    """Counters at the start, J; empty for meters without any."""
    ticks: tuple[Tick, ...] = ()
    """The ticks at which counters that tick were read."""
    trouble: str | None = None
    """Why the counters are no use, in a sentence."""


@dataclass(frozen=True)
class EnergyReading:
    """The energy of one window: the figure to use, and every figure that could be had beside it."""

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
    error_j: float | None = None
    """Most that the counter's ticks can put energy_j off, J; None for sources without ticks."""
    counter_j: float | None = None
    """Joules by the hardware's energy counter; None where there is none or it failed."""
    polled_j: float | None = None
    """Joules by integrating polled power; None where it cannot be polled."""
    hli_j: float | None = None
    """The paper's estimate, TDP times time, J; None where no TDP is known."""

    def __post_init__(self) -> None:
        for name in ("energy_j", "counter_j", "polled_j", "hli_j", "error_j"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(
                    f"{name}={value:g} of a window of duration_s={self.duration_s:g} is not an energy"
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
    both calls, or keeps it loaded through both with ``keep_busy``. Windows may overlap.
    """

    @property
    def source(self) -> EnergySource:
        """Where the joules come from, as long as nothing fails."""
        ...

    @property
    def is_estimate(self) -> bool:
        """Whether the joules are no measurement."""
        ...

    @property
    def reason(self) -> str:
        """Why this meter was chosen, in a sentence."""
        ...

    @property
    def shortest_window_s(self) -> float:
        """How long a window must last for a figure, s; 0 where any length will do."""
        ...

    def begin(self, keep_busy: KeepBusy | None = None) -> EnergyWindow:
        """Start a window.

        Args:
            keep_busy: called while the meter waits for a tick.
        """
        ...

    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        """End a window.

        Args:
            window: what :meth:`begin` returned.
            keep_busy: called while the meter waits for a tick; what it does belongs to the window.

        Returns:
            The energy since then.
        """
        ...

    def measure_idle(self, duration_s: float | None = None) -> float | None:
        """Measure power at rest and put it into later readings.

        Args:
            duration_s: how long to rest, s; by default the shortest window.

        Returns:
            Idle power, W; None for a meter that measures nothing.
        """
        ...
