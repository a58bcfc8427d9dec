"""Activations for the W8A8 kernels in Triton: rows of x to 8-bit codes, and int32 sums back to numbers.

Traffic: ``quantize_rows`` reads x once, from a row held in registers, and writes one byte per element and one scale per
row. ``scale_sums`` reads int32 sums and writes y. The arithmetic is that of ``kernels.native_w8a8``, bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.formats import Format
from kernels.native_w8a8 import LEAST_ABSMAX
from kernels.triton_impl.decode import IS_INTERPRETED, round_to

_LEAST_ABSMAX = tl.constexpr(LEAST_ABSMAX)
# Adding it rounds a number below 2^22 to a whole one, half to even, which the low bits of the sum then hold.
_ROUNDER = tl.constexpr(1.5 * 2.0**23)


@triton.jit
def e4m3_bits(values):
    """Bits of float8_e4m3fn nearest to fp32 values of magnitude at most 448, ties to even, as uint8."""
    bits = values.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # Normal: the exponent moves from bias 127 to 7, the mantissa from 23 bits to 3.
    normal = (magnitude + 0x7FFFF + ((magnitude >> 20) & 1) - (120 << 23)) >> 20
    # Below 2^-6 codes are 2^-9 apart: adding 2^14 to the magnitude rounds it to a multiple of 2^-9.
    subnormal = (magnitude.to(tl.float32, bitcast=True) + 16384.0).to(tl.int32, bitcast=True) & 0xF
    code = tl.where(magnitude < 0x3C800000, subnormal, normal)
    # A NaN stays one.
    code = tl.where(magnitude > 0x7F800000, 0x7F, code)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def _quantize_rows_kernel(
    x_ptr, codes_ptr, scales_ptr, k, x_stride, LARGEST: tl.constexpr, IS_INT8: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One row of x per program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    in_row = column < k
    x = tl.load(x_ptr + row * x_stride + column, mask=in_row, other=0.0).to(tl.float32)
    # The largest magnitude as an integer: in this order a NaN is the largest, so that it is not lost.
    absmax = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=0).to(tl.float32, bitcast=True)
    absmax = tl.where(absmax < _LEAST_ABSMAX, _LEAST_ABSMAX, absmax)
    scaled = x * tl.div_rn(LARGEST, absmax)
    if IS_INT8:
        codes = (scaled + _ROUNDER).to(tl.int32, bitcast=True).to(tl.int8)
    elif IS_INTERPRETED:
        codes = e4m3_bits(scaled)
    else:
        codes = scaled.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    tl.store(codes_ptr + row * k + column, codes, mask=in_row)
    tl.store(scales_ptr + row, tl.div_rn(absmax, LARGEST))


@triton.jit
def _scale_sums_kernel(sums_ptr, row_scale_ptr, column_scale_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """BLOCK columns of one row of y."""
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_row = column < n
    sums = tl.load(sums_ptr + row * n + column, mask=in_row, other=0).to(tl.float32)
    column_scale = tl.load(column_scale_ptr + column, mask=in_row, other=0.0)
    y = sums * tl.load(row_scale_ptr + row) * column_scale
    tl.store(y_ptr + row * n + column, round_to(y, y_ptr.dtype.element_ty), mask=in_row)


def quantize_rows(x: Tensor, fmt: Format, *, rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Quantize each row of x to the codes of a byte format.

    Args:
        x: [m, k] with adjacent columns.
        fmt: ``int8`` or ``fp8``.
        rows: rows to allocate for the codes, at least m; those beyond m are left as they are. None for m.

    Returns:
        Codes [rows, k] in the format's storage dtype and scales fp32 [m, 1]; see ``kernels.native_w8a8.quantize_rows``.
    """
    m, k = x.shape
    codes = torch.empty(m if rows is None else rows, k, dtype=fmt.storage_dtype, device=x.device)
    scales = torch.empty(m, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(k)
    is_int8 = fmt.storage_dtype == torch.int8
    _quantize_rows_kernel[(m,)](
        x, codes if is_int8 else codes.view(torch.uint8), scales, k, x.stride(0),
        LARGEST=fmt.largest_level, IS_INT8=is_int8, BLOCK=block,
        num_warps=min(max(block // _ELEMENTS_PER_WARP, 1), _MOST_WARPS), enable_fp_fusion=False,
    )  # fmt: skip
    return codes, scales


def scale_sums(sums: Tensor, row_scales: Tensor, column_scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply sums by the scales of their row and column.

    Args:
        sums: int32, bf16 or fp32 [rows, n], contiguous, rows at least m.
        row_scales: fp32 [m, 1].
        column_scales: fp32 [n, 1].
        dtype: of the result.

    Returns:
        [m, n]; the product in fp32, rounded once.
    """
    m, n = row_scales.shape[0], sums.shape[1]
    y = torch.empty(m, n, dtype=dtype, device=sums.device)
    _scale_sums_kernel[(triton.cdiv(n, _SUMS_BLOCK), m)](
        sums, row_scales, column_scales, y, n, BLOCK=_SUMS_BLOCK, num_warps=_SUMS_BLOCK // 256
    )
    return y


# 16 elements per thread: two 16-byte loads of bf16 in flight, and little to wait for in the reduction.
_ELEMENTS_PER_WARP = 512
_MOST_WARPS = 16
_SUMS_BLOCK = 1024
