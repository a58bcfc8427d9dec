"""Attention of one new token per sequence on a GPU: the cache is cut into pieces that are read side by side.

Torch's attention takes a mask only in its memory-efficient kernel, which is not made to split one sequence's cache over
a GPU and reads dead columns too (the two have not been timed against each other yet). Here a program reads a piece of
one key head in blocks of 64 columns, none beyond the sequence's last; a second kernel adds the pieces up, where the
batch has too few key heads to fill the GPU with one piece each.

Traffic per layer: keys and values up to ``column``, once; with pieces, 2 * (head_dim + 2) fp32 for each and query head.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_impl.decode import IS_INTERPRETED
from kernels.triton_impl.layer_ops import begin, can_depend, launch_options

_BLOCK = 64
# Two for each of the multiprocessors of an H200.
_WANTED_PROGRAMS = 264
_MOST_PIECES = 64
# The interpreter keeps bf16 as bare 16-bit integers, and multiplies them as such.
_WIDENS = bool(IS_INTERPRETED.value)
_LEAST_ROWS = 16
"""Rows of the smallest matrix instruction."""


@triton.jit
def _piece_kernel(
    q_ptr,
    keys_ptr,
    values_ptr,
    column_ptr,
    out_ptr,
    tops_ptr,
    totals_ptr,
    q_stride,
    max_len,
    kv_heads,
    piece_blocks,
    scale_log2,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    WIDENS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    begin(DEPENDENT)
    head = tl.program_id(0)
    piece = tl.program_id(1)
    pieces = tl.num_programs(1)
    last = tl.load(column_ptr + head // kv_heads)
    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, WIDTH)
    is_row = rows < GROUP
    is_dim = dims < HEAD_DIM
    q = tl.load(
        q_ptr
        + (head // kv_heads) * q_stride
        + (head % kv_heads * GROUP + rows[:, None]) * HEAD_DIM
        + dims[None, :],
        mask=is_row[:, None] & is_dim[None, :],
        other=0.0,
    )
    if WIDENS:
        q = q.to(tl.float32)
    # A piece beyond the last column has no score: any finite number avoids inf - inf.
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    summed = tl.zeros((ROWS, WIDTH), tl.float32)
    first = piece * piece_blocks * BLOCK
    for start in range(first, tl.minimum(first + piece_blocks * BLOCK, last + 1), BLOCK):
        columns = start + tl.arange(0, BLOCK)
        is_reached = columns <= last
        place = (head.to(tl.int64) * max_len + columns[:, None]) * HEAD_DIM + dims[None, :]
        is_read = is_reached[:, None] & is_dim[None, :]
        keys = tl.load(keys_ptr + place, mask=is_read, other=0.0)
        values = tl.load(values_ptr + place, mask=is_read, other=0.0)
        if WIDENS:
            keys, values = keys.to(tl.float32), values.to(tl.float32)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale_log2
        scores = tl.where(is_reached[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        summed = summed * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        top = higher
    slot = (head * GROUP + rows) * pieces + piece
    if IS_WHOLE:
        summed = summed / total[:, None]
    else:
        tl.store(tops_ptr + slot, top, mask=is_row)
        tl.store(totals_ptr + slot, total, mask=is_row)
    tl.store(
        out_ptr + slot[:, None] * HEAD_DIM + dims[None, :],
        summed.to(out_ptr.dtype.element_ty),
        mask=is_row[:, None] & is_dim[None, :],
    )


@triton.jit
def _join_kernel(
    sums_ptr,
    tops_ptr,
    totals_ptr,
    out_ptr,
    pieces,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECES: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    begin(DEPENDENT)
    row = tl.program_id(0)
    index = tl.arange(0, PIECES)
    dims = tl.arange(0, WIDTH)
    is_piece = index < pieces
    tops = tl.load(tops_ptr + row * pieces + index, mask=is_piece, other=-1.0e30)
    totals = tl.load(totals_ptr + row * pieces + index, mask=is_piece, other=0.0)
    shares = tl.exp2(tops - tl.max(tops, axis=0))
    sums = tl.load(
        sums_ptr + (row * pieces + index[:, None]) * HEAD_DIM + dims[None, :],
        mask=is_piece[:, None] & (dims[None, :] < HEAD_DIM),
        other=0.0,
    )
    joined = tl.sum(sums * shares[:, None], axis=0) / tl.sum(totals * shares, axis=0)
    tl.store(out_ptr + row * HEAD_DIM + dims, joined.to(out_ptr.dtype.element_ty), mask=dims < HEAD_DIM)


def split_attention(q: Tensor, keys: Tensor, values: Tensor, column: Tensor) -> Tensor:
    """Attend to the columns of the cache up to each sequence's own.

    Args:
        q: [batch, kv_heads, heads / kv_heads, head_dim], contiguous but for the first stride: q may be part of a row
            that holds k and v too.
        keys: [batch, kv_heads, max_len, head_dim], contiguous, of q's dtype.
        values: likewise.
        column: int64 [batch], the last column that each sequence reads.

    Returns:
        [batch, heads * head_dim].

    Raises:
        ValueError: strides that the kernel does not read.
    """
    batch, kv_heads, group, head_dim = q.shape
    for name, tensor, checked in (("q", q, q[0]), ("keys", keys, keys), ("values", values, values)):
        if not checked.is_contiguous():
            raise ValueError(f"{name} has strides {list(tensor.stride())} for shape {list(tensor.shape)}")
    max_len = keys.shape[2]
    blocks = triton.cdiv(max_len, _BLOCK)
    piece_blocks = triton.cdiv(blocks, pieces_of(batch * kv_heads, blocks))
    pieces = triton.cdiv(blocks, piece_blocks)
    heads = batch * kv_heads * group
    out = q.new_empty((batch, kv_heads * group * head_dim))
    width = triton.next_power_of_2(head_dim)
    dependent = can_depend(q.device)
    sums, tops, totals = out, out, out
    if pieces > 1:
        sums = q.new_empty((heads, pieces, head_dim), dtype=torch.float32)
        tops, totals = (q.new_empty((heads, pieces), dtype=torch.float32) for _ in range(2))
    # The softmax runs in powers of two: log2(e) goes into the scale.
    scale_log2 = head_dim**-0.5 * 1.4426950408889634
    _piece_kernel[(batch * kv_heads, pieces)](
        q,
        keys,
        values,
        column,
        sums,
        tops,
        totals,
        q.stride(0),
        max_len,
        kv_heads,
        piece_blocks,
        scale_log2,
        GROUP=group,
        ROWS=max(_LEAST_ROWS, triton.next_power_of_2(group)),
        HEAD_DIM=head_dim,
        WIDTH=width,
        BLOCK=_BLOCK,
        IS_WHOLE=pieces == 1,
        WIDENS=_WIDENS,
        DEPENDENT=dependent,
        num_warps=4,
        **launch_options(dependent),
    )
    if pieces > 1:
        _join_kernel[(heads,)](
            sums,
            tops,
            totals,
            out,
            pieces,
            HEAD_DIM=head_dim,
            WIDTH=width,
            PIECES=triton.next_power_of_2(pieces),
            DEPENDENT=dependent,
            num_warps=2,
            **launch_options(dependent),
        )
    return out


def pieces_of(programs: int, blocks: int) -> int:
    """Pieces of the cache: enough that every multiprocessor has work, no more than there are blocks or can be joined.

    Args:
        programs: key heads of the batch.
        blocks: blocks of columns in the cache.
    """
    return max(1, min(blocks, _MOST_PIECES, math.ceil(_WANTED_PROGRAMS / programs)))
