"""unfused in Triton: one kernel writes the decoded weight, torch's matmul reads it back.

Traffic of the cast: packed weight and scales read once, n*k elements of x's dtype written. The result equals
``dequantize(w, dtype)``: the product ``level * scale`` in fp32, rounded once.

Nibbles are loaded 8 bytes per thread and stored where they are decoded: exchanging codes between threads first, so that
both sides move 16 bytes, took 2.7 times as long on an H200 (docs/kernels.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kernels.formats import Packing
from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook
from kernels.triton_impl.decode import (
    KIND_FP8,
    KIND_ZERO_POINT,
    check_launch,
    kind_of,
    level_table,
    load_scales,
    round_to,
    scale_arguments,
)

# e4m3's exponent and mantissa bits moved to fp32's leave the exponent 127 - 7 = 120 too small.
_FP8_TO_FP32 = tl.constexpr(2.0**120)
# The sign, which extending a byte repeats, and the seven bits below it, 20 places up.
_FP8_MASK = tl.constexpr(0x87F00000 - (1 << 32))


@triton.jit
def _cast_nibbles_kernel(
    packed_ptr, scale_ptr, nested_ptr, nested_book_ptr, offset_ptr, zero_ptr, level_ptr, out_ptr, byte_count,
    HALF_GROUP: tl.constexpr, KIND: tl.constexpr, DOUBLE_QUANT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Decode BLOCK bytes of the flat packed weight; no group crosses a row, so the index gives the group."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < byte_count
    byte = tl.load(packed_ptr + index, mask=mask, other=0).to(tl.int32)
    group = index // HALF_GROUP
    scale = load_scales(scale_ptr, nested_ptr, nested_book_ptr, offset_ptr, group, mask, DOUBLE_QUANT)
    high, low = byte >> 4, byte & 0xF
    if KIND == KIND_ZERO_POINT:
        zero = tl.load(zero_ptr + group, mask=mask, other=0).to(tl.int32)
        high_value = (high - zero).to(tl.float32)
        low_value = (low - zero).to(tl.float32)
    else:
        high_value = tl.load(level_ptr + high)
        low_value = tl.load(level_ptr + low)
    pair = tl.interleave(high_value * scale, low_value * scale)
    out_index = tl.program_id(0).to(tl.int64) * (2 * BLOCK) + tl.arange(0, 2 * BLOCK)
    tl.store(out_ptr + out_index, round_to(pair, out_ptr.dtype.element_ty), mask=out_index < 2 * byte_count)


@triton.jit
def _cast_bytes_kernel(code_ptr, scale_ptr, out_ptr, k, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Decode BLOCK columns of one row of byte codes, given as int8 whatever they mean."""
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = column < k
    codes = tl.load(code_ptr + row * k + column, mask=mask, other=0)
    if KIND == KIND_FP8:
        values = ((codes.to(tl.int32) << 20) & _FP8_MASK).to(tl.float32, bitcast=True) * _FP8_TO_FP32
    else:
        values = codes.to(tl.float32)
    decoded = round_to(values * tl.load(scale_ptr + row), out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * k + column, decoded, mask=mask)


def cast_weight(w: QuantWeight, x: Tensor) -> Tensor:
    """Decode ``w`` to a new [n, k] tensor of x's dtype, columns in packed order.

    Raises:
        ValueError: x's dtype or device is not supported.
    """
    check_launch(x)
    n, k = w.shape
    out = torch.empty(n, k, dtype=x.dtype, device=x.device)
    if w.format.packing is Packing.NIBBLES:
        count = w.packed.numel()
        _cast_nibbles_kernel[(triton.cdiv(count, _NIBBLES_BLOCK),)](
            w.packed, *scale_arguments(w), w.packed if w.zeros is None else w.zeros,
            level_table(w.format, x.device), out, count,
            HALF_GROUP=w.group_size // 2, KIND=kind_of(w.format), DOUBLE_QUANT=w.double_quant is not None,
            BLOCK=_NIBBLES_BLOCK,
            enable_fp_fusion=False,  # double-quantized scales are a product and a sum, each rounded
        )  # fmt: skip
    else:
        _cast_bytes_kernel[(triton.cdiv(k, _BYTES_BLOCK), n)](
            w.packed.view(torch.int8), w.group_scales(), out, k, KIND=kind_of(w.format), BLOCK=_BYTES_BLOCK,
            num_warps=_BYTES_BLOCK // _WEIGHTS_PER_WARP,
        )  # fmt: skip
    return out


def unfused_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """Decode the whole weight to memory (range ``tau_cast``), then multiply with torch (range ``tau_comp``).

    Args:
        x: [m, k], bf16 or fp16, columns in packed order.
        w: weight of logical shape [n, k] on x's device.
        ranges: opens the two ranges.

    Returns:
        [m, n] in x's dtype.

    Raises:
        ValueError: x's dtype or device is not supported.
    """
    with ranges("tau_cast"):
        weight = cast_weight(w, x)
    with ranges("tau_comp"):
        return F.linear(x, weight)


_NIBBLES_BLOCK = 1024
_WEIGHTS_PER_WARP = 32 * 32
# Divides most in-features, so that few threads are masked off at the end of a row.
_BYTES_BLOCK = 2048
