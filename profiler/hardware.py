"""The hardware table: peak figures of GPUs by key, and the TDP of a few CPUs.

The rows live in ``profiler/data/hardware.csv`` and ``profiler/data/cpus.csv``; a GPU or CPU is added there
and nowhere else. The column ``certainty`` (GPUs) and ``source`` (CPUs) say where a row's numbers come from.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType


@dataclass(frozen=True)
class GpuSpec:
    """Peak figures of one GPU as its vendor states them (dense arithmetic, no sparsity)."""

    key: str
    """Name for ``--arch``, such as ``h100``."""
    name: str
    """Product name; text in brackets is ours, the rest is what NVML reports."""
    compute_capability: tuple[int, int]
    """CUDA compute capability (major, minor)."""
    sm_count: int
    """Streaming multiprocessors."""
    memory_gb: float
    """Device memory, GB (10^9 bytes)."""
    memory_gb_s: float
    """Memory bandwidth, GB/s (10^9 bytes per second)."""
    l2_mb: float
    """L2 cache, MB."""
    tdp_w: float
    """Thermal design power, W."""
    bf16_tflops: float
    """Dense bf16 tensor-core peak, TFLOP/s."""
    fp8_tflops: float | None
    """Dense fp8 peak, TFLOP/s; None where the chip has none."""
    int8_tops: float | None
    """Dense int8 peak, TOP/s; None where unknown."""
    int4_tops: float | None
    """Dense int4 peak, TOP/s; None where the chip has none."""
    fp4_tflops: float | None
    """Dense fp4 peak, TFLOP/s; None where the chip has none."""
    certainty: str
    """What is known about the row's sources; empty where nothing is in doubt."""

    @property
    def memory_bytes_per_s(self) -> float:
        """Memory bandwidth in bytes per second."""
        return self.memory_gb_s * 1e9


@dataclass(frozen=True)
class CpuTdp:
    """Thermal design power of one CPU socket and the public page that states it."""

    pattern: str
    """Regular expression that matches the model name in ``/proc/cpuinfo``."""
    tdp_w: float
    """Default TDP (Intel: processor base power) of one socket, W."""
    source: str
    """Address of the page that states it."""


def parse_hardware(lines: Iterable[str]) -> dict[str, GpuSpec]:
    """Parse the GPU table.

    Args:
        lines: CSV lines, the first of them the header.

    Returns:
        One spec per row, by key, in the table's order.

    Raises:
        ValueError: a key appears twice, or a number is missing, malformed or not positive.
    """
    specs: dict[str, GpuSpec] = {}
    for row in csv.DictReader(lines):
        key = row["key"]
        if key in specs:
            raise ValueError(f"hardware table: key {key!r} appears twice")
        try:
            major, minor = row["compute_capability"].split(".")
            specs[key] = GpuSpec(
                key=key,
                name=row["name"],
                compute_capability=(int(major), int(minor)),
                sm_count=int(row["sm_count"]),
                memory_gb=_positive(row["memory_gb"]),
                memory_gb_s=_positive(row["memory_gb_s"]),
                l2_mb=_positive(row["l2_mb"]),
                tdp_w=_positive(row["tdp_w"]),
                bf16_tflops=_positive(row["bf16_tflops"]),
                fp8_tflops=_optional(row["fp8_tflops"]),
                int8_tops=_optional(row["int8_tops"]),
                int4_tops=_optional(row["int4_tops"]),
                fp4_tflops=_optional(row["fp4_tflops"]),
                certainty=row["certainty"],
            )
        except ValueError as error:
            raise ValueError(f"hardware table, row {key!r}: {error}") from error
    return specs


def parse_cpus(lines: Iterable[str]) -> tuple[CpuTdp, ...]:
    """Parse the CPU table.

    Args:
        lines: CSV lines, the first of them the header.

    Returns:
        One entry per row, in the table's order.

    Raises:
        ValueError: a TDP is malformed or not positive, or a row names no source.
    """
    cpus = []
    for row in csv.DictReader(lines):
        if not row["source"]:
            raise ValueError(f"CPU table, row {row['pattern']!r}: no source is named")
        cpus.append(CpuTdp(row["pattern"], _positive(row["tdp_w"]), row["source"]))
    return tuple(cpus)


def get_arch(key: str) -> GpuSpec:
    """Return the row of the hardware table with this key.

    Args:
        key: a key such as ``h100``, in any case.

    Returns:
        The GPU's peak figures.

    Raises:
        ValueError: no such key; the message lists the known ones, the nearest first.
    """
    spec = HARDWARE.get(key.lower())
    if spec is None:
        near = difflib.get_close_matches(key.lower(), HARDWARE, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown arch {key!r}: {hint}known are {', '.join(HARDWARE)}")
    return spec


def find_gpu(name: str) -> GpuSpec | None:
    """Find the row of the hardware table for a device name that NVML or CUDA reports.

    The whole name must match: an ``H100 NVL``, an ``RTX 4090 Laptop GPU`` or a MIG slice has other limits
    than its namesake, so it is not in the table rather than nearly in it.

    Args:
        name: such as ``NVIDIA H100 80GB HBM3``; older drivers leave out ``NVIDIA``.

    Returns:
        The row, or None when the table has none for this device.
    """
    return _BY_DEVICE_NAME.get(_device_name(name))


def find_cpu_tdp(model_name: str) -> CpuTdp | None:
    """Find the TDP of a CPU by the model name in ``/proc/cpuinfo``.

    Args:
        model_name: such as ``AMD EPYC 9554 64-Core Processor``.

    Returns:
        The first matching row, or None: a CPU that the table lacks, and every virtual name, has no known TDP.
    """
    for cpu in CPUS:
        if re.search(rf"(?<![\w-]){cpu.pattern}(?![\w-])", model_name):
            return cpu
    return None


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a positive number")
    return value


def _optional(text: str) -> float | None:
    return _positive(text) if text else None


def _device_name(name: str) -> str:
    plain = re.sub(r"\s*\(.*?\)", "", name).strip().lower()
    return plain.removeprefix("nvidia ")


def _data_lines(file_name: str) -> list[str]:
    return resources.files("profiler").joinpath("data", file_name).read_text("utf-8").splitlines()


HARDWARE: Mapping[str, GpuSpec] = MappingProxyType(parse_hardware(_data_lines("hardware.csv")))
"""Every GPU of the table by key."""

CPUS: tuple[CpuTdp, ...] = parse_cpus(_data_lines("cpus.csv"))
"""Every CPU of the table."""

_BY_DEVICE_NAME = {_device_name(spec.name): spec for spec in HARDWARE.values()}
