"""Decode functions of the ``torch`` kernels: packed codes to a buffer in x's dtype.

One function per (format, dtype), used by unfused and fused alike, so both see the same decoded weight: the
product ``level * scale`` in fp32, rounded once, which is also what ``dequantize(qw, dtype)`` gives. They run
over a flat list of groups with both sizes dynamic, so a model needs one compilation per format whatever its
shapes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from kernels.formats import Format, Packing, levels
from kernels.torch_compile import compile_with_dynamic_sizes

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

# Example sizes for tracing: 2,048 groups, of sizes that equal nothing else.
_EXAMPLE_GROUPS = 2048
_EXAMPLE_BYTES = 48


def out_dtype(fmt: Format, dtype: torch.dtype) -> torch.dtype:
    """The dtype as which a decode function takes its output buffer of ``dtype``.

    Two 16-bit numbers are written as one int32 where that saves interleaving.
    """
    return torch.int32 if fmt.packing is Packing.NIBBLES and _packs_pairs(dtype) else dtype


@lru_cache(maxsize=64)
def decode_function(fmt: Format, dtype: torch.dtype, is_compiled: bool) -> Callable[..., object]:
    """The decode of a format to a dtype.

    Returns:
        ``decode(packed, scales, out)``, with ``zeros`` before ``out`` for zero-point formats, over flat
        groups: packed [t, group/2] uint8 or [t, k] bytes, scales fp32 [t, 1], zeros uint8 [t, 1]; it fills
        out [t, ...], the buffer viewed as ``out_dtype(fmt, dtype)``.
    """
    groups = torch.zeros(_EXAMPLE_GROUPS, 1)
    if fmt.packing is Packing.BYTES:
        codes = torch.zeros(_EXAMPLE_GROUPS, _EXAMPLE_BYTES).to(fmt.storage_dtype)
        decoded = torch.zeros(_EXAMPLE_GROUPS, _EXAMPLE_BYTES, dtype=dtype)
        return _maybe_compiled(_decode_bytes, (codes, groups, decoded), is_compiled)

    table = levels(fmt)
    book = tuple(table.tolist())
    table_on = lru_cache(maxsize=8)(table.to)

    def level(byte: Tensor, shift: int) -> Tensor:
        """Level fp32 of one nibble of each int32 byte."""
        if is_compiled:
            return _select(byte, shift, book)
        return table_on(byte.device)[(byte >> shift) & 0xF]

    def decode_book(packed: Tensor, scales: Tensor, out: Tensor) -> None:
        byte = packed.int()
        _write_pairs(level(byte, 4) * scales, level(byte, 0) * scales, dtype, out)

    def decode_zero_point(packed: Tensor, scales: Tensor, zeros: Tensor, out: Tensor) -> None:
        byte, zero = packed.int(), zeros.int()
        _write_pairs(((byte >> 4) - zero) * scales, ((byte & 0xF) - zero) * scales, dtype, out)

    packed = torch.zeros(_EXAMPLE_GROUPS, _EXAMPLE_BYTES, dtype=torch.uint8)
    pair_columns = _EXAMPLE_BYTES if _packs_pairs(dtype) else 2 * _EXAMPLE_BYTES
    decoded = torch.zeros(_EXAMPLE_GROUPS, pair_columns, dtype=out_dtype(fmt, dtype))
    if fmt.zero_point:
        return _maybe_compiled(decode_zero_point, (packed, groups, groups.byte(), decoded), is_compiled)
    return _maybe_compiled(decode_book, (packed, groups, decoded), is_compiled)


_NULL_BITS = {torch.int32: 0x3C003C00, torch.int64: 0x3C003C003C003C00}
"""Exponent bits that make small finite numbers of any byte, in every dtype."""


@lru_cache(maxsize=16)
def widen_function(word: torch.dtype, has_zeros: bool, is_compiled: bool) -> Callable[..., object]:
    """The null twin of decoding nibbles: the same bytes read and written in the same order, nothing decoded.

    Args:
        word: integer type as wide as the two numbers that a byte stands for: int32, or int64 for fp32.
        has_zeros: whether the format stores zero points.
        is_compiled: whether to compile it.

    Returns:
        ``widen(packed, scales, out)``, with ``zeros`` before ``out`` for zero-point formats, over flat groups as
        in :func:`decode_function`; out is the buffer seen as words [t, c]. Each byte becomes a word under constant
        exponent bits; the lowest bit of the scale (and of the zero point) is added so that they are read. Nothing
        is unpacked, looked up or scaled.
    """
    bits = _NULL_BITS[word]

    def widen(packed: Tensor, scales: Tensor, out: Tensor) -> None:
        touched = (scales.view(torch.int32) & 1).to(word)
        out.copy_(packed.to(word) | bits | touched)

    def widen_with_zeros(packed: Tensor, scales: Tensor, zeros: Tensor, out: Tensor) -> None:
        touched = ((scales.view(torch.int32) | zeros.int()) & 1).to(word)
        out.copy_(packed.to(word) | bits | touched)

    packed = torch.zeros(_EXAMPLE_GROUPS, _EXAMPLE_BYTES, dtype=torch.uint8)
    scales = torch.zeros(_EXAMPLE_GROUPS, 1)
    out = packed.to(word)
    if has_zeros:
        return _maybe_compiled(widen_with_zeros, (packed, scales, scales.byte(), out), is_compiled)
    return _maybe_compiled(widen, (packed, scales, out), is_compiled)


@lru_cache(maxsize=4)
def repeat_function(word: torch.dtype, is_compiled: bool) -> Callable[..., object]:
    """The null twin of decoding bytes: rows of bytes copied side by side until they fill the rows of the buffer.

    Args:
        word: int32, or uint8 for rows whose bytes are not a multiple of 4.
        is_compiled: whether to compile it.

    Returns:
        ``repeat(packed, scales, out)``: packed is read as words [t, c] and out, the buffer seen as the same words
        [t, r, c], gets r copies of each row; masks and the scale's lowest bit as in :func:`widen_function`.
    """
    mask, exponent = (0x0FFF0FFF, 0x30003000) if word == torch.int32 else (0x0F, 0x30)

    def repeat(packed: Tensor, scales: Tensor, out: Tensor) -> None:
        touched = (scales.view(torch.int32) & 1).to(word)
        out.copy_(((packed & mask) | exponent | touched).unsqueeze(1))

    packed = torch.zeros(_EXAMPLE_GROUPS, _EXAMPLE_BYTES, dtype=word)
    out = packed.unsqueeze(1).repeat(1, 2, 1)
    return _maybe_compiled(repeat, (packed, torch.zeros(_EXAMPLE_GROUPS, 1), out), is_compiled)


def _maybe_compiled(
    function: Callable[..., None], examples: tuple[Tensor, ...], is_compiled: bool
) -> Callable[..., object]:
    return compile_with_dynamic_sizes(function, examples) if is_compiled else function


def _decode_bytes(packed: Tensor, scales: Tensor, out: Tensor) -> None:
    out.copy_(packed.float() * scales)


def _packs_pairs(dtype: torch.dtype) -> bool:
    """Whether two decoded numbers are written as one int32; the even column is its low half."""
    return dtype == torch.bfloat16 and sys.byteorder == "little"


def _write_pairs(even: Tensor, odd: Tensor, dtype: torch.dtype, out: Tensor) -> None:
    """Round fp32 columns to ``dtype`` and interleave them into ``out``."""
    if _packs_pairs(dtype):
        out.copy_((_bf16_bits(even) & 0xFFFF) | (_bf16_bits(odd) << 16))
    else:
        out.copy_(torch.stack((even.to(dtype), odd.to(dtype)), dim=-1).flatten(-2))


def _bf16_bits(values: Tensor) -> Tensor:
    """Bits of finite fp32 values rounded to bf16, ties to even, in the low half of an int32."""
    bits = values.view(torch.int32)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def _select(byte: Tensor, shift: int, book: tuple[float, ...]) -> Tensor:
    """``book[(byte >> shift) & 15]`` as a tree of selects, which vectorises where a look-up does not.

    A book whose top bit is a sign needs half the tree.
    """
    if all(book[code + 8] == -book[code] for code in range(8)):
        magnitude = _tree(byte, shift, book[:8])
        return torch.where((byte & (8 << shift)) != 0, -magnitude, magnitude)
    return _tree(byte, shift, book)


def _tree(byte: Tensor, shift: int, book: tuple[float, ...]) -> Tensor:
    bit = (byte & (1 << shift)) != 0
    nodes = [torch.where(bit, book[i + 1], book[i]) for i in range(0, len(book), 2)]
    while len(nodes) > 1:
        shift += 1
        bit = (byte & (1 << shift)) != 0
        nodes = [torch.where(bit, nodes[i + 1], nodes[i]) for i in range(0, len(nodes), 2)]
    return nodes[0]
