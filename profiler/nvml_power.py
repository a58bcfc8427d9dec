"""Power polled in the background and integrated over time: the check of NVML's energy counter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from profiler.nvml import Nvml, NvmlGpu, NvmlUnavailableError

POLL_PERIOD_S = 0.05
"""Time between two samples of power, s: short against a window, rare enough not to disturb the host."""


@dataclass(frozen=True)
class PolledEnergy:
    """Energy of a window by polled power."""

    energy_j: float | None
    """Joules, added up over GPUs; None where power could not be read."""
    samples: int
    """Samples of each GPU between the ends of the window and at them."""
    longest_gap_s: float
    """Longest time between two of them, s."""
    trouble: str | None = None
    """Why there are no joules, in a sentence."""


def trapezoid_j(times_ns: Sequence[int], power_w: Sequence[float], start_ns: int, end_ns: int) -> float:
    """Integrate power over a window, with straight lines between the samples' own times.

    Args:
        times_ns: when each sample was taken, ns, increasing; the first not after the window's start, the last
            not before its end.
        power_w: the samples, W.
        start_ns: start of the window, ns.
        end_ns: end of the window, ns.

    Returns:
        The energy, J.

    Raises:
        ValueError: the samples do not cover the window, are not in order, or are not as many as their times.
    """
    times = np.asarray(times_ns, dtype=np.int64)
    power = np.asarray(power_w, dtype=np.float64)
    if times.shape != power.shape:
        raise ValueError(f"{times.size} times do not belong to {power.size} samples of power")
    if end_ns < start_ns:
        raise ValueError(f"end_ns={end_ns} is before start_ns={start_ns}")
    if times.size == 0 or times[0] > start_ns or times[-1] < end_ns:
        raise ValueError(f"{times.size} samples do not cover the window from {start_ns} to {end_ns} ns")
    if (np.diff(times) < 0).any():
        raise ValueError(
            f"{int((np.diff(times) < 0).sum())} of {times.size} samples lie before the one ahead"
        )
    inside = (times > start_ns) & (times < end_ns)
    seconds = np.concatenate(([start_ns], times[inside], [end_ns])).astype(np.int64)
    # Relative to the start, a double holds nanoseconds exactly.
    at_s = (seconds - start_ns) / 1e9
    watts = np.interp(at_s, (times - start_ns) / 1e9, power)
    return float(np.trapezoid(watts, at_s))


class PowerPoller:
    """Samples the instantaneous power of some GPUs while at least one window is open.

    Args:
        nvml: an open NVML.
        gpus: GPUs of this host, at least one.
        period_s: time between two samples of the background thread, s; None for no thread, so that samples are
            those of :meth:`open`, :meth:`close` and :meth:`sample`.
        clock_ns: monotonic clock, ns.

    Raises:
        NvmlUnavailableError: a GPU does not tell its instantaneous power.
        ValueError: the period is not above 0.
    """

    def __init__(
        self,
        nvml: Nvml,
        gpus: Sequence[NvmlGpu],
        *,
        period_s: float | None = POLL_PERIOD_S,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        if period_s is not None and not period_s > 0:
            raise ValueError(f"period_s={period_s:g} is not above 0")
        self._nvml = nvml
        self._gpus = tuple(gpus)
        self._period_s = period_s
        self._clock_ns = clock_ns
        self._times_ns: list[list[int]] = [[] for _ in self._gpus]
        self._power_w: list[list[float]] = [[] for _ in self._gpus]
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._open = 0
        self._trouble: str | None = None
        for gpu in self._gpus:  # a GPU that does not tell must be refused now, not after the first run
            nvml.power_w(gpu)

    def open(self) -> None:
        """Sample now, and from now on in the background until :meth:`close` was called as often."""
        if not self._open:
            self._times_ns = [[] for _ in self._gpus]
            self._power_w = [[] for _ in self._gpus]
            self._trouble = None
        self.sample()
        self._open += 1
        if self._open == 1 and self._period_s is not None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._poll, args=(self._period_s,), daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Sample once more; the last window ends the background sampling."""
        self.sample()
        self._open = max(0, self._open - 1)
        if not self._open and self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def sample(self) -> None:
        """Take one sample of every GPU; a GPU that cannot be read ends up in the energy's ``trouble``."""
        for index, gpu in enumerate(self._gpus):
            with self._lock:
                before_ns = self._clock_ns()
                try:
                    power_w = self._nvml.power_w(gpu)
                except NvmlUnavailableError as error:
                    self._trouble = str(error)
                    return
                # NVML's own stamp is wall time, which may be set; ours is the middle of a call of microseconds.
                self._times_ns[index].append((before_ns + self._clock_ns()) // 2)
                self._power_w[index].append(power_w)

    def energy_j(self, start_ns: int, end_ns: int) -> PolledEnergy:
        """Energy of a window that lies between an :meth:`open` and its :meth:`close`.

        Args:
            start_ns: start, ns.
            end_ns: end, ns.

        Returns:
            The energy, or why there is none.
        """
        with self._lock:
            times = [list(values) for values in self._times_ns]
            power = [list(values) for values in self._power_w]
        if self._trouble is not None:
            return PolledEnergy(None, 0, 0.0, self._trouble)
        try:
            energy_j = sum(trapezoid_j(t, w, start_ns, end_ns) for t, w in zip(times, power, strict=True))
        except ValueError as error:
            return PolledEnergy(None, 0, 0.0, f"the power samples are no use: {error}")
        inner = [[t for t in one if start_ns < t < end_ns] for one in times]
        gaps = [np.diff([start_ns, *one, end_ns]).max() / 1e9 for one in inner]
        return PolledEnergy(energy_j, min(len(one) for one in inner) + 2, float(max(gaps)))

    def _poll(self, period_s: float) -> None:
        while not self._stop.wait(period_s):
            self.sample()
