"""Energy meters of GPUs: NVML's energy counter read on its ticks, and polled power where there is no counter."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from profiler.energy_meters import Meter
from profiler.energy_window import SHORTEST_WINDOW_S, EnergyReading, EnergyWindow, KeepBusy
from profiler.nvml import Nvml, NvmlGpu, NvmlUnavailableError
from profiler.nvml_counter import CounterBackwardsError, Tick, TickingCounters, TickPeriod
from profiler.nvml_power import POLL_PERIOD_S, PolledEnergy, PowerPoller
from profiler.record_types import EnergySource


class _NvmlMeter(Meter):
    """GPUs with their polled power."""

    def __init__(
        self,
        nvml: Nvml,
        gpus: Sequence[int | str] | None,
        reason: str,
        tdp_w: float | None,
        window_s: float,
        clock_ns: Callable[[], int],
        sleep: Callable[[float], object],
    ) -> None:
        super().__init__(reason, tdp_w=tdp_w, clock_ns=clock_ns, sleep=sleep)
        if not window_s > 0:
            raise ValueError(f"window_s={window_s:g} is not above 0")
        self.shortest_window_s = window_s
        self.gpus: tuple[NvmlGpu, ...] = nvml.select(gpus)
        for gpu in self.gpus:
            nvml.refuse_mig(gpu)

    @property
    def _names(self) -> str:
        return ", ".join(f"{gpu.name} {gpu.uuid}" for gpu in self.gpus)

    def _downgraded(
        self, duration_s: float, failed: str, polled: PolledEnergy, doubts: Sequence[str] = ()
    ) -> EnergyReading:
        """The next best figure, with the reason: polled power, TDP times time, none."""
        hli_j = self._hli_j(duration_s)
        found: tuple[float | None, EnergySource] = (None, "none")
        if polled.energy_j is not None:
            found = (polled.energy_j, "nvml_polled")
        elif hli_j is not None:
            found = (hli_j, "hli")
        detail = "; ".join([failed, f"downgraded to {found[1]}", *_told(polled), *doubts])
        return EnergyReading(
            found[0],
            duration_s,
            found[1],
            self._idle_w,
            detail,
            polled_j=polled.energy_j,
            hli_j=hli_j,
        )


class NvmlCounterMeter(_NvmlMeter):
    """NVML's total energy counters, added up over GPUs, with polled power and TDP times time beside them.

    The counters move in ticks (100 ms on an H200), so a window starts and ends on one: both calls wait for the
    next tick of every GPU, and the time until then belongs to the window. The tick's period is measured ahead
    of the first window. A counter that stands still, jumps back or is lost is no zero: the reading falls back
    to polled power, then to TDP times time, and says so.

    Args:
        nvml: an open NVML.
        gpus: CUDA ordinals of this process or UUIDs; None means every visible GPU.
        reason: why this meter was chosen.
        tdp_w: TDP of these GPUs together, W, for the estimate beside the measurement.
        window_s: how long windows should be, s.
        poll_period_s: time between two samples of power in the background, s; None for samples at the ends only.
        clock_ns: monotonic clock, ns.
        sleep: waits for some seconds.

    Raises:
        NvmlUnavailableError: no such GPU, it has no energy counter, or it is split by MIG.
        ValueError: a length of time or a TDP that is not above 0.
    """

    source: EnergySource = "nvml_counter"

    def __init__(
        self,
        nvml: Nvml,
        gpus: Sequence[int | str] | None = None,
        *,
        reason: str = "asked for",
        tdp_w: float | None = None,
        window_s: float = SHORTEST_WINDOW_S,
        poll_period_s: float | None = POLL_PERIOD_S,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(nvml, gpus, reason, tdp_w, window_s, clock_ns, sleep)
        self._counters = TickingCounters(nvml, self.gpus, clock_ns=clock_ns, sleep=sleep)
        self._counters.read_j()  # a GPU without the counter must be refused now, not after the first run
        self.period: TickPeriod | None = None
        self._poller: PowerPoller | None = None
        self._no_poller = ""
        try:
            self._poller = PowerPoller(nvml, self.gpus, period_s=poll_period_s, clock_ns=clock_ns)
        except NvmlUnavailableError as error:
            self._no_poller = str(error)

    def begin(self, keep_busy: KeepBusy | None = None) -> EnergyWindow:
        """Start a window on a tick; the first one measures the tick's period ahead of it."""
        trouble = None
        ticks: tuple[Tick, ...] = ()
        opened = False
        try:
            if self.period is None:
                self.period = self._counters.measure_period()
            if self._poller is not None:
                self._poller.open()
                opened = True
            ticks = self._counters.next_ticks(keep_busy)
        except NvmlUnavailableError as error:
            trouble = str(error)
            if self._poller is not None and not opened:
                self._poller.open()
        start_ns = _middle_ns(ticks) if ticks else self._clock_ns()
        return EnergyWindow(start_ns, tuple(tick.energy_j for tick in ticks), ticks, trouble)

    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        """End a window on a tick and return its energy."""
        trouble = window.trouble
        asked_s = self._since_s(window)
        ticks: tuple[Tick, ...] = ()
        if trouble is None:
            try:
                ticks = self._counters.next_ticks(keep_busy)
                self._refuse_backwards(window.ticks, ticks)
            except NvmlUnavailableError as error:
                trouble = str(error)
        end_ns = _middle_ns(ticks) if ticks and trouble is None else self._clock_ns()
        polled = self._polled(window.start_ns, end_ns)
        duration_s = (end_ns - window.start_ns) / 1e9
        if trouble is not None:
            return self._downgraded(duration_s, f"NVML's energy counter failed: {trouble}", polled)
        pairs = list(zip(window.ticks, ticks, strict=True))
        energy_j = sum(end.energy_j - start.energy_j for start, end in pairs)
        doubts = [f"NVML total energy of {self._names}", *_told(polled), *self._short(asked_s)]
        return EnergyReading(
            energy_j,
            duration_s,
            "nvml_counter",
            self._idle_w,
            "; ".join(doubts),
            error_j=sum(self._error_j(start, end) for start, end in pairs),
            counter_j=energy_j,
            polled_j=polled.energy_j,
            hli_j=self._hli_j(duration_s),
        )

    def _error_j(self, start: Tick, end: Tick) -> float:
        """How far a window between two ticks can be off: its power times what is unknown of either end."""
        unsure_s = 0.0 if self.period is None else self.period.spread_s
        power_w = (end.energy_j - start.energy_j) / ((end.at_ns - start.at_ns) / 1e9)
        return power_w * sum(max(tick.half_gap_s, unsure_s) for tick in (start, end))

    def _refuse_backwards(self, start: Sequence[Tick], end: Sequence[Tick]) -> None:
        for gpu, before, after in zip(self.gpus, start, end, strict=True):
            if after.energy_j <= before.energy_j:
                raise CounterBackwardsError(
                    f"the energy counter of {gpu.name} {gpu.uuid} went from {before.energy_j:.3f} J to "
                    f"{after.energy_j:.3f} J within the window"
                )

    def _polled(self, start_ns: int, end_ns: int) -> PolledEnergy:
        if self._poller is None:
            return PolledEnergy(None, 0, 0.0, self._no_poller)
        self._poller.close()
        return self._poller.energy_j(start_ns, end_ns)


