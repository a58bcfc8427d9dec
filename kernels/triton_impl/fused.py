"""fused and null in Triton: weights are decoded in registers, as the left operand of matrix instructions.

Traffic: words and scales are read once per ``block_m`` rows of x, x once per block of rows of the weight, y is
written once. A step takes one or more blocks of a weight stored as operand fragments (``fragments.py``); x is the right
operand, 8 rows wide at least, so few rows waste little. A group's scale multiplies the fp32 product of its block, not
the weights. With ``split_k`` each warp works on other columns; their sums are added at the end.

``NULL`` keeps every load, shape and matrix instruction, but reinterprets the words and only reads the scales.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook
from kernels.triton_impl.configs import Config, config_for
from kernels.triton_impl.decode import IS_INTERPRETED, check_launch, dot, round_to
from kernels.triton_impl.fragments import FP8, INT8, Fragments, book_words, fragments_of
from kernels.triton_impl.word_decode import (
    CODING_INT4,
    decode_words_plain,
    decode_words_ptx,
    null_pairs,
    pin_layout,
    subtract_zero,
    unpack_pairs,
)

_TABLE = ("t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7")


@triton.jit
def _load_group(
    scale_ptr, zero_ptr, block, column,
    PAD_N: tl.constexpr, BLOCKS: tl.constexpr, BLOCKS_PER_SCALE: tl.constexpr, SPLIT_K: tl.constexpr,
    HAS_ZERO: tl.constexpr,
):  # fmt: skip
    """Scales and zero points, fp32 [columns] or [SPLIT_K, columns], of SPLIT_K blocks; past the end the last one's."""
    if SPLIT_K == 1:
        offset = tl.minimum(block, BLOCKS - 1) // BLOCKS_PER_SCALE * PAD_N + column
    else:
        parts = tl.minimum(block + tl.arange(0, SPLIT_K), BLOCKS - 1) // BLOCKS_PER_SCALE
        offset = (parts * PAD_N)[:, None] + column[None, :]
    scale = tl.load(scale_ptr + offset)
    zero = tl.load(zero_ptr + offset).to(tl.float32) if HAS_ZERO else scale
    return scale, zero


