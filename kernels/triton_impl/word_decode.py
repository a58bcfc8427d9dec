"""Decoding of 32-bit words of codes in registers: inline PTX, and the same in plain Triton.

A word holds eight 4-bit or four 8-bit codes, placed (``fragments.bits_of``) so that few instructions turn it into
pairs of 16-bit floats, the operands of a matrix instruction:

* BOOK, any code book: three bits of each code are a selector of ``prmt``, which looks up four bytes at once in eight;
  the fourth bits lie where one ``prmt`` spreads four of them to byte masks, which choose between both halves of a book.
* FP4, E2M1 to bf16: a shift and a mask move sign and magnitude into place; a product with 2**126 corrects the exponent.
* INT4: codes become the mantissa of 128 (bf16) or 1024 (fp16); that number plus the zero point is subtracted later.
* INT8: seven bits become the mantissa likewise; that number with the sign bit is subtracted.
* FP8, E4M3: bits shifted into place, and a product that corrects the exponent.

Both paths give equal bits. The plain one runs in Triton's interpreter, which has no inline PTX.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.triton_impl import fragments
from kernels.triton_impl.decode import fp8_bits_to_fp32, round_to

_BOOK = tl.constexpr(fragments.BOOK)
_FP4 = tl.constexpr(fragments.FP4)
CODING_INT4 = tl.constexpr(fragments.INT4)
_INT8 = tl.constexpr(fragments.INT8)
_FP8 = tl.constexpr(fragments.FP8)
_FP32_FROM_E2M1 = tl.constexpr(2.0**126)


# Constants twice in a word, in bf16 and fp16: 1, the number whose last mantissa bit is worth 1, and its negative.
_BY_DTYPE = {
    "FMA": ("fma.rn.bf16x2", "fma.rn.f16x2"),
    "ONE": ("0x3f803f80", "0x3c003c00"),
    "NEGATIVE_BASE": ("0xc300c300", "0xe400e400"),
    "BASE": ("0x43004300", "0x64006400"),
}
_NEGATIVE_ZERO = "0x80008000"
# lop3's truth tables of (a & b) | c and of (a & b) | (~a & c).
_AND_OR = "0xea"
_SELECT = "0xca"


def _book_ptx() -> str:
    lines = [
        ".reg .b32 i0, i1, m0, m1, a, b, l0, l1, h0, h1;",
        "and.b32 i0, $4, 0x77777777; shr.u32 i1, i0, 16; shl.b32 a, $4, 4;",
        "prmt.b32 m0, $4, $4, 0xba98; prmt.b32 m1, a, a, 0xba98;",
    ]
    for half in range(2):
        for octet, first in (("l", 5), ("h", 9)):
            lines.append(
                f"prmt.b32 a, ${first}, ${first + 1}, i{half}; prmt.b32 b, ${first + 2}, ${first + 3}, i{half};"
                f"lop3.b32 {octet}{half}, m{half}, b, a, {_SELECT};"
            )
    lines.append("prmt.b32 $0, l0, h0, 0x5140; prmt.b32 $1, l0, h0, 0x7362;")
    lines.append("prmt.b32 $2, l1, h1, 0x5140; prmt.b32 $3, l1, h1, 0x7362;")
    return "".join(lines)


def _constants(**values: str) -> str:
    """Registers with constants: fma on two 16-bit floats takes no immediate operands."""
    return "".join(f".reg .b32 {name}; mov.b32 {name}, {value};" for name, value in values.items())


def _fp4_ptx() -> str:
    shifts = "".join(
        f"shl.b32 a, $4, {3 * pair}; and.b32 a, a, 0x81c081c0; FMA ${pair}, a, factor, rest;"
        for pair in range(3)
    )
    scattered = (
        "shl.b32 a, $4, 1; and.b32 a, a, 0x80008000;"
        f"shr.u32 b, $4, 3; lop3.b32 a, b, 0x1800180, a, {_AND_OR};"
        f"shr.u32 b, $4, 7; lop3.b32 a, b, 0x400040, a, {_AND_OR}; FMA $3, a, factor, rest;"
    )
    return f"{_constants(factor='0x7e807e80', rest=_NEGATIVE_ZERO)} .reg .b32 a, b; {shifts} {scattered}"


def _int4_ptx() -> str:
    return ".reg .b32 a;" + "".join(
        f"shr.u32 a, $4, {4 * pair}; lop3.b32 ${pair}, a, 0xf000f, BASE, {_AND_OR};" for pair in range(4)
    )


def _int8_ptx() -> str:
    return f"{_constants(one='ONE')} .reg .b32 w, a, b;" + "".join(
        f"shr.u32 w, $2, {8 * pair}; lop3.b32 a, w, 0x7f007f, BASE, {_AND_OR};"
        f"lop3.b32 b, w, 0x800080, NEGATIVE_BASE, {_AND_OR}; FMA ${pair}, a, one, b;"
        for pair in range(2)
    )


def _fp8_ptx(shift: int, mask: str, factor: str) -> str:
    return f"{_constants(factor=factor, rest=_NEGATIVE_ZERO)} .reg .b32 w, a, b;" + "".join(
        f"shl.b32 w, $2, {8 * pair}; and.b32 a, w, 0x80008000; shr.u32 b, w, {shift};"
        f"lop3.b32 a, b, {mask}, a, {_AND_OR}; FMA ${pair}, a, factor, rest;"
        for pair in range(2)
    )


def _ptx(template: str, dtype: torch.dtype) -> tl.constexpr:
    """PTX in one scope, with the instructions and constants of a dtype."""
    for name, choices in _BY_DTYPE.items():
        template = template.replace(name, choices[0] if dtype == torch.bfloat16 else choices[1])
    return tl.constexpr("{ " + template + " }")


# Word $4 becomes pairs $0 to $3, with book_words in $5 to $12; word $2 of bytes becomes pairs $0 and $1.
_BOOK_PTX = _ptx(_book_ptx(), torch.bfloat16)
_FP4_PTX = _ptx(_fp4_ptx(), torch.bfloat16)
_INT4_BF16_PTX = _ptx(_int4_ptx(), torch.bfloat16)
_INT4_FP16_PTX = _ptx(_int4_ptx(), torch.float16)
_INT8_BF16_PTX = _ptx(_int8_ptx(), torch.bfloat16)
_INT8_FP16_PTX = _ptx(_int8_ptx(), torch.float16)
# The exponent's bias is 127 - 7 too small in bf16 and 15 - 7 in fp16: products with 2**120 and 2**8.
_FP8_BF16_PTX = _ptx(_fp8_ptx(4, "0x7f007f0", "0x7b807b80"), torch.bfloat16)
_FP8_FP16_PTX = _ptx(_fp8_ptx(1, "0x3f803f80", "0x5c005c00"), torch.float16)
# $0 = $1 + $2; on sm_80 only a fused multiply-add knows bf16.
_ADD = f"{_constants(one='ONE')} FMA $0, $1, one, $2;"
_ADD_BF16_PTX = _ptx(_ADD, torch.bfloat16)
_ADD_FP16_PTX = _ptx(_ADD, torch.float16)


@triton.jit
def unpack_pairs(pairs, DTYPE: tl.constexpr):
    """Both halves of int32 [...] as DTYPE [..., 2], the low half first; no instruction."""
    return tl.join(
        pairs.to(tl.int16).to(DTYPE, bitcast=True), (pairs >> 16).to(tl.int16).to(DTYPE, bitcast=True)
    )


@triton.jit
def null_pairs(word, IS_BYTES: tl.constexpr):
    """The null decode: twelve bits of each half under constant top bits, as many pairs as decoding gives.

    The top bits differ, so that the compiler cannot make one operand of them: 3, b, 2 and a in hexadecimal.
    """
    bits = word & 0x0FFF0FFF
    pairs = tl.join(bits | 0x30003000, bits | -0x4FFF5000)
    if not IS_BYTES:
        pairs = tl.join(pairs, tl.join(bits | 0x20002000, bits | -0x5FFF6000))
    return pairs


@triton.jit
def decode_words_ptx(word, t0, t1, t2, t3, t4, t5, t6, t7, CODING: tl.constexpr, DTYPE: tl.constexpr):
    """Pairs of DTYPE, as int32 [..., 2, 2] or [..., 2], of the codes of int32 words [...]."""
    IS_BF16: tl.constexpr = tl.bfloat16 == DTYPE
    if CODING >= _INT8:
        INT8_PTX: tl.constexpr = _INT8_BF16_PTX if IS_BF16 else _INT8_FP16_PTX
        FP8_PTX: tl.constexpr = _FP8_BF16_PTX if IS_BF16 else _FP8_FP16_PTX
        BYTES_PTX: tl.constexpr = INT8_PTX if CODING == _INT8 else FP8_PTX
        p0, p1 = tl.inline_asm_elementwise(
            BYTES_PTX, "=&r,=&r,r", [word], dtype=(tl.int32, tl.int32), is_pure=True, pack=1
        )
        pairs = tl.join(p0, p1)
    else:
        if CODING == _BOOK:
            p0, p1, p2, p3 = tl.inline_asm_elementwise(
                _BOOK_PTX, "=&r,=&r,=&r,=&r,r,r,r,r,r,r,r,r,r", [word, t0, t1, t2, t3, t4, t5, t6, t7],
                dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=True, pack=1,
            )  # fmt: skip
        else:
            INT4_PTX: tl.constexpr = _INT4_BF16_PTX if IS_BF16 else _INT4_FP16_PTX
            NIBBLES_PTX: tl.constexpr = _FP4_PTX if CODING == _FP4 else INT4_PTX
            p0, p1, p2, p3 = tl.inline_asm_elementwise(
                NIBBLES_PTX, "=&r,=&r,=&r,=&r,r", [word],
                dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=True, pack=1,
            )  # fmt: skip
        pairs = tl.join(tl.join(p0, p1), tl.join(p2, p3))
    return pairs


@triton.jit
def subtract_zero(weight, zero, USE_PTX: tl.constexpr):
    """INT4's second half: ``weight`` [..., n, k] as decoded, minus the zero points fp32 [..., n, 1]."""
    IS_BF16: tl.constexpr = tl.bfloat16 == weight.dtype
    ADD_PTX: tl.constexpr = _ADD_BF16_PTX if IS_BF16 else _ADD_FP16_PTX
    # What decode_words_ptx left in.
    BASE: tl.constexpr = 128.0 if IS_BF16 else 1024.0
    if USE_PTX:
        result = tl.inline_asm_elementwise(
            ADD_PTX, "=r,r,r", [weight, round_to(-BASE - zero, weight.dtype)],
            dtype=weight.dtype, is_pure=False, pack=2,
        )  # fmt: skip
    else:
        result = round_to(weight.to(tl.float32) - zero, weight.dtype)
    return result