class NvmlPolledMeter(_NvmlMeter):
    """Instantaneous power of GPUs, integrated on the samples' own times: for cards without an energy counter.

    Args:
        nvml: an open NVML.
        gpus: CUDA ordinals of this process or UUIDs; None means every visible GPU.
        reason: why this meter was chosen.
        tdp_w: TDP of these GPUs together, W, for the estimate beside the measurement.
        window_s: how long windows should be, s.
        poll_period_s: time between two samples in the background, s; None for samples at the ends only.
        clock_ns: monotonic clock, ns.
        sleep: waits for some seconds.

    Raises:
        NvmlUnavailableError: no such GPU, it does not tell its instantaneous power, or it is split by MIG.
        ValueError: a length of time or a TDP that is not above 0.
    """

    source: EnergySource = "nvml_polled"

    def __init__(
        self,
        nvml: Nvml,
        gpus: Sequence[int | str] | None = None,
        *,
        reason: str = "asked for",
        tdp_w: float | None = None,
        window_s: float = SHORTEST_WINDOW_S,
        poll_period_s: float | None = POLL_PERIOD_S,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(nvml, gpus, reason, tdp_w, window_s, clock_ns, sleep)
        self._poller = PowerPoller(nvml, self.gpus, period_s=poll_period_s, clock_ns=clock_ns)

    def begin(self, keep_busy: KeepBusy | None = None) -> EnergyWindow:
        """Start a window; nothing is waited for."""
        self._poller.open()
        return EnergyWindow(self._clock_ns(), ())

    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        """End a window and return its energy."""
        end_ns = self._clock_ns()
        self._poller.close()
        polled = self._poller.energy_j(window.start_ns, end_ns)
        duration_s = (end_ns - window.start_ns) / 1e9
        if polled.energy_j is None:
            return self._downgraded(duration_s, "NVML's instantaneous power failed", polled)
        return EnergyReading(
            polled.energy_j,
            duration_s,
            "nvml_polled",
            self._idle_w,
            "; ".join(
                [
                    f"NVML instantaneous power of {self._names}, {polled.samples} samples",
                    *self._short(duration_s),
                ]
            ),
            polled_j=polled.energy_j,
            hli_j=self._hli_j(duration_s),
        )


def _middle_ns(ticks: Sequence[Tick]) -> int:
    """Mean time of the GPUs' ticks, which lie within one period of each other."""
    return sum(tick.at_ns for tick in ticks) // len(ticks)


# A window that misses this share of its power samples in one piece is worth a remark.
_LONG_GAP_S = 0.5


def _told(polled: PolledEnergy) -> list[str]:
    if polled.energy_j is None:
        return [f"power was not polled: {polled.trouble}"]
    if polled.longest_gap_s > _LONG_GAP_S:
        return [f"two samples of polled power lie {polled.longest_gap_s:.3g} s apart"]
    return []
