"""Attention of one new token per sequence in one kernel: the cache is cut into pieces that are read at once.

A program reads a piece of one key head, none beyond the sequence's last column. Pieces take turns in blocks of columns,
so that they have the same work however much of the cache is filled. Where there are several, the program of a key head
that ends last adds them up, in the order of the pieces, so that the result does not depend on which one that was. With
MAKES_HEADS a program begins at the merged q/k/v product and makes its queries, the new key and the new value; the one
whose turn holds the last column starts its sums with those two and writes them into the cache. No program reads a
column that this launch writes, so that columns can be asked for before the product is there.

Traffic per layer: keys and values up to ``column``, once; with pieces, 2 * (head_dim + 2) fp32 for each and query head;
the product, once per piece.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton_impl.decode import round_to
from kernels.triton_impl.head_turn import load_halves, load_turn, normalized, turned
from kernels.triton_impl.layer_ops import rounded, start_next, wait_for_previous


@triton.jit
def _load_columns(
    keys_ptr, values_ptr, first_row, columns, end, HALF: tl.constexpr, HALF_WIDTH: tl.constexpr
):
    """Keys by halves [BLOCK, HALF_WIDTH] and values [BLOCK, 2 * HALF_WIDTH] of the columns before ``end``."""
    offsets = tl.arange(0, HALF_WIDTH)
    dims = tl.arange(0, 2 * HALF_WIDTH)
    row = (first_row + columns[:, None]) * (2 * HALF)
    is_column = (columns < end)[:, None]
    is_half = is_column & (offsets < HALF)[None, :]
    low = tl.load(keys_ptr + row + offsets[None, :], mask=is_half, other=0.0)
    high = tl.load(keys_ptr + row + HALF + offsets[None, :], mask=is_half, other=0.0)
    values = tl.load(values_ptr + row + dims[None, :], mask=is_column & (dims < 2 * HALF)[None, :], other=0.0)
    return low, high, values


@triton.jit
def _step(
    q_low,
    q_high,
    key_low,
    key_high,
    values,
    is_column,
    top,
    total,
    summed,
    scale_log2,
    WIDENS: tl.constexpr,
):
    """Add a block of columns to the sums of a softmax whose highest score so far is ``top``."""
    if WIDENS:
        key_low, key_high = key_low.to(tl.float32), key_high.to(tl.float32)
        values = values.to(tl.float32)
    scores = tl.dot(q_low, tl.trans(key_low), input_precision="ieee")
    scores = tl.dot(q_high, tl.trans(key_high), scores, input_precision="ieee") * scale_log2
    scores = tl.where(is_column[None, :], scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, axis=1))
    weights = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(top - higher)
    total = total * shrink + tl.sum(weights, axis=1)
    summed = summed * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    return higher, total, summed


@triton.jit
def _join(
    sums_ptr,
    tops_ptr,
    totals_ptr,
    out_ptr,
    head,
    stored,
    pieces,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_WIDTH: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Add up the pieces of a key head, of which ``stored`` hold columns; every thread adds its own elements."""
    dims = tl.arange(0, 2 * HALF_WIDTH)
    rows = tl.arange(0, GROUP_ROWS)
    is_row = rows < GROUP
    is_dim = (dims < 2 * HALF)[None, :]
    first = (head * GROUP + rows) * pieces
    highest = tl.full((GROUP_ROWS,), -1.0e30, tl.float32)
    # Past the first-level cache, which does not see what other multiprocessors write.
    for piece in tl.static_range(PIECES):
        is_stored = is_row & (piece + 0 * rows < stored)
        top = tl.load(tops_ptr + first + piece, mask=is_stored, other=-1.0e30, cache_modifier=".cg")
        highest = tl.maximum(highest, top)
    total = tl.zeros((GROUP_ROWS,), tl.float32)
    joined = tl.zeros((GROUP_ROWS, 2 * HALF_WIDTH), tl.float32)
    for piece in tl.static_range(PIECES):
        is_stored = is_row & (piece + 0 * rows < stored)
        slot = first + piece
        top = tl.load(tops_ptr + slot, mask=is_stored, other=-1.0e30, cache_modifier=".cg")
        share = tl.exp2(top - highest)
        total += tl.load(totals_ptr + slot, mask=is_stored, other=1.0, cache_modifier=".cg") * share
        sums = tl.load(
            sums_ptr + slot[:, None] * (2 * HALF) + dims[None, :],
            mask=is_stored[:, None] & is_dim,
            other=0.0,
            cache_modifier=".cg",
        )
        joined += sums * share[:, None]
    tl.store(
        out_ptr + (head * GROUP + rows[:, None]) * (2 * HALF) + dims[None, :],
        round_to(joined / total[:, None], out_ptr.dtype.element_ty),
        mask=is_row[:, None] & is_dim,
    )


