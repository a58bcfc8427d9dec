"""Batches through a session: the ``BatchTrace`` of ``reasoning.decode``, step by step, and sessions by kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from kernels.ranges import RangeHook
from kernels.registry import Kernel
from profiler.nvtx import open_range
from reasoning.decode import BatchTrace
from reasoning.engine.decoder import Decoder
from reasoning.engine.event_timer import HopClock
from reasoning.engine.layer_math import LayerMath
from reasoning.engine.sampling import Sampling
from reasoning.engine.session import Session, StepMode, columns_for, layer_math
from reasoning.engine.state import KVCache

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
    timer: HopClock,
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
        timer: times the prefill and each hop; nobody else uses it until the iterator has ended.
        trace: filled in when the iterator ends or is closed.
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
    trace.cache_bytes = session.cache.nbytes
    pace = _Pace(session)
    hops = 0
    try:
        if on_logits is not None:
            on_logits(0, session.logits)
        yield
        while session.hops_left and pace.goes_on():
            with timer.hop(), open_range("hop", hops):
                if ranges is None:
                    session.hop()
                else:
                    session.hop_with_ranges(ranges)
            hops += 1
            if on_logits is not None:
                on_logits(hops, session.logits)
            yield
    finally:
        # Only now: reading a time may mean to wait for the device.
        trace.prefill_s, *hop_s = timer.take()
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
        math: what has been compiled for another engine of this mode; None compiles anew.
        shares_cache: sessions of one batch size use one cache, so that one of them at a time may be in the middle of a
            batch.

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
        math: LayerMath | None = None,
        shares_cache: bool = False,
    ) -> None:
        self.decoder = decoder
        self.mode = mode
        self.max_len = max_len
        self.shares_cache = shares_cache
        self._sampling = sampling or Sampling()
        self.math = math or layer_math(mode, decoder.device)
        self._sessions: dict[tuple[str, int], Session] = {}
        self._caches: dict[int, KVCache] = {}

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
                math=self.math,
                cache=self._cache(batch_size) if self.shares_cache else None,
            )
        return self._sessions[key]

    def _cache(self, batch_size: int) -> KVCache:
        if batch_size not in self._caches:
            decoder = self.decoder
            self._caches[batch_size] = KVCache(
                decoder.architecture, batch_size, columns_for(self.max_len), decoder.dtype, decoder.device
            )
        return self._caches[batch_size]

    def release(self, batch_size: int | None = None) -> None:
        """Free the sessions of a batch size, or all, with their caches and graphs."""
        for key in [key for key in self._sessions if batch_size in (None, key[1])]:
            del self._sessions[key]
        for size in [size for size in self._caches if batch_size in (None, size)]:
            del self._caches[size]
        if self.decoder.device.type == "cuda":
            # A graph's private pool goes back to the device only when the allocator is told to let go of it.
            torch.cuda.empty_cache()
