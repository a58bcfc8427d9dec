"""fused and null in Triton: weights are decoded in registers inside the matmul.

Traffic: packed weight and scales are read once per block of rows of x, x once per block of rows of the
weight, y is written once. Each step along K covers one group, and the group's scale multiplies the fp32
product of the step, so a weight costs a look-up but no multiplication. Nibbles are multiplied as two
products, even columns of x with high nibbles and odd columns with low ones, which avoids interleaving.

``NULL`` keeps every load, shape and matrix instruction, but reinterprets the bytes and only sums the scales.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.formats import Packing
from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook
from kernels.triton_impl.decode import (
    KIND_ZERO_POINT,
    byte_values,
    check_launch,
    dot,
    half_bits,
    kind_of,
    load_scales,
    pair_table,
    round_to,
    scale_arguments,
)


@triton.jit
def _nibbles_kernel(
    x_ptr, packed_ptr, scale_ptr, nested_ptr, nested_book_ptr, offset_ptr, zero_ptr, pair_ptr, y_ptr,
    m, n, x_stride,
    K: tl.constexpr, GROUP: tl.constexpr, KIND: tl.constexpr, DOUBLE_QUANT: tl.constexpr, NULL: tl.constexpr,
    NULL_BASE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One [BLOCK_M, BLOCK_N] tile of y; one group of K per step."""
    HALF: tl.constexpr = GROUP // 2
    GROUPS: tl.constexpr = K // GROUP
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    pair_index = tl.arange(0, HALF)
    is_row, is_column = row < m, column < n
    x_tile = x_ptr + row.to(tl.int64)[:, None] * x_stride + 2 * pair_index[None, :]
    packed_tile = packed_ptr + column.to(tl.int64)[:, None] * (K // 2) + pair_index[None, :]
    scale_index = column.to(tl.int64) * GROUPS
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    touched = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for group in range(GROUPS):
        x_even = tl.load(x_tile + group * GROUP, mask=is_row[:, None], other=0.0)
        x_odd = tl.load(x_tile + group * GROUP + 1, mask=is_row[:, None], other=0.0)
        byte = tl.load(packed_tile + group * HALF, mask=is_column[:, None], other=0)
        scale = load_scales(
            scale_ptr, nested_ptr, nested_book_ptr, offset_ptr, scale_index + group, is_column, DOUBLE_QUANT
        )
        if KIND == KIND_ZERO_POINT:
            zero = tl.load(zero_ptr + scale_index + group, mask=is_column, other=0).to(tl.int16)
        if NULL:
            high = half_bits(byte, dtype, NULL_BASE)
            low = half_bits(byte, dtype, NULL_BASE - 0x100)
            acc = dot(x_odd, tl.trans(low), dot(x_even, tl.trans(high), acc))
            touched += scale
            if KIND == KIND_ZERO_POINT:
                touched += zero.to(tl.float32)
        else:
            if KIND == KIND_ZERO_POINT:
                code = byte.to(tl.int16)
                high = ((code >> 4) - zero[:, None]).to(tl.float32).to(dtype)
                low = ((code & 0xF) - zero[:, None]).to(tl.float32).to(dtype)
            else:
                pair = tl.load(pair_ptr + byte.to(tl.int32))
                high = pair.to(tl.int16).to(dtype, bitcast=True)
                low = (pair >> 16).to(tl.int16).to(dtype, bitcast=True)
            product = dot(x_even, tl.trans(high), tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32))
            product = dot(x_odd, tl.trans(low), product)
            acc += product * scale[None, :]
    if NULL:
        # Keeps the loads of the scales alive without changing a result.
        acc += touched[None, :] * 0.0
    y_tile = y_ptr + row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(y_tile, round_to(acc, dtype), mask=is_row[:, None] & is_column[None, :])


