"""What changes from hop to hop, in buffers on the device that a captured step reads and writes in place.

Prompts are padded on the right. Then a sequence's state is one number, the cache column of its newest token, which is
also its position: prompts need no mask, no column is ever dead, and a sequence that ends simply stops moving. Padding
on the left would need the width of the padding beside the column, and a mask for the prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from reasoning.engine.architecture import Architecture

MOST_END_TOKENS = 16
_NO_TOKEN = -1


class KVCache:
    """A static cache, and the rotary tables for its columns.

    Args:
        architecture: the model's sizes.
        batch: sequences.
        max_len: columns: prompt and new tokens together, less the last, which is chosen but never read.
        dtype: of keys and values.
        device: where it lies.

    Raises:
        ValueError: a size below 1, or more columns than the model's attention window.
    """

    def __init__(
        self, architecture: Architecture, batch: int, max_len: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        if batch < 1 or max_len < 1:
            raise ValueError(f"a cache of batch={batch} and max_len={max_len} is empty")
        window = architecture.window
        if window is not None and max_len > window:
            raise ValueError(f"max_len={max_len} exceeds the model's attention window of {window} tokens")
        self.max_len = max_len
        shape = (architecture.layers, batch, architecture.kv_heads, max_len, architecture.head_dim)
        # Two tensors: a compiler that writes into two views of one has to assume that they overlap.
        self._storage = tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.keys: tuple[Tensor, ...] = self._storage[0].unbind(0)
        """Per layer [batch, kv_heads, max_len, head_dim]."""
        self.values: tuple[Tensor, ...] = self._storage[1].unbind(0)
        """Likewise."""
        self.arrivals = torch.zeros(batch * architecture.kv_heads, dtype=torch.int32, device=device)
        """Parts of each key head's attention that have been summed; 0 between two calls."""
        self.cosines, self.sines = architecture.rotary_tables(max_len, dtype, device)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(tensor.nbytes for tensor in self._storage)

    def clear(self) -> None:
        """Forget everything: a masked column counts zero times its value, which must not be NaN."""
        for tensor in (*self._storage, self.arrivals):
            tensor.zero_()


class BatchState:
    """The tokens of a batch and who has ended.

    Args:
        batch: sequences.
        capacity: most tokens chosen per sequence.
        device: where the buffers lie.
    """

    def __init__(self, batch: int, capacity: int, device: torch.device) -> None:
        def buffer(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.tokens = buffer(batch)
        """What the next hop reads."""
        self.column = buffer(batch)
        """The cache column of ``tokens``; it stays where it is once the sequence has ended."""
        self.done = buffer(batch, dtype=torch.bool)
        """Sequences that have ended."""
        self.position = buffer(1)
        """Tokens chosen so far, by every sequence."""
        self.remaining = buffer(1)
        """Sequences that have not ended."""
        self.chosen = buffer(batch, capacity)
        """Chosen tokens; padding after a sequence's end."""
        self.forced = buffer(batch, capacity)
        """Tokens to choose whatever the logits say."""
        self.is_forced = buffer(1, dtype=torch.bool)
        """Whether ``forced`` counts."""
        self.limits = buffer(batch)
        """Most tokens of each sequence."""
        self.end_tokens = buffer(MOST_END_TOKENS)
        """Tokens that end a sequence, filled up with -1."""
        self.padding = buffer(1)
        """Fed to sequences that have ended."""
        self._remaining_here = torch.zeros(1, dtype=torch.int64, pin_memory=device.type == "cuda")

    @property
    def capacity(self) -> int:
        """Most tokens chosen per sequence."""
        return self.chosen.shape[1]

    def reset(
        self,
        lengths: Sequence[int],
        limits: Sequence[int],
        end_tokens: Collection[int],
        padding: int,
        forced: Sequence[Sequence[int]] | None,
    ) -> None:
        """Begin a batch.

        Args:
            lengths: tokens of each prompt.
            limits: most tokens of each sequence, at most ``capacity``.
            end_tokens: tokens that end a sequence, at most ``MOST_END_TOKENS``.
            padding: fed to sequences that have ended.
            forced: tokens to choose, at least ``limits`` for each sequence; None lets the logits choose.
        """
        self.column.copy_(torch.tensor(lengths) - 1)
        self.limits.copy_(torch.tensor(limits))
        ends = [*end_tokens, *[_NO_TOKEN] * (MOST_END_TOKENS - len(end_tokens))]
        self.end_tokens.copy_(torch.tensor(ends))
        self.padding.fill_(padding)
        for buffer in (self.done, self.position, self.chosen, self.is_forced):
            buffer.zero_()
        self.remaining.fill_(len(lengths))
        self._remaining_here.fill_(len(lengths))
        if forced is not None:
            self.is_forced.fill_(True)
            width = max(limits)
            table = [
                [*row[:limit], *[padding] * (width - limit)]
                for row, limit in zip(forced, limits, strict=True)
            ]
            self.forced[:, :width] = torch.tensor(table, device=self.forced.device)

    def buffers_of_accept(self) -> tuple[Tensor, ...]:
        """The arguments of ``layer_math.accept`` after the sampled tokens."""
        return (
            self.tokens,
            self.column,
            self.done,
            self.position,
            self.remaining,
            self.chosen,
            self.forced,
            self.is_forced,
            self.limits,
            self.end_tokens,
            self.padding,
        )

    def send_remaining(self) -> None:
        """Copy ``remaining`` to the host without waiting; belongs at the end of a step."""
        self._remaining_here.copy_(self.remaining, non_blocking=True)

    def last_known_remaining(self) -> int:
        """Sequences that had not ended, as of the last step that the device is known to have finished."""
        return int(self._remaining_here[0])

    def finished_tokens(self) -> list[list[int]]:
        """Tokens of each sequence so far, its end token included; waits for the device."""
        count = int(self.position[0])
        ends = set(self.end_tokens.tolist()) - {_NO_TOKEN}
        rows = []
        for row, limit in zip(self.chosen[:, :count].tolist(), self.limits.tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in ends), count)
            rows.append(row[: min(end, limit)])
        return rows
