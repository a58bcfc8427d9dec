"""transformers' forward pass with a static cache, in the shape in which a session runs our own decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from kernels.ranges import NO_RANGES, RangeHook
from kernels.registry import Kernel
from profiler.nvtx import open_range
from reasoning.chain_backend import ReplacedModel
from reasoning.engine.layer_math import LayerMath
from reasoning.engine.linear import EngineLinear
from reasoning.engine.session import Session, StepMode
from reasoning.engine.state import BatchState, KVCache


class StaticKeysValues:
    """transformers' static cache, and the tensors that say which of its columns a hop reads and writes.

    Args:
        model: the model.
        batch: sequences.
        columns: of the cache.

    Raises:
        ValueError: more columns than a layer's attention window.
    """

    def __init__(self, model: Any, batch: int, columns: int) -> None:
        from transformers import StaticCache

        self.static = StaticCache(config=model.config, max_cache_len=columns)
        window = min(layer.max_cache_len for layer in self.static.layers)
        if window < columns:
            raise ValueError(f"max_len={columns} exceeds the model's attention window of {window} tokens")
        self.mask = torch.zeros(batch, 1, 1, columns, dtype=torch.bool, device=model.device)
        """Columns that hold a token, padding left out."""
        self.column = torch.zeros(1, dtype=torch.int64, device=model.device)
        """Where the next hop writes."""
        self.positions = torch.zeros(batch, 1, dtype=torch.int64, device=model.device)
        """Rotary positions of the next hop's tokens."""

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values; 0 before the first forward pass, which makes them."""
        tensors = [t for layer in self.static.layers for t in (layer.keys, layer.values)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def clear(self) -> None:
        """Forget everything."""
        self.static.reset()
        for tensor in (self.mask, self.column, self.positions):
            tensor.zero_()

    def begin(self, lengths: Tensor, width: int) -> None:
        """Say what the prompts fill: columns up to ``width``, each prompt the last of them.

        Args:
            lengths: int64 [batch], tokens of each prompt.
            width: tokens of the longest.
        """
        columns = torch.arange(self.mask.shape[-1], device=lengths.device)
        self.mask[:, 0, 0] = (columns >= width - lengths[:, None]) & (columns < width)
        self.column.fill_(width)
        self.positions.copy_(lengths[:, None])


@dataclass(frozen=True)
class _Vocabulary:
    vocabulary: int


class StaticForward:
    """The two forward passes that a session asks of ``reasoning.engine.decoder.Decoder``, by transformers.

    Prompts are padded on the left, as in the eager engine: the static cache writes one column for all sequences.

    Args:
        replaced: the model.
    """

    linears: Sequence[EngineLinear] = ()
    """Linears whose weights a session has to check: none, ``QuantLinear`` does."""

    def __init__(self, replaced: ReplacedModel) -> None:
        self.model = replaced.model
        self.device = replaced.device
        self.dtype: torch.dtype = self.model.dtype
        self.architecture = _Vocabulary(self.model.config.vocab_size)
        self._replaced = replaced

    def prefill(
        self,
        prompts: Tensor,
        lengths: Tensor,
        cache: StaticKeysValues,
        kernel: Kernel,
        ranges: RangeHook = NO_RANGES,
    ) -> Tensor:
        """Read prompts into an empty cache.

        Args:
            prompts: int64 [batch, width], padded on the right.
            lengths: int64 [batch], tokens of each prompt.
            cache: written in columns 0 to width - 1.
            kernel: runs the linears.
            ranges: given to the linears.

        Returns:
            Logits of each prompt's last token, [batch, vocabulary].
        """
        width = prompts.shape[1]
        cache.begin(lengths, width)
        places = torch.arange(width, device=prompts.device) - (width - lengths)[:, None]
        is_ragged = bool((lengths < width).any())
        return self._logits(
            kernel,
            ranges,
            input_ids=prompts.gather(1, places % width),
            attention_mask=(places >= 0).long() if is_ragged else None,
            position_ids=places.clamp(min=0),
            past_key_values=cache.static,
        )

    def hop(
        self,
        state: BatchState,
        cache: StaticKeysValues,
        kernel: Kernel,
        math: LayerMath,
        ranges: RangeHook = NO_RANGES,
    ) -> Tensor:
        """One new token per sequence: everything on the device, nothing waits for the host.

        Args:
            state: its ``tokens`` are read.
            cache: written at its ``column``.
            kernel: runs the linears.
            math: not used: what runs between the linears is transformers'.
            ranges: given to the linears.

        Returns:
            Logits [batch, vocabulary].
        """
        cache.mask.index_fill_(-1, cache.column, True)
        logits = self._logits(
            kernel,
            ranges,
            input_ids=state.tokens[:, None],
            # In its four dimensions: transformers would count columns that it has seen on the host, where layers slide.
            attention_mask=cache.mask,
            position_ids=cache.positions,
            past_key_values=cache.static,
        )
        cache.column.add_(1)
        cache.positions.add_(1)
        return logits

    def _logits(self, kernel: Kernel, ranges: RangeHook, **inputs: Any) -> Tensor:
        # A replaced linear shows its ranges to a profiler by itself.
        with self._replaced.running(kernel, None if ranges is open_range else ranges):
            out = self.model(**inputs, use_cache=True, logits_to_keep=1)
        logits: Tensor = out.logits[:, -1]
        return logits


class StaticSession(Session):
    """A session on transformers' forward pass.

    Args:
        forward: the model.
        kernel: runs the linears.
        batch_size: sequences per batch.
        max_len: tokens of the longest prompt and of the most new ones together, less one.
        cache: empty.
    """

    def __init__(
        self,
        forward: StaticForward,
        kernel: Kernel,
        batch_size: int,
        max_len: int,
        cache: StaticKeysValues,
    ) -> None:
        super().__init__(
            forward,
            kernel,
            batch_size,
            max_len,
            mode=StepMode.GRAPH,
            math=LayerMath(),
            cache=cast(KVCache, cache),
        )

    def start(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], **how: Any) -> None:
        """See ``Session.start``; every sequence takes the columns of the longest prompt."""
        longest, most = max(map(len, prompts), default=0), max(limits, default=0)
        needed = longest + most - 1
        if needed > self.max_len:
            raise ValueError(
                f"prompts of up to {longest} tokens with up to {most} new ones need {needed} cache columns, "
                f"the cache has {self.max_len}"
            )
        super().start(prompts, limits, **how)
