"""``Session``: one kernel decoding batches of one size, hop by hop, from a captured CUDA graph where there is CUDA."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor

from kernels.compile_ahead import compile_ahead
from kernels.ranges import NO_RANGES, RangeHook
from kernels.registry import Kernel
from kernels.torch_compile import can_compile
from reasoning.engine.layer_math import (
    LayerMath,
    compiled_layer_math,
    fused_layer_math,
    room_to_compile,
)
from reasoning.engine.linear import EngineLinear
from reasoning.engine.sampling import Sampling
from reasoning.engine.state import MOST_END_TOKENS, BatchState, KVCache
from reasoning.shown_ranges import shown

_HOPS_BEFORE_CAPTURE = 3


class StepMode(str, Enum):
    """What runs between the linears: torch's kernels one by one, those that its compiler makes of them, or our own."""

    GRAPH = "graph"
    COMPILE = "compile"
    FUSED = "fused"


class HopModel(Protocol):
    """What a session asks of a model, which :class:`reasoning.engine.decoder.Decoder` is."""

    @property
    def architecture(self) -> Any:
        """Sizes: the vocabulary's, and all of them where the session makes the cache."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of what goes into a linear."""
        ...

    @property
    def linears(self) -> Sequence[EngineLinear]:
        """Linears whose weights the session checks and compiles kernels for."""
        ...

    def prefill(
        self, prompts: Tensor, lengths: Tensor, cache: Any, kernel: Kernel, ranges: RangeHook = ...
    ) -> Tensor:
        """Read prompts into an empty cache; logits of each prompt's last token."""
        ...

    def hop(
        self, state: BatchState, cache: Any, kernel: Kernel, math: LayerMath, ranges: RangeHook = ...
    ) -> Tensor:
        """One new token per sequence; its logits."""
        ...


