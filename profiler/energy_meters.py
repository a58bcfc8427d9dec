"""The energy meters: NVML's counter, RAPL, TDP times time, none, and a made-up one for tests."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from profiler.energy_window import SHORTEST_WINDOW_S, EnergyReading, EnergyWindow
from profiler.nvml import Nvml, NvmlGpu
from profiler.rapl import RaplZone, find_zones
from profiler.record_types import EnergySource, is_energy_estimate

NVML_TICK_S = 0.1
"""How often an H200's counter was seen to advance, s."""

RAPL_TICK_S = 0.001
"""How often RAPL's counters advance, s."""

HIGHEST_PACKAGE_W = 1000.0
"""No processor package draws more, W: bounds how soon a RAPL counter can start anew twice."""


class _Meter(ABC):
    """A window from counters; what differs between meters is reading them and making joules of them."""

    source: EnergySource
    _tick_s: float | None = None

    def __init__(
        self,
        reason: str,
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.reason = reason
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._idle_w: float | None = None

    @property
    def is_estimate(self) -> bool:
        """Whether the joules are no measurement."""
        return is_energy_estimate(self.source)

    def begin(self) -> EnergyWindow:
        """Start a window."""
        notes = self._settle()
        return EnergyWindow(self._clock_ns(), self._counters_j(), notes)

    def end(self, window: EnergyWindow) -> EnergyReading:
        """End a window and return its energy."""
        asked_s = (self._clock_ns() - window.start_ns) / 1e9
        notes = (*window.notes, *self._settle())
        duration_s = (self._clock_ns() - window.start_ns) / 1e9
        energy_j = self._energy_j(window.counters_j, self._counters_j(), duration_s)
        detail = "; ".join([*self._describe(duration_s), *notes, *self._short(asked_s)])
        return EnergyReading(energy_j, duration_s, self.source, self._idle_w, detail)

    def measure_idle(self, duration_s: float = SHORTEST_WINDOW_S) -> float | None:
        """Measure power at rest, W, where the meter measures at all, and put it into later readings."""
        if self._tick_s is None:
            return None
        window = self.begin()
        self._sleep(duration_s)
        reading = self.end(window)
        if reading.energy_j is None or reading.duration_s == 0:
            raise ValueError(
                f"energy_j={reading.energy_j} over duration_s={reading.duration_s:g} gives no power"
            )
        self._idle_w = reading.energy_j / reading.duration_s
        return self._idle_w

    @abstractmethod
    def _energy_j(self, start_j: Sequence[float], end_j: Sequence[float], duration_s: float) -> float | None:
        """Joules between two readings of the counters, ``duration_s`` apart."""

    @abstractmethod
    def _describe(self, duration_s: float) -> list[str]:
        """What the joules are made from."""

    def _counters_j(self) -> tuple[float, ...]:
        return ()

    def _settle(self) -> tuple[str, ...]:
        """Wait until the counters are fresh; returns doubts."""
        return ()

    def _short(self, asked_s: float) -> list[str]:
        if self._tick_s is None or asked_s >= SHORTEST_WINDOW_S:
            return []
        if asked_s < self._tick_s:
            return [f"the window of {asked_s:.3g} s is shorter than the counter's tick of {self._tick_s:g} s"]
        return [
            f"the window of {asked_s:.3g} s is shorter than {SHORTEST_WINDOW_S:g} s, too short for a figure"
        ]


class NvmlCounterMeter(_Meter):
    """NVML's total energy counter, added up over GPUs.

    The counter moves in ticks (100 ms on an H200), so a window starts and ends on one: both calls wait for
    the next tick of the first GPU, and the time until then belongs to the window.

    Args:
        nvml: an open NVML.
        gpus: CUDA ordinals of this process or UUIDs; None means every visible GPU.
        reason: why this meter was chosen.
        tick_timeout_s: how long to wait for a tick, s; 0 does not wait.
        clock_ns: monotonic clock, ns.
        sleep: waits for some seconds.

    Raises:
        NvmlUnavailableError: no such GPU, or it has no energy counter.
    """

    source: EnergySource = "nvml_counter"
    _tick_s = NVML_TICK_S

    def __init__(
        self,
        nvml: Nvml,
        gpus: Sequence[int | str] | None = None,
        *,
        reason: str = "asked for",
        tick_timeout_s: float = 5 * NVML_TICK_S,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(reason, clock_ns=clock_ns, sleep=sleep)
        self._nvml = nvml
        self.gpus: tuple[NvmlGpu, ...] = nvml.select(gpus)
        self._tick_timeout_s = tick_timeout_s
        self._counters_j()  # a GPU without the counter must be refused now, not after the first run

    def _counters_j(self) -> tuple[float, ...]:
        return tuple(self._nvml.total_energy_j(gpu) for gpu in self.gpus)

    def _settle(self) -> tuple[str, ...]:
        if not self._tick_timeout_s:
            return ()
        before_j = self._nvml.total_energy_j(self.gpus[0])
        deadline_ns = self._clock_ns() + round(self._tick_timeout_s * 1e9)
        while self._nvml.total_energy_j(self.gpus[0]) == before_j:
            if self._clock_ns() >= deadline_ns:
                return (f"the counter did not advance within {self._tick_timeout_s:g} s",)
            self._sleep(0.001)
        return ()

    def _energy_j(self, start_j: Sequence[float], end_j: Sequence[float], duration_s: float) -> float:
        return sum(end - start for start, end in zip(start_j, end_j, strict=True))

    def _describe(self, duration_s: float) -> list[str]:
        names = ", ".join(f"{gpu.name} {gpu.uuid}" for gpu in self.gpus)
        return [f"NVML total energy of {names}"]


class RaplMeter(_Meter):
    """RAPL's counters of every processor package and its memory, other programs included.

    Args:
        zones: counters to add up; by default those of this machine.
        reason: why this meter was chosen.
        clock_ns: monotonic clock, ns.
        sleep: waits for some seconds.

    Raises:
        RaplUnavailableError: there are no counters, or they may not be read.
    """

    source: EnergySource = "rapl"
    _tick_s = RAPL_TICK_S

    def __init__(
        self,
        zones: Sequence[RaplZone] | None = None,
        *,
        reason: str = "asked for",
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(reason, clock_ns=clock_ns, sleep=sleep)
        self.zones: tuple[RaplZone, ...] = tuple(find_zones() if zones is None else zones)

    def _counters_j(self) -> tuple[float, ...]:
        return tuple(zone.read_j() for zone in self.zones)

    def _energy_j(self, start_j: Sequence[float], end_j: Sequence[float], duration_s: float) -> float:
        readings = zip(self.zones, start_j, end_j, strict=True)
        return sum(zone.difference_j(start, end) for zone, start, end in readings)

    def _describe(self, duration_s: float) -> list[str]:
        detail = [f"RAPL {', '.join(zone.name for zone in self.zones)}, other programs included"]
        smallest_j = min(zone.max_energy_range_j for zone in self.zones)
        if duration_s * HIGHEST_PACKAGE_W > smallest_j:
            detail.append(
                f"a counter holds {smallest_j:g} J, so {duration_s:g} s may have lost a round of it"
            )
        return detail


class HliMeter(_Meter):
    """The paper's Hardware-Level Index: TDP times time. An estimate, never a measurement.

    Args:
        tdp_w: thermal design power of everything that is charged for, W.
        reason: why this meter was chosen and where the TDP comes from.
        clock_ns: monotonic clock, ns.

    Raises:
        ValueError: the TDP is not a positive number.
    """

    source: EnergySource = "hli"

    def __init__(
        self, tdp_w: float, *, reason: str = "asked for", clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        if not 0 < tdp_w < float("inf"):
            raise ValueError(f"tdp_w={tdp_w:g} is not a positive number")
        super().__init__(reason, clock_ns=clock_ns)
        self.tdp_w = tdp_w

    def _energy_j(self, start_j: Sequence[float], end_j: Sequence[float], duration_s: float) -> float:
        return self.tdp_w * duration_s

    def _describe(self, duration_s: float) -> list[str]:
        return [f"estimate: TDP of {self.tdp_w:g} W times time; {self.reason}"]


class NoMeter(_Meter):
    """No source of joules; readings say why.

    Args:
        reason: why there is none.
        clock_ns: monotonic clock, ns.
    """

    source: EnergySource = "none"

    def _energy_j(self, start_j: Sequence[float], end_j: Sequence[float], duration_s: float) -> None:
        return None

    def _describe(self, duration_s: float) -> list[str]:
        return [f"not measured: {self.reason}"]


class FakeMeter(_Meter):
    """Made-up joules for tests; marked as such in every record.

    Args:
        energies_j: energy of each window in turn, J; afterwards, and by default, ``power_w`` times time.
        power_w: power, W.
        clock_ns: monotonic clock, ns.
    """

    source: EnergySource = "fake"

    def __init__(
        self,
        energies_j: Iterable[float] = (),
        *,
        power_w: float = 100.0,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        super().__init__("made up for a test", clock_ns=clock_ns)
        self._energies_j = iter(energies_j)
        self._power_w = power_w

    def _energy_j(self, start_j: Sequence[float], end_j: Sequence[float], duration_s: float) -> float:
        return next(self._energies_j, self._power_w * duration_s)

    def _describe(self, duration_s: float) -> list[str]:
        return ["made up for a test"]
