"""Configurations of the two CUDA kernels: their macros, their shared memory and their grid, without touching CUDA."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import torch

from kernels.cuda_impl.layout import Codes
from kernels.formats import Format, Packing, levels
from kernels.triton_impl.gemv_config import GemvConfig

# Hopper: shared memory a block may have, and one multiprocessor's.
BLOCK_SHARED_BYTES = 227 * 1024
SM_SHARED_BYTES = 228 * 1024
_ALLOCATION_BYTES = 128
SM_REGISTERS = 65536
_RESERVED_BYTES = 1024
_BARRIER_BYTES = 1024
_TABLE_START, _TABLE_END = 0x10000, 0x20000
_PARTIAL_BYTES = 8 * 20 * 4
# Every number of rows per block is a kernel of its own to compile.
_ROWS_STEP = 32


@dataclass(frozen=True)
class Weight:
    """What the kernels must know about a weight at compile time.

    Args:
        fmt: format.
        codes: arrangement of its bits.
        group_tiles: tiles of 16 rows per block of the layout.
        group_size: columns per scale (4-bit formats).
        dtype: x's.
        is_null: reinterpret codes instead of decoding them.
    """

    fmt: Format
    codes: Codes
    group_tiles: int
    group_size: int
    dtype: torch.dtype
    is_null: bool

    @property
    def is_4bit(self) -> bool:
        """Whether two codes share a byte."""
        return self.fmt.packing is Packing.NIBBLES

    @property
    def is_fp16(self) -> bool:
        """Whether x is fp16 rather than bf16."""
        return self.dtype == torch.float16

    @property
    def uses_table(self) -> bool:
        """Whether shared memory has room for the table of levels; the null twin leaves it empty."""
        return self.codes is Codes.PAIRS

    @property
    def unit_bytes(self) -> int:
        """Bytes of codes of 16 rows by 64 columns."""
        return 512 if self.is_4bit else 1024

    @property
    def unit_scale_bytes(self) -> int:
        """Bytes of their scales."""
        return 0 if not self.is_4bit else 64 if self.group_size == 32 else 32

    def macros(self) -> dict[str, str]:
        """Macros of decode.cuh."""
        kind = {Codes.PAIRS: "FORMAT_TABLE", Codes.FP4_BITS: "FORMAT_FP4"}.get(self.codes)
        if kind is None:
            kind = "FORMAT_INT8" if self.fmt.storage_dtype == torch.int8 else "FORMAT_FP8"
        macros = {
            "FORMAT": kind,
            "X_FP16": str(int(self.is_fp16)),
            "NULL_DECODE": str(int(self.is_null)),
            "GROUP": str(self.group_size if self.is_4bit else 0),
            "TILES": str(self.group_tiles),
        }
        if self.codes is Codes.PAIRS:
            bits = [value & 0xFFFF for value in levels(self.fmt).to(self.dtype).view(torch.int16).tolist()]
            macros["LEVEL_WORDS"] = ", ".join(f"{bits[i] | bits[i + 1] << 16:#x}" for i in range(0, 16, 2))
        return macros

    def result_scale(self, *, lifted_x: bool) -> str:
        """What undoes the exponent that a decoder leaves out, as a C literal.

        Args:
            lifted_x: whether x was multiplied by 2^96 (narrow) rather than the weights lifted (wide).
        """
        if self.is_fp16 or not lifted_x or self.is_null:
            return "1.f"
        if self.codes is Codes.FP4_BITS:
            return "0x1p30f"
        return "0x1p24f" if self.codes is Codes.BYTES and self.fmt.storage_dtype != torch.int8 else "1.f"


@dataclass(frozen=True)
class NarrowConfig:
    """Configuration of narrow.cu."""

    column_tiles: int
    """Tiles of 8 rows of x per block."""
    stages: int
    """Stages of each warp's ring."""
    warps_n: int
    """Warps along the rows of the weight, each with a group of the layout."""
    warps_k: int
    """Warps along K."""
    cluster_k: int = 1
    """Blocks of a cluster along K."""
    blocks_per_sm: int = 1
    """Blocks that must fit a multiprocessor."""

    kind = "narrow"

    @property
    def batch(self) -> int:
        """Rows of x per block."""
        return 8 * self.column_tiles

    @property
    def threads(self) -> int:
        """Threads per block."""
        return 32 * self.warps_n * self.warps_k

    def _ring_bytes(self, weight: Weight) -> int:
        block = weight.group_tiles * (weight.unit_bytes + weight.unit_scale_bytes)
        return self.stages * (self.column_tiles * 1024 + -(-block // 128) * 128)

    def before_table(self, weight: Weight) -> int:
        """Rings that lie before the table."""
        room = _TABLE_START - _RESERVED_BYTES - _BARRIER_BYTES
        return min(room // self._ring_bytes(weight), self.warps_n * self.warps_k)

    def shared_bytes(self, weight: Weight) -> int:
        """Dynamic shared memory of a block."""
        warps, ring = self.warps_n * self.warps_k, self._ring_bytes(weight)
        sums = _BARRIER_BYTES + warps * weight.group_tiles * self.column_tiles * _PARTIAL_BYTES
        if self.cluster_k > 1:
            sums += 16 * weight.group_tiles * self.warps_n * self.batch * 4
        if weight.uses_table:
            return max(sums, _TABLE_END - _RESERVED_BYTES + (warps - self.before_table(weight)) * ring)
        return max(sums, _BARRIER_BYTES + warps * ring)

    def macros(self, weight: Weight, *, x_unaligned: bool) -> dict[str, str]:
        """All macros of narrow.cu."""
        return weight.macros() | {
            "COLUMN_TILES": str(self.column_tiles),
            "STAGES": str(self.stages),
            "WARPS_N": str(self.warps_n),
            "WARPS_K": str(self.warps_k),
            "CLUSTER_K": str(self.cluster_k),
            "BLOCKS_PER_SM": str(self.blocks_per_sm),
            "X_UNALIGNED": str(int(x_unaligned)),
            "RESULT_SCALE": weight.result_scale(lifted_x=True),
        }

    def grid(self, groups: int, group_tiles: int, m: int) -> tuple[int, int]:
        """Blocks along rows of the weight (times the cluster) and of x."""
        return -(-groups // self.warps_n) * self.cluster_k, -(-m // self.batch)


@dataclass(frozen=True)
class WideConfig:
    """Configuration of wide.cu."""

    batch: int
    """Rows of x per block, a multiple of 8 up to 256."""
    stages: int
    """Stages of the ring."""
    warpgroups_n: int
    """Warpgroups along the rows of the weight, 64 rows each."""
    warpgroups_k: int
    """Warpgroups along K."""
    cluster_k: int = 1
    """Blocks of a cluster along K."""
    blocks_per_sm: int = 1
    """Blocks that must fit a multiprocessor."""

    kind = "wide"

    def for_rows(self, m: int) -> WideConfig:
        """Return the configuration with as many blocks of x and no more empty rows than rounding takes.

        Tuning looks at few m, and rows of x that do not exist cost the tensor cores as much as others.

        Args:
            m: rows of x, at least 1.
        """
        blocks = math.ceil(m / self.batch)
        rows = math.ceil(m / blocks / _ROWS_STEP) * _ROWS_STEP
        return replace(self, batch=min(self.batch, rows))

    @property
    def threads(self) -> int:
        """Threads per block."""
        return 128 * self.warpgroups_n * self.warpgroups_k

    def _stage_bytes(self, weight: Weight) -> int:
        warps = 4 * self.warpgroups_n * self.warpgroups_k
        used = self.warpgroups_k * self.batch * 128 + warps * (weight.unit_bytes + weight.unit_scale_bytes)
        return -(-used // 1024) * 1024

    def before_table(self, weight: Weight) -> int:
        """Stages that lie before the table."""
        room = _TABLE_START - _RESERVED_BYTES - _BARRIER_BYTES
        return min(room // self._stage_bytes(weight), self.stages)

    def shared_bytes(self, weight: Weight) -> int:
        """Dynamic shared memory of a block."""
        sums = _BARRIER_BYTES + self.warpgroups_k * self.batch * (64 * self.warpgroups_n + 4) * 4
        stage = self._stage_bytes(weight)
        if weight.uses_table:
            after = self.stages - self.before_table(weight)
            return max(sums, _TABLE_END - _RESERVED_BYTES + after * stage)
        return max(sums, _BARRIER_BYTES + self.stages * stage)

    def macros(self, weight: Weight, *, x_unaligned: bool = False) -> dict[str, str]:
        """All macros of wide.cu."""
        if x_unaligned:
            raise ValueError("the wide kernel takes x with 16-byte aligned rows only, x_unaligned=True")
        return weight.macros() | {
            "BATCH": str(self.batch),
            "STAGES": str(self.stages),
            "WARPGROUPS_N": str(self.warpgroups_n),
            "WARPGROUPS_K": str(self.warpgroups_k),
            "CLUSTER_K": str(self.cluster_k),
            "BLOCKS_PER_SM": str(self.blocks_per_sm),
            "RESULT_SCALE": weight.result_scale(lifted_x=False),
        }

    def grid(self, groups: int, group_tiles: int, m: int) -> tuple[int, int]:
        """Blocks along rows of the weight (times the cluster) and of x."""
        return -(-groups * group_tiles // (4 * self.warpgroups_n)) * self.cluster_k, -(-m // self.batch)


Config = NarrowConfig | WideConfig
Choice = Config | GemvConfig
"""What may run: a CUDA kernel, or the Triton kernel for one row of x and one byte per code."""


def fits(config: Config, weight: Weight) -> bool:
    """Whether the shared memory of the blocks fits a multiprocessor, and their threads leave registers for the sums."""
    shared, blocks = config.shared_bytes(weight), config.blocks_per_sm
    if shared > BLOCK_SHARED_BYTES or (shared + _RESERVED_BYTES) * blocks > SM_SHARED_BYTES:
        return False
    if isinstance(config, NarrowConfig):
        sums = 4 * weight.group_tiles * config.column_tiles
        registers = sums + 8 * config.column_tiles + 48
        barriers = config.stages * config.warps_n * config.warps_k * 8
    else:
        registers = config.batch // 2 + 48
        barriers = config.stages * 16 * config.warpgroups_k
    budget = min(255, SM_REGISTERS // (config.threads * blocks))
    return config.threads <= 1024 and registers <= budget and barriers <= _BARRIER_BYTES


def shared_bytes_for(blocks: int) -> int:
    """Least dynamic shared memory, bytes, with which no more than this many blocks fit on a multiprocessor.

    Args:
        blocks: at least 1.
    """
    return (
        SM_SHARED_BYTES // (blocks + 1) // _ALLOCATION_BYTES * _ALLOCATION_BYTES
        - _RESERVED_BYTES
        + _ALLOCATION_BYTES
    )


def describe(config: Config) -> str:
    """The configuration in a line for records."""
    fields = " ".join(f"{name}={value}" for name, value in asdict(config).items())
    return f"{config.kind} {fields}"
