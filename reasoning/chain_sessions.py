"""A chain on sessions: one per kernel and batch size, each hop one CUDA graph where there is CUDA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch

from kernels.peers.kernel import PeerFailedError, PeerKernel
from kernels.peers.peer import first_line
from kernels.ranges import RangeHook
from kernels.registry import Kernel
from profiler.record_results import HopClockName
from reasoning.chain_backend import DecodeJob, OnLogits, default_timer
from reasoning.decode import BatchTrace
from reasoning.engine.event_timer import HopClock
from reasoning.engine.run import session_steps
from reasoning.engine.session import Session, columns_for


class Sessions(Protocol):
    """Sessions on one set of weights, each made when it is first asked for: ``reasoning.engine.run.Engine``."""

    @property
    def max_len(self) -> int:
        """Tokens of the longest sequence."""
        ...

    @property
    def shares_cache(self) -> bool:
        """Whether one session at a time may be in the middle of a batch."""
        ...

    def session(self, kernel: Kernel, batch_size: int) -> Session:
        """The session of a kernel and batch size."""
        ...

    def release(self) -> None:
        """Free all sessions with their caches and graphs."""
        ...


class SessionBackend(ABC):
    """What ``ChainBackend`` says of hops, on sessions; weights belong to the classes that derive from it."""

    _sessions: Sessions | None = None
    _batch_size = 0

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @abstractmethod
    def _make_sessions(self, max_len: int, *, shares_cache: bool) -> Sessions:
        """Sessions for sequences of a length."""

    @property
    def hop_clock(self) -> HopClockName:
        """``events`` on a GPU."""
        return "events" if self.device.type == "cuda" else "wall"

    @property
    def is_captured(self) -> bool:
        """Whether a hop is one launch of a CUDA graph: not on a CPU."""
        return self.device.type == "cuda"

    def prepare(self, batch_size: int, max_len: int, *, in_lockstep: bool) -> None:
        """See ``ChainBackend.prepare``; captured steps are kept as long as they fit what comes next."""
        current = self._sessions
        if (
            current is not None
            and self._batch_size == batch_size
            and columns_for(current.max_len) == columns_for(max_len)
            and max_len <= current.max_len
            and not (in_lockstep and current.shares_cache)
        ):
            return
        self.release()
        self._batch_size = batch_size
        self._sessions = self._make_sessions(max_len, shares_cache=not in_lockstep)

    def release(self) -> None:
        """Free caches and graphs."""
        if self._sessions is not None:
            self._sessions.release()
            self._sessions = None

    def steps(
        self,
        kernel: Kernel,
        job: DecodeJob,
        trace: BatchTrace,
        *,
        on_logits: OnLogits | None = None,
        ranges: RangeHook | None = None,
        timer: HopClock | None = None,
    ) -> Iterator[None]:
        """See ``ChainBackend.steps``.

        A batch with fewer prompts than rows is filled up with sequences that end with their first token: a hop always
        runs ``batch_size`` rows.
        """
        session = self._session(kernel)
        prompts = len(job.prompts)
        filled = _filled(job, session.batch_size)
        try:
            yield from session_steps(
                session,
                filled.prompts,
                lengths=filled.lengths,
                end_tokens=filled.end_tokens,
                padding=filled.padding,
                timer=timer or default_timer(self.device),
                trace=trace,
                forced=filled.forced,
                on_logits=on_logits,
                ranges=ranges,
            )
        finally:
            del trace.tokens[prompts:]

    def _session(self, kernel: Kernel) -> Session:
        if self._sessions is None:
            raise ValueError(f"{kernel.name} was to decode before prepare() named a batch size, which is 0")
        try:
            return self._sessions.session(kernel, self._batch_size)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            failure = self._capture_failure(kernel, error) if self.is_captured else None
            if failure is None:
                raise
            raise failure from error

    def _capture_failure(self, kernel: Kernel, error: RuntimeError) -> Exception | None:
        """What to raise for an error of a capture; None for the error itself.

        Which of a library's kernels a CUDA graph can hold is known only when one is asked to.
        """
        if not isinstance(kernel, PeerKernel):
            return None
        return PeerFailedError(
            f"{kernel.name} could not be captured in a CUDA graph at batch size {self._batch_size} "
            f"({first_line(error)}); --engine eager runs it without"
        )


def _filled(job: DecodeJob, rows: int) -> DecodeJob:
    missing = rows - len(job.prompts)
    if missing <= 0:
        return job
    return replace(
        job,
        prompts=[*job.prompts, *[[job.padding]] * missing],
        lengths=[*job.lengths, *[1] * missing],
        forced=None if job.forced is None else [*job.forced, *[[job.padding]] * missing],
    )
