"""Heads of a merged q/k/v product in registers: bias, norm and rotation, for kernels that go on with them.

Roundings are those of ``reasoning.engine.layer_math.heads_of``, operation by operation, but for one: the compiler makes
a multiply-add of the rotation's last product and its sum, which leaves out the rounding between them.

Rows of a tile are heads, or one head over and over: rows that every tile has alike need no exchange between threads. A
head lies in two tiles of HALF_WIDTH columns, a power of two, one for each half: what is rotated together is in the same
place of both.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton_impl.layer_ops import rounded


@triton.jit
def load_halves(ptr, heads, is_head, HALF: tl.constexpr, HALF_WIDTH: tl.constexpr):
    """First and second halves of the heads whose numbers are given, each [rows, HALF_WIDTH] fp32."""
    offsets = tl.arange(0, HALF_WIDTH)
    place = heads[:, None] * (2 * HALF) + offsets[None, :]
    inside = is_head[:, None] & (offsets < HALF)[None, :]
    low = tl.load(ptr + place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(ptr + place + HALF, mask=inside, other=0.0).to(tl.float32)
    return low, high


@triton.jit
def load_turn(ptr, sequences, HALF: tl.constexpr, HALF_WIDTH: tl.constexpr):
    """Cosines or sines of the sequence of each row, [rows, HALF_WIDTH] fp32."""
    offsets = tl.arange(0, HALF_WIDTH)
    place = sequences[:, None] * HALF + offsets[None, :]
    return tl.load(ptr + place, mask=(offsets < HALF)[None, :], other=0.0).to(tl.float32)


@triton.jit
def normalized(low, high, weight_low, weight_high, epsilon, HALF: tl.constexpr, DTYPE: tl.constexpr):
    """Root-mean-square norm of each row, both halves together."""
    scale = tl.rsqrt(tl.sum(low * low + high * high, axis=1) / (2 * HALF) + epsilon)[:, None]
    low = rounded(weight_low * rounded(low * scale, DTYPE), DTYPE)
    high = rounded(weight_high * rounded(high * scale, DTYPE), DTYPE)
    return low, high


@triton.jit
def turned(low, high, cos, sin, DTYPE: tl.constexpr):
    """Rotary embedding; fp32 with values of DTYPE."""
    turned_low = rounded(low * cos, DTYPE) - rounded(high * sin, DTYPE)
    turned_high = rounded(high * cos, DTYPE) + rounded(low * sin, DTYPE)
    return rounded(turned_low, DTYPE), rounded(turned_high, DTYPE)
