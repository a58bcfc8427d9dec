"""Configurations worth timing for a weight and a number of rows of x, the most promising first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from kernels.cuda_impl.config import Choice, NarrowConfig, Weight, WideConfig, fits
from kernels.cuda_impl.layout import SLAB_COLUMNS, TILE_ROWS, Codes
from kernels.triton_impl.gemv_config import byte_candidates

BUCKETS = (1, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256)
"""Largest m of each bucket; a configuration is tuned there and serves every smaller m down to the bucket before it."""
_MOST_NARROW_M = 32
_LEAST_WIDE_M = 9
_MOST_ROWS = 8


def bucket_of(m: int) -> int:
    """The bucket that serves m rows of x: the smallest that is not below, else the largest."""
    return next((bucket for bucket in BUCKETS if m <= bucket), BUCKETS[-1])


def group_tile_choices(n: int, sm_count: int) -> tuple[int, ...]:
    """Group sizes of the layout worth trying: as many tiles as fill the multiprocessors once, and twice as many.

    Args:
        n: rows of the weight.
        sm_count: multiprocessors.
    """
    share = math.ceil(math.ceil(n / TILE_ROWS) / sm_count)
    waves = math.ceil(share / (2 * _MOST_ROWS))
    per_wave = math.ceil(share / waves)
    if per_wave > _MOST_ROWS:
        return (math.ceil(per_wave / 2),)
    return (per_wave,) if per_wave > _MOST_ROWS // 2 else (per_wave, 2 * per_wave)


def candidates(weight: Weight, n: int, k: int, bucket: int, sm_count: int, *, most: int = 8) -> list[Choice]:
    """Configurations to time, by the multiprocessor's share of the work.

    Args:
        weight: format, layout and dtype.
        n: rows of the weight.
        k: columns of the weight.
        bucket: rows of x.
        sm_count: multiprocessors.
        most: configurations of each CUDA kernel, at most.
    """
    slabs = math.ceil(k / SLAB_COLUMNS)
    found: list[Choice] = []
    if bucket <= _MOST_NARROW_M:
        groups = math.ceil(n / (TILE_ROWS * weight.group_tiles))
        narrow = [c for c in _narrow(bucket, slabs) if fits(c, weight)]
        tiles = weight.group_tiles
        found += sorted(narrow, key=lambda c: _narrow_cost(c, tiles, groups, slabs, sm_count))[:most]
    if bucket >= _LEAST_WIDE_M:
        wide = [c for c in _wide(bucket, slabs) if fits(c, weight)]
        wide = [c for c in wide if c.stages > 3 or replace(c, stages=4) not in wide]
        found += sorted(wide, key=lambda c: _wide_cost(c, n, slabs, bucket, sm_count))[:most]
    if bucket == 1 and weight.codes is Codes.BYTES:
        found += byte_candidates(n, k)
    return found


def _narrow(bucket: int, slabs: int) -> Iterator[NarrowConfig]:
    column_tiles = math.ceil(bucket / 8)
    for warps_n in (1, 2):
        for warps_k in (4, 8, 12, 16, 24):
            for cluster_k in (1, 2, 4):
                per_warp = math.ceil(slabs / (warps_k * cluster_k))
                for stages in (1, 2, 3):
                    is_useful = stages <= per_warp and (stages > 1 or per_warp == 1)
                    if is_useful and 256 <= 32 * warps_n * warps_k <= 768:
                        yield NarrowConfig(column_tiles, stages, warps_n, warps_k, cluster_k)


def _wide(bucket: int, slabs: int) -> Iterator[WideConfig]:
    for batch in {max(16, bucket), min(128, max(16, bucket)), min(64, max(16, bucket))}:
        for warpgroups_n in (1, 2, 3, 4):
            for warpgroups_k in (1, 2, 4):
                for cluster_k in (1, 2, 4, 8):
                    splits = warpgroups_k * cluster_k
                    if warpgroups_n * warpgroups_k > 4 or 2 * splits > slabs:
                        continue
                    for stages in (3, 4, 6):  # 3 where more do not fit
                        yield WideConfig(batch, stages, warpgroups_n, warpgroups_k, cluster_k)


# Weights of the cost models below, fitted to 1,360 timings on an H200 (2026-11-22): the four cheapest candidates of a
# shape and bucket hold one within 1 % of the fastest timed (geometric mean over 118 of them; 15 % at worst).
_NARROW_CLUSTER = 30
_NARROW_SLAB = 5
_WIDE_CLUSTER = {1: 1.0, 2: 1.0, 4: 1.2, 8: 1.9}
_WIDE_DECODE = 0.5
_WIDE_BLOCK = 40


def _narrow_cost(
    config: NarrowConfig, group_tiles: int, groups: int, slabs: int, sm_count: int
) -> tuple[float, int, int]:
    blocks = math.ceil(groups / config.warps_n) * config.cluster_k
    waves = math.ceil(blocks / sm_count)
    slabs_of_warp = math.ceil(slabs / (config.warps_k * config.cluster_k))
    warps = config.warps_n * config.warps_k
    work = waves * (slabs_of_warp * (warps * group_tiles + _NARROW_SLAB) + _NARROW_CLUSTER * config.cluster_k)
    return work, abs(config.stages - min(slabs_of_warp, 2)), -warps


def _wide_cost(config: WideConfig, n: int, slabs: int, m: int, sm_count: int) -> tuple[float, int, int]:
    blocks = math.ceil(n / (64 * config.warpgroups_n)) * config.cluster_k * math.ceil(m / config.batch)
    waves = math.ceil(blocks / sm_count)
    warpgroups = config.warpgroups_n * config.warpgroups_k
    iterations = 2 * math.ceil(math.ceil(slabs / (config.warpgroups_k * config.cluster_k)) / 2)
    # One warpgroup alone leaves the tensor cores idle while it decodes.
    slab = max(warpgroups, 2) * (_WIDE_DECODE + config.batch / 64)
    work = _WIDE_CLUSTER[config.cluster_k] * waves * (iterations * slab + _WIDE_BLOCK)
    return work, abs(config.stages - 4), -warpgroups
