"""The order in which the CUDA kernels read a weight, made once per weight; plain torch, so it is tested on a CPU.

A unit is 16 rows by 64 columns in the order of the left operand of ``mma.m16n8k16``: lane ``4 g + t`` holds rows
``g`` and ``g + 8`` and, of every 16 columns, ``2t, 2t + 1, 2t + 8, 2t + 9``, 16 bytes at a time. A block holds the
units of ``group_tiles`` tiles of 16 rows at the same 64 columns, then their scales, so that one contiguous copy brings
what a warp needs next. Blocks follow each other along K. Rows and columns are padded with the code of 0.

Group scales become fp16 after division by a power of two per row, which the kernels multiply back in fp32
(``row_scales``): 11 significant bits whatever a row's range, where bf16 would keep 8 and fp16 alone could overflow.
A group of 128 stores its scale once per 64 columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from kernels.formats import Packing, levels
from kernels.quant_weight import QuantWeight

TILE_ROWS = 16
SLAB_COLUMNS = 64


class Codes(Enum):
    """How the bits of a unit are arranged."""

    PAIRS = "each byte holds two codes of neighbouring columns, the even column in the low nibble"
    FP4_BITS = "sign and magnitude bits of E2M1 codes lie where a shift and a mask make bf16 values of them"
    BYTES = "one code per byte, bytes 0 and 2 for row g, bytes 1 and 3 for row g + 8"


@dataclass(frozen=True)
class Layout:
    """A weight as the CUDA kernels read it.

    Args:
        blocks: uint8 [groups, slabs, block bytes]: codes, then for 4-bit formats fp16 scales.
        row_scales: fp32 [groups * group_tiles * 16], multiplied with the sums of each row.
        codes: arrangement of the bits.
        group_tiles: tiles of 16 rows per block.
        slab_scales: scales per row and slab; 0 for formats with one scale per row.
    """

    blocks: Tensor
    row_scales: Tensor
    codes: Codes
    group_tiles: int
    slab_scales: int

    @property
    def groups(self) -> int:
        """Groups of tiles."""
        return self.blocks.shape[0]

    @property
    def slabs(self) -> int:
        """Slabs of 64 columns."""
        return self.blocks.shape[1]

    @property
    def code_bytes(self) -> int:
        """Bytes of codes in a block."""
        return self.group_tiles * (1024 if self.codes is Codes.BYTES else 512)

    def clone(self) -> Layout:
        """The same at another place in memory."""
        return replace(self, blocks=self.blocks.clone(), row_scales=self.row_scales.clone())


def make_layout(w: QuantWeight, codes: Codes, group_tiles: int) -> Layout:
    """Rearrange a weight.

    Args:
        w: weight of logical shape [n, k], on any device.
        codes: arrangement of the bits; ``BYTES`` exactly for byte formats, ``FP4_BITS`` for fp4 only.
        group_tiles: tiles of 16 rows per block.

    Raises:
        ValueError: the arrangement does not fit the format, or the format has zero points.
    """
    fmt, (n, k) = w.format, w.shape
    if fmt.zero_point:
        raise ValueError(f"the CUDA kernels take no zero points, {fmt.name} has them")
    if (codes is Codes.BYTES) != (fmt.packing is Packing.BYTES):
        raise ValueError(f"{fmt.name} stores {fmt.packing.value}, which {codes.name} does not fit")
    if codes is Codes.FP4_BITS and fmt.name != "fp4":
        raise ValueError(f"{codes.name} is an arrangement of fp4, not of {fmt.name}")
    if group_tiles < 1:
        raise ValueError(f"group_tiles={group_tiles} is less than 1")
    groups, slabs = -(-n // (TILE_ROWS * group_tiles)), -(-k // SLAB_COLUMNS)
    rows = groups * group_tiles * TILE_ROWS
    fragments = _fragments(_padded_codes(w, rows, slabs * SLAB_COLUMNS), group_tiles)
    arrange = {Codes.PAIRS: _pairs, Codes.FP4_BITS: _fp4_bits, Codes.BYTES: _bytes}[codes]
    blocks = arrange(fragments).reshape(groups, slabs, -1)
    if codes is Codes.BYTES:
        row_scales = torch.zeros(rows, dtype=torch.float32, device=w.device)
        row_scales[:n] = w.group_scales().flatten()
        return Layout(blocks, row_scales, codes, group_tiles, 0)
    scales, row_scales = _scales(w, groups, group_tiles, slabs)
    slab_scales = scales.shape[-1] // (group_tiles * TILE_ROWS * 2)
    return Layout(
        torch.cat((blocks, scales), dim=2).contiguous(), row_scales, codes, group_tiles, slab_scales
    )


def codes_of(layout: Layout) -> Tensor:
    """Undo ``make_layout``: codes uint8 [padded rows, padded columns]."""
    flat = layout.blocks[..., : layout.code_bytes]
    head = (layout.groups, layout.slabs, layout.group_tiles)
    if layout.codes is Codes.BYTES:
        parts = flat.reshape(*head, 2, 8, 4, 2, 2, 2, 2)  # p, g, t, s, h, e, r
        fragments = parts.permute(0, 2, 9, 4, 1, 3, 6, 7, 5, 8).flatten(5, 6)
    elif layout.codes is Codes.PAIRS:
        parts = flat.reshape(*head, 8, 4, 4, 2, 2)  # g, t, s, h, r
        nibbles = torch.stack((parts & 0xF, parts >> 4), dim=-1)
        fragments = nibbles.permute(0, 2, 7, 3, 1, 5, 6, 4, 8)
    else:
        halves = flat.reshape(*head, 8, 4, 4, 4).contiguous().view(torch.int16).to(torch.int32) & 0xFFFF
        codes = torch.stack([_fp4_code(halves, j) for j in range(4)], dim=-1).unflatten(-1, (2, 2))
        fragments = codes.permute(0, 2, 8, 3, 1, 5, 7, 4, 6).to(torch.uint8)  # from g, t, s, e, h, r
    return fragments.reshape(layout.groups * layout.group_tiles * TILE_ROWS, -1)


def _padded_codes(w: QuantWeight, rows: int, columns: int) -> Tensor:
    """Codes as uint8 [rows, columns], padded with the code of level 0."""
    n, k = w.shape
    if w.format.packing is Packing.BYTES:
        codes, zero = w.packed.view(torch.uint8), 0
    else:
        codes = torch.stack((w.packed >> 4, w.packed & 0xF), dim=-1).view(n, k)
        zero = int((levels(w.format) == 0).nonzero()[0])
    padded = codes.new_full((rows, columns), zero)
    padded[:n, :k] = codes
    return padded


def _fragments(codes: Tensor, group_tiles: int) -> Tensor:
    """View [G, tile, r, g, slab, s, h, t, e]: row 16 tile + 8 r + g of G, column 16 s + 8 h + 2 t + e of a slab."""
    return codes.view(-1, group_tiles, 2, 8, codes.shape[1] // SLAB_COLUMNS, 4, 2, 4, 2)


def _pairs(fragments: Tensor) -> Tensor:
    parts = fragments.permute(0, 4, 1, 3, 7, 5, 6, 2, 8)  # G, slab, tile, g, t, s, h, r, e
    packed: Tensor = parts[..., 0] | (parts[..., 1] << 4)
    return packed


def _bytes(fragments: Tensor) -> Tensor:
    """Byte 2 e + r of word h + 2 s of part p, with step 2 p + s."""
    parts: Tensor = fragments.unflatten(5, (2, 2))  # G, tile, r, g, slab, p, s, h, t, e
    return parts.permute(0, 4, 1, 5, 3, 8, 6, 7, 9, 2)


def _fp4_bits(fragments: Tensor) -> Tensor:
    parts = fragments.permute(0, 4, 1, 3, 7, 5, 8, 6, 2).flatten(-2).to(torch.int32)  # ..., s, e, j = 2 h + r
    half = _place_fp4(parts[..., 0], 0)
    for j in range(1, 4):
        half = half | _place_fp4(parts[..., j], j)
    signed = torch.where(half >= 1 << 15, half - (1 << 16), half).to(torch.int16)
    packed: Tensor = signed.contiguous().view(torch.uint8)
    return packed


def _place_fp4(code: Tensor, j: int) -> Tensor:
    """Bits of code j of a 16-bit half: 0 at 15 and 8..6, 1 three lower, 2 six lower, 3 in the four bits left over."""
    sign, magnitude = code >> 3, code & 7
    if j < 3:
        return (sign << (15 - 3 * j)) | (magnitude << (6 - 3 * j))
    return (sign << 14) | ((magnitude >> 2) << 13) | ((magnitude & 3) << 10)


def _fp4_code(half: Tensor, j: int) -> Tensor:
    if j < 3:
        return (((half >> (15 - 3 * j)) & 1) << 3) | ((half >> (6 - 3 * j)) & 7)
    return (((half >> 14) & 1) << 3) | (((half >> 13) & 1) << 2) | ((half >> 10) & 3)


def _scales(w: QuantWeight, groups: int, group_tiles: int, slabs: int) -> tuple[Tensor, Tensor]:
    """fp16 pairs (row g, row g + 8) as bytes [groups, slabs, tile, scale, g], and each row's power of two."""
    n, k = w.shape
    scales = w.group_scales().repeat_interleave(max(1, w.group_size // SLAB_COLUMNS), dim=1)
    per_slab = max(1, SLAB_COLUMNS // w.group_size)
    padded = scales.new_zeros(groups * group_tiles * TILE_ROWS, slabs * per_slab)
    padded[:n, : scales.shape[1]] = scales
    _, exponent = torch.frexp(padded.abs().amax(dim=1))
    power = torch.ldexp(torch.ones_like(padded[:, 0]), exponent)
    halves = (padded / power[:, None]).to(torch.float16)
    pairs = halves.view(groups, group_tiles, 2, 8, slabs, per_slab).permute(0, 4, 1, 5, 3, 2)
    return pairs.reshape(groups, slabs, -1).contiguous().view(torch.uint8), power
