"""Batches through a session: the ``BatchTrace`` of ``reasoning.decode``, step by step, and sessions by kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from kernels.ranges import RangeHook
from kernels.registry import Kernel
from profiler.nvtx import open_range
from profiler.timing import HopTimer
from reasoning.decode import BatchTrace
from reasoning.engine.decoder import Decoder
from reasoning.engine.sampling import Sampling
from reasoning.engine.session import Session, StepMode, layer_math

_HOPS_AHEAD = 8
"""How far the host may run ahead of the device when nothing else makes it wait."""

OnLogits = Callable[[int, Tensor], None]
"""Called with (position, logits [batch, vocabulary]) on the device, after the token of that position is chosen."""


def session_steps(
    session: Session,
    prompts: Sequence[Sequence[int]],
    *,
    lengths: Sequence[int],
    end_tokens: Collection[int],
    padding: int,
    timer: HopTimer,
    trace: BatchTrace,
    forced: Sequence[Sequence[int]] | None = None,
    on_logits: OnLogits | None = None,
    ranges: RangeHook | None = None,
) -> Iterator[None]:
    """Decode one batch, one step at a time, so that several sessions can take turns at every hop.

    Nothing inside a hop waits for the host. The batch stops when all have ended, which the host sees at once if the
    timer synchronises, else up to 16 hops late; such hops are not counted.

    Args:
        session: its batch size is the number of prompts.
        prompts: token ids per sequence, none empty, of any lengths.
        lengths: per sequence, the most tokens to add; it ends there or at an end token.
        end_tokens: tokens that end a sequence; empty in replay.
        padding: fed to sequences that have ended.
        timer: times the prefill and each hop.
        trace: filled in; its tokens and active counts are complete when the iterator ends or is closed.
        forced: recorded tokens to choose whatever the logits say.
        on_logits: sees the logits of every position; outside the timed region.
        ranges: given to the linears, whose hops then run outside the CUDA graph; None runs captured hops.

    Yields:
        Nothing, once after the prefill and once after each hop.

    Raises:
        ValueError: as :meth:`Session.start`.
    """
    timer.take()
    with timer.hop(), open_range("prefill"):
        session.start(
            prompts,
            lengths,
            end_tokens=end_tokens,
            padding=padding,
            forced=forced,
            ranges=ranges,
        )
    trace.prefill_s = timer.take()[0]
    trace.cache_bytes = session.cache.nbytes
    pace = _Pace(session)
    hop_s: list[float] = []
    try:
        if on_logits is not None:
            on_logits(0, session.logits)
        yield
        while session.hops_left and pace.goes_on():
            with timer.hop(), open_range("hop", len(hop_s)):
                if ranges is None:
                    session.hop()
                else:
                    session.hop_with_ranges(ranges)
            hop_s += timer.take()
            if on_logits is not None:
                on_logits(len(hop_s), session.logits)
            yield
    finally:
        trace.tokens = session.tokens()
        counts = [len(tokens) for tokens in trace.tokens]
        # A sequence of n tokens takes part in n - 1 hops: the prefill chose its first.
        active = [sum(count > hop + 1 for count in counts) for hop in range(len(hop_s))]
        trace.active = [number for number in active if number]
        trace.hop_s = hop_s[: len(trace.active)]


class _Pace:
    """Tells when a batch has ended, and keeps the host from running far ahead of the device."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._hops = 0
        is_cuda = session.decoder.device.type == "cuda"
        self._event = torch.cuda.Event() if is_cuda else None
        if self._event is not None:
            self._event.record()

    def goes_on(self) -> bool:
        """Whether some sequence has not ended, as far as the host knows."""
        if self._event is not None and self._hops % _HOPS_AHEAD == 0:
            self._event.synchronize()
            self._event.record()
        self._hops += 1
        return self._session.state.last_known_remaining() > 0


class Engine:
    """Sessions of one decoder, each made when it is first asked for and then kept with its cache and graph.

    Args:
        decoder: the weights.
        mode: what runs between the linears.
        max_len: cache columns of every session.
        sampling: how tokens are chosen.

    Raises:
        ValueError: ``compile`` on a CPU without a C++ compiler.
    """

    def __init__(
        self,
        decoder: Decoder,
        max_len: int,
        *,
        mode: StepMode = StepMode.COMPILE,
        sampling: Sampling | None = None,
    ) -> None:
        self.decoder = decoder
        self.mode = mode
        self.max_len = max_len
        self._sampling = sampling or Sampling()
        self._math = layer_math(mode, decoder.device)
        self._sessions: dict[tuple[str, int], Session] = {}

    def session(self, kernel: Kernel, batch_size: int) -> Session:
        """The session of a kernel and batch size.

        Raises:
            ValueError: as :class:`Session`.
        """
        key = (kernel.name, batch_size)
        if key not in self._sessions:
            self._sessions[key] = Session(
                self.decoder,
                kernel,
                batch_size,
                self.max_len,
                mode=self.mode,
                sampling=self._sampling,
                math=self._math,
            )
        return self._sessions[key]

    def release(self, batch_size: int | None = None) -> None:
        """Free the sessions of a batch size, or all, with their caches and graphs."""
        for key in [key for key in self._sessions if batch_size in (None, key[1])]:
            del self._sessions[key]
