"""Times calls of kernels with cold weights: samplers for CPU and GPU, warm-up, interleaved rounds.

On a GPU one CUDA graph holds one call per copy of the weight, and events stand around replays of it. On a CPU
a sample is one call between two readings of ``perf_counter_ns``. Every round takes one sample of every
variant, in an order drawn anew, so that drift of the clocks does not land on one of them.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.variants import Variant
from benchmarks.weights import Ring, Weight
from kernels.ranges import NO_RANGES, RangeHook
from profiler.timing import RangeTimer

CALL = "call"
CAST = "tau_cast"
COMP = "tau_comp"

# Replays between two events last at least this long, so that the events' own cost is below one percent.
_GPU_SAMPLE_S = 5e-4
_MOST_REPLAYS = 64


class Sampler(Protocol):
    """Times one variant at one shape and m."""

    def sample(self) -> Mapping[str, float]:
        """Time of a call, s, under ``call``; for unfused kernels also ``tau_cast`` and ``tau_comp``."""
        ...


@dataclass(frozen=True)
class Rules:
    """When sampling stops."""

    repeats: int
    """Rounds, each with one sample per variant."""
    limit_s: float | None = None
    """No round starts after this time, s, once ``least_rounds`` are done; None for no limit."""
    least_rounds: int = 3
    """Rounds that are made whatever the time."""
    settle_share: float = 0.1
    """Warm-up ends when two successive medians of three differ by less than this share, for every variant."""
    most_warm_rounds: int = 12
    """Rounds after which warm-up ends anyway."""
    warm_limit_s: float = 1.0
    """Time after which warm-up ends anyway, s."""


@dataclass
class Rounds:
    """Samples of interleaved rounds; a round is added whole, so an interruption leaves those before it."""

    taken: list[Mapping[str, Mapping[str, float]]] = field(default_factory=list)
    """Seconds per call by variant and range, one entry per round."""
    unsettled: tuple[str, ...] = ()
    """Variants whose times still moved when warm-up ended."""

    def times_s(self, name: str, range_name: str = CALL) -> list[float]:
        """Seconds per call of one variant, in the order of the rounds; empty where it was not timed."""
        return [by_name[name][range_name] for by_name in self.taken if range_name in by_name.get(name, {})]


def run_rounds(
    samplers: Mapping[str, Sampler],
    rules: Rules,
    into: Rounds,
    *,
    seed: int,
    ranges: RangeHook = NO_RANGES,
    on_round: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Warm up, then take interleaved samples.

    Args:
        samplers: one per variant, by name.
        rules: when to stop.
        into: receives the samples, round by round.
        seed: of the order of variants within each round.
        ranges: opens a range with the variant's name around each sample.
        on_round: called after each round.
        clock: monotonic clock, s.
    """
    if not samplers:
        return
    order = random.Random(seed)
    into.unsettled = _warm_up(samplers, rules, order, clock, ranges)
    start = clock()
    for done in range(rules.repeats):
        if rules.limit_s is not None and done >= rules.least_rounds and clock() - start > rules.limit_s:
            return
        into.taken.append(_round(samplers, order, ranges))
        on_round()


def has_settled(times_s: Sequence[float], share: float) -> bool:
    """Whether the median of the last three times is within ``share`` of the three before."""
    if len(times_s) < 6:
        return False
    before, after = statistics.median(times_s[-6:-3]), statistics.median(times_s[-3:])
    return abs(after - before) <= share * before


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
        for weight in ring.copies:  # layouts that a kernel caches on a weight are made outside the capture
            _call(variant, x, weight, NO_RANGES)
        torch.cuda.synchronize(x.device)
        self._whole = _TimedGraph(
            len(ring.copies), lambda index: _call(variant, x, ring.copies[index], NO_RANGES)
        )
        self._cast = (
            _TimedGraph(len(ring.copies), lambda index: _cast_alone(variant, x, ring.copies[index]))
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


class _TimedGraph:
    """A CUDA graph of several calls, with events around its replays."""

    def __init__(self, calls: int, call: Callable[[int], object]) -> None:
        self._calls = calls
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for index in range(calls):
                call(index)
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._replays = 1
        once_s = self.call_s() * calls
        self._replays = max(1, min(_MOST_REPLAYS, math.ceil(_GPU_SAMPLE_S / max(once_s, 1e-7))))

    def call_s(self) -> float:
        """Time per call, s."""
        self._graph.replay()
        self._start.record()
        for _ in range(self._replays):
            self._graph.replay()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3 / (self._replays * self._calls)


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


def _warm_up(
    samplers: Mapping[str, Sampler],
    rules: Rules,
    order: random.Random,
    clock: Callable[[], float],
    ranges: RangeHook,
) -> tuple[str, ...]:
    """Take rounds that are thrown away; return the variants that had not settled at the end."""
    start = clock()
    taken: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rules.most_warm_rounds):
        for name, by_range in _round(samplers, order, ranges).items():
            taken[name].append(by_range[CALL])
        moving = tuple(name for name, times in taken.items() if not has_settled(times, rules.settle_share))
        if not moving or clock() - start > rules.warm_limit_s:
            return moving
    return moving


def _round(
    samplers: Mapping[str, Sampler], order: random.Random, ranges: RangeHook
) -> dict[str, Mapping[str, float]]:
    names = list(samplers)
    order.shuffle(names)
    taken = {}
    for name in names:
        with ranges(name):
            taken[name] = samplers[name].sample()
    return taken