class Session:
    """Decodes one batch after another.

    The first use of a kernel makes layouts, compiles and tunes, so a few hops on a made-up token run before the
    capture. On a CPU the same step runs without capture.

    Args:
        decoder: the weights.
        kernel: runs the linears; the decoder holds its format.
        batch_size: sequences per batch.
        max_len: cache columns; a sequence needs its prompt and new tokens, less one.
        mode: see :class:`StepMode`.
        sampling: how tokens are chosen.
        math: the functions of this mode, to share what has been compiled; None compiles them.
        cache: shared with other sessions of this size, of which one at a time is used; None makes one.

    Raises:
        ValueError: a weight is missing, a size below 1, more columns than the attention window, or no C++ compiler for
            ``compile`` on a CPU.
    """

    def __init__(
        self,
        decoder: HopModel,
        kernel: Kernel,
        batch_size: int,
        max_len: int,
        *,
        mode: StepMode = StepMode.COMPILE,
        sampling: Sampling | None = None,
        math: LayerMath | None = None,
        cache: KVCache | None = None,
    ) -> None:
        for linear in decoder.linears:
            linear.weights(kernel)
        self.decoder = decoder
        self.kernel = kernel
        self.batch_size = batch_size
        self.mode = mode
        self._math = math or layer_math(mode, decoder.device)
        self._sampling = sampling or Sampling()
        self._generator = self._sampling.generator(decoder.device)
        self.max_len = max_len
        self.cache = cache or KVCache(
            decoder.architecture, batch_size, columns_for(max_len), decoder.dtype, decoder.device
        )
        self.state = BatchState(batch_size, max_len + 1, decoder.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self._captured_logits: Tensor | None = None
        self._hops_left = 0
        # Open while the step is captured, so that a trace can attribute the graph's kernels.
        self._shown = shown()
        with nullcontext() if mode is StepMode.GRAPH else room_to_compile():
            self._prepare()

    @property
    def is_captured(self) -> bool:
        """Whether a hop is one launch of a CUDA graph."""
        return self._graph is not None

    @property
    def logits(self) -> Tensor:
        """Logits [batch, vocabulary] of the last prefill or hop, on the device; the next hop overwrites them.

        Raises:
            ValueError: nothing has run yet.
        """
        if self._logits is None:
            raise ValueError("a session has logits after start(), and 0 batches have been started")
        return self._logits

    @property
    def hops_left(self) -> int:
        """Hops until the longest sequence reaches its limit."""
        return self._hops_left

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        *,
        end_tokens: Collection[int] = (),
        padding: int = 0,
        forced: Sequence[Sequence[int]] | None = None,
        ranges: RangeHook | None = None,
    ) -> None:
        """Begin a batch: read the prompts and choose the first tokens.

        Args:
            prompts: token ids per sequence, none empty, of any lengths.
            limits: per sequence, the most tokens to add, at least 1.
            end_tokens: tokens that end a sequence earlier.
            padding: a token to feed where nothing is to be read.
            forced: tokens to choose whatever the logits say, at least ``limits`` for each sequence; None lets the
                logits choose.
            ranges: given to the linears of the prefill; a profiler that listens sees them in any case.

        Raises:
            ValueError: the batch has another size, a prompt is empty, a token is outside the vocabulary, or a sequence
                does not fit the cache.
        """
        self._check(prompts, limits, end_tokens, padding, forced)
        lengths = [len(prompt) for prompt in prompts]
        self.cache.clear()
        self.state.reset(lengths, limits, end_tokens, padding, forced)
        if self._generator is not None:
            self._generator.manual_seed(self._sampling.seed)
        width = max(lengths)
        rows = [[*prompt, *[padding] * (width - len(prompt))] for prompt in prompts]
        ids = torch.tensor(rows, device=self.decoder.device)
        with torch.no_grad():
            self._logits = self.decoder.prefill(
                ids, self.state.column + 1, self.cache, self.kernel, shown(ranges or NO_RANGES)
            )
            self._accept(self._logits)
        self._hops_left = max(limits) - 1

    def hop(self) -> None:
        """Read the tokens chosen last and choose the next; returns before the device has finished.

        Raises:
            ValueError: every sequence has reached its limit.
        """
        self._count_hop()
        self.queue_hop()

    def queue_hop(self) -> None:
        """The same hop without counting it, for timings: ``state`` is the caller's, who stays within its capacity."""
        if self._graph is None:
            self._step(self._shown)
        else:
            self._graph.replay()
            self._logits = self._captured_logits

    def hop_with_ranges(self, ranges: RangeHook) -> None:
        """The same hop without the CUDA graph, so that ranges around the linears can be timed.

        Raises:
            ValueError: every sequence has reached its limit.
        """
        self._count_hop()
        self._step(shown(ranges))

    def tokens(self) -> list[list[int]]:
        """Tokens that each sequence has added so far, its end token included; waits for the device."""
        return self.state.finished_tokens()

    def _count_hop(self) -> None:
        if self._hops_left <= 0:
            limit = int(self.state.limits.max())
            raise ValueError(f"hop {max(limit, 1)} was asked for, but the batch has {max(limit - 1, 0)} hops")
        self._hops_left -= 1

    @torch.no_grad()
    def _step(self, ranges: RangeHook) -> None:
        self._logits = self.decoder.hop(self.state, self.cache, self.kernel, self._math, ranges)
        self._accept(self._logits)

    def _accept(self, logits: Tensor) -> None:
        sampled = self._sampling.choose(logits, self._generator, self._math.argmax)
        self._math.accept(sampled, *self.state.buffers_of_accept())
        self.state.send_remaining()

    def _prepare(self) -> None:
        """Run a few hops for the kernels' first calls, then capture one."""
        count = self.batch_size
        hops = min(_HOPS_BEFORE_CAPTURE, self.max_len)
        self.state.reset([1] * count, [hops + 1] * count, (), 0, None)
        if self.decoder.device.type != "cuda":
            self._step(NO_RANGES)
            self._logits = None
            return
        compile_ahead(
            (
                (self.kernel, weight, count)
                for linear in self.decoder.linears
                for weight in linear.weights(self.kernel)
            ),
            dtype=self.decoder.dtype,
        )
        side = torch.cuda.Stream(self.decoder.device)
        side.wait_stream(torch.cuda.current_stream(self.decoder.device))
        with torch.cuda.stream(side):
            for _ in range(hops):
                self._step(NO_RANGES)
        torch.cuda.current_stream(self.decoder.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph):
            self._step(self._shown)
        self._captured_logits = self._logits
        self._logits = None
        self._graph = graph

    def _check(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        end_tokens: Collection[int],
        padding: int,
        forced: Sequence[Sequence[int]] | None,
    ) -> None:
        if len(prompts) != self.batch_size or not all(prompts):
            empty = sum(not prompt for prompt in prompts)
            raise ValueError(
                f"a batch of {self.batch_size} needs as many prompts with a token, "
                f"got {len(prompts)}, {empty} of them empty"
            )
        if len(limits) != len(prompts) or min(limits) < 1:
            raise ValueError(f"{len(prompts)} prompts need as many lengths of at least 1, got {list(limits)}")
        for prompt, limit in zip(prompts, limits, strict=True):
            needed = len(prompt) + limit - 1
            if needed > self.max_len:
                raise ValueError(
                    f"a prompt of {len(prompt)} tokens with {limit} new ones needs {needed} cache columns, "
                    f"the cache has {self.max_len}"
                )
        if len(end_tokens) > MOST_END_TOKENS:
            raise ValueError(f"{len(end_tokens)} end tokens are more than {MOST_END_TOKENS}")
        if forced is not None:
            given = [len(row) for row in forced]
            if len(given) != len(limits) or any(n < limit for n, limit in zip(given, limits, strict=True)):
                raise ValueError(f"sequences of {list(limits)} tokens cannot be forced with {given} tokens")
        vocabulary = self.decoder.architecture.vocabulary
        for row in (*prompts, *(forced or ()), (padding,)):
            if min(row) < 0 or max(row) >= vocabulary:
                stranger = next(token for token in row if not 0 <= token < vocabulary)
                raise ValueError(f"token {stranger} is outside the vocabulary of {vocabulary}")


def columns_for(max_len: int) -> int:
    """Cache columns for ``max_len`` tokens.

    In steps of 64: torch's attention takes a mask only in rows of aligned length, else it copies it.
    """
    return -(-max_len // 64) * 64


def layer_math(mode: StepMode, device: torch.device) -> LayerMath:
    """The functions between the linears in a mode.

    Raises:
        ValueError: ``compile`` on a CPU without a C++ compiler, or ``fused`` where there are no Triton kernels.
    """
    if mode is StepMode.GRAPH:
        return LayerMath()
    if mode is StepMode.FUSED:
        return fused_layer_math(device)
    if device.type == "cpu" and not can_compile():
        raise ValueError("the compile engine needs a C++ compiler and Python's headers on a CPU, found 0")
    return compiled_layer_math()
