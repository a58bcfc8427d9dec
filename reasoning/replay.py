"""Replay: every kernel runs exactly the same hops, so that times and logits can be compared one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from kernels.registry import Kernel
from profiler.graph_timer import TimedGraph
from profiler.nvtx import open_range
from profiler.range_cost import hold_device, measure_range_cost
from profiler.record import AgreementSample, LinearsSample, RangeSample, Sample
from profiler.timing import RangeCost, RangeTimer, TimedRanges
from reasoning.agreement import AgreementLog
from reasoning.chain_backend import ChainBackend, DecodeJob, default_timer
from reasoning.decode import BatchTrace

_ENDED = object()
_T = TypeVar("_T")
_HELD_HOPS = 16
"""Hops of a GPU's pass with ranges: each makes the device wait for the host first, which takes as long again."""
_LINEARS_TIMINGS = 16
"""Of the linears alone: as many as hops with ranges."""
_MOST_HOST_S = 0.3
"""A first hop that took longer was no usual one; holding all others as long would take minutes."""
_RANGES_AHEAD = 48
"""Ranges that the host queues between two holds: with all other launches of as many linears a few hundred, and a stream
takes about a thousand before the host has to wait."""


def rotated(items: Sequence[_T], by: int) -> Iterator[_T]:
    """The items in order, beginning with number ``by`` (modulo their count)."""
    return (items[(i + by) % len(items)] for i in range(len(items)))


@dataclass(frozen=True)
class ReplayBatch:
    """Recorded solutions to replay.

    Args:
        index: number of the batch in its run.
        batch_size: the run's batch size, for the samples.
        problem_ids: by sequence.
        job: prompts and recorded tokens.
        steps: by sequence, the solution line (from 0) of every recorded token.
    """

    index: int
    batch_size: int
    problem_ids: Sequence[str]
    job: DecodeJob
    steps: Sequence[Sequence[int]]


class Replayer:
    """Replays one batch with several kernels in lockstep.

    At every hop each kernel takes its turn, with its own KV cache, before any goes on to the next hop, in an order
    that rotates: what happens to the machine in between happens to all of them.

    Args:
        batch: what to replay.
        backend: runs it; prepared for lockstep.
    """

    def __init__(self, batch: ReplayBatch, backend: ChainBackend) -> None:
        self._batch = batch
        self._backend = backend

    def timed(self, kernels: Sequence[Kernel]) -> dict[str, BatchTrace]:
        """Replay with nothing else running; returns the trace of each kernel by name."""
        traces = {kernel.name: BatchTrace(tokens=[]) for kernel in kernels}
        turns = {k.name: self._backend.steps(k, self._batch.job, traces[k.name]) for k in kernels}
        with open_range("query"):
            _in_lockstep(turns, lambda step: rotated(list(turns), step))
        return traces

    def compared(self, kernels: Sequence[Kernel], baseline: str) -> list[AgreementSample]:
        """Replay, and compare the logits with the baseline's at every hop, between hops and on the device.

        The first position's logits come from the prompt pass and are left out.

        Args:
            kernels: all kernels, the baseline among them; those without a meaning are left out.
            baseline: name of the reference.

        Returns:
            A sample per kernel other than the baseline, hop and sequence.
        """
        log = AgreementLog(baseline)
        meaningful = [kernel for kernel in kernels if kernel.meaningful_output]
        turns = {
            k.name: self._backend.steps(
                k, self._batch.job, BatchTrace(tokens=[]), on_logits=log.watcher(k.name)
            )
            for k in meaningful
        }
        with open_range("compared"), open_range("query"):
            _in_lockstep(turns, _reference_first(list(turns), baseline))
        return log.samples(self._batch)

    def linears_alone(self, kernels: Sequence[Kernel]) -> list[LinearsSample]:
        """Time the linears of a hop in CUDA graphs of their own, kernels in turn; where hops are not captured, nothing.

        Ranges cannot stand in for that: in a captured hop a kernel may begin before the last one has ended, and an
        event between the two forbids it.

        Returns:
            A sample per kernel and timing.
        """
        if not self._backend.is_captured:
            return []
        size = self._batch.batch_size
        samples: list[LinearsSample] = []
        with open_range("linears_alone"), torch.no_grad():
            graphs = {k.name: _linears_graph(self._backend.linear_calls(k, size)) for k in kernels}
            for timing in range(_LINEARS_TIMINGS):
                samples += [
                    LinearsSample(
                        kernel=name,
                        batch_size=size,
                        repeat=timing,
                        batch_index=self._batch.index,
                        linear_s=graphs[name].call_s(),
                    )
                    for name in rotated(list(graphs), timing)
                ]
        return samples

    def with_ranges(self, kernels: Sequence[Kernel], baseline: str) -> list[Sample]:
        """Replay with ranges around the linears.

        Where hops are not captured, the logits are compared in the same pass. On a GPU the device is held back before
        each hop and, where a hop has many ranges, within it, until the host has queued what comes next, so that ranges
        and hop show the device's time alone; the first hop tells how long that takes and is left out, and a few hops
        are enough. What a range costs the device is measured first, and taken off both.

        Args:
            kernels: all kernels, the baseline among them.
            baseline: name of the reference.

        Returns:
            A range sample per kernel and hop, and agreement samples as :meth:`compared`.
        """
        is_cuda = self._backend.device.type == "cuda"
        log = None if self._backend.is_captured else AgreementLog(baseline)
        with open_range("timed_ranges"):
            cost = _range_cost(self._backend.device) if is_cuda else None
            timed, traces = self._time_ranges(kernels, baseline, log, cost)
        first, last = (1, _HELD_HOPS + 1) if is_cuda else (0, None)
        samples: list[Sample] = []
        for name, taken in timed.items():
            whole = traces[name].hop_s
            hops = list(enumerate(zip(taken, whole, strict=False)))[first:last]
            samples += [self._range_sample(name, hop, parts, hop_s, cost) for hop, (parts, hop_s) in hops]
        return samples + (log.samples(self._batch) if log else [])

    def _time_ranges(
        self, kernels: Sequence[Kernel], baseline: str, log: AgreementLog | None, cost: RangeCost | None
    ) -> tuple[dict[str, list[TimedRanges]], dict[str, BatchTrace]]:
        """Replay in lockstep; ranges by kernel and hop, and traces by kernel."""
        device = self._backend.device
        ranges = {kernel.name: RangeTimer(device.type, cost=cost) for kernel in kernels}
        timed: dict[str, list[TimedRanges]] = {kernel.name: [] for kernel in kernels}
        traces = {kernel.name: BatchTrace(tokens=[]) for kernel in kernels}
        job = _shortened(self._batch.job, _HELD_HOPS + 2) if self._backend.is_captured else self._batch.job

        def watcher(kernel: Kernel) -> Callable[[int, Tensor], None]:
            compare = log.watcher(kernel.name) if log and kernel.meaningful_output else None

            def watch(position: int, logits: Tensor) -> None:
                taken = ranges[kernel.name].take_all()
                if position:
                    timed[kernel.name].append(taken)
                if compare is not None:
                    compare(position, logits)

            return watch

        turns = {
            k.name: self._backend.steps(
                k,
                job,
                traces[k.name],
                on_logits=watcher(k),
                ranges=ranges[k.name],
                timer=default_timer(device),
            )
            for k in kernels
        }
        hold = None if cost is None else _Hold(ranges, timed)
        with open_range("query"):
            _in_lockstep(turns, _reference_first(list(turns), baseline), hold)
        return timed, traces

    def _range_sample(
        self, name: str, hop: int, timed: TimedRanges, hop_s: float, cost: RangeCost | None
    ) -> RangeSample:
        linear_s = sum(timed.seconds.values())
        return RangeSample(
            kernel=name,
            batch_size=self._batch.batch_size,
            repeat=0,
            batch_index=self._batch.index,
            hop=hop,
            linear_s=linear_s,
            cast_s=timed.seconds.get("tau_cast"),
            comp_s=timed.seconds.get("tau_comp"),
            # The linears are part of the hop, whatever the clocks' errors add up to.
            device_s=max(hop_s - timed.added_s, linear_s),
            ranges=timed.ranges,
            ranges_at_zero=timed.at_zero,
            range_cost_s=None if cost is None else cost.in_range_s,
            range_delay_s=None if cost is None else cost.in_stream_s,
        )


