"""Times calls of kernels with cold weights: the samplers for CPU and GPU.

On a GPU one CUDA graph holds one call per copy of the weight, and events stand around replays of it. On a CPU
a sample is one call between two readings of ``perf_counter_ns``. Rounds, warm-up and graphs are those of
``profiler.timing``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from benchmarks.variants import Variant
from benchmarks.weights import Ring, Weight
from kernels.ranges import NO_RANGES, RangeHook
from profiler.timing import CALL, RangeTimer, Rounds, Rules, Sampler, TimedGraph, has_settled, run_rounds

__all__ = [
    "CALL",
    "CAST",
    "COMP",
    "CpuSampler",
    "GraphSampler",
    "Rounds",
    "Rules",
    "Sampler",
    "call_graph",
    "has_settled",
    "make_sampler",
    "run_rounds",
]

CAST = "tau_cast"
COMP = "tau_comp"


class CpuSampler:
    """Times single calls, each on the next copy of the weight.

    Args:
        variant: what is timed.
        x: activations [m, k].
        ring: copies of the weight, shared with other variants of the format.
        clock_ns: monotonic clock, ns.
    """

    def __init__(
        self,
        variant: Variant,
        x: Tensor,
        ring: Ring[Weight],
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._variant, self._x, self._ring, self._clock_ns = variant, x, ring, clock_ns
        self._ranges = RangeTimer("cpu", clock_ns=clock_ns) if variant.has_ranges else None

    def sample(self) -> Mapping[str, float]:
        """Time one call."""
        weight = self._ring.take()
        hook = self._ranges or NO_RANGES
        start_ns = self._clock_ns()
        _call(self._variant, self._x, weight, hook)
        call_s = (self._clock_ns() - start_ns) / 1e9
        return {CALL: call_s, **(self._ranges.take() if self._ranges else {})}


class GraphSampler:
    """Times replays of a CUDA graph that holds one call per copy of the weight.

    An untimed replay runs ahead of the timed ones, so the events are queued while the GPU is busy and the
    host's launch time is not part of a sample. For unfused kernels a second graph holds the cast alone, and
    tau_comp is the rest of the call: events inside a graph were seen to add 3 microseconds to each range.

    Args:
        variant: what is timed; it has run before, so nothing is left to compile.
        x: activations [m, k] on the GPU.
        ring: copies of the weight.
    """

    def __init__(self, variant: Variant, x: Tensor, ring: Ring[Weight]) -> None:
        self._whole = call_graph(variant, x, ring)
        self._cast = (
            TimedGraph(len(ring.copies), lambda index: _cast_alone(variant, x, ring.copies[index]))
            if variant.has_ranges
            else None
        )

    def sample(self) -> Mapping[str, float]:
        """Time some replays."""
        call_s = self._whole.call_s()
        if self._cast is None:
            return {CALL: call_s}
        cast_s = self._cast.call_s()
        return {CALL: call_s, CAST: cast_s, COMP: call_s - cast_s}


def call_graph(
    variant: Variant, x: Tensor, ring: Ring[Weight], *, then: Callable[[], object] = lambda: None
) -> TimedGraph:
    """Capture one call per copy of the weight.

    Args:
        variant: what is called; it has run before, so nothing is left to compile.
        x: activations [m, k] on the GPU.
        ring: copies of the weight.
        then: queues what follows the last of these calls.
    """
    last = len(ring.copies) - 1

    def call(index: int) -> None:
        _call(variant, x, ring.copies[index], NO_RANGES)
        if index == last:
            then()

    for weight in ring.copies:  # layouts that a kernel caches on a weight are made outside the capture
        _call(variant, x, weight, NO_RANGES)
    torch.cuda.synchronize(x.device)
    return TimedGraph(len(ring.copies), call)


def make_sampler(variant: Variant, x: Tensor, ring: Ring[Weight]) -> Sampler:
    """The sampler for x's device."""
    return GraphSampler(variant, x, ring) if x.is_cuda else CpuSampler(variant, x, ring)


class _CastDoneError(Exception):
    """Leaves an unfused kernel before its product."""


@contextmanager
def _only_cast(name: str) -> Iterator[None]:
    if name == COMP:
        raise _CastDoneError
    yield


def _cast_alone(variant: Variant, x: Tensor, weight: Weight) -> None:
    """Run an unfused kernel up to where ``tau_comp`` would begin."""
    with suppress(_CastDoneError):
        _call(variant, x, weight, _only_cast)


def _call(variant: Variant, x: Tensor, weight: Weight, hook: RangeHook) -> None:
    variant.linear(x, weight, hook)
