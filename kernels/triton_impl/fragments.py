"""The order in which the Triton kernels read a weight: the fragments of matrix instructions, made once, offline.

A block is 16 rows by 64 columns of 4-bit codes, or by 32 columns of 8-bit codes: 512 bytes, 16 per lane of a warp.
With groups of 32 it is 32 rows by 32 columns, since every block has one scale per row. Lane ``4r + c`` holds, of every
16 rows by 16 columns, rows ``r, r + 8`` and columns ``2c, 2c + 1, 2c + 8, 2c + 9``: what ``mma.m16n8k16`` and a warp's
part of ``wgmma`` take from that lane as the left operand. So a 16-byte load is the operand, without a shuffle between
lanes, and x keeps its order. Inside a word, ``bits_of`` says where each code's bits lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.formats import Format, Packing, get_format, levels
from kernels.packing import unpack_nibbles
from kernels.quant_weight import QuantWeight

# How codes lie in a word, and so how they are decoded; kernels/triton_impl/word_decode.py describes them.
BOOK, FP4, INT4, INT8, FP8 = range(5)

# In a 16-bit half of an FP4 word: bits of the sign, the two exponent bits and the mantissa bit of each pair.
_FP4_BITS = ((15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (14, 11, 10, 13))


@dataclass(frozen=True)
class Fragments:
    """A weight as the kernels read it.

    Args:
        coding: BOOK, FP4, INT4, INT8 or FP8.
        words: int32 [tiles, blocks, 32, 4].
        scales: fp32 [groups, tiles * tile_rows]; for byte formats [n].
        zeros: uint8 as the scales, or None.
        tile_rows: rows of a block, 16 or 32.
        block_k: columns of a block, 64 or 32.
    """

    coding: int
    words: Tensor
    scales: Tensor
    zeros: Tensor | None
    tile_rows: int
    block_k: int

    @property
    def tiles(self) -> int:
        """Blocks along n."""
        return self.words.shape[0]

    @property
    def blocks(self) -> int:
        """Blocks along k."""
        return self.words.shape[1]


def fragments_of(w: QuantWeight, dtype: torch.dtype) -> Fragments:
    """The fragments of a weight for x of ``dtype``, made on the first call and kept in ``w.repacked``.

    Double-quantized scales are decoded here, so the kernels read them as fp32.
    """
    coding = coding_of(w.format, dtype)
    key = f"triton fragments {coding}"
    found = w.repacked.get(key)
    if found is None:
        found = w.repacked[key] = _make(w, coding)
    if not isinstance(found, Fragments):
        raise ValueError(f"repacked[{key!r}] is a {type(found).__name__}, expected Fragments")
    return found


def coding_of(fmt: Format, dtype: torch.dtype) -> int:
    """How the kernels decode a format for x of ``dtype``."""
    if fmt.packing is Packing.BYTES:
        return INT8 if fmt.storage_dtype == torch.int8 else FP8
    if fmt.zero_point:
        return INT4
    is_e2m1 = fmt.code_book == get_format("fp4").code_book
    return FP4 if is_e2m1 and dtype == torch.bfloat16 else BOOK


@lru_cache(maxsize=64)
def book_words(fmt: Format, dtype: torch.dtype) -> tuple[int, ...]:
    """Levels in ``dtype`` as eight int32: the low bytes of 16 levels in four, then the high bytes.

    Zeros for formats without a code book.
    """
    if fmt.code_book is None:
        return (0,) * 8
    octets = levels(fmt).to(dtype).view(torch.uint8).view(16, 2)
    return tuple(octets.t().contiguous().view(torch.int32).flatten().tolist())


def codes_of(fragments: Fragments) -> Tensor:
    """The codes back, uint8 [tiles * tile_rows, blocks * block_k], zeros where the weight was padded."""
    words = fragments.words
    codes = torch.empty(
        *words.shape, _codes_per_word(fragments.coding), dtype=torch.uint8, device=words.device
    )
    for index in range(codes.shape[-1]):
        code = torch.zeros_like(words)
        for target, source in enumerate(bits_of(fragments.coding, index)):
            code |= ((words >> source) & 1) << target
        codes[..., _slot(fragments.coding, index)] = code.to(torch.uint8)
    shape = _lane_shape(fragments.tiles, fragments.blocks, fragments.tile_rows, fragments.block_k)
    rows_and_columns = codes.view(shape).permute(0, 4, 7, 2, 1, 5, 6, 3, 8)
    return rows_and_columns.reshape(
        fragments.tiles * fragments.tile_rows, fragments.blocks * fragments.block_k
    )


def bits_of(coding: int, index: int) -> tuple[int, ...]:
    """Position in a word of each bit of code ``index``, lowest bit first; codes 2p and 2p + 1 make pair p."""
    pair, upper = divmod(index, 2)
    if coding == BOOK:
        fourth = 8 * index + 7 if index < 4 else 8 * (index - 4) + 3
        return (4 * index, 4 * index + 1, 4 * index + 2, fourth)
    if coding == FP4:
        return tuple(16 * upper + bit for bit in reversed(_FP4_BITS[pair]))
    if coding == INT4:
        return tuple(16 * upper + 4 * pair + bit for bit in range(4))
    first = 16 * upper + 8 * (pair if coding == INT8 else 1 - pair)
    return tuple(first + bit for bit in range(8))


def _codes_per_word(coding: int) -> int:
    return 4 if coding in (INT8, FP8) else 8


def _slot(coding: int, index: int) -> int:
    """Place of code ``index`` of a word among its codes in the order (columns + 8, rows + 8, odd column)."""
    pair, upper = divmod(index, 2)
    if coding in (INT8, FP8):
        return index
    # Kernels join pairs 0 and 1, 2 and 3, then both: the first join is the inner axis' partner in columns.
    return 4 * (pair % 2) + 2 * (pair // 2) + upper


def _lane_shape(tiles: int, blocks: int, tile_rows: int, block_k: int) -> tuple[int, ...]:
    """Axes of the codes in memory: tile, block, r, c, half of 32 rows, 16 columns, columns + 8, rows + 8, odd."""
    return (tiles, blocks, 8, 4, tile_rows // 16, block_k // 16, 2, 2, 2)


def _make(w: QuantWeight, coding: int) -> Fragments:
    is_nibbles = w.format.packing is Packing.NIBBLES
    block_k = min(64, w.group_size) if is_nibbles else 32
    tile_rows = 32 if is_nibbles and block_k == 32 else 16
    tiles, blocks = -(-w.n // tile_rows), -(-w.k // block_k)
    rows = tiles * tile_rows
    raw = unpack_nibbles(w.packed) if is_nibbles else w.packed.view(torch.uint8)
    codes = F.pad(raw, (0, blocks * block_k - w.k, 0, rows - w.n))
    codes = codes.view(tiles, tile_rows // 16, 2, 8, blocks, block_k // 16, 2, 4, 2)
    codes = codes.permute(0, 4, 3, 7, 1, 5, 6, 2, 8).reshape(tiles, blocks, 32, 4, -1)
    words = torch.zeros(codes.shape[:-1], dtype=torch.int32, device=codes.device)
    for index in range(codes.shape[-1]):
        code = codes[..., _slot(coding, index)].int()
        for source, target in enumerate(bits_of(coding, index)):
            words |= ((code >> source) & 1) << target
    scales = w.group_scales()
    if not is_nibbles:
        return Fragments(coding, words, scales.flatten(), None, tile_rows, block_k)
    padding = (0, 0, 0, rows - w.n)
    zeros = None if w.zeros is None else F.pad(w.zeros, padding).t().contiguous()
    return Fragments(coding, words, F.pad(scales, padding).t().contiguous(), zeros, tile_rows, block_k)
