"""The table of weight formats: the one place where a format is added.

A format says which level a code stands for, how codes are packed, and how many weights share a scale. Every
quantizer, reference decode and kernel reads it from here; see ``docs/adding-a-format.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch

GROUP_SIZES = (32, 64, 128)


class Packing(Enum):
    """How codes lie in memory."""

    NIBBLES = "two 4-bit codes per byte, the even k in the high nibble"
    BYTES = "one code per byte"


class Rounding(Enum):
    """Which level a value halfway between two levels gets (code-book formats)."""

    LOWER = "the lower level, as bitsandbytes does"
    EVEN = "the level with the even code, as IEEE 754 does"


@dataclass(frozen=True)
class Format:
    """One weight format: ``weight = (level(code) - zero) * scale``.

    Args:
        name: key in ``FORMATS`` and suffix of the kernel names.
        bits: bits per code.
        code_book: the level of each code (code 0 first), or None where the code is its own level.
        group_size: default number of weights along K that share a scale; None for one scale per row.
        group_sizes: the group sizes that may be asked for; empty for one scale per row.
        scale_dtype: dtype of a stored scale.
        packing: layout of the codes.
        zero_point: whether each group also stores a code that stands for zero.
        description: one line for people.
        storage_dtype: dtype of the packed tensor; for ``Packing.BYTES`` it gives the code its value.
        rounding: what the quantizer does on a tie (code-book formats).

    Raises:
        ValueError: the fields contradict each other.
    """

    name: str
    bits: int
    code_book: tuple[float, ...] | None
    group_size: int | None
    group_sizes: tuple[int, ...]
    scale_dtype: torch.dtype
    packing: Packing
    zero_point: bool
    description: str
    storage_dtype: torch.dtype = torch.uint8
    rounding: Rounding = Rounding.LOWER

    def __post_init__(self) -> None:
        if self.packing is Packing.NIBBLES and (self.bits != 4 or self.storage_dtype != torch.uint8):
            raise ValueError(
                f"{self.name}: nibbles are 4 bits in uint8, not {self.bits} bits in {self.storage_dtype}"
            )
        if self.packing is Packing.BYTES and self.bits != 8:
            raise ValueError(f"{self.name}: one code per byte means 8 bits, not {self.bits}")
        if self.code_book is not None and len(self.code_book) != 2**self.bits:
            raise ValueError(f"{self.name}: {len(self.code_book)} levels do not fit {self.bits} bits")
        if self.code_book is not None and not max(abs(level) for level in self.code_book) > 0:
            raise ValueError(f"{self.name}: a code book needs a level other than 0, this one has none")
        if (self.code_book is None) != (self.zero_point or self.packing is Packing.BYTES):
            raise ValueError(
                f"{self.name}: exactly one of a code book, a zero point, a byte dtype gives the levels"
            )
        if self.packing is Packing.BYTES and self.storage_dtype not in (torch.int8, torch.float8_e4m3fn):
            raise ValueError(
                f"{self.name}: no kernel reads bytes of {self.storage_dtype}, only int8 and float8_e4m3fn"
            )
        if self.packing is Packing.BYTES and (self.group_size is not None or self.zero_point):
            raise ValueError(
                f"{self.name}: byte formats have one scale per row, not groups of {self.group_size}"
            )
        if self.packing is Packing.NIBBLES and self.group_size not in self.group_sizes:
            raise ValueError(f"{self.name}: group_size={self.group_size} is not one of {self.group_sizes}")

    @property
    def largest_level(self) -> float:
        """Largest magnitude of a level; a group's scale is its absmax (or its range) over this."""
        if self.code_book is not None:
            return max(abs(level) for level in self.code_book)
        if self.zero_point:
            return float(2**self.bits - 1)
        return 127.0 if self.storage_dtype == torch.int8 else torch.finfo(self.storage_dtype).max

    def groups_for(self, k: int, group_size: int | None = None) -> int:
        """Number of weights along K that share a scale, for a weight with ``k`` columns.

        Args:
            k: in_features.
            group_size: the size asked for; None takes the format's default.

        Returns:
            The group size; ``k`` itself for formats with one scale per row.

        Raises:
            ValueError: a size this format does not allow, or ``k`` not divisible by it.
        """
        if not self.group_sizes:
            if group_size not in (None, k):
                raise ValueError(
                    f"{self.name} has one scale per row of k={k}, so group_size={group_size} is not allowed"
                )
            return k
        size = self.group_size if group_size is None else group_size
        if size not in self.group_sizes:
            raise ValueError(f"group_size={size} is not one of {self.group_sizes}, the sizes of {self.name}")
        if k % size:
            raise ValueError(f"k={k} is not divisible by group_size={size}")
        return size

    def packed_columns(self, k: int) -> int:
        """Columns of the packed tensor for a weight with ``k`` columns."""
        return k // 2 if self.packing is Packing.NIBBLES else k


