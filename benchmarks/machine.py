"""The device that a sweep runs on, and what ``--arch`` means here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from profiler.hardware import HARDWARE, GpuSpec, find_gpu, get_arch
from profiler.host import cpu_facts

CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_ASSUMED_CPU_CACHE_BYTES = 32 << 20
_SIZE_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Target:
    """A device to measure on."""

    device: torch.device
    """Where kernels run."""
    name: str
    """Product name of the GPU or CPU."""
    arch: str | None
    """Key of the hardware table; None for a CPU and for a GPU that the table lacks."""
    cache_bytes: int
    """Last-level cache that cold weights must exceed: the GPU's L2, the CPU's largest cache; bytes."""
    cache_is_assumed: bool = False
    """Whether the machine does not state its cache, so that the figure is a guess."""

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def sentence(self) -> str:
        """The device in words."""
        if not self.is_cuda:
            return f"measured on the CPU here: {self.name}, {torch.get_num_threads()} threads"
        table = f"arch {self.arch}" if self.arch else "not in the hardware table"
        return f"measured on the GPU here: {self.name} ({table})"


@dataclass(frozen=True)
class Absent:
    """A GPU of the hardware table that is not the one at hand."""

    spec: GpuSpec
    """The GPU that was named."""
    here: str
    """What is here instead, in words."""

    @property
    def sentence(self) -> str:
        """Both devices in words."""
        return f"{self.here}, and --arch {self.spec.key} names {self.spec.name}: nothing is measured"


def find_target(arch: str) -> Target | Absent:
    """Find the device that ``--arch`` names.

    Args:
        arch: ``auto`` (the GPU, else the CPU), ``cpu``, or a key of the hardware table.

    Returns:
        The device, or ``Absent`` where the GPU named is not the one at hand.

    Raises:
        ValueError: no such arch; the sentence lists the known ones.
    """
    wanted = arch.lower()
    if wanted == "cpu":
        return _cpu()
    if wanted == "auto":
        return _gpu() if torch.cuda.is_available() else _cpu()
    try:
        spec = get_arch(wanted)
    except ValueError as error:
        raise ValueError(f"{error}, auto, cpu") from None
    if not torch.cuda.is_available():
        return Absent(spec, "torch sees no GPU here")
    target = _gpu()
    if target.arch == spec.key:
        return target
    return Absent(spec, f"the GPU here is {target.name}")


def known_archs() -> str:
    """What ``--arch`` takes, for help texts."""
    return ", ".join(["auto", "cpu", *HARDWARE])


def cpu_cache_bytes(caches: Path = CPU_CACHES) -> int | None:
    """Size of the largest cache that the first core sees, bytes; None where the system does not state it.

    Args:
        caches: folder in the form of ``/sys/devices/system/cpu/cpu0/cache``.
    """
    sizes = []
    for file in caches.glob("index*/size"):
        try:
            text = file.read_text("ascii").strip()
        except OSError:
            continue
        number, unit = (text[:-1], _SIZE_UNITS[text[-1]]) if text[-1:] in _SIZE_UNITS else (text, 1)
        if number.isdigit():
            sizes.append(int(number) * unit)
    return max(sizes, default=None)


def _gpu() -> Target:
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)
    spec = find_gpu(properties.name)
    return Target(
        device=device,
        name=properties.name,
        arch=None if spec is None else spec.key,
        cache_bytes=int(properties.L2_cache_size),
    )


def _cpu() -> Target:
    stated = cpu_cache_bytes()
    return Target(
        device=torch.device("cpu"),
        name=cpu_facts().model,
        arch=None,
        cache_bytes=stated or _ASSUMED_CPU_CACHE_BYTES,
        cache_is_assumed=stated is None,
    )
