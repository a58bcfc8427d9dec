"""Energy: choose the best meter of this machine, and say why it is that one.

The order is NVML's counter and polled power (for work on a GPU), RAPL (for work on the CPU), HLI where a TDP is
known, none. Every meter gives TDP times time beside what it measures, where a TDP is known. This module is also
the front of ``energy_window``, ``energy_meters``, ``energy_nvml`` and ``energy_fill``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from profiler.energy_fill import (
    EnergyFigure,
    FilledWindow,
    Load,
    energy_per_unit,
    fill_window,
    interleaved_windows,
)
from profiler.energy_meters import FakeMeter, HliMeter, NoMeter, RaplMeter
from profiler.energy_nvml import NvmlCounterMeter, NvmlPolledMeter
from profiler.energy_window import SHORTEST_WINDOW_S, EnergyMeter, EnergyReading, EnergyWindow, KeepBusy
from profiler.hardware import find_cpu_tdp, find_gpu
from profiler.host import CpuFacts, cpu_facts
from profiler.nvml import MigError, Nvml, NvmlUnavailableError
from profiler.rapl import POWERCAP, RaplUnavailableError, find_zones
from profiler.record_types import EnergySource

__all__ = [
    "SHORTEST_WINDOW_S",
    "TDP_VARIABLE",
    "EnergyFigure",
    "EnergyMeter",
    "EnergyReading",
    "EnergySource",
    "EnergyWindow",
    "FakeMeter",
    "FilledWindow",
    "HliMeter",
    "KeepBusy",
    "Load",
    "NoMeter",
    "NvmlCounterMeter",
    "NvmlPolledMeter",
    "RaplMeter",
    "best_meter",
    "energy_per_unit",
    "fill_window",
    "interleaved_windows",
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
    given = _given_tdp(tdp_w)
    nvml: Nvml | None = None
    why = ""
    if device != "cpu":
        try:
            nvml = Nvml.open()
            return _gpu_meter(nvml, gpus, given)
        except NvmlUnavailableError as error:
            why = str(error)
    if device == "cuda" or (nvml is not None and _shows_gpu(nvml)):
        return _gpu_estimate(given, nvml, gpus, why)
    processor = cpu or cpu_facts()
    tdp = given or _cpu_tdp(processor)
    try:
        return RaplMeter(find_zones(powercap), reason="RAPL is readable", tdp_w=_watts(tdp))
    except RaplUnavailableError as error:
        if tdp is None:
            return NoMeter(f"{error}; no TDP is known for {processor.model}, set {TDP_VARIABLE}")
        return HliMeter(tdp.tdp_w, reason=f"{error}; {tdp.origin}")


@dataclass(frozen=True)
class _Tdp:
    """A TDP, W, and where it comes from, in words."""

    tdp_w: float
    origin: str


def _watts(tdp: _Tdp | None) -> float | None:
    return None if tdp is None else tdp.tdp_w


def _gpu_meter(nvml: Nvml, gpus: Sequence[int | str] | None, given: _Tdp | None) -> EnergyMeter:
    tdp_w = _watts(given or _gpu_tdp(nvml, gpus))
    try:
        return NvmlCounterMeter(nvml, gpus, reason="NVML's energy counter is readable", tdp_w=tdp_w)
    except MigError:
        raise
    except NvmlUnavailableError as error:
        why = str(error)
    try:
        return NvmlPolledMeter(nvml, gpus, reason=f"{why}; instantaneous power is readable", tdp_w=tdp_w)
    except NvmlUnavailableError as error:
        raise NvmlUnavailableError(why if str(error) == why else f"{why}; {error}") from error


def _shows_gpu(nvml: Nvml) -> bool:
    try:
        return bool(nvml.visible())
    except NvmlUnavailableError:  # a MIG slice is a GPU to compute on, although its energy cannot be read
        return True


def _given_tdp(tdp_w: float | None) -> _Tdp | None:
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
    return _Tdp(value, f"TDP from {name}")


def _gpu_estimate(
    given: _Tdp | None, nvml: Nvml | None, gpus: Sequence[int | str] | None, why: str
) -> EnergyMeter:
    if given is not None:
        return HliMeter(given.tdp_w, reason=f"{why}; {given.origin}")
    try:
        if nvml is not None:
            for gpu in nvml.select(gpus):
                nvml.refuse_mig(gpu)
        tdp = None if nvml is None else _gpu_tdp(nvml, gpus)
    except NvmlUnavailableError as error:
        return NoMeter(str(error))
    if tdp is None:
        return NoMeter(f"{why}; no TDP is known, set {TDP_VARIABLE}")
    return HliMeter(tdp.tdp_w, reason=f"{why}; {tdp.origin}")


def _gpu_tdp(nvml: Nvml, gpus: Sequence[int | str] | None) -> _Tdp | None:
    chosen = nvml.select(gpus)
    known_w = [spec.tdp_w for spec in (find_gpu(gpu.name) for gpu in chosen) if spec is not None]
    if len(known_w) < len(chosen):
        return None
    names = ", ".join(gpu.name for gpu in chosen)
    return _Tdp(sum(known_w), f"TDP of {names} from the hardware table")


def _cpu_tdp(cpu: CpuFacts) -> _Tdp | None:
    row = find_cpu_tdp(cpu.model)
    if row is None:
        return None
    sockets = f"{cpu.sockets} x " if cpu.sockets > 1 else ""
    part = "; a virtual machine owns only a part of that" if cpu.virtual else ""
    return _Tdp(row.tdp_w * cpu.sockets, f"TDP of {sockets}{cpu.model} by {row.source}{part}")