# bitsandbytes' NormalFloat levels (QLoRA, arXiv 2305.14314), as its functional.get_4bit_type lists them.
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
# E2M1 of the OCP microscaling formats: sign, two exponent bits, one mantissa bit.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# bitsandbytes' FP4 in its own code order; its levels are these over 12, in fp32.
_BNB_FP4_TWELFTHS = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)


def _with_signs(magnitudes: tuple[float, ...]) -> tuple[float, ...]:
    """Append the negated magnitudes: the code's top bit is the sign."""
    return magnitudes + tuple(-level for level in magnitudes)


def _fp32(levels: tuple[float, ...]) -> tuple[float, ...]:
    """Round levels to fp32, the precision they are stored in."""
    return tuple(torch.tensor(levels, dtype=torch.float32).tolist())


_BNB_FP4 = _fp32(_with_signs(tuple(level / 12 for level in _BNB_FP4_TWELFTHS)))

FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        Format(
            "nf4", 4, _NF4, 64, GROUP_SIZES, torch.float32, Packing.NIBBLES, False,
            "4-bit NormalFloat, bit-exact with bitsandbytes",
        ),
        Format(
            "fp4", 4, _with_signs(_E2M1), 64, GROUP_SIZES, torch.float32, Packing.NIBBLES, False,
            "4-bit float E2M1", rounding=Rounding.EVEN,
        ),
        Format(
            "fp4_bnb", 4, _BNB_FP4, 64, GROUP_SIZES, torch.float32, Packing.NIBBLES, False,
            "bitsandbytes' own 4-bit float, bit-exact with it",
        ),
        Format(
            "int8", 8, None, None, (), torch.float32, Packing.BYTES, False,
            "8-bit integer, symmetric, one scale per row", storage_dtype=torch.int8,
        ),
        Format(
            "fp8", 8, None, None, (), torch.float32, Packing.BYTES, False,
            "8-bit float E4M3, one scale per row", storage_dtype=torch.float8_e4m3fn,
        ),
        Format(
            "int4", 4, None, 128, GROUP_SIZES, torch.float32, Packing.NIBBLES, True,
            "4-bit integer with a zero point per group, the GPTQ format",
        ),
    )
}  # fmt: skip


def get_format(name: str) -> Format:
    """Look a format up by name.

    Args:
        name: a key of ``FORMATS``.

    Raises:
        ValueError: unknown name; the sentence lists the known ones.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise ValueError(f"unknown format {name!r}; known formats: {', '.join(FORMATS)}") from None


def levels(fmt: Format) -> torch.Tensor:
    """Level of each code, fp32 ``[2**bits]``: the code book, or the codes themselves for a zero-point format.

    Raises:
        ValueError: a byte format, whose levels are its dtype's values.
    """
    if fmt.packing is Packing.BYTES:
        raise ValueError(f"{fmt.name} has no table of levels: a code is a {fmt.storage_dtype} value")
    book = fmt.code_book if fmt.code_book is not None else tuple(range(2**fmt.bits))
    table = torch.tensor(book, dtype=torch.float32)
    if not math.isfinite(float(table.sum())):
        raise ValueError(f"{fmt.name}: a level is not finite in fp32")
    return table
