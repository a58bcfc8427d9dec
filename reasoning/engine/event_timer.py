"""``EventTimer``: times hops on the device, without making the host wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class HopClock(Protocol):
    """What times the prefill and the hops of one batch: ``profiler.timing.HopTimer`` or :class:`EventTimer`."""

    def hop(self) -> Any:
        """A context whose block is timed."""
        ...

    def take(self) -> list[float]:
        """Seconds of each block since the last call."""
        ...


class EventTimer:
    """Times blocks by pairs of CUDA events on the current stream, which are read in :meth:`take`.

    A time runs from the moment the device begins the block, everything before it done, to its end on the device. Where
    the host is slower than the device, the device's waiting inside the block is part of it.

    Args:
        make_event: makes something with ``record``, ``synchronize`` and ``elapsed_time`` (ms).
    """

    def __init__(self, make_event: Callable[[], Any] | None = None) -> None:
        self._make_event = make_event or (lambda: torch.cuda.Event(enable_timing=True))
        self._pairs: list[tuple[Any, Any]] = []

    @contextmanager
    def hop(self) -> Iterator[None]:
        """Time the block; one that raises is not a sample."""
        start, end = self._make_event(), self._make_event()
        start.record()
        yield
        end.record()
        self._pairs.append((start, end))

    def take(self) -> list[float]:
        """Wait for the last block, and return the seconds of each since the last call."""
        pairs, self._pairs = self._pairs, []
        if pairs:
            pairs[-1][1].synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]