@triton.jit
def attention_kernel(
    q_ptr,
    bias_ptr,
    head_norm_ptr,
    cos_ptr,
    sin_ptr,
    keys_ptr,
    values_ptr,
    column_ptr,
    arrivals_ptr,
    sums_ptr,
    tops_ptr,
    totals_ptr,
    out_ptr,
    q_stride,
    max_len,
    kv_heads,
    scale_log2,
    epsilon,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECES: tl.constexpr,
    MAKES_HEADS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ONE_BLOCK: tl.constexpr,
    IS_SETTLED: tl.constexpr,
    WIDENS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """A piece of one key head of one sequence, and the sum over pieces by the program that ends last."""
    start_next(DEPENDENT)
    if not IS_SETTLED:
        wait_for_previous(DEPENDENT)
    DTYPE: tl.constexpr = keys_ptr.dtype.element_ty
    head = tl.program_id(0)
    piece = tl.program_id(1)
    pieces = tl.num_programs(1)
    sequence = head // kv_heads
    kv_head = head % kv_heads
    last = tl.load(column_ptr + sequence).to(tl.int32)
    last_block = last // BLOCK
    if piece > last_block:
        return
    # The new column is not read where it is made.
    end = last if MAKES_HEADS else last + 1
    first_row = head.to(tl.int64) * max_len
    columns = piece * BLOCK + tl.arange(0, BLOCK)
    key_low, key_high, values = _load_columns(keys_ptr, values_ptr, first_row, columns, end, HALF, HALF_WIDTH)
    rows = tl.arange(0, ROWS)
    is_row = rows < GROUP
    dims = tl.arange(0, 2 * HALF_WIDTH)
    is_dim = dims < 2 * HALF
    query_heads = kv_head * GROUP + rows
    if MAKES_HEADS:
        key_heads = kv_heads * GROUP + kv_head + tl.zeros_like(rows)
        is_key = rows < ROWS
        value_place = (kv_heads * (GROUP + 1) + kv_head) * (2 * HALF) + dims
        if HAS_BIAS:
            q_bias_low, q_bias_high = load_halves(bias_ptr, query_heads, is_row, HALF, HALF_WIDTH)
            k_bias_low, k_bias_high = load_halves(bias_ptr, key_heads, is_key, HALF, HALF_WIDTH)
            value_bias = tl.load(bias_ptr + value_place, mask=is_dim, other=0.0).to(tl.float32)
        if HAS_NORM:
            q_norm_low, q_norm_high = load_halves(head_norm_ptr, query_heads, is_row, HALF, HALF_WIDTH)
            k_norm_low, k_norm_high = load_halves(head_norm_ptr, key_heads, is_key, HALF, HALF_WIDTH)
    if IS_SETTLED:
        wait_for_previous(DEPENDENT)

    q_ptr += sequence.to(tl.int64) * q_stride
    q_low, q_high = load_halves(q_ptr, query_heads, is_row, HALF, HALF_WIDTH)
    # Any finite number instead of a score that there is none of: it avoids inf - inf.
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    summed = tl.zeros((ROWS, 2 * HALF_WIDTH), tl.float32)
    if MAKES_HEADS:
        k_low, k_high = load_halves(q_ptr, key_heads, is_key, HALF, HALF_WIDTH)
        new_value = tl.load(q_ptr + value_place, mask=is_dim, other=0.0).to(tl.float32)
        cos = load_turn(cos_ptr, sequence + tl.zeros_like(rows), HALF, HALF_WIDTH)
        sin = load_turn(sin_ptr, sequence + tl.zeros_like(rows), HALF, HALF_WIDTH)
        if HAS_BIAS:
            q_low, q_high = rounded(q_low + q_bias_low, DTYPE), rounded(q_high + q_bias_high, DTYPE)
            k_low, k_high = rounded(k_low + k_bias_low, DTYPE), rounded(k_high + k_bias_high, DTYPE)
            new_value = rounded(new_value + value_bias, DTYPE)
        if HAS_NORM:
            q_low, q_high = normalized(q_low, q_high, q_norm_low, q_norm_high, epsilon, HALF, DTYPE)
            k_low, k_high = normalized(k_low, k_high, k_norm_low, k_norm_high, epsilon, HALF, DTYPE)
        q_low, q_high = turned(q_low, q_high, cos, sin, DTYPE)
        k_low, k_high = turned(k_low, k_high, cos, sin, DTYPE)
        if piece == last_block % pieces:
            offsets = tl.arange(0, HALF_WIDTH)
            is_place = (rows == 0)[:, None] & (offsets < HALF)[None, :]
            place = (first_row + last) * (2 * HALF)
            key_place = place + offsets[None, :] + tl.zeros_like(rows)[:, None]
            tl.store(keys_ptr + key_place, round_to(k_low, DTYPE), mask=is_place)
            tl.store(keys_ptr + key_place + HALF, round_to(k_high, DTYPE), mask=is_place)
            tl.store(values_ptr + place + dims, round_to(new_value, DTYPE), mask=is_dim)
            top = tl.sum(q_low * k_low + q_high * k_high, axis=1) * scale_log2
            total += 1.0
            summed += new_value[None, :]
    if not WIDENS:
        q_low, q_high = q_low.to(DTYPE), q_high.to(DTYPE)

    top, total, summed = _step(
        q_low, q_high, key_low, key_high, values, columns < end, top, total, summed, scale_log2, WIDENS
    )
    if not HAS_ONE_BLOCK:
        for start in range((piece + pieces) * BLOCK, end, pieces * BLOCK):
            columns = start + tl.arange(0, BLOCK)
            key_low, key_high, values = _load_columns(
                keys_ptr, values_ptr, first_row, columns, end, HALF, HALF_WIDTH
            )
            top, total, summed = _step(
                q_low,
                q_high,
                key_low,
                key_high,
                values,
                columns < end,
                top,
                total,
                summed,
                scale_log2,
                WIDENS,
            )

    slot = (head * GROUP + rows) * pieces + piece
    goal = slot[:, None] * (2 * HALF) + dims[None, :]
    is_goal = is_row[:, None] & is_dim[None, :]
    if PIECES == 1:
        tl.store(out_ptr + goal, round_to(summed / total[:, None], DTYPE), mask=is_goal)
    else:
        tl.store(tops_ptr + slot, top, mask=is_row)
        tl.store(totals_ptr + slot, total, mask=is_row)
        tl.store(sums_ptr + goal, summed, mask=is_goal)
        # The arrival of one thread speaks for the stores of all.
        tl.debug_barrier()
        stored = tl.minimum(last_block + 1, pieces)
        arrived = tl.atomic_add(arrivals_ptr + head, 1, sem="acq_rel", scope="gpu")
        if arrived == stored - 1:
            _join(
                sums_ptr,
                tops_ptr,
                totals_ptr,
                out_ptr,
                head,
                stored,
                pieces,
                GROUP,
                GROUP_ROWS,
                HALF,
                HALF_WIDTH,
                PIECES,
            )
            tl.store(arrivals_ptr + head, 0)