@triton.jit
def pin_layout(weight):
    """The same values; compiled, in 16-bit operand layout.

    The instruction moves nothing. It is impure so that the compiler does not choose the operand's layout by looking
    through the decoding at the width of the load: fragments have the layout for 16-bit elements.
    """
    return tl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r", [weight], dtype=weight.dtype, is_pure=False, pack=2
    )


@triton.jit
def _code(word, INDEX: tl.constexpr, CODING: tl.constexpr):
    """Code INDEX of each word: ``bits_of`` in Triton."""
    HALF: tl.constexpr = 16 * (INDEX % 2)
    PAIR: tl.constexpr = INDEX // 2
    if CODING == _BOOK:
        FOURTH: tl.constexpr = 8 * INDEX + 7 if INDEX < 4 else 8 * (INDEX - 4) + 3
        code = ((word >> (4 * INDEX)) & 7) | (((word >> FOURTH) & 1) << 3)
    elif CODING == _FP4:
        if PAIR == 3:
            code = ((word >> (HALF + 13)) & 1) | (((word >> (HALF + 10)) & 3) << 1)
            code = code | (((word >> (HALF + 14)) & 1) << 3)
        else:
            code = ((word >> (HALF + 6 - 3 * PAIR)) & 7) | (((word >> (HALF + 15 - 3 * PAIR)) & 1) << 3)
    elif CODING == CODING_INT4:
        code = (word >> (HALF + 4 * PAIR)) & 0xF
    elif CODING == _INT8:
        code = (word >> (HALF + 8 * PAIR)) & 0xFF
    else:
        code = (word >> (HALF + 8 - 8 * PAIR)) & 0xFF
    return code


