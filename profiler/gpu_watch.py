"""What GPUs went through during a run: clocks, temperature, and for how long something held the clocks down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from profiler.nvml import Nvml, NvmlGpu, NvmlUnavailableError
from profiler.record_energy import GpuRunState

SLOWING_VIOLATIONS = ("power_cap", "thermal", "board_limit", "sw_thermal", "hw_thermal", "hw_power_brake")
"""Reasons that cost speed, whatever set the clocks before; synchronised boost and reliability do not."""

_SLOWING_EVENTS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
# A counter moves in steps, and a power cap touched for a moment is no throttling of a run.
_LEAST_VIOLATION_S = 0.01
_SM_CLOCK, _MEMORY_CLOCK, _TEMPERATURE_SENSOR = 1, 2, 0


@dataclass(frozen=True)
class GpuSnapshot:
    """One GPU at one moment; None for what it does not tell."""

    sm_clock_mhz: int | None
    """SM clock, MHz."""
    memory_clock_mhz: int | None
    """Memory clock, MHz."""
    temperature_c: int | None
    """Temperature, degrees Celsius."""
    power_limit_w: float | None
    """Enforced power limit, W."""
    clocks_event_reasons: int | None
    """NVML's bit mask of why clocks are held down now."""
    violation_s: dict[str, float]
    """Time for which clocks were held down since the driver was loaded, s, by reason."""


class GpuWatch:
    """Compares GPUs before and after a run; made before it.

    Args:
        nvml: an open NVML.
        gpus: CUDA ordinals of this process or UUIDs; None means every visible GPU.

    Raises:
        NvmlUnavailableError: no such GPU.
    """

    def __init__(self, nvml: Nvml, gpus: Sequence[int | str] | None = (0,)) -> None:
        self._nvml = nvml
        self._gpus = nvml.select(gpus)
        self._before = [take_snapshot(nvml, gpu) for gpu in self._gpus]

    @classmethod
    def open(cls, gpus: Sequence[int | str] | None = (0,)) -> GpuWatch | None:
        """Start watching; None on a machine without NVML or without these GPUs."""
        try:
            return cls(Nvml.open(), gpus)
        except NvmlUnavailableError:
            return None

    def states(self) -> list[GpuRunState]:
        """What each GPU went through since this watch was made."""
        return [
            compare(gpu, before, take_snapshot(self._nvml, gpu))
            for gpu, before in zip(self._gpus, self._before, strict=True)
        ]


def take_snapshot(nvml: Nvml, gpu: NvmlGpu) -> GpuSnapshot:
    """Read a GPU's state; nothing is changed."""
    limit_mw = nvml.query("nvmlDeviceGetEnforcedPowerLimit", gpu)
    return GpuSnapshot(
        sm_clock_mhz=nvml.query("nvmlDeviceGetClockInfo", gpu, _SM_CLOCK),
        memory_clock_mhz=nvml.query("nvmlDeviceGetClockInfo", gpu, _MEMORY_CLOCK),
        temperature_c=nvml.query("nvmlDeviceGetTemperature", gpu, _TEMPERATURE_SENSOR),
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
        clocks_event_reasons=nvml.query("nvmlDeviceGetCurrentClocksEventReasons", gpu),
        violation_s=nvml.violation_s(gpu),
    )


def compare(gpu: NvmlGpu, before: GpuSnapshot, after: GpuSnapshot) -> GpuRunState:
    """Difference two snapshots of one GPU.

    Args:
        gpu: the GPU.
        before: its state before the run.
        after: its state after it.

    Returns:
        The states side by side, the time by reason that passed in between, and the reasons that cost speed. A
        violation counter that went back (a driver reloaded) is left out.
    """
    passed_s = {
        name: after_s - before.violation_s[name]
        for name, after_s in after.violation_s.items()
        if name in before.violation_s and after_s >= before.violation_s[name]
    }
    slowed = [
        f"{name.replace('_', ' ')} for {passed_s[name]:.3g} s"
        for name in SLOWING_VIOLATIONS
        if passed_s.get(name, 0.0) >= _LEAST_VIOLATION_S
    ]
    for when, snapshot in (("before", before), ("after", after)):
        mask = snapshot.clocks_event_reasons or 0
        slowed += [f"{name} {when} the run" for bit, name in _SLOWING_EVENTS.items() if mask & bit]
    return GpuRunState(
        uuid=gpu.uuid,
        name=gpu.name,
        sm_clock_mhz=(before.sm_clock_mhz, after.sm_clock_mhz),
        memory_clock_mhz=(before.memory_clock_mhz, after.memory_clock_mhz),
        temperature_c=(before.temperature_c, after.temperature_c),
        power_limit_w=(before.power_limit_w, after.power_limit_w),
        clocks_event_reasons=(before.clocks_event_reasons, after.clocks_event_reasons),
        violation_s=passed_s,
        throttled=slowed,
    )


def throttling_sentence(states: Sequence[GpuRunState]) -> str | None:
    """What to warn of: which GPU throttled and why; None where none did."""
    told = [f"{state.name} throttled: {', '.join(state.throttled)}" for state in states if state.throttled]
    return "; ".join(told) or None
