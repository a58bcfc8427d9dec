"""The one place that times: hops, named ranges, CUDA graphs, interleaved rounds, and quantiles of samples.

This module is also the front of ``rounds`` and ``graph_timer``. Intervals of ratios are statistics and no clocks:
``analysis.stats``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from profiler.graph_timer import QueuedSteps, TimedGraph
from profiler.rounds import CALL, Rounds, Rules, Sampler, has_settled, run_rounds

__all__ = [
    "CALL",
    "HopTimer",
    "QueuedSteps",
    "RangeTimer",
    "Rounds",
    "Rules",
    "Sampler",
    "TimedGraph",
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


class RangeTimer:
    """Adds up the time of named ranges; an instance is the range hook that kernels take.

    On a CUDA device a range is a pair of events on the current stream, read when :meth:`take` is called, so
    that ranges cost no synchronisation. They cannot be read from inside a captured CUDA graph. On other
    devices it is wall time.

    Args:
        device_type: ``cuda`` or ``cpu``.
        clock_ns: monotonic clock, ns, for devices other than CUDA.
    """

    def __init__(
        self, device_type: str = "cpu", *, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._cuda: Any = None
        if device_type == "cuda":
            import torch

            self._cuda = torch.cuda
        elif device_type != "cpu":
            raise ValueError(f"device_type={device_type!r} is neither 'cuda' nor 'cpu'")
        self._clock_ns = clock_ns
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, Any, Any]] = []

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
        else:
            start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))

    def take(self) -> dict[str, float]:
        """Return the seconds spent under each name since the last call, and start anew."""
        if self._events:
            self._cuda.synchronize()
            for name, start, end in self._events:
                self._add(name, start.elapsed_time(end) / 1e3)
        taken = self._seconds
        self._seconds, self._events = {}, []
        return taken

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
