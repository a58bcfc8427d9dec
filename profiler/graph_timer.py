"""CUDA graphs of several calls: timed by events around replays, or replayed for as long as a window lasts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

# Replays between two events last at least this long, so that the events' own cost is below one percent.
_SAMPLE_S = 5e-4
_MOST_REPLAYS = 64
# One step of a load: short against a tick of the energy counter, long against the launch of a graph.
_STEP_S = 2e-3
_MOST_STEP_REPLAYS = 4096


class TimedGraph:
    """A CUDA graph of several calls, with events around its replays.

    An untimed replay runs ahead of the timed ones, so the events are queued while the GPU is busy and the
    host's launch time is not part of a sample.

    Args:
        calls: calls in the graph, such as one per copy of a weight.
        call: makes call ``index``, on the current stream; it has run before, so nothing is left to compile.

    Raises:
        ValueError: no call.
    """

    def __init__(self, calls: int, call: Callable[[int], object]) -> None:
        if calls < 1:
            raise ValueError(f"calls={calls} is below 1, the fewest that a graph can hold")
        import torch

        self.calls = calls
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for index in range(calls):
                call(index)
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._replays = 1
        self.replay_s: float = self.call_s() * calls
        """Time of one replay, s, measured once."""
        self._replays = max(1, min(_MOST_REPLAYS, math.ceil(_SAMPLE_S / max(self.replay_s, 1e-7))))

    def call_s(self) -> float:
        """Time per call, s."""
        self._graph.replay()
        self._start.record()
        for _ in range(self._replays):
            self._graph.replay()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3 / (self._replays * self.calls)

    def replay(self) -> None:
        """Queue one replay."""
        self._graph.replay()


class QueuedSteps:
    """Steps of about 2 ms, of which two are always queued, so that the device never waits for the host.

    Args:
        enqueue: queues one unit of work.
        unit_s: its time on the device, s.
        make_event: makes something with ``record`` and ``synchronize``, such as ``torch.cuda.Event``.

    Raises:
        ValueError: a time that is not above 0.
    """

    def __init__(self, enqueue: Callable[[], object], unit_s: float, make_event: Callable[[], Any]) -> None:
        if not unit_s > 0:
            raise ValueError(f"unit_s={unit_s:g} is not above 0")
        self._enqueue = enqueue
        self.units = max(1, min(_MOST_STEP_REPLAYS, math.ceil(_STEP_S / unit_s)))
        """Units of work in one step."""
        self._events = [make_event(), make_event()]
        self._queued = 0

    def step(self) -> None:
        """Queue one step and wait for the one before the last."""
        event = self._events[self._queued % 2]
        if self._queued >= 2:
            event.synchronize()
        for _ in range(self.units):
            self._enqueue()
        event.record()
        self._queued += 1

    def finish(self) -> None:
        """Wait for everything that is queued."""
        for event in self._events[: self._queued]:
            event.synchronize()
        self._queued = 0
