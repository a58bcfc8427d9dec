"""Decode helpers shared by the Triton kernels, chosen by the constexpr ``KIND``.

They are plain Triton, so the interpreter runs them too.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.formats import Format, Packing, levels
from kernels.quant_weight import NESTED_BLOCK, QuantWeight

KIND_BOOK = tl.constexpr(0)
KIND_ZERO_POINT = tl.constexpr(1)
KIND_INT8 = tl.constexpr(2)
KIND_FP8 = tl.constexpr(3)
_NESTED_BLOCK = tl.constexpr(NESTED_BLOCK)
# Moving e4m3's exponent and mantissa bits to fp32's leaves the exponent 127 - 7 = 120 too small.
_FP8_TO_FP32 = tl.constexpr(2.0**120)

DTYPES = (torch.bfloat16, torch.float16)


def kind_of(fmt: Format) -> int:
    """The value of ``KIND`` for a format."""
    if fmt.packing is Packing.NIBBLES:
        return int((KIND_ZERO_POINT if fmt.zero_point else KIND_BOOK).value)
    return int((KIND_INT8 if fmt.storage_dtype == torch.int8 else KIND_FP8).value)


@lru_cache(maxsize=64)
def level_table(fmt: Format, device: torch.device) -> Tensor:
    """Level of each code, fp32 [16] on the device."""
    return levels(fmt).to(device)


def scale_arguments(w: QuantWeight) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tensors for ``load_scales``: scales or their codes, nested absmax, code book, offset.

    Without double quantization the last three are the scales again, never read.
    """
    if w.double_quant is None:
        scales = w.group_scales()
        return scales, scales, scales, scales
    double = w.double_quant
    return double.codes, double.nested_absmax, double.code_book, double.offset


def check_launch(x: Tensor) -> None:
    """Refuse what the Triton kernels cannot run.

    Raises:
        ValueError: x's dtype, or a device that is not CUDA outside Triton's interpreter.
    """
    if x.dtype not in DTYPES:
        known = ", ".join(str(dtype) for dtype in DTYPES)
        raise ValueError(f"x has dtype {x.dtype}, the triton kernels take {known}")
    if x.device.type != "cuda" and not IS_INTERPRETED.value:
        raise ValueError(
            f"the triton kernels run on cuda, x is on {x.device}; TRITON_INTERPRET=1, set before triton is "
            "imported, runs them on a cpu"
        )


@triton.jit
def _probe():
    """Only tells whether ``triton.jit`` compiles or interprets."""


# The interpreter keeps bf16 as bare 16-bit integers: it multiplies them as such, and rounds to them towards
# 0.
IS_INTERPRETED = tl.constexpr(not isinstance(_probe, triton.JITFunction))


@triton.jit
def dot(a, b, acc):
    """``a @ b + acc`` with fp32 accumulation."""
    return tl.dot(a.to(tl.float32), b.to(tl.float32), acc) if IS_INTERPRETED else tl.dot(a, b, acc)


@triton.jit
def round_to(values, DTYPE: tl.constexpr):
    """Finite fp32 values rounded to DTYPE, ties to even."""
    if IS_INTERPRETED and tl.bfloat16 == DTYPE:
        bits = values.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = bits.to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        rounded = values.to(DTYPE)
    return rounded


@triton.jit
def load_scales(scale_ptr, nested_ptr, nested_book_ptr, offset_ptr, index, mask, DOUBLE_QUANT: tl.constexpr):
    """Group scales fp32 at flat group indices, decoding 8-bit scales where they are stored so."""
    if DOUBLE_QUANT:
        code = tl.load(scale_ptr + index, mask=mask, other=0).to(tl.int32)
        nested = tl.load(nested_ptr + index // _NESTED_BLOCK, mask=mask, other=0.0)
        scale = tl.load(nested_book_ptr + code) * nested + tl.load(offset_ptr)
    else:
        # A second return would also be compiled with DOUBLE_QUANT, where it has another type.
        scale = tl.load(scale_ptr + index, mask=mask, other=0.0)
    return scale


@triton.jit
def fp8_bits_to_fp32(bits):
    """Value of float8_e4m3fn bits (uint8) as fp32, exact; works where the GPU has no fp8."""
    byte = bits.to(tl.int32)
    magnitude = ((byte & 0x7F) << 20).to(tl.float32, bitcast=True) * _FP8_TO_FP32
    return tl.where(byte > 0x7F, -magnitude, magnitude)
