"""What a hop begins and ends with: the embedding of its tokens with their rotation, and the most likely next tokens.

Neither takes part in dependent launch: both wait for all kernels before them, and none after them starts early, so that
what one hop wrote is settled in the next.

Traffic: rows of the embedding and of the rotation once; the logits once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 4096
"""Logits that a program looks through."""


@triton.jit
def _begin_kernel(
    tokens_ptr,
    column_ptr,
    embedding_ptr,
    cosines_ptr,
    sines_ptr,
    x_ptr,
    cos_ptr,
    sin_ptr,
    embedding_stride,
    HIDDEN: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    token, column = tl.load(tokens_ptr + row), tl.load(column_ptr + row)
    places = tl.arange(0, BLOCK)
    halves = tl.arange(0, HALF_BLOCK)
    x = tl.load(embedding_ptr + token * embedding_stride + places, mask=places < HIDDEN, other=0.0)
    cos = tl.load(cosines_ptr + column * HALF + halves, mask=halves < HALF, other=0.0)
    sin = tl.load(sines_ptr + column * HALF + halves, mask=halves < HALF, other=0.0)
    tl.store(x_ptr + row * HIDDEN + places, x, mask=places < HIDDEN)
    tl.store(cos_ptr + row * HALF + halves, cos, mask=halves < HALF)
    tl.store(sin_ptr + row * HALF + halves, sin, mask=halves < HALF)


@triton.jit
def _argmax_kernel(
    logits_ptr,
    best_ptr,
    place_ptr,
    arrivals_ptr,
    out_ptr,
    width,
    stride,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The largest of a part of a row, and of the whole row by the program that ends last."""
    row = tl.program_id(0)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    columns = part * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(
        logits_ptr + row.to(tl.int64) * stride + columns, mask=columns < width, other=float("-inf")
    )
    best, place = tl.max(values.to(tl.float32), axis=0, return_indices=True)
    tl.store(best_ptr + row * parts + part, best)
    tl.store(place_ptr + row * parts + part, part * BLOCK + place)
    # The arrival of one thread speaks for the stores of all.
    tl.debug_barrier()
    arrived = tl.atomic_add(arrivals_ptr + row, 1, sem="acq_rel", scope="gpu")
    if arrived == parts - 1:
        index = tl.arange(0, PARTS)
        is_part = index < parts
        # Past the first-level cache, which does not see what other multiprocessors write.
        bests = tl.load(
            best_ptr + row * parts + index, mask=is_part, other=float("-inf"), cache_modifier=".cg"
        )
        places = tl.load(place_ptr + row * parts + index, mask=is_part, other=width, cache_modifier=".cg")
        # Of equals the first, as everywhere.
        first = tl.min(tl.where(bests == tl.max(bests, axis=0), places, width), axis=0)
        tl.store(out_ptr + row, first.to(tl.int64))
        tl.store(arrivals_ptr + row, 0)


def begin_hop(
    tokens: Tensor, column: Tensor, embedding: Tensor, cosines: Tensor, sines: Tensor, max_len: int
) -> tuple[Tensor, Tensor, Tensor, None]:
    """Embed the tokens of a hop and look up their rotation, in one kernel.

    Args:
        tokens: int64 [batch].
        column: int64 [batch], the cache column (and position) of each token.
        embedding: [vocabulary, hidden], rows contiguous.
        cosines: [max_len, head_dim/2], contiguous.
        sines: likewise.
        max_len: not used.

    Returns:
        x [batch, hidden]; cos and sin [batch, head_dim/2]; no mask: attention reads up to ``column`` by itself.

    Raises:
        ValueError: strides that the kernel does not read.
    """
    batch, hidden, half = tokens.shape[0], embedding.shape[1], cosines.shape[1]
    if embedding.stride(1) != 1:
        raise ValueError(
            f"the embedding has strides {list(embedding.stride())} for shape {list(embedding.shape)}"
        )
    for name, table in (("cosines", cosines), ("sines", sines)):
        if not table.is_contiguous():
            raise ValueError(f"{name} has strides {list(table.stride())} for shape {list(table.shape)}")
    x = embedding.new_empty((batch, hidden))
    cos, sin = cosines.new_empty((2, batch, half)).unbind(0)
    block = triton.next_power_of_2(hidden)
    _begin_kernel[(batch,)](
        tokens,
        column,
        embedding,
        cosines,
        sines,
        x,
        cos,
        sin,
        embedding.stride(0),
        HIDDEN=hidden,
        HALF=half,
        BLOCK=block,
        HALF_BLOCK=triton.next_power_of_2(half),
        num_warps=min(8, max(1, block // 256)),
    )
    return x, cos, sin, None


class Argmax:
    """Index of the first of the largest values of each row, int64 [rows].

    Calls on one device must not overlap: programs of a row count their arrivals in memory that is kept from call to
    call, by the number of rows. The first call with a number of rows allocates it, ahead of the capture of a graph.
    """

    def __init__(self) -> None:
        self._arrivals: dict[tuple[torch.device, int], Tensor] = {}

    def __call__(self, logits: Tensor) -> Tensor:
        """Look through logits [rows, width], rows contiguous and without NaN.

        Raises:
            ValueError: rows that are not contiguous.
        """
        rows, width = logits.shape
        if logits.stride(1) != 1:
            raise ValueError(f"logits have strides {list(logits.stride())} for shape {list(logits.shape)}")
        key = (logits.device, rows)
        if key not in self._arrivals:
            self._arrivals[key] = torch.zeros(rows, dtype=torch.int32, device=logits.device)
        parts = triton.cdiv(width, _COLUMNS)
        best = torch.empty((rows, parts), dtype=torch.float32, device=logits.device)
        place = torch.empty((rows, parts), dtype=torch.int32, device=logits.device)
        out = torch.empty(rows, dtype=torch.int64, device=logits.device)
        _argmax_kernel[(rows, parts)](
            logits,
            best,
            place,
            self._arrivals[key],
            out,
            width,
            logits.stride(0),
            BLOCK=_COLUMNS,
            PARTS=triton.next_power_of_2(parts),
            num_warps=8,
        )
        return out