@triton.jit
def _octet(code, t0, t1, t2, t3):
    """Byte ``code`` of the 16 bytes in four words."""
    word = tl.where(code < 8, tl.where(code < 4, t0, t1), tl.where(code < 12, t2, t3))
    return (word >> ((code & 3) * 8)) & 0xFF


@triton.jit
def _level(
    word, t0, t1, t2, t3, t4, t5, t6, t7, INDEX: tl.constexpr, CODING: tl.constexpr, DTYPE: tl.constexpr
):
    code = _code(word, INDEX, CODING)
    if CODING == _BOOK:
        bits = _octet(code, t0, t1, t2, t3) | (_octet(code, t4, t5, t6, t7) << 8)
        level = bits.to(tl.int16).to(DTYPE, bitcast=True)
    elif CODING == _FP4:
        # The exponent of fp32 is 2**126 too small.
        magnitude = ((code & 7) << 22).to(tl.float32, bitcast=True) * _FP32_FROM_E2M1
        level = round_to(tl.where(code > 7, -magnitude, magnitude), DTYPE)
    elif CODING == CODING_INT4:
        level = round_to(code.to(tl.float32), DTYPE)
    elif CODING == _INT8:
        level = round_to((code - ((code & 0x80) << 1)).to(tl.float32), DTYPE)
    else:
        level = round_to(fp8_bits_to_fp32(code), DTYPE)
    return level


