"""What this machine can and cannot measure, and the command that would change it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from profiler.energy import TDP_VARIABLE, best_meter
from profiler.environment import SOURCE_ROOT, distribution_version, visible_gpus
from profiler.hardware import find_gpu
from profiler.nsys import INSTALL, NsysMissingError, find_nsys
from profiler.nvml import Nvml, NvmlUnavailableError
from profiler.rapl import POWERCAP, READ_PERMISSION_FIX, RaplUnavailableError, find_zones

Status = Literal["ok", "missing", "warn"]

_LEAST_FREE_BYTES = 1 << 30
_NSIGHT_COMPUTE = "install Nsight Compute from developer.nvidia.com/nsight-compute"
_PEERS = {
    "bitsandbytes": "bitsandbytes",
    "gemlite": "gemlite",
    "torchao": "torchao",
    "gptqmodel": "gptqmodel",
    "cupy": "cupy-cuda13x",
}


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    """What was looked at."""
    status: Status
    """``ok``; ``missing``: something cannot be done; ``warn``: it can, but results suffer."""
    detail: str
    """What was found, in a sentence."""
    fix: str = ""
    """Command or step that would change it; empty where nothing needs changing."""


def diagnose(runs_dir: str | Path = "runs") -> list[Check]:
    """Look at everything that decides what can be measured here.

    Args:
        runs_dir: folder of runs, for the disk space.

    Returns:
        The checks in the order in which a reader needs them.
    """
    return [
        _python(),
        *_torch_and_gpu(),
        _triton(),
        _compiler(),
        _nvml(),
        *_gpu_states(),
        _rapl(),
        _energy(),
        *_tools(),
        *_peers(),
        _name_clash(),
        _bundled_model(),
        _disk(Path(runs_dir)),
    ]


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info >= (3, 15):
        detail = f"{version} is newer than 3.14, the newest supported"
        return Check("python", "warn", detail, "make PYTHON=python3.14")
    return Check("python", "ok", version)


def _torch_and_gpu() -> Iterator[Check]:
    try:
        torch: Any = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        yield Check("torch", "missing", f"torch does not import: {error}", "pip install 'torch>=2.11,<2.14'")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Check("torch", "ok", f"{torch.__version__} ({build})")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        spec = find_gpu(name)
        if spec is None:
            fix = "add a row to profiler/data/hardware.csv"
            yield Check("gpu", "warn", f"{name} is not in the hardware table: no peak figures", fix)
        else:
            yield Check("gpu", "ok", f"{name} ({spec.key})")
    elif torch.version.cuda is None and _nvml_gpus():
        fix = "pip install --force-reinstall torch, from the index that pytorch.org names for CUDA"
        yield Check("gpu", "missing", "NVML shows a GPU, but this torch is a CPU build", fix)
    else:
        yield Check("gpu", "missing", "no CUDA device: the CPU runs everything", "use a machine with a GPU")


def _triton() -> Check:
    version = distribution_version("triton")
    if version is None:
        return Check("triton", "missing", "not installed: no GPU kernels", "pip install 'triton>=3.6'")
    return Check("triton", "ok", version)


def _compiler() -> Check:
    asked = os.environ.get("CXX")
    for name in [asked] if asked else ["g++", "c++", "clang++"]:
        path = shutil.which(name)
        if path is not None:
            return Check(
                "c++ compiler", "ok", f"{Path(path).name}, which compiles the decoding of the torch kernels"
            )
    detail = f"CXX={asked} is not there" if asked else "none on PATH"
    fix = "apt-get install g++"
    return Check(
        "c++ compiler", "missing", f"{detail}: the torch kernels decode uncompiled, many times slower", fix
    )


def _nvml() -> Check:
    try:
        gpus = Nvml.open().gpus
    except NvmlUnavailableError as error:
        fix = "pip install nvidia-ml-py" if "not installed" in str(error) else "install the NVIDIA driver"
        return Check("nvml", "missing", str(error), fix)
    return Check("nvml", "ok", f"{len(gpus)} GPU: " + ", ".join(gpu.name for gpu in gpus))


def _gpu_states() -> Iterator[Check]:
    """What a GPU's settings do to measurements; nothing is changed here."""
    for gpu in visible_gpus():
        place = f"gpu {gpu.index}"
        if gpu.mig_enabled:
            fix = f"nvidia-smi -i {gpu.uuid} -mig 0 (root; ends what runs on the card)"
            detail = "split by MIG: the energy counter holds the neighbours' work, so no meter"
            yield Check(f"{place} MIG", "warn", detail, fix)
        limit, default = gpu.power_limit_w, gpu.power_limit_default_w
        if limit is not None and default is not None and limit < default:
            fix = f"nvidia-smi -i {gpu.uuid} -pl {default:g} (root)"
            yield Check(
                f"{place} power limit", "warn", f"{limit:g} W, shipped with {default:g} W: slower", fix
            )
        if gpu.persistence_enabled is False:
            fix = "nvidia-smi -pm 1 (root)"
            detail = "persistence mode is off: the first program waits for the driver, and idle power jumps"
            yield Check(f"{place} persistence", "warn", detail, fix)
        told = {"ECC": gpu.ecc_enabled, "MIG": gpu.mig_enabled, "persistence": gpu.persistence_enabled}
        words = [f"{name} {'on' if on else 'off'}" for name, on in told.items() if on is not None]
        words += [] if limit is None else [f"power limit {limit:g} W"]
        words += [] if gpu.sm_clock_max_mhz is None else [f"SM clock up to {gpu.sm_clock_max_mhz} MHz"]
        yield Check(f"{place} settings", "ok", ", ".join(words) or "NVML tells nothing of its settings")