def _linears_graph(call: Callable[[], None]) -> TimedGraph:
    call()  # what is still to be compiled or chosen cannot be captured
    return TimedGraph(1, lambda index: call())


def _range_cost(device: torch.device) -> RangeCost:
    cell = torch.zeros(1, device=device)
    return measure_range_cost(RangeTimer(device.type), lambda: cell.add_(1))


def _in_lockstep(
    turns: Mapping[str, Iterator[None]],
    order: Callable[[int], Iterable[str]],
    hold: _Hold | None = None,
) -> None:
    """Let every kernel take its step before any takes the next; all have the same number of steps."""
    step = 0
    try:
        while True:
            for name in order(step):
                with open_range(name):
                    if hold is not None:
                        hold.before(name, step)
                    if next(turns[name], _ENDED) is _ENDED:
                        return
                    if hold is not None:
                        hold.after(name, step)
            step += 1
    finally:
        # The others have taken their last step as well; closing lets them complete their traces.
        for turn in turns.values():
            close = getattr(turn, "close", None)
            if close is not None:
                close()


def _reference_first(names: Sequence[str], baseline: str) -> Callable[[int], Iterable[str]]:
    others = [name for name in names if name != baseline]
    return lambda step: (baseline, *rotated(others, step))


def _shortened(job: DecodeJob, most: int) -> DecodeJob:
    lengths = [min(length, most) for length in job.lengths]
    return DecodeJob(job.prompts, lengths, job.end_tokens, job.padding, job.forced)


class _Hold:
    """Keeps the device busy with nothing until the host is ahead of it, so that it never waits within a hop.

    Args:
        ranges: timers by kernel.
        timed: what they have seen, by hop; the first hop tells how many ranges there are.
    """

    def __init__(self, ranges: Mapping[str, RangeTimer], timed: Mapping[str, Sequence[TimedRanges]]) -> None:
        self._ranges = ranges
        self._timed = timed
        self._hop_s: dict[str, float] = {}
        self._start_s = 0.0

    def before(self, name: str, step: int) -> None:
        """Hold the device back; step 0 is the prefill, and the first hop tells how long to hold."""
        if step == 1:
            self._start_s = time.perf_counter()
        elif 1 < step <= _HELD_HOPS + 1:
            pieces = max(self._timed[name][0].ranges / _RANGES_AHEAD, 1.0)
            hold = partial(hold_device, self._hop_s[name] / pieces)
            hold()
            self._ranges[name].hold_ahead(_RANGES_AHEAD, hold)

    def after(self, name: str, step: int) -> None:
        """Note how long the first hop took, and hold nothing outside the hops."""
        if step == 1:
            self._hop_s[name] = min(time.perf_counter() - self._start_s, _MOST_HOST_S)
        self._ranges[name].hold_ahead(_RANGES_AHEAD, None)