@triton.jit
def _side(
    word, t0, t1, t2, t3, t4, t5, t6, t7, SIDE: tl.constexpr, CODING: tl.constexpr, DTYPE: tl.constexpr
):
    """Levels of the lower (0) or upper (1) codes of all pairs, joined as ``decode_words_ptx`` joins pairs."""
    v0 = _level(word, t0, t1, t2, t3, t4, t5, t6, t7, SIDE, CODING, DTYPE)
    v1 = _level(word, t0, t1, t2, t3, t4, t5, t6, t7, 2 + SIDE, CODING, DTYPE)
    joined = tl.join(v0, v1)
    if CODING < _INT8:
        v2 = _level(word, t0, t1, t2, t3, t4, t5, t6, t7, 4 + SIDE, CODING, DTYPE)
        v3 = _level(word, t0, t1, t2, t3, t4, t5, t6, t7, 6 + SIDE, CODING, DTYPE)
        both = tl.join(joined, tl.join(v2, v3))
    else:
        both = joined
    return both


@triton.jit
def decode_words_plain(word, t0, t1, t2, t3, t4, t5, t6, t7, CODING: tl.constexpr, DTYPE: tl.constexpr):
    """Levels, DTYPE [..., 2, 2, 2] or [..., 2, 2], of the codes of int32 words [...]; INT4 without its zero point."""
    return tl.join(
        _side(word, t0, t1, t2, t3, t4, t5, t6, t7, 0, CODING, DTYPE),
        _side(word, t0, t1, t2, t3, t4, t5, t6, t7, 1, CODING, DTYPE),
    )