def _nvml_gpus() -> int:
    try:
        return len(Nvml.open().gpus)
    except NvmlUnavailableError:
        return 0


def _rapl(powercap: Path = POWERCAP) -> Check:
    try:
        zones = find_zones(powercap)
    except RaplUnavailableError as error:
        fix = READ_PERMISSION_FIX if "may not be read" in str(error) else "run on a physical x86 machine"
        return Check("rapl", "missing", str(error), fix)
    return Check("rapl", "ok", ", ".join(zone.name for zone in zones))


def _energy() -> Check:
    fix = f"export {TDP_VARIABLE}=<the chip's TDP in W> for an estimate"
    try:
        meter = best_meter()
    except ValueError as error:
        return Check("energy source", "warn", str(error), fix)
    if meter.source == "none":
        return Check("energy source", "missing", meter.reason, fix)
    if meter.is_estimate:
        fix = "make NVML or RAPL readable, see those lines"
        return Check("energy source", "warn", f"{meter.source}, an estimate: {meter.reason}", fix)
    return Check("energy source", "ok", f"{meter.source}: {meter.reason}")


def _tools() -> Iterator[Check]:
    try:
        yield Check("nsys", "ok", f"{find_nsys().name}, for qt-profile trace")
    except NsysMissingError:
        yield Check("nsys", "missing", "neither on PATH nor where NVIDIA's installers put it", INSTALL)
    if shutil.which("ncu") is None:
        yield Check("ncu", "missing", "not on PATH", _NSIGHT_COMPUTE)
    else:
        yield Check("ncu", "ok", "on PATH")


def _peers() -> Iterator[Check]:
    for name, distribution in _PEERS.items():
        version = distribution_version(distribution)
        if version is None and name == "cupy":
            version = distribution_version("cupy-cuda12x")
        if version is None:
            yield Check(name, "missing", "optional, not installed", f"pip install {distribution}")
        else:
            yield Check(name, "ok", version)


def _name_clash() -> Check:
    version = distribution_version("kernels")
    if version is None:
        return Check("package name", "ok", "the Hugging Face package kernels is not installed")
    detail = f"the Hugging Face package kernels {version} is installed: models cannot be loaded beside it"
    return Check("package name", "warn", detail, "pip uninstall kernels")


def _bundled_model(root: Path = SOURCE_ROOT) -> Check:
    folder = root / "reasoning" / "tiny"
    needed = ("config.json", "model.safetensors")
    absent = [name for name in needed if not (folder / name).is_file()]
    if absent:
        fix = "pip install --force-reinstall qt-profile, or git checkout -- reasoning/tiny"
        return Check("bundled model", "missing", f"reasoning/tiny lacks {', '.join(absent)}", fix)
    return Check("bundled model", "ok", "reasoning/tiny")


def _disk(runs_dir: Path) -> Check:
    place = runs_dir.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free for runs"
    fix = "choose a folder for runs on another disk"
    if not os.access(place, os.W_OK):
        return Check("runs folder", "missing", f"{runs_dir} may not be written to", fix)
    if free < _LEAST_FREE_BYTES:
        return Check("runs folder", "warn", detail, fix)
    return Check("runs folder", "ok", detail)