@triton.jit(do_not_specialize=_TABLE)
def fused_kernel(
    x_ptr, word_ptr, scale_ptr, zero_ptr, y_ptr, m, n, x_stride, t0, t1, t2, t3, t4, t5, t6, t7,
    K: tl.constexpr, TILES: tl.constexpr, BLOCKS: tl.constexpr, TILE_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCKS_PER_SCALE: tl.constexpr, CODING: tl.constexpr, USE_PTX: tl.constexpr, NULL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_TILES: tl.constexpr, SPLIT_K: tl.constexpr, UNROLL: tl.constexpr,
    REUSED: tl.constexpr,
):  # fmt: skip
    """One [BLOCK_M, BLOCK_TILES * TILE_ROWS] tile of y; BLOCKS_PER_SCALE is 0 for one scale per row."""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    BLOCK_N: tl.constexpr = BLOCK_TILES * TILE_ROWS
    PAD_N: tl.constexpr = TILES * TILE_ROWS
    HALVES: tl.constexpr = TILE_ROWS // 16
    STEPS: tl.constexpr = (BLOCKS + SPLIT_K * UNROLL - 1) // (SPLIT_K * UNROLL)
    IS_WHOLE_N: tl.constexpr = TILES % BLOCK_TILES == 0
    IS_WHOLE_K: tl.constexpr = STEPS * SPLIT_K * UNROLL * BLOCK_K == K
    IS_BYTES: tl.constexpr = BLOCKS_PER_SCALE == 0
    # Weights that no later rows of x read again need not displace x and the scales in the L2.
    EVICTION: tl.constexpr = "" if REUSED else "evict_first"
    # Programs that share a block of the weight follow each other.
    first_tile = tl.program_id(1) * BLOCK_TILES
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_row = row < m
    tile = first_tile + tl.arange(0, BLOCK_TILES)
    # Row of the weight of each row of the product: of 32-row blocks, first all upper halves.
    index = tl.arange(0, BLOCK_N)
    if HALVES == 1:
        column = first_tile * 16 + index
    else:
        column = (first_tile + index // 16 % BLOCK_TILES) * 32 + index // (16 * BLOCK_TILES) * 16 + index % 16
    read_column = column
    if not IS_WHOLE_N:
        tile = tl.minimum(tile, TILES - 1)
        read_column = tl.minimum(column, PAD_N - 1)
    word_tile = word_ptr + tile.to(tl.int64)[:, None] * (BLOCKS * 128) + tl.arange(0, SPLIT_K * 128)[None, :]
    k_index = tl.arange(0, SPLIT_K * BLOCK_K)
    x_tile = x_ptr + row.to(tl.int64)[:, None] * x_stride + k_index[None, :]
    if SPLIT_K == 1:
        acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
        touched = tl.zeros((BLOCK_N,), dtype=tl.float32)
    else:
        acc = tl.zeros((SPLIT_K, BLOCK_N, BLOCK_M), dtype=tl.float32)
        touched = tl.zeros((SPLIT_K, BLOCK_N), dtype=tl.float32)
    next_scale, next_zero = touched, touched
    if not IS_BYTES:
        next_scale, next_zero = _load_group(
            scale_ptr, zero_ptr, 0, read_column,
            PAD_N, BLOCKS, BLOCKS_PER_SCALE, SPLIT_K, CODING == CODING_INT4,
        )  # fmt: skip
    for step in range(STEPS):
        for inner in tl.static_range(UNROLL):
            block = (step * UNROLL + inner) * SPLIT_K
            if IS_WHOLE_K:
                word = tl.load(word_tile + block * 128, eviction_policy=EVICTION)
                x = tl.load(x_tile + block * BLOCK_K, mask=is_row[:, None], other=0.0)
            else:
                is_word = block * 128 + tl.arange(0, SPLIT_K * 128) < BLOCKS * 128
                word = tl.load(
                    word_tile + block * 128, mask=is_word[None, :], other=0, eviction_policy=EVICTION
                )
                in_k = block * BLOCK_K + k_index < K
                x = tl.load(x_tile + block * BLOCK_K, mask=is_row[:, None] & in_k[None, :], other=0.0)
            scale, zero = next_scale, next_zero
            if not IS_BYTES:
                # A step ahead: the pipeline covers only what matrix instructions read.
                next_scale, next_zero = _load_group(
                    scale_ptr, zero_ptr, block + SPLIT_K, read_column,
                    PAD_N, BLOCKS, BLOCKS_PER_SCALE, SPLIT_K, CODING == CODING_INT4,
                )  # fmt: skip
            if NULL:
                weight = unpack_pairs(null_pairs(word, IS_BYTES), DTYPE)
            else:
                if USE_PTX:
                    pairs = decode_words_ptx(word, t0, t1, t2, t3, t4, t5, t6, t7, CODING, DTYPE)
                    weight = unpack_pairs(pairs, DTYPE)
                else:
                    weight = decode_words_plain(word, t0, t1, t2, t3, t4, t5, t6, t7, CODING, DTYPE)
            if SPLIT_K == 1:
                weight = tl.reshape(weight, (BLOCK_TILES, 8, 4, HALVES, BLOCK_K // 16, 2, 2, 2))
                weight = tl.permute(weight, (3, 0, 6, 1, 4, 5, 2, 7))
                weight = tl.reshape(weight, (BLOCK_N, BLOCK_K))
                x_operand = tl.trans(x)
            else:
                weight = tl.reshape(weight, (BLOCK_TILES, SPLIT_K, 8, 4, HALVES, BLOCK_K // 16, 2, 2, 2))
                weight = tl.permute(weight, (1, 4, 0, 7, 2, 5, 6, 3, 8))
                weight = tl.reshape(weight, (SPLIT_K, BLOCK_N, BLOCK_K))
                x_operand = tl.permute(tl.reshape(x, (BLOCK_M, SPLIT_K, BLOCK_K)), (1, 2, 0))
            if CODING == CODING_INT4 and not NULL:
                weight = subtract_zero(weight, zero[:, None] if SPLIT_K == 1 else zero[:, :, None], USE_PTX)
            elif USE_PTX:
                weight = pin_layout(weight)
            if IS_BYTES or NULL:
                acc = dot(weight, x_operand, acc)
                if not IS_BYTES:
                    touched += scale
                    if CODING == CODING_INT4:
                        touched += zero
            else:
                product = dot(weight, x_operand, tl.zeros(acc.shape, dtype=tl.float32))
                acc += product * (scale[:, None] if SPLIT_K == 1 else scale[:, :, None])
    if SPLIT_K > 1:
        acc = tl.sum(acc, 0)
        touched = tl.sum(touched, 0)
    is_column = column < n
    if IS_BYTES:
        scale = tl.load(scale_ptr + column, mask=is_column, other=0.0)
        acc = acc + scale[:, None] * 0.0 if NULL else acc * scale[:, None]
    elif NULL:
        # Keeps the loads of the scales alive without changing a result.
        acc += touched[:, None] * 0.0
    y_tile = y_ptr + row.to(tl.int64)[None, :] * n + column[:, None]
    tl.store(y_tile, round_to(acc, DTYPE), mask=is_row[None, :] & is_column[:, None])


def launch(
    x: Tensor, w: QuantWeight, *, is_null: bool, config: Config | None = None, use_ptx: bool | None = None
) -> Tensor:
    """Run the kernel.

    Args:
        x: [m, k], bf16 or fp16, rows without gaps, columns in packed order.
        w: weight of logical shape [n, k] on x's device.
        is_null: reinterpret the codes instead of decoding them.
        config: tiles and launch settings; None takes ``config_for``.
        use_ptx: decode with inline PTX instead of plain Triton; None where there is PTX, outside the interpreter.

    Returns:
        [m, n] in x's dtype.

    Raises:
        ValueError: x's dtype, device or strides are not supported, or inline PTX is asked of the interpreter.
    """
    check_launch(x)
    has_ptx = not IS_INTERPRETED.value
    if use_ptx and not has_ptx:
        raise ValueError(f"use_ptx={use_ptx} with TRITON_INTERPRET=1, whose interpreter has no inline PTX")
    if x.stride(1) != 1:
        raise ValueError(f"x of shape {list(x.shape)} has strides {list(x.stride())}, the last must be 1")
    fragments = fragments_of(w, x.dtype)
    m, n = x.shape[0], w.n
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    chosen = config or config_for(w.format, m, n, w.k)
    grid = (triton.cdiv(m, chosen.block_m), triton.cdiv(fragments.tiles, chosen.tiles))
    fused_kernel[grid](
        x, fragments.words, fragments.scales,
        fragments.scales if fragments.zeros is None else fragments.zeros,
        y, m, n, x.stride(0), *book_words(w.format, x.dtype),
        **constants(w, fragments, x, is_null=is_null, config=chosen, use_ptx=has_ptx if use_ptx is None else use_ptx),
        num_warps=chosen.num_warps, num_stages=chosen.num_stages,
    )  # fmt: skip
    return y


def constants(
    w: QuantWeight, fragments: Fragments, x: Tensor, *, is_null: bool, config: Config, use_ptx: bool
) -> dict[str, int | bool]:
    """The kernel's compile-time arguments, by name."""
    is_bytes = fragments.coding in (INT8, FP8)
    return {
        "K": w.k,
        "TILES": fragments.tiles,
        "BLOCKS": fragments.blocks,
        "TILE_ROWS": fragments.tile_rows,
        "BLOCK_K": fragments.block_k,
        "BLOCKS_PER_SCALE": 0 if is_bytes else w.group_size // fragments.block_k,
        "CODING": fragments.coding,
        "USE_PTX": use_ptx,
        "NULL": is_null,
        "BLOCK_M": config.block_m,
        "BLOCK_TILES": config.tiles,
        "SPLIT_K": config.split_k,
        "UNROLL": config.unroll,
        "REUSED": x.shape[0] > config.block_m,
    }


def describe(w: QuantWeight, m: int | None, dtype: torch.dtype | None) -> str:
    """What a record says of the kernel that runs for ``m`` rows: the configuration, where m is known."""
    return "triton" if m is None else f"triton {config_for(w.format, m, w.n, w.k)}"


def fused_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """Compute ``x @ decoded(w).T`` without writing the decoded weight to memory.

    Args:
        x: [m, k], bf16 or fp16, rows without gaps, columns in packed order.
        w: weight of logical shape [n, k] on x's device.
        ranges: unused; the caller's range covers the call.

    Returns:
        [m, n] in x's dtype, accumulated in fp32.

    Raises:
        ValueError: x's dtype, device or strides are not supported.
    """
    return launch(x, w, is_null=False)


def null_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """The same kernel with the codes reinterpreted; [m, n] of meaningless finite numbers.

    Args and Raises: as ``fused_linear``.
    """
    return launch(x, w, is_null=True)