@triton.jit
def _bytes_kernel(
    x_ptr, packed_ptr, scale_ptr, y_ptr, m, n, x_stride,
    K: tl.constexpr, KIND: tl.constexpr, NULL: tl.constexpr, NULL_BASE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One [BLOCK_M, BLOCK_N] tile of y for byte codes with one scale per row of the weight."""
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    STEPS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k_index = tl.arange(0, BLOCK_K)
    is_row, is_column = row < m, column < n
    x_tile = x_ptr + row.to(tl.int64)[:, None] * x_stride + k_index[None, :]
    packed_tile = packed_ptr + column.to(tl.int64)[:, None] * K + k_index[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(STEPS):
        in_k = step * BLOCK_K + k_index < K
        x = tl.load(x_tile + step * BLOCK_K, mask=is_row[:, None] & in_k[None, :], other=0.0)
        raw = tl.load(packed_tile + step * BLOCK_K, mask=is_column[:, None] & in_k[None, :], other=0)
        if NULL:
            weight = half_bits(raw.to(tl.uint8, bitcast=True), dtype, NULL_BASE)
        else:
            weight = byte_values(raw, KIND).to(dtype)
        acc = dot(x, tl.trans(weight), acc)
    scale = tl.load(scale_ptr + column, mask=is_column, other=0.0)
    acc = acc + scale[None, :] * 0.0 if NULL else acc * scale[None, :]
    y_tile = y_ptr + row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(y_tile, round_to(acc, dtype), mask=is_row[:, None] & is_column[None, :])


def _launch(x: Tensor, w: QuantWeight, is_null: bool) -> Tensor:
    check_launch(x)
    if x.stride(1) != 1:
        x = x.contiguous()
    m, (n, k) = x.shape[0], w.shape
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    config = _config(m, n)
    grid = (triton.cdiv(n, config.BLOCK_N), triton.cdiv(m, config.BLOCK_M))
    shared = {"K": k, "KIND": kind_of(w.format), "NULL": is_null, "NULL_BASE": _NULL_BASE[x.dtype]}
    if w.format.packing is Packing.NIBBLES:
        _nibbles_kernel[grid](
            x, w.packed, *scale_arguments(w), w.packed if w.zeros is None else w.zeros,
            pair_table(w.format, x.dtype, x.device), y, m, n, x.stride(0),
            GROUP=w.group_size, DOUBLE_QUANT=w.double_quant is not None, **shared, **asdict(config),
        )  # fmt: skip
    else:
        raw = w.packed if w.packed.dtype == torch.int8 else w.packed.view(torch.uint8)
        _bytes_kernel[grid](
            x, raw, w.group_scales(), y, m, n, x.stride(0), BLOCK_K=_BYTES_BLOCK_K, **shared, **asdict(config)
        )
    return y


def fused_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """Compute ``x @ decoded(w).T`` without writing the decoded weight to memory.

    Args:
        x: [m, k], bf16 or fp16, columns in packed order.
        w: weight of logical shape [n, k] on x's device.
        ranges: unused; the caller's range covers the call.

    Returns:
        [m, n] in x's dtype, accumulated in fp32.

    Raises:
        ValueError: x's dtype or device is not supported.
    """
    return _launch(x, w, is_null=False)


def null_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """The same kernel with the codes reinterpreted; [m, n] of meaningless finite numbers.

    Args and Raises: as ``fused_linear``.
    """
    return _launch(x, w, is_null=True)


@dataclass(frozen=True)
class _Config:
    """Tile of y per program, and Triton's launch settings."""

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int
    num_stages: int


# 16 rows are the least a matrix instruction takes; narrow tiles keep all SMs busy on small weights.
_NARROW = _Config(BLOCK_M=16, BLOCK_N=32, num_warps=4, num_stages=4)
_MEDIUM = _Config(BLOCK_M=16, BLOCK_N=64, num_warps=4, num_stages=4)
_TALL = _Config(BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=3)
_BYTES_BLOCK_K = 64
# Bits of 0.5 in bf16 and fp16; the low nibble's twin starts 0x100 lower, so that the two operands differ.
_NULL_BASE = {torch.bfloat16: 0x3F00, torch.float16: 0x3800}


def _config(m: int, n: int) -> _Config:
    if m > 16:
        return _TALL
    return _NARROW if n < 8192 else _MEDIUM
