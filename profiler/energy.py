"""Energy: choose the best meter of this machine, and say why it is that one.

The order is NVML's counter (for work on a GPU), RAPL (for work on the CPU), HLI where a TDP is known, none.
This module is also the front of ``energy_window`` and ``energy_meters``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from profiler.energy_meters import FakeMeter, HliMeter, NoMeter, NvmlCounterMeter, RaplMeter
from profiler.energy_window import SHORTEST_WINDOW_S, EnergyMeter, EnergyReading, EnergyWindow
from profiler.hardware import find_cpu_tdp, find_gpu
from profiler.host import CpuFacts, cpu_facts
from profiler.nvml import Nvml, NvmlUnavailableError
from profiler.rapl import POWERCAP, RaplUnavailableError, find_zones
from profiler.record_types import EnergySource

__all__ = [
    "SHORTEST_WINDOW_S",
    "TDP_VARIABLE",
    "EnergyMeter",
    "EnergyReading",
    "EnergySource",
    "EnergyWindow",
    "FakeMeter",
    "HliMeter",
    "NoMeter",
    "NvmlCounterMeter",
    "RaplMeter",
    "best_meter",
]

TDP_VARIABLE = "QT_PROFILE_TDP_W"
"""Environment variable with the TDP to charge for, W."""


def best_meter(
    tdp_w: float | None = None,
    *,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    gpus: Sequence[int | str] | None = (0,),
    powercap: Path = POWERCAP,
    cpu: CpuFacts | None = None,
) -> EnergyMeter:
    """Choose the best energy source for work on a device.

    A GPU's work is never charged to RAPL, nor the CPU's to a GPU's counter.

    Args:
        tdp_w: TDP for an estimate where nothing can be measured, W; by default the environment variable
            ``QT_PROFILE_TDP_W``, else the hardware or CPU table.
        device: where the work runs; ``auto`` is the GPU where NVML shows one.
        gpus: CUDA ordinals or UUIDs that the work runs on; None means every visible GPU.
        powercap: folder in the form of ``/sys/class/powercap``.
        cpu: facts about the processor; by default this machine's.

    Returns:
        A meter; its ``reason`` says why it is this one.

    Raises:
        ValueError: the TDP given is not a positive number, or the device is not one of the three.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise ValueError(f"device={device!r} is none of 'auto', 'cuda', 'cpu'")
    given_w = _given_tdp_w(tdp_w)
    nvml: Nvml | None = None
    why = ""
    if device != "cpu":
        try:
            nvml = Nvml.open()
            return NvmlCounterMeter(nvml, gpus, reason="NVML's energy counter is readable")
        except NvmlUnavailableError as error:
            why = str(error)
    if device == "cuda" or (nvml is not None and _shows_gpu(nvml)):
        return _gpu_estimate(given_w, nvml, gpus, why)
    try:
        return RaplMeter(find_zones(powercap), reason="RAPL is readable")
    except RaplUnavailableError as error:
        return _cpu_estimate(given_w, cpu or cpu_facts(), str(error))


def _shows_gpu(nvml: Nvml) -> bool:
    try:
        return bool(nvml.visible())
    except NvmlUnavailableError:  # a MIG slice is a GPU to compute on, although its energy cannot be read
        return True


def _given_tdp_w(tdp_w: float | None) -> tuple[float, str] | None:
    name, value = "tdp_w", tdp_w
    if value is None:
        text = os.environ.get(TDP_VARIABLE, "").strip()
        if not text:
            return None
        name = TDP_VARIABLE
        try:
            value = float(text)
        except ValueError as error:
            raise ValueError(f"{TDP_VARIABLE}={text!r} is not a number of watts") from error
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value:g} is not a positive number of watts")
    return value, name


def _gpu_estimate(
    given_w: tuple[float, str] | None, nvml: Nvml | None, gpus: Sequence[int | str] | None, why: str
) -> EnergyMeter:
    if given_w is not None:
        return HliMeter(given_w[0], reason=f"{why}; TDP from {given_w[1]}")
    try:
        chosen = nvml.select(gpus) if nvml is not None else ()
    except NvmlUnavailableError as error:
        return NoMeter(str(error))
    specs = [find_gpu(gpu.name) for gpu in chosen]
    known_w = [spec.tdp_w for spec in specs if spec is not None]
    if known_w and len(known_w) == len(specs):
        names = ", ".join(gpu.name for gpu in chosen)
        return HliMeter(sum(known_w), reason=f"{why}; TDP of {names} from the hardware table")
    return NoMeter(f"{why}; no TDP is known, set {TDP_VARIABLE}")


def _cpu_estimate(given_w: tuple[float, str] | None, cpu: CpuFacts, why: str) -> EnergyMeter:
    if given_w is not None:
        return HliMeter(given_w[0], reason=f"{why}; TDP from {given_w[1]}")
    row = find_cpu_tdp(cpu.model)
    if row is None:
        return NoMeter(f"{why}; no TDP is known for {cpu.model}, set {TDP_VARIABLE}")
    sockets = f"{cpu.sockets} x " if cpu.sockets > 1 else ""
    part = "; a virtual machine owns only a part of that" if cpu.virtual else ""
    reason = f"{why}; TDP of {sockets}{cpu.model} by {row.source}{part}"
    return HliMeter(row.tdp_w * cpu.sockets, reason=reason)
