"""Replay: every kernel runs exactly the same hops, so that times and logits can be compared one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from kernels.registry import NO_RANGES, Kernel
from profiler.nvtx import open_range
from profiler.record import AgreementSample, RangeSample, Sample
from profiler.timing import HopTimer, RangeTimer
from reasoning.decode import BatchTrace, Forced, decode_steps, pad_token
from reasoning.model import LoadedModel
from reasoning.problems import Problem
from reasoning.quant_linear import Replacement

_ENDED = object()
_T = TypeVar("_T")


def rotated(items: Sequence[_T], by: int) -> Iterator[_T]:
    """The items in order, beginning with number ``by`` (modulo their count)."""
    return (items[(i + by) % len(items)] for i in range(len(items)))


@dataclass(frozen=True)
class ReplayBatch:
    """Recorded solutions to replay.

    Args:
        index: number of the batch in its run.
        problems: the problems.
        prompts: token ids per problem.
        solutions: token ids per problem, each with at least one token.
    """

    index: int
    problems: Sequence[Problem]
    prompts: Sequence[Sequence[int]]
    solutions: Sequence[Sequence[int]]


class Replayer:
    """Replays one batch with several kernels in lockstep.

    At every hop each kernel takes its turn, with its own KV cache, before any goes on to the next hop, in an order
    that rotates: what happens to the machine in between happens to all of them.

    Args:
        batch: what to replay.
        loaded: the model.
        replacement: its replaced linears.
        timer: times the hops.
        batch_size: the run's batch size, for the samples.
    """

    def __init__(
        self,
        batch: ReplayBatch,
        loaded: LoadedModel,
        replacement: Replacement,
        timer: HopTimer,
        batch_size: int,
    ) -> None:
        self._batch = batch
        self._loaded = loaded
        self._replacement = replacement
        self._timer = timer
        self._batch_size = batch_size
        self._steps = [_steps(s, loaded) for s in batch.solutions]

    def timed(self, kernels: Sequence[Kernel]) -> dict[str, BatchTrace]:
        """Replay with nothing else running; returns the trace of each kernel by name."""
        traces = {kernel.name: BatchTrace(tokens=[]) for kernel in kernels}
        turns = {k.name: self._replay(traces[k.name], None) for k in kernels}
        step = 0
        with open_range("query"):
            while True:
                for kernel in rotated(kernels, step):
                    self._replacement.use(kernel)
                    with open_range(kernel.name):
                        if next(turns[kernel.name], _ENDED) is _ENDED:
                            return traces
                step += 1

    def with_ranges(self, kernels: Sequence[Kernel], baseline: str) -> list[Sample]:
        """Replay with ranges around the linears, and compare the logits with the baseline's at every hop.

        The first position's logits come from the prompt pass and are left out.

        Args:
            kernels: all kernels, the baseline among them.
            baseline: name of the reference.

        Returns:
            A range sample per kernel and hop, and for kernels with a meaning other than the baseline an agreement
            sample per hop and sequence.
        """
        device_type = self._loaded.model.device.type
        reference = next(kernel for kernel in kernels if kernel.name == baseline)
        others = [kernel for kernel in kernels if kernel.name != baseline]
        ranges = {kernel.name: RangeTimer(device_type) for kernel in kernels}
        samples: list[Sample] = []
        latest: list[Tensor] = []

        def watcher(kernel: Kernel) -> Callable[[int, Tensor], None]:
            def watch(position: int, logits: Tensor) -> None:
                seconds = ranges[kernel.name].take()
                if kernel is reference:
                    latest[:] = [logits.float()]
                if position == 0:
                    return
                samples.append(self._range_sample(kernel, position - 1, seconds))
                if kernel is not reference and kernel.meaningful_output:
                    samples.extend(self._compare(kernel, position, latest[0], logits.float()))

            return watch

        turns = {k.name: self._replay(BatchTrace(tokens=[]), watcher(k)) for k in kernels}
        step = 0
        try:
            with open_range("timed_ranges"), open_range("query"):
                while True:
                    for kernel in (reference, *rotated(others, step)):
                        self._replacement.use(kernel)
                        self._replacement.time_ranges(ranges[kernel.name])
                        with open_range(kernel.name):
                            if next(turns[kernel.name], _ENDED) is _ENDED:
                                return samples
                    step += 1
        finally:
            self._replacement.time_ranges(NO_RANGES)

    def _replay(self, trace: BatchTrace, watch: Callable[[int, Tensor], None] | None) -> Iterator[None]:
        return decode_steps(
            self._loaded.model,
            self._batch.prompts,
            Forced(self._batch.solutions, self._loaded.model.device, watch),
            lengths=[len(s) for s in self._batch.solutions],
            end_tokens=frozenset(),
            padding=pad_token(self._loaded.tokenizer),
            timer=self._timer,
            trace=trace,
        )

    def _range_sample(self, kernel: Kernel, hop: int, seconds: dict[str, float]) -> RangeSample:
        cast, comp = seconds.get("tau_cast"), seconds.get("tau_comp")
        return RangeSample(
            kernel=kernel.name,
            batch_size=self._batch_size,
            repeat=0,
            batch_index=self._batch.index,
            hop=hop,
            linear_s=sum(seconds.values()),
            cast_s=cast,
            comp_s=comp,
        )

    def _compare(self, kernel: Kernel, position: int, reference: Tensor, logits: Tensor) -> list[Sample]:
        log_p, log_q = log_softmax(reference, -1), log_softmax(logits, -1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0.0).tolist()
        same = (reference.argmax(-1) == logits.argmax(-1)).tolist()
        error = (
            torch.linalg.vector_norm(logits - reference, dim=-1) / torch.linalg.vector_norm(reference, dim=-1)
        ).tolist()
        samples: list[Sample] = []
        for i in range(len(self._batch.problems)):
            if position >= len(self._batch.solutions[i]):
                continue
            samples.append(
                AgreementSample(
                    kernel=kernel.name,
                    batch_size=self._batch_size,
                    problem_id=self._batch.problems[i].id,
                    hop=position,
                    step=self._steps[i][position],
                    kl_nats=kl[i],
                    top1_same=same[i],
                    logits_rel_error=error[i],
                )
            )
        return samples


def _steps(solution: Sequence[int], loaded: LoadedModel) -> list[int]:
    """The solution line (from 0) of every token."""
    steps, line = [], 0
    for token in solution:
        steps.append(line)
        line += loaded.tokenizer.decode([token]).count("\n")
    return steps
