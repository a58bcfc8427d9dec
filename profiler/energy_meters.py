"""Energy meters without a GPU: RAPL, TDP times time, none, and a made-up one for tests."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from profiler.energy_window import EnergyReading, EnergyWindow, KeepBusy
from profiler.rapl import RaplUnavailableError, RaplZone, find_zones
from profiler.record_types import EnergySource, is_energy_estimate

RAPL_TICK_S = 0.001
"""How often RAPL's counters advance, s."""

RAPL_WINDOW_S = 1.0
"""A window by RAPL lasts at least this long, s: its tick is then worth 0.1 %."""

HIGHEST_PACKAGE_W = 1000.0
"""No processor package draws more, W: bounds how soon a RAPL counter can start anew twice."""


def checked_tdp_w(tdp_w: float | None) -> float | None:
    """Return a TDP, W, as it was given.

    Raises:
        ValueError: it is not a positive number.
    """
    if tdp_w is not None and not 0 < tdp_w < float("inf"):
        raise ValueError(f"tdp_w={tdp_w:g} is not a positive number")
    return tdp_w


class Meter(ABC):
    """What all meters share: a reason, a clock, idle power, and TDP times time beside what they measure."""

    source: EnergySource
    shortest_window_s: float = 0.0

    def __init__(
        self,
        reason: str,
        *,
        tdp_w: float | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.reason = reason
        self.tdp_w = checked_tdp_w(tdp_w)
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._idle_w: float | None = None

    @property
    def is_estimate(self) -> bool:
        """Whether the joules are no measurement."""
        return is_energy_estimate(self.source)

    @abstractmethod
    def begin(self, keep_busy: KeepBusy | None = None) -> EnergyWindow:
        """Start a window."""

    @abstractmethod
    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        """End a window and return its energy."""

    def measure_idle(self, duration_s: float | None = None) -> float | None:
        """Measure power at rest, W, where the meter measures at all, and put it into later readings."""
        if self.shortest_window_s == 0:
            return None
        window = self.begin()
        self._sleep(self.shortest_window_s if duration_s is None else duration_s)
        reading = self.end(window)
        if reading.energy_j is None or reading.is_estimate or not reading.duration_s:
            return None
        self._idle_w = reading.energy_j / reading.duration_s
        return self._idle_w

    def _hli_j(self, duration_s: float) -> float | None:
        return None if self.tdp_w is None else self.tdp_w * duration_s

    def _since_s(self, window: EnergyWindow) -> float:
        return (self._clock_ns() - window.start_ns) / 1e9

    def _short(self, duration_s: float) -> list[str]:
        if duration_s >= self.shortest_window_s:
            return []
        return [f"the window of {duration_s:.3g} s is shorter than {self.shortest_window_s:g} s"]


class RaplMeter(Meter):
    """RAPL's counters of every processor package and its memory, other programs included.

    Args:
        zones: counters to add up; by default those of this machine.
        reason: why this meter was chosen.
        tdp_w: TDP of the same packages, W, for the estimate beside the measurement.
        clock_ns: monotonic clock, ns.
        sleep: waits for some seconds.

    Raises:
        RaplUnavailableError: there are no counters, or they may not be read.
    """

    source: EnergySource = "rapl"
    shortest_window_s = RAPL_WINDOW_S

    def __init__(
        self,
        zones: Sequence[RaplZone] | None = None,
        *,
        reason: str = "asked for",
        tdp_w: float | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(reason, tdp_w=tdp_w, clock_ns=clock_ns, sleep=sleep)
        self.zones: tuple[RaplZone, ...] = tuple(find_zones() if zones is None else zones)

    def begin(self, keep_busy: KeepBusy | None = None) -> EnergyWindow:
        """Start a window; nothing is waited for."""
        try:
            counters_j = tuple(zone.read_j() for zone in self.zones)
        except RaplUnavailableError as error:
            return EnergyWindow(self._clock_ns(), (), trouble=str(error))
        return EnergyWindow(self._clock_ns(), counters_j)

    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        """End a window and return its energy."""
        duration_s = self._since_s(window)
        hli_j = self._hli_j(duration_s)
        trouble = window.trouble
        joules: list[float] = []
        if trouble is None:
            try:
                readings = zip(self.zones, window.counters_j, strict=True)
                joules = [zone.difference_j(start_j, zone.read_j()) for zone, start_j in readings]
            except RaplUnavailableError as error:
                trouble = str(error)
        still = [zone.name for zone, spent_j in zip(self.zones, joules, strict=False) if spent_j == 0]
        if trouble is None and duration_s >= self.shortest_window_s and len(still) == len(self.zones):
            trouble = f"its counters stand still over {duration_s:.3g} s"
        names = ", ".join(zone.name for zone in self.zones)
        if trouble is not None:
            source: EnergySource = "none" if hli_j is None else "hli"
            detail = f"RAPL {names} failed: {trouble}; downgraded to {source}"
            return EnergyReading(hli_j, duration_s, source, self._idle_w, detail, hli_j=hli_j)
        energy_j = sum(joules)
        doubts = [f"RAPL {names}, other programs included"]
        smallest_j = min(zone.max_energy_range_j for zone in self.zones)
        if duration_s * HIGHEST_PACKAGE_W > smallest_j:
            doubts.append(
                f"a counter holds {smallest_j:g} J, so {duration_s:g} s may have lost a round of it"
            )
        if still and duration_s >= self.shortest_window_s:
            doubts.append(f"{', '.join(still)} stood still")
        doubts += self._short(duration_s)
        return EnergyReading(
            energy_j,
            duration_s,
            "rapl",
            self._idle_w,
            "; ".join(doubts),
            error_j=2 * RAPL_TICK_S * energy_j / duration_s if duration_s else None,
            counter_j=energy_j,
            hli_j=hli_j,
        )


class _Clock(Meter):
    """A meter that only looks at the clock."""

    def begin(self, keep_busy: KeepBusy | None = None) -> EnergyWindow:
        """Start a window."""
        return EnergyWindow(self._clock_ns(), ())


class HliMeter(_Clock):
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
        super().__init__(reason, tdp_w=tdp_w, clock_ns=clock_ns)

    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        """End a window and return its estimate."""
        duration_s = self._since_s(window)
        hli_j = self._hli_j(duration_s)
        detail = f"estimate: TDP of {self.tdp_w:g} W times time; {self.reason}"
        return EnergyReading(hli_j, duration_s, "hli", None, detail, hli_j=hli_j)


class NoMeter(_Clock):
    """No source of joules; readings say why.

    Args:
        reason: why there is none.
        clock_ns: monotonic clock, ns.
    """

    source: EnergySource = "none"

    def __init__(self, reason: str, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        super().__init__(reason, clock_ns=clock_ns)

    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        """End a window without joules."""
        return EnergyReading(None, self._since_s(window), "none", None, f"not measured: {self.reason}")


class FakeMeter(_Clock):
    """Made-up joules for tests; marked as such in every record.

    Args:
        energies_j: energy of each window in turn, J; afterwards, and by default, ``power_w`` times time.
        power_w: power, W.
        idle_w: power that :meth:`measure_idle` finds, W; None for a meter that does not measure it.
        shortest_window_s: how long windows are to be, s.
        tdp_w: TDP for the estimate beside the joules, W.
        clock_ns: monotonic clock, ns.
    """

    source: EnergySource = "fake"

    def __init__(
        self,
        energies_j: Iterable[float] = (),
        *,
        power_w: float = 100.0,
        idle_w: float | None = None,
        shortest_window_s: float = 0.0,
        tdp_w: float | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        super().__init__("made up for a test", tdp_w=tdp_w, clock_ns=clock_ns)
        self.shortest_window_s = shortest_window_s
        self._energies_j = iter(energies_j)
        self._power_w = power_w
        self._made_up_idle_w = idle_w

    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        """End a window with made-up joules, the same for every way of measuring them."""
        duration_s = self._since_s(window)
        energy_j = next(self._energies_j, self._power_w * duration_s)
        return EnergyReading(
            energy_j,
            duration_s,
            "fake",
            self._idle_w,
            "made up for a test",
            error_j=0.0,
            counter_j=energy_j,
            polled_j=energy_j,
            hli_j=self._hli_j(duration_s),
        )

    def measure_idle(self, duration_s: float | None = None) -> float | None:
        """Return the made-up idle power, W, at once."""
        self._idle_w = self._made_up_idle_w
        return self._idle_w
