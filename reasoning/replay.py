"""Replay: every kernel runs exactly the same hops, so that times and logits can be compared one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from kernels.registry import NO_RANGES, Kernel
from profiler.record import AgreementSample, RangeSample, Sample
from profiler.timing import HopTimer, RangeTimer
from reasoning.decode import BatchTrace, Forced, decode_batch, pad_token
from reasoning.model import LoadedModel
from reasoning.problems import Problem
from reasoning.quant_linear import Replacement

_KEPT_LOGITS_BYTES = 2**31


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
    """Replays one batch with one kernel after another.

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
        self._baseline: list[Tensor] = []
        longest = max(len(s) for s in batch.solutions)
        row_bytes = longest * loaded.model.config.vocab_size * 4
        self._compared = max(1, min(len(batch.problems), _KEPT_LOGITS_BYTES // row_bytes))
        self._steps = [_steps(s, loaded) for s in batch.solutions]

    def timed(self, kernel: Kernel) -> BatchTrace:
        """Replay with one kernel and nothing else running."""
        self._replacement.use(kernel)
        return self._replay(None)

    def with_ranges(self, kernel: Kernel, *, is_baseline: bool) -> list[Sample]:
        """Replay with ranges around the linears, and compare the logits with the baseline's.

        The baseline has to come first. The first position's logits come from the prompt pass and are left out.

        Returns:
            A range sample per hop, and for kernels with a meaning other than the baseline an agreement sample per
            hop and sequence.
        """
        self._replacement.use(kernel)
        ranges = RangeTimer(self._loaded.model.device.type)
        agreement: list[Sample] = []
        per_hop: list[dict[str, float]] = []
        if is_baseline:
            self._baseline = []

        def watch(position: int, logits: Tensor) -> None:
            per_hop.append(ranges.take())
            kept = logits[: self._compared].float()
            if is_baseline:
                self._baseline.append(kept)
            elif position > 0 and kernel.meaningful_output:
                agreement.extend(self._compare(kernel, position, self._baseline[position], kept))

        self._replacement.time_ranges(ranges)
        try:
            self._replay(watch)
        finally:
            self._replacement.time_ranges(NO_RANGES)
        hops = [self._range_sample(kernel, hop, seconds) for hop, seconds in enumerate(per_hop[1:])]
        return [*hops, *agreement]

    def _replay(self, watch: Callable[[int, Tensor], None] | None) -> BatchTrace:
        forced = Forced(self._batch.solutions, self._loaded.model.device, watch)
        return decode_batch(
            self._loaded.model,
            self._batch.prompts,
            forced,
            lengths=[len(s) for s in self._batch.solutions],
            end_tokens=frozenset(),
            padding=pad_token(self._loaded.tokenizer),
            timer=self._timer,
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
        for i in range(self._compared):
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
