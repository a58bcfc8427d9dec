"""NVML's energy counters read on their ticks: when each advanced, and how uncertain that moment is.

A counter stands still between two ticks (100 ms on an H200), so a reading means something only at the moment
in which it moves. Between that moment and the energy it stands for lies a constant lag, which cancels from
a difference of two ticks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from profiler.nvml import Nvml, NvmlGpu, NvmlUnavailableError

CALIBRATION_TICKS = 6
"""Ticks watched to learn the counter's period."""

LONGEST_TICK_S = 2.0
"""A counter that does not move for this long stands still, s."""

POLL_S = 0.001
"""Time between two looks at a counter, s."""


class CounterStuckError(NvmlUnavailableError):
    """The energy counter does not advance."""


class CounterBackwardsError(NvmlUnavailableError):
    """The energy counter reads less than before: the driver was reloaded, or the GPU was reset."""


@dataclass(frozen=True)
class Tick:
    """The moment in which one counter advanced."""

    energy_j: float
    """The counter after it advanced, J."""
    at_ns: int
    """Clock halfway between the last look at the old value and the first at the new one, ns."""
    half_gap_s: float
    """Half of the time between these looks, s: the tick lay within it."""


@dataclass(frozen=True)
class TickPeriod:
    """How often a counter advances, as measured here."""

    tick_s: float
    """Median time between two ticks, s."""
    spread_s: float
    """Largest deviation from it, s; the uncertainty of our looks is part of it."""
    ticks: int
    """Ticks seen."""


class TickingCounters:
    """The energy counters of some GPUs.

    Args:
        nvml: an open NVML.
        gpus: GPUs of this host, at least one.
        clock_ns: monotonic clock, ns.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        nvml: Nvml,
        gpus: Sequence[NvmlGpu],
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._nvml = nvml
        self._gpus = tuple(gpus)
        self._clock_ns = clock_ns
        self._sleep = sleep

    def read_j(self) -> tuple[float, ...]:
        """Every counter now, J.

        Raises:
            NvmlUnavailableError: one cannot be read.
        """
        return tuple(self._nvml.total_energy_j(gpu) for gpu in self._gpus)

    def measure_period(self, ticks: int = CALIBRATION_TICKS) -> TickPeriod:
        """Watch the first GPU's counter advance.

        Args:
            ticks: how often, at least 2.

        Returns:
            The period.

        Raises:
            ValueError: fewer than 2 ticks are asked for.
            NvmlUnavailableError: it stands still, jumps back or cannot be read.
        """
        if ticks < 2:
            raise ValueError(f"ticks={ticks} is below 2, the fewest that have a period")
        first = TickingCounters(self._nvml, self._gpus[:1], clock_ns=self._clock_ns, sleep=self._sleep)
        seen_ns = [first.next_ticks()[0].at_ns for _ in range(ticks)]
        periods_s = np.diff(np.asarray(seen_ns, dtype=np.float64)) / 1e9
        tick_s = float(np.median(periods_s))
        return TickPeriod(tick_s, float(np.abs(periods_s - tick_s).max()), ticks)

    def next_ticks(self, keep_busy: Callable[[], object] | None = None) -> tuple[Tick, ...]:
        """Wait until every counter has advanced once.

        Args:
            keep_busy: called between two looks instead of sleeping, so that the device stays loaded; its length
                is the uncertainty of the tick.

        Returns:
            One tick per GPU.

        Raises:
            NvmlUnavailableError: a counter stands still, jumps back or cannot be read.
        """
        ticks: dict[int, Tick] = {}
        looks = [(self._clock_ns(), energy_j) for energy_j in self.read_j()]
        start_ns = looks[0][0]
        while True:
            for index, gpu in enumerate(self._gpus):
                if index in ticks:
                    continue
                look_ns, before_j = looks[index]
                now_j, now_ns = self._nvml.total_energy_j(gpu), self._clock_ns()
                if now_j < before_j:
                    raise CounterBackwardsError(
                        f"the energy counter of {gpu.name} {gpu.uuid} went back from {before_j:.3f} J to {now_j:.3f} J"
                    )
                if now_j > before_j:
                    ticks[index] = Tick(now_j, (look_ns + now_ns) // 2, (now_ns - look_ns) / 2e9)
                looks[index] = (now_ns, now_j)
            if len(ticks) == len(self._gpus):
                return tuple(ticks[index] for index in range(len(self._gpus)))
            waited_s = (self._clock_ns() - start_ns) / 1e9
            if waited_s >= LONGEST_TICK_S:
                still = next(index for index in range(len(self._gpus)) if index not in ticks)
                gpu = self._gpus[still]
                raise CounterStuckError(
                    f"the energy counter of {gpu.name} {gpu.uuid} stands still at {looks[still][1]:.3f} J, "
                    f"watched for {waited_s:.2g} s"
                )
            if keep_busy is None:
                self._sleep(POLL_S)
            else:
                keep_busy()
