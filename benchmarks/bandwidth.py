"""Measures this machine's read and copy bandwidth: what a kernel's GB/s are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import JsonValue

from benchmarks.machine import Target
from profiler.timing import median, percentile

_CUDA_BUFFER_BYTES = 4 << 30
_CPU_BUFFER_BYTES = 256 << 20
_LEAST_BUFFER_BYTES = 1 << 20
# The buffer must not fit the cache, and must leave room for the rest.
_CACHE_FACTOR = 4
_MEMORY_SHARE = 8
_WARM_CALLS = 3


@dataclass(frozen=True)
class Bandwidth:
    """Bandwidth measured in this run; all in s and bytes."""

    buffer_bytes: int
    """Bytes read by one call."""
    read_s: tuple[float, ...]
    """Time of each reduction of the buffer to one number."""
    copy_s: tuple[float, ...]
    """Time of each copy of the buffer, which reads and writes it."""

    @property
    def read_gb_s_p50(self) -> float:
        """Median read bandwidth, GB/s."""
        return self.buffer_bytes / median(self.read_s) / 1e9

    @property
    def copy_gb_s_p50(self) -> float:
        """Median copy bandwidth, bytes read plus bytes written, GB/s."""
        return 2 * self.buffer_bytes / median(self.copy_s) / 1e9

    def summary(self) -> dict[str, JsonValue]:
        """The figures for a record, samples included."""
        return {
            "read_gb_s_p50": self.read_gb_s_p50,
            "read_gb_s_p05": self.buffer_bytes / percentile(self.read_s, 95) / 1e9,
            "read_gb_s_p95": self.buffer_bytes / percentile(self.read_s, 5) / 1e9,
            "copy_gb_s_p50": self.copy_gb_s_p50,
            "buffer_bytes": self.buffer_bytes,
            "read_s": list(self.read_s),
            "copy_s": list(self.copy_s),
        }


def measure_bandwidth(target: Target, *, samples: int = 9, buffer_bytes: int | None = None) -> Bandwidth:
    """Time reductions and copies of a buffer of random numbers that is several times the cache.

    Args:
        target: the device.
        samples: timed calls of each kind.
        buffer_bytes: size of the buffer; None for several GB on a GPU and a few hundred MB on a CPU.

    Returns:
        Every sample.
    """
    count = (buffer_bytes or _buffer_bytes(target)) // 4
    generator = torch.Generator(target.device).manual_seed(0)
    buffer = torch.randn(count, generator=generator, device=target.device)
    timed = _cuda_s if target.is_cuda else _cpu_s
    read_s = timed(lambda: buffer.sum(), samples)
    other = torch.empty_like(buffer)
    copy_s = timed(lambda: other.copy_(buffer), samples)
    return Bandwidth(buffer.nbytes, read_s, copy_s)


def _buffer_bytes(target: Target) -> int:
    if target.is_cuda:
        free, _ = torch.cuda.mem_get_info(target.device)
        return max(_LEAST_BUFFER_BYTES, min(_CUDA_BUFFER_BYTES, free // _MEMORY_SHARE))
    return max(_CPU_BUFFER_BYTES, _CACHE_FACTOR * target.cache_bytes)


def _cpu_s(work: Callable[[], object], samples: int) -> tuple[float, ...]:
    times_s = []
    for index in range(_WARM_CALLS + samples):
        start_ns = time.perf_counter_ns()
        work()
        if index >= _WARM_CALLS:
            times_s.append((time.perf_counter_ns() - start_ns) / 1e9)
    return tuple(times_s)


def _cuda_s(work: Callable[[], object], samples: int) -> tuple[float, ...]:
    pairs = []
    for _ in range(_WARM_CALLS):
        work()
    for _ in range(samples):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return tuple(float(start.elapsed_time(end)) / 1e3 for start, end in pairs)
