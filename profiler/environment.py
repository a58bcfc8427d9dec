"""Captures the machine and software of a run, without the names of people, hosts or home folders."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from profiler.hardware import find_gpu
from profiler.host import cpu_facts, cpu_governor, memory_bytes
from profiler.nvml import Nvml, NvmlGpu, NvmlUnavailableError
from profiler.record_types import Environment, GpuState

SOURCE_ROOT = Path(__file__).resolve().parents[1]
"""Folder that holds the project's packages."""

DISTRIBUTIONS = (
    "qt-profile",
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "pydantic",
    "bitsandbytes",
    "gptqmodel",
    "torchao",
    "gemlite",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "nvidia-ml-py",
)
"""Distributions whose version is recorded where they are installed."""

_GIT_TIMEOUT_S = 10


def capture_environment(command: Sequence[str] = ()) -> Environment:
    """Describe this machine, its software and the source tree.

    Args:
        command: command line of the run; it is stored with the home folder as ``~`` and the working folder as
            ``.``.

    Returns:
        What a reader needs to judge or repeat a measurement; facts that this machine does not state are None.
    """
    cpu = cpu_facts()
    gpus, driver = _gpus()
    commit, dirty = _git_state(SOURCE_ROOT)
    versions = {
        name: version for name in DISTRIBUTIONS if (version := distribution_version(name)) is not None
    }
    return Environment(
        captured_utc=datetime.now(timezone.utc),
        command=scrub_command(command),
        platform=platform.platform(),
        cpu_model=cpu.model,
        cpu_sockets=cpu.sockets,
        cpu_cores=cpu.cores,
        cpu_threads=cpu.threads,
        cpu_virtual=cpu.virtual,
        cpu_governor=cpu_governor(),
        memory_bytes=memory_bytes(),
        compute_threads=_compute_threads(),
        gpus=gpus,
        nvidia_driver=driver,
        versions={"python": platform.python_version(), **versions},
        git_commit=commit,
        git_dirty=dirty,
    )


def distribution_version(name: str) -> str | None:
    """Version of an installed distribution, or None; nothing is imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


_FOREIGN_FOLDERS = re.compile(r"(^|=)/(?:[^/\0]+/)+(?=[^/\0])")


def scrub_command(command: Sequence[str]) -> list[str]:
    """Take the places of one person's machine out of a command line.

    Args:
        command: the command line; the first word is the program.

    Returns:
        The words, the program without its folder, and in the others the working folder as ``.``, the home folder
        as ``~``, and any other absolute path as ``.../`` and its last part.
    """
    if not command:
        return []
    places = [(os.getcwd(), "."), (str(Path.home()), "~")]
    words = [Path(command[0]).name]
    for word in command[1:]:
        for folder, short in places:
            if folder != os.sep:
                word = word.replace(folder + os.sep, short + os.sep)
                word = short if word == folder else word
        words.append(_FOREIGN_FOLDERS.sub(r"\1.../", word))
    return words


def _compute_threads() -> int:
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[GpuState]:
    """State of the GPUs that this process may use, in CUDA's order; empty without NVML."""
    return _gpus()[0]


def _gpus() -> tuple[list[GpuState], str | None]:
    try:
        nvml = Nvml.open()
        visible = nvml.visible()
    except NvmlUnavailableError:
        return [], None
    return [_gpu_state(nvml, index, gpu) for index, gpu in enumerate(visible)], nvml.driver_version()


def _gpu_state(nvml: Nvml, index: int, gpu: NvmlGpu) -> GpuState:
    spec = find_gpu(gpu.name)
    memory = nvml.query("nvmlDeviceGetMemoryInfo", gpu)
    limit_mw = nvml.query("nvmlDeviceGetEnforcedPowerLimit", gpu)
    default_mw = nvml.query("nvmlDeviceGetPowerManagementDefaultLimit", gpu)
    sm, memory_clock, sensor = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU
    return GpuState(
        index=index,
        name=gpu.name,
        uuid=gpu.uuid,
        arch=None if spec is None else spec.key,
        memory_bytes=None if memory is None else memory.total,
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
        power_limit_default_w=None if default_mw is None else default_mw / 1e3,
        sm_clock_mhz=nvml.query("nvmlDeviceGetClockInfo", gpu, sm),
        sm_clock_max_mhz=nvml.query("nvmlDeviceGetMaxClockInfo", gpu, sm),
        memory_clock_mhz=nvml.query("nvmlDeviceGetClockInfo", gpu, memory_clock),
        temperature_c=nvml.query("nvmlDeviceGetTemperature", gpu, sensor),
        clocks_event_reasons=nvml.query("nvmlDeviceGetCurrentClocksEventReasons", gpu),
        ecc_enabled=_current(nvml.query("nvmlDeviceGetEccMode", gpu)),
        mig_enabled=_current(nvml.query("nvmlDeviceGetMigMode", gpu)),
        persistence_enabled=_current(nvml.query("nvmlDeviceGetPersistenceMode", gpu)),
    )


def _current(mode: int | Sequence[int] | None) -> bool | None:
    """A mode of NVML, alone or followed by the one that the next reset brings."""
    current = mode[0] if isinstance(mode, Sequence) else mode
    return None if current is None else current == 1


def _git_state(root: Path) -> tuple[str | None, bool | None]:
    # An installed copy may lie inside somebody else's checkout, whose commit says nothing about it.
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return _archived_commit(root), None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain")
    if commit is None or changes is None:
        return None, None
    return commit, bool(changes)


def _archived_commit(root: Path) -> str | None:
    """The commit that ``git archive`` wrote into the sources, where they come from an archive."""
    try:
        text = (root / ".git_archival.txt").read_text("utf-8")
    except OSError:
        return None
    found = re.fullmatch(r"node: ([0-9a-f]{40})", text.strip())
    return found[1] if found else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
