"""Levels of one-byte codes, four at a time: a word of codes to four fp32 registers."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton_impl.decode import IS_INTERPRETED, fp8_bits_to_fp32

CODING_NATIVE = tl.constexpr(0)
CODING_INT8 = tl.constexpr(1)
CODING_FP8 = tl.constexpr(2)

# Four int8 at a time: the byte plus 128 as the lowest of 2^23, less 2^23 and 128.
_INT8_PTX = tl.constexpr("""
{
  .reg .b32 u;
  xor.b32 u, $4, 0x80808080;
  prmt.b32 $0, u, 0x4b000000, 0x7440;
  prmt.b32 $1, u, 0x4b000000, 0x7441;
  prmt.b32 $2, u, 0x4b000000, 0x7442;
  prmt.b32 $3, u, 0x4b000000, 0x7443;
  add.f32 $0, $0, 0fCB000080;
  add.f32 $1, $1, 0fCB000080;
  add.f32 $2, $2, 0fCB000080;
  add.f32 $3, $3, 0fCB000080;
}
""")
_FP8_PTX = tl.constexpr("""
{
  .reg .b16 low, high, h;
  .reg .b32 pair;
  mov.b32 {low, high}, $4;
  cvt.rn.f16x2.e4m3x2 pair, low;
  mov.b32 {low, h}, pair;
  cvt.f32.f16 $0, low;
  cvt.f32.f16 $1, h;
  cvt.rn.f16x2.e4m3x2 pair, high;
  mov.b32 {low, h}, pair;
  cvt.f32.f16 $2, low;
  cvt.f32.f16 $3, h;
}
""")


@triton.jit
def levels_of_words(words, CODING: tl.constexpr, NULL: tl.constexpr):
    """The four fp32 levels of each word; with NULL the word itself, made finite, stands for all of them."""
    if NULL:
        first = (words & 0x3FFFFFFF).to(tl.float32, bitcast=True)
        second, third, fourth = first, first, first
    elif IS_INTERPRETED:
        if CODING == CODING_FP8:
            first, second = fp8_bits_to_fp32(words & 0xFF), fp8_bits_to_fp32(words >> 8 & 0xFF)
            third, fourth = fp8_bits_to_fp32(words >> 16 & 0xFF), fp8_bits_to_fp32(words >> 24 & 0xFF)
        else:
            first, second = (words << 24 >> 24).to(tl.float32), (words << 16 >> 24).to(tl.float32)
            third, fourth = (words << 8 >> 24).to(tl.float32), (words >> 24).to(tl.float32)
    else:
        PTX: tl.constexpr = _FP8_PTX if CODING == CODING_FP8 else _INT8_PTX
        first, second, third, fourth = tl.inline_asm_elementwise(
            PTX,
            "=f,=f,=f,=f,r",
            [words],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    return first, second, third, fourth
