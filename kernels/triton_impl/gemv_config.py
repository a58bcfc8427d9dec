"""How a product with one or two rows of x is cut up, without importing Triton."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MOST_ROWS = 2


@dataclass(frozen=True)
class GemvConfig:
    """How a call is cut up.

    Args:
        block_n: rows of w per program, a power of 2.
        block_k: columns of w at a time, a power of 2.
        warps: warps per program. With ``block_k`` of 256 times as many (16-bit weights; bytes: 512) every thread
            multiplies by its own columns of x; otherwise x passes through shared memory at every step.
        is_ahead: asks for the next tile before it multiplies the current one, and for the first one early.
        is_folded: adds the 16 bytes of neighbours that a thread loads before it adds them to its sums, which then
            take an eighth of the registers.
    """

    block_n: int
    block_k: int
    warps: int
    is_ahead: bool
    is_folded: bool = True

    kind = "gemv"

    def __str__(self) -> str:
        return f"{self.block_n}x{self.block_k}, {self.warps} warps{', ahead' if self.is_ahead else ''}"


def configuration_for(m: int, n: int, k: int) -> GemvConfig:
    """How a call with x [m, k] and w [n, k] is cut up, by what was fastest on an H200.

    Args:
        m: rows of x, at most ``MOST_ROWS``.
        n: out-features.
        k: in-features.

    Raises:
        ValueError: m outside 1 to ``MOST_ROWS``.
    """
    if not 1 <= m <= MOST_ROWS:
        raise ValueError(f"m={m} is not between 1 and {MOST_ROWS}, the rows that the kernel takes")
    if n <= _FEW_OUTPUTS:
        # So few programs that each has to ask for much at once.
        block_k = min(max(_power_of_2(k), 256), 2048)
        return GemvConfig(2, block_k, block_k // 256, is_ahead=True)
    if m > 1 and n > _MANY_OUTPUTS:
        return GemvConfig(4, 1024, 4, is_ahead=False)
    if m == 1 and n > _SOME_OUTPUTS and k <= _MIDDLE_ROWS and n <= _MANY_OUTPUTS:
        return GemvConfig(8, 512, 4, is_ahead=True)
    if m == 1 and n > _MANY_OUTPUTS:
        # Rows of one tile want few warps, so that sums over a row are short.
        return (
            GemvConfig(8, 512, 2, is_ahead=True)
            if k <= _SHORT_ROWS
            else GemvConfig(4, 2048, 8, is_ahead=True)
        )
    block_k = min(max(_power_of_2(k), 256), 1024)
    return GemvConfig(4, block_k, block_k // 256, is_ahead=True)


def byte_candidates(n: int, k: int) -> Iterator[GemvConfig]:
    """Configurations worth timing for one row of x and a weight of one byte per code.

    Args:
        n: rows of the weight.
        k: columns of the weight; nothing is worth it where it is not a multiple of 16, one load.
    """
    if k % 16:
        return
    for block_n, block_k, warps in _BYTE_TILES:
        if block_k <= max(_power_of_2(k), _LEAST_BLOCK_K) and block_n <= n:
            yield GemvConfig(block_n, block_k, warps, is_ahead=True)


def _power_of_2(size: int) -> int:
    """The least power of 2 that is not below a size."""
    return 1 << (size - 1).bit_length()


# Tiles of 1 to 4 loads of 16 bytes per thread.
_BYTE_TILES = (
    (2, 1024, 2), (4, 512, 1), (4, 1024, 2), (8, 1024, 2), (2, 2048, 4), (4, 2048, 4), (1, 4096, 8), (2, 4096, 8),
    (4, 4096, 8),
)  # fmt: skip
_LEAST_BLOCK_K = 512
# By the measurements in docs/kernels.md.
_FEW_OUTPUTS = 2048
_SOME_OUTPUTS = 4096
_MANY_OUTPUTS = 8192
_SHORT_ROWS = 1024
_MIDDLE_ROWS = 4096
