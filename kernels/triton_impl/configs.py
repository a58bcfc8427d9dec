"""Tiles and launch settings of the fused Triton kernel, and which one runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from kernels.formats import Format, Packing


@dataclass(frozen=True)
class Config:
    """How the work is cut.

    Args:
        block_m: rows of x per program, a power of two from 8.
        tiles: blocks along n per program, a power of two; a block is 16 rows of the weight (32 with groups of 32).
        split_k: 1, or ``num_warps``: each warp then takes every ``split_k``-th block along k, and the program adds
            the warps' sums in a fixed order.
        unroll: blocks along k per step (and per warp).
        num_warps: warps per program.
        num_stages: depth of the load pipeline.

    Raises:
        ValueError: ``split_k`` is neither 1 nor ``num_warps``.
    """

    block_m: int
    tiles: int
    split_k: int
    unroll: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        if self.split_k not in (1, self.num_warps):
            raise ValueError(f"split_k={self.split_k} is neither 1 nor num_warps={self.num_warps}")

    def __str__(self) -> str:
        return (
            f"block_m={self.block_m} tiles={self.tiles} split_k={self.split_k} unroll={self.unroll} "
            f"num_warps={self.num_warps} num_stages={self.num_stages}"
        )


def config_for(fmt: Format, m: int, n: int, k: int) -> Config:
    """The configuration that runs for x [m, k] and a weight [n, k]."""
    return candidates(fmt, m, n, k)[0]


# (block_m, tiles, split_k, num_warps, num_stages), the default first: the fastest of these on an H200 (2026-11-22,
# triton 3.6). Narrow weights need small tiles to reach every multiprocessor, deep ones more warps along k, and wide
# ones save instructions and reads of x with large tiles.
_Choice = tuple[int, int, int, int, int]
_ROWS_8: dict[str, tuple[_Choice, ...]] = {
    "narrow": ((8, 1, 8, 8, 3), (8, 1, 4, 4, 4), (8, 1, 16, 16, 2)),
    "flat": ((8, 1, 4, 4, 4), (8, 2, 4, 4, 4), (8, 1, 8, 8, 3)),
    "deep": ((8, 1, 8, 8, 3), (8, 2, 8, 8, 3), (8, 1, 4, 4, 4), (8, 2, 4, 4, 4)),
    "wide": ((8, 2, 4, 4, 4), (8, 4, 4, 4, 3), (8, 2, 8, 8, 3), (8, 8, 1, 4, 4), (8, 1, 4, 4, 4)),
}
_ROWS_16: dict[str, tuple[_Choice, ...]] = {
    "narrow": ((16, 1, 8, 8, 3), (16, 1, 4, 4, 4), (16, 1, 16, 16, 2)),
    "flat": ((16, 2, 4, 4, 3), (16, 1, 8, 8, 3)),
    "deep": ((16, 1, 8, 8, 3), (16, 2, 8, 8, 3), (16, 2, 4, 4, 3)),
    "wide": ((16, 2, 4, 4, 3), (16, 4, 4, 4, 3), (16, 8, 1, 4, 4), (16, 4, 1, 4, 4)),
}
_ROWS_64: dict[str, tuple[_Choice, ...]] = {
    "narrow": ((32, 1, 8, 8, 2), (64, 1, 4, 4, 3), (64, 1, 8, 8, 2)),
    "flat": ((64, 4, 1, 4, 4), (32, 4, 1, 4, 4), (32, 2, 4, 4, 3)),
    "deep": ((32, 2, 4, 4, 3), (64, 4, 1, 4, 4), (32, 4, 1, 4, 4), (64, 1, 8, 8, 2)),
    "wide": ((64, 8, 1, 8, 3), (64, 8, 1, 4, 3), (64, 4, 1, 4, 4), (64, 16, 1, 8, 3)),
}
_ROWS_MORE: dict[str, tuple[_Choice, ...]] = {
    "narrow": ((32, 2, 4, 4, 3), (64, 1, 4, 4, 3), (64, 4, 1, 4, 4)),
    "flat": ((64, 4, 1, 4, 4), (64, 8, 1, 4, 3), (128, 8, 1, 8, 3)),
    "deep": ((64, 4, 1, 4, 4), (64, 8, 1, 4, 3), (128, 8, 1, 8, 3)),
    "wide": ((128, 8, 1, 8, 3), (64, 8, 1, 4, 3), (64, 16, 1, 8, 3)),
}
# What is fastest for byte formats where that differs.
_BYTES_FIRST: dict[tuple[int, str], _Choice] = {
    (8, "deep"): (8, 1, 4, 4, 4),
    (8, "wide"): (8, 8, 1, 4, 4),
    (16, "narrow"): (16, 1, 4, 4, 4),
    (16, "wide"): (16, 8, 1, 4, 4),
    (64, "narrow"): (64, 1, 4, 4, 3),
    (64, "flat"): (32, 4, 1, 4, 4),
}
_BY_ROWS = {8: _ROWS_8, 16: _ROWS_16, 64: _ROWS_64}


def candidates(fmt: Format, m: int, n: int, k: int) -> tuple[Config, ...]:
    """Configurations worth timing, the default first.

    Args:
        fmt: the weight's format.
        m: rows of x; 1 to 8, to 16, to 64 and more are told apart.
        n: out_features.
        k: in_features; a warp's share of it bounds ``split_k``.
    """
    return _candidates(fmt.packing is Packing.BYTES, m, n, k)


@lru_cache(maxsize=4096)
def _candidates(is_bytes: bool, m: int, n: int, k: int) -> tuple[Config, ...]:
    rows = next((limit for limit in _BY_ROWS if m <= limit), 0)
    middle = "flat" if k < 2048 else "deep"
    width = "narrow" if n < 3072 else middle if n < 8192 else "wide"
    choices = _BY_ROWS.get(rows, _ROWS_MORE)[width]
    first = _BYTES_FIRST.get((rows, width)) if is_bytes else None
    if first is not None:
        choices = (first, *choices)
    # A block of bytes has half the columns of a block of nibbles.
    block_k, unroll = (32, 2) if is_bytes else (64, 1)
    most_split = max(4, k // (block_k * unroll))
    found = (
        Config(min(block_m, 32) if m <= 32 else block_m, tiles, split_k, unroll, num_warps, num_stages)
        for block_m, tiles, split_k, num_warps, num_stages in choices
        if split_k <= most_split
    )
    return tuple(dict.fromkeys(found))
