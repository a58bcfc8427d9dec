"""Finds the fastest configurations of the CUDA kernels on the GPU at hand and stores them in the user's table.

Every candidate is timed as the kernels are used: in a CUDA graph, over enough copies of the weight that the L2 is cold.
Weights are random bytes, since the time does not depend on what they decode to.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.cuda_impl import support
from kernels.cuda_impl.build import BuildError, compile_ahead, source
from kernels.cuda_impl.candidates import BUCKETS, bucket_of, candidates, group_tile_choices
from kernels.cuda_impl.config import Choice, Weight
from kernels.cuda_impl.driver import CudaError
from kernels.cuda_impl.layout import SLAB_COLUMNS, TILE_ROWS, Codes, Layout
from kernels.cuda_impl.linear import ByteCodes, Prepared, codes_for, decoder_of
from kernels.cuda_impl.select import Tuned, store, user_table_path
from kernels.formats import Format
from kernels.registry import get_kernel
from kernels.traffic import Scheme
from kernels.triton_impl.gemv_config import GemvConfig

LIMIT_S = 60.0
"""Longest tuning of one decoder per call; shapes that are left keep what they had."""

OnProgress = Callable[[float, str], object]
"""Called with the finished share and what is being tuned."""

_DTYPE = torch.bfloat16
_GROUP = 64
_COLD_BYTES = 200e6
_MOST_COPIES = 48
_SAMPLE_S = 1e-3
_SAMPLES = 3
# The layout is chosen by the buckets that most of decoding falls into.
_LAYOUT_BUCKETS = (1, 8, 16)


@dataclass(frozen=True)
class _Job:
    fmt: Format
    n: int
    k: int

    @property
    def key(self) -> tuple[str, int, int]:
        return decoder_of(self.fmt, _DTYPE), self.n, self.k


def tune(
    kernels: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    ms: Sequence[int],
    *,
    device: torch.device | str,
    on_progress: OnProgress = lambda done, text: None,
    limit_s: float = LIMIT_S,
) -> Path:
    """Time the candidates of every kernel and shape.

    Args:
        kernels: names in the registry; only fused ones with a CUDA implementation have anything to tune.
        shapes: (n, k) of the weights.
        ms: rows of x; the buckets that hold them are tuned, and the small ones, which decide about the layout.
        device: a Hopper GPU.
        on_progress: told how far tuning is.
        limit_s: longest time per decoder, s.

    Returns:
        Path of the user's table.

    Raises:
        ValueError: the device has no CUDA kernels, or nothing was named that can be tuned.
    """
    on = torch.device(device)
    reason = f"tuning needs a GPU, the device is {on}" if on.type != "cuda" else support.why_not(on)
    if reason:
        raise ValueError(reason)
    jobs = _jobs(kernels, shapes)
    if not jobs:
        raise ValueError(
            f"none of {', '.join(kernels)} has anything to tune; the fused kernels of nf4, fp4, int8 and fp8 have"
        )
    buckets = [b for b in BUCKETS if b in {bucket_of(m) for m in ms} | set(_LAYOUT_BUCKETS)]
    name = torch.cuda.get_device_name(on)
    path = user_table_path(name)
    started: dict[str, float] = {}
    with torch.cuda.device(on):
        for index, job in enumerate(jobs):
            on_progress(index / len(jobs), f"{job.key[0]} {job.n}x{job.k}")
            if time.perf_counter() - started.setdefault(job.key[0], time.perf_counter()) < limit_s:
                path = store(name, {job.key: _tune_shape(job, buckets, on)})
    on_progress(1.0, "tuned")
    return path


def _jobs(kernels: Sequence[str], shapes: Sequence[tuple[int, int]]) -> list[_Job]:
    found: dict[tuple[str, int, int], _Job] = {}
    for name in kernels:
        kernel = get_kernel(name)
        if kernel.scheme is Scheme.FUSED and "cuda" in kernel.implementations and kernel.format is not None:
            for n, k in shapes:
                job = _Job(kernel.format, n, k)
                found.setdefault(job.key, job)
    return list(found.values())


def _tune_shape(job: _Job, buckets: Sequence[int], device: torch.device) -> Tuned:
    small = [b for b in buckets if b in _LAYOUT_BUCKETS]
    sm_count = torch.cuda.get_device_properties(device).multi_processor_count
    by_layout: dict[int, Mapping[int, tuple[float, Choice]]] = {}
    for group_tiles in group_tile_choices(job.n, sm_count):
        by_layout[group_tiles] = _fastest(job, group_tiles, small, device, sm_count)
    best = min(by_layout, key=lambda tiles: sum(math.log(s) for s, _ in by_layout[tiles].values()))
    rest = _fastest(job, best, [b for b in buckets if b not in small], device, sm_count)
    return Tuned(best, {m: config for m, (_, config) in {**by_layout[best], **rest}.items()})


def _fastest(
    job: _Job, group_tiles: int, buckets: Sequence[int], device: torch.device, sm_count: int
) -> Mapping[int, tuple[float, Choice]]:
    """Seconds and configuration of the fastest candidate by bucket."""
    codes = codes_for(job.fmt, _DTYPE)
    weight = Weight(job.fmt, codes, group_tiles, 0 if codes is Codes.BYTES else _GROUP, _DTYPE, False)
    tried = {m: candidates(weight, job.n, job.k, m, sm_count) for m in buckets}
    # What does not compile fails again when it is timed; Triton keeps its own.
    ours = [config for found in tried.values() for config in found if not isinstance(config, GemvConfig)]
    compile_ahead((source(config, weight), config.kind) for config in ours)
    copies = _random_layouts(job, weight, device)
    x = torch.randn(max(buckets, default=1), job.k, device=device, dtype=_DTYPE)
    fastest = {}
    for m, configs in tried.items():
        timed = [(_call_s(job, weight, copies, x[:m], config), config) for config in configs]
        fastest[m] = min(timed, key=lambda entry: entry[0])
        if math.isinf(fastest[m][0]):
            raise ValueError(f"none of {len(configs)} configurations of {job.key} runs at m={m}")
    return fastest


def _random_layouts(job: _Job, weight: Weight, device: torch.device) -> list[Layout]:
    groups = math.ceil(job.n / (TILE_ROWS * weight.group_tiles))
    slabs = math.ceil(job.k / SLAB_COLUMNS)
    block = weight.group_tiles * (weight.unit_bytes + weight.unit_scale_bytes)
    copies = max(2, min(_MOST_COPIES, math.ceil(_COLD_BYTES / (groups * slabs * block))))
    row_scales = torch.ones(groups * weight.group_tiles * TILE_ROWS, device=device)
    layouts = []
    for _ in range(copies):
        blocks = torch.randint(0, 256, (groups, slabs, block), device=device, dtype=torch.uint8)
        layouts.append(
            Layout(blocks, row_scales, weight.codes, weight.group_tiles, weight.unit_scale_bytes // 32)
        )
    torch.cuda.synchronize(device)
    return layouts


def _source(job: _Job, layout: Layout) -> ByteCodes | None:
    """Random codes as they would be stored, in the layout's memory."""
    if layout.codes is not Codes.BYTES:
        return None
    codes = layout.blocks.flatten()[: job.n * job.k].view(job.fmt.storage_dtype).view(job.n, job.k)
    return ByteCodes(codes, layout.row_scales[: job.n])


def _call_s(job: _Job, weight: Weight, copies: Sequence[Layout], x: torch.Tensor, config: Choice) -> float:
    """Median time of a call, s; infinite for a configuration that the compiler or the driver refuses."""
    tuned = Tuned(weight.group_tiles, {bucket_of(x.shape[0]): config})
    calls = [Prepared(weight, layout, tuned, job.n, job.k, _source(job, layout)) for layout in copies]
    try:
        calls[0].run(x)
    except (BuildError, CudaError):
        return math.inf
    torch.cuda.synchronize(x.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call.run(x)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def replays_s(count: int) -> float:
        graph.replay()
        start.record()
        for _ in range(count):
            graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / (count * len(calls))

    count = max(1, math.ceil(_SAMPLE_S / (replays_s(1) * len(calls))))
    return statistics.median(replays_s(count) for _ in range(_SAMPLES))
