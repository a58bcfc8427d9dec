"""How closely kernels follow the baseline's logits on the same tokens, gathered without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from profiler.record import AgreementSample

if TYPE_CHECKING:
    from reasoning.replay import ReplayBatch


@dataclass(frozen=True)
class _Compared:
    kernel: str
    position: int
    kl_nats: Tensor
    top1_same: Tensor
    rel_error: Tensor


class AgreementLog:
    """Compares logits position by position; the baseline's come first at each.

    Args:
        baseline: name of the reference.
    """

    def __init__(self, baseline: str) -> None:
        self._baseline = baseline
        self._latest: Tensor | None = None
        self._found: list[_Compared] = []

    def watcher(self, kernel: str) -> Callable[[int, Tensor], None]:
        """What a kernel's decoding calls with (position, logits [rows, vocabulary]).

        Position 0 comes from the prompt pass and is left out.
        """
        return self._keep if kernel == self._baseline else lambda p, logits: self._compare(kernel, p, logits)

    def samples(self, batch: ReplayBatch) -> list[AgreementSample]:
        """A sample per kernel, position and sequence that has a recorded token there."""
        return [
            AgreementSample(
                kernel=found.kernel,
                batch_size=batch.batch_size,
                problem_id=problem_id,
                hop=found.position,
                step=batch.steps[row][found.position],
                kl_nats=kl,
                top1_same=same,
                logits_rel_error=error,
            )
            for found in self._found
            for row, (problem_id, kl, same, error) in enumerate(
                zip(
                    batch.problem_ids,
                    found.kl_nats.tolist(),
                    found.top1_same.tolist(),
                    found.rel_error.tolist(),
                    strict=False,
                )
            )
            if found.position < batch.job.lengths[row]
        ]

    def _keep(self, position: int, logits: Tensor) -> None:
        # A copy: the next hop overwrites a captured session's logits.
        self._latest = logits.float().clone() if position else None

    def _compare(self, kernel: str, position: int, logits: Tensor) -> None:
        if not position:
            return
        if self._latest is None:
            raise ValueError(
                f"{kernel} was compared at position {position} before {self._baseline}, got 0 logits"
            )
        reference, mine = self._latest, logits.float()
        log_p, log_q = log_softmax(reference, -1), log_softmax(mine, -1)
        norm = torch.linalg.vector_norm
        self._found.append(
            _Compared(
                kernel,
                position,
                (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0.0),
                reference.argmax(-1) == mine.argmax(-1),
                norm(mine - reference, dim=-1) / norm(reference, dim=-1),
            )
        )
