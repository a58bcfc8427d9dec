"""Facts about the host that Linux states in ``/proc`` and ``/sys``; None where it does not."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CPU_SYS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class CpuFacts:
    """What this machine's processor is."""

    model: str
    """Model name, such as ``AMD EPYC 9554 64-Core Processor``; the architecture where none is stated."""
    sockets: int
    """Physical packages."""
    cores: int | None
    """Physical cores over all packages; None where not stated."""
    threads: int
    """Logical processors."""
    virtual: bool
    """Whether a hypervisor is present: the machine may own only a part of the package."""


def cpu_facts(cpuinfo: Path = PROC / "cpuinfo") -> CpuFacts:
    """Read the CPU's model, packages and cores.

    Args:
        cpuinfo: file in the form of ``/proc/cpuinfo``.

    Returns:
        The facts; a machine without such a file is described by :mod:`platform` alone.
    """
    text = read_text(cpuinfo)
    processors = list(_processors(text)) if text else []
    logical = os.cpu_count() or 1
    if not processors:
        return CpuFacts(platform.processor() or platform.machine(), 1, None, logical, virtual=False)
    sockets = {p["physical id"] for p in processors if "physical id" in p}
    cores = {(p["physical id"], p["core id"]) for p in processors if "physical id" in p and "core id" in p}
    flags = processors[0].get("flags", "").split()
    return CpuFacts(
        model=processors[0].get("model name") or platform.machine(),
        sockets=max(1, len(sockets)),
        cores=len(cores) or None,
        threads=len(processors),
        virtual="hypervisor" in flags,
    )


def memory_bytes(meminfo: Path = PROC / "meminfo") -> int | None:
    """Read the host's memory in bytes, or None where ``/proc/meminfo`` does not state it."""
    for line in (read_text(meminfo) or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def cpu_governor(cpu_sys: Path = CPU_SYS) -> str | None:
    """Read the frequency governor of the first core, or None where the kernel does not state it."""
    return read_text(cpu_sys / "cpu0" / "cpufreq" / "scaling_governor")


def read_text(path: Path) -> str | None:
    """Read a small text file, stripped; None when it is absent or may not be read."""
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return None


def _processors(cpuinfo: str) -> Iterator[dict[str, str]]:
    for block in cpuinfo.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        processor = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in processor:
            yield processor
