"""The one place that times: hops, named ranges, CUDA graphs, interleaved rounds, and quantiles of samples.

This module is also the front of ``rounds`` and ``graph_timer``. Intervals of ratios are statistics and no clocks:
``analysis.stats``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiler.graph_timer import QueuedSteps, TimedGraph
from profiler.rounds import CALL, Rounds, Rules, Sampler, has_settled, run_rounds

__all__ = [
    "CALL",
    "HopTimer",
    "QueuedSteps",
    "RangeCost",
    "RangeTimer",
    "Rounds",
    "Rules",
    "Sampler",
    "TimedGraph",
    "TimedRanges",
    "has_settled",
    "median",
    "percentile",
    "run_rounds",
]


def percentile(samples: Sequence[float], q: float) -> float:
    """Quantile of samples, with linear interpolation between neighbours.

    Args:
        samples: at least one finite number.
        q: percentile, 0 to 100.

    Returns:
        The q-th percentile in the samples' unit.

    Raises:
        ValueError: no samples, one that is not finite, or q outside 0..100.
    """
    if not 0 <= q <= 100:
        raise ValueError(f"q={q:g} is outside 0..100")
    if not len(samples):
        raise ValueError(f"percentile q={q:g} of 0 samples")
    strangers = sum(not math.isfinite(sample) for sample in samples)
    if strangers:
        raise ValueError(f"{strangers} of {len(samples)} samples are not finite")
    return float(np.percentile(np.asarray(samples, dtype=np.float64), q))


def median(samples: Sequence[float]) -> float:
    """Median of samples; see :func:`percentile`."""
    return percentile(samples, 50)


class HopTimer:
    """Measures wall time between synchronised ends.

    Args:
        synchronise: waits for the device to finish its work, such as ``torch.cuda.synchronize``; None where
            work is finished when the call returns (CPU).
        clock_ns: monotonic clock, ns.
    """

    def __init__(
        self,
        synchronise: Callable[[], object] | None = None,
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._synchronise = synchronise
        self._clock_ns = clock_ns
        self._hop_s: list[float] = []

    @contextmanager
    def hop(self) -> Iterator[None]:
        """Time the block as one hop; a block that raises is not a sample."""
        start_ns = self._now_ns()
        yield
        self._hop_s.append((self._now_ns() - start_ns) / 1e9)

    @property
    def last_hop_s(self) -> float:
        """Time of the last hop, s.

        Raises:
            ValueError: no hop has been timed since the last :meth:`take`.
        """
        if not self._hop_s:
            raise ValueError("0 hops have been timed")
        return self._hop_s[-1]

    def take(self) -> list[float]:
        """Return the time of each hop since the last call, s, and forget them."""
        taken, self._hop_s = self._hop_s, []
        return taken

    def _now_ns(self) -> int:
        if self._synchronise is not None:
            self._synchronise()
        return self._clock_ns()


@dataclass(frozen=True)
class RangeCost:
    """What timing one range by events costs the device; :func:`profiler.range_cost.measure_range_cost` measures it.

    Args:
        in_range_s: what the range's time holds beyond its kernels and the gap that each has without events, s.
        in_stream_s: what the work around the range takes longer, s; above ``in_range_s``, since the range's time holds
            one of its two events.
    """

    in_range_s: float = 0.0
    in_stream_s: float = 0.0


@dataclass(frozen=True)
class TimedRanges:
    """What :class:`RangeTimer` has seen since it was last asked.

    Args:
        seconds: by name, without the ranges' own cost.
        ranges: how many were timed.
        at_zero: how many took less than their own cost, and count 0.
        added_s: what ranges and holds added to the device's time around them, s; 0 where no cost is known and nothing
            was held.
    """

    seconds: Mapping[str, float]
    ranges: int
    at_zero: int
    added_s: float


class RangeTimer:
    """Adds up the time of named ranges; an instance is the range hook that kernels take.

    On a CUDA device a range is a pair of events on the current stream, read when :meth:`take` is called, so
    that ranges cost no synchronisation. They cannot be read from inside a captured CUDA graph. On other
    devices it is wall time.

    Args:
        device_type: ``cuda`` or ``cpu``.
        clock_ns: monotonic clock, ns, for devices other than CUDA.
        cost: taken off every range of a CUDA device, as far as it is longer.
    """

    def __init__(
        self,
        device_type: str = "cpu",
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        cost: RangeCost | None = None,
    ) -> None:
        self._cuda: Any = None
        if device_type == "cuda":
            import torch

            self._cuda = torch.cuda
        elif device_type != "cpu":
            raise ValueError(f"device_type={device_type!r} is neither 'cuda' nor 'cpu'")
        self._clock_ns = clock_ns
        self._cost = cost or RangeCost()
        self._seconds: dict[str, float] = {}
        self._ranges = 0
        self._events: list[tuple[str, Any, Any]] = []
        self._holds: list[tuple[Any, Any]] = []
        self._hold: Callable[[], object] | None = None
        self._every = self._until_hold = 0
        self._depth = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block under a name.

        Args:
            name: such as ``tau_cast``; blocks of the same name are added up.
        """
        if self._cuda is None:
            start_ns = self._clock_ns()
            yield
            self._add(name, (self._clock_ns() - start_ns) / 1e9)
            self._ranges += 1
            return
        self._stay_ahead()
        start = self._record()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        self._events.append((name, start, self._record()))

    def hold_ahead(self, every: int, hold: Callable[[], object] | None) -> None:
        """Hold the device back again after every so many ranges, ahead of the next; for CUDA devices.

        A stream takes about a thousand launches ahead; beyond them the host waits for the device, and is behind it from
        then on.

        Args:
            every: ranges from one hold to the next; the first comes after as many.
            hold: queues what keeps the device busy; None ends it.

        Raises:
            ValueError: ``every`` is below 1.
        """
        if every < 1:
            raise ValueError(f"every={every} is below 1")
        self._every = self._until_hold = every
        self._hold = hold

    def take(self) -> dict[str, float]:
        """Return the seconds spent under each name since the last call, and start anew."""
        return dict(self.take_all().seconds)

    def take_all(self) -> TimedRanges:
        """Return all that was seen since the last call, and start anew."""
        at_zero, added_s = 0, 0.0
        cost = self._cost
        if self._events or self._holds:
            self._cuda.synchronize()
        for name, start, end in self._events:
            seconds = start.elapsed_time(end) / 1e3 - cost.in_range_s
            at_zero += seconds < 0
            self._add(name, max(seconds, 0.0))
            added_s += cost.in_stream_s
        for start, end in self._holds:
            # What is between its events it adds whole, and of the events that part which no range's time holds.
            added_s += start.elapsed_time(end) / 1e3 + cost.in_stream_s - cost.in_range_s
        taken = TimedRanges(self._seconds, self._ranges + len(self._events), at_zero, added_s)
        self._seconds, self._events, self._holds, self._ranges = {}, [], [], 0
        return taken

    def _stay_ahead(self) -> None:
        if self._hold is None or self._depth:
            return
        if not self._until_hold:
            start = self._record()
            self._hold()
            self._holds.append((start, self._record()))
            self._until_hold = self._every
        self._until_hold -= 1

    def _record(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
