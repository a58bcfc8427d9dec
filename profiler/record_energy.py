"""Rows of an energy run, and what the GPUs went through during any run."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from profiler.record_types import (
    Count,
    EnergySource,
    Interval,
    NonNegative,
    PositiveCount,
    Strict,
    is_energy_estimate,
)


class GpuRunState(Strict):
    """One GPU before and after a run, and for how long its clocks were held down in between."""

    uuid: str
    """NVML's identifier of the card."""
    name: str
    """Product name that NVML reports."""
    sm_clock_mhz: tuple[Count | None, Count | None] = (None, None)
    """SM clock before and after, MHz."""
    memory_clock_mhz: tuple[Count | None, Count | None] = (None, None)
    """Memory clock before and after, MHz."""
    temperature_c: tuple[int | None, int | None] = (None, None)
    """GPU temperature before and after, degrees Celsius."""
    power_limit_w: tuple[NonNegative | None, NonNegative | None] = (None, None)
    """Enforced power limit before and after, W."""
    clocks_event_reasons: tuple[Count | None, Count | None] = (None, None)
    """NVML's bit mask of why clocks were held down, before and after."""
    violation_s: dict[str, NonNegative] = {}
    """Time for which clocks were held down during the run, s, by reason; without reasons the GPU does not count."""
    throttled: list[str] = []
    """Reasons that mean less speed than the card has; empty where it ran free, or says nothing."""


class EnergyRow(Strict):
    """Energy of one load; None means not measured."""

    type: Literal["energy"] = "energy"
    """Tells the kinds of row apart."""
    load: str
    """What ran: ``idle``, ``memory_bound``, ``compute_bound``, ``eager_decode``, or a kernel's name."""
    unit: Literal["none", "call", "hop"]
    """What energy_j_per_unit is per; ``none`` for idling."""
    implementation: str | None = None
    """Implementation that ran, for a kernel; the loop in words for another load."""
    m: PositiveCount | None = None
    """Rows of x; None for a load that is no kernel."""
    n: PositiveCount | None = None
    """Out-features."""
    k: PositiveCount | None = None
    """In-features."""
    windows: Count
    """Windows behind the figures."""
    units: Count
    """Units of work in all windows together: how often the work was repeated."""
    duration_s: NonNegative
    """Length of all windows together, s."""
    wait_s: NonNegative | None = None
    """Of that, time in which the load only waits, so that the card stays below its power cap, s; None for none."""
    energy_j: NonNegative | None = None
    """Energy of all windows, J."""
    energy_source: EnergySource
    """Where energy_j comes from, the least certain source of all windows; ``hli`` is an estimate."""
    energy_error_j: NonNegative | None = None
    """Most that the counter's ticks can put energy_j off, J."""
    counter_j: NonNegative | None = None
    """Energy of all windows by the hardware's energy counter, J."""
    polled_j: NonNegative | None = None
    """Energy of all windows by integrating polled power, J."""
    hli_j: NonNegative | None = None
    """The paper's estimate for all windows, TDP times time, J."""
    idle_w: NonNegative | None = None
    """Power before the run with the context alive, W."""
    active_j: float | None = None
    """energy_j above idle power, J; below zero only by noise."""
    power_w: NonNegative | None = None
    """Mean power, energy_j over duration_s, W."""
    energy_j_per_unit: NonNegative | None = None
    """Energy per unit of work, J."""
    energy_j_per_unit_ci95: Interval | None = None
    """Interval of that energy over windows, widened by the counter's ticks, J."""
    active_j_per_unit: float | None = None
    """Energy per unit of work above idle power, J; below zero only by noise."""
    polled_over_counter: NonNegative | None = None
    """polled_j over counter_j: 1 where the two ways of measuring agree."""
    hli_over_counter: NonNegative | None = None
    """hli_j over counter_j: how far the estimate overstates."""
    repeat_spread_share: NonNegative | None = None
    """Largest less smallest power of a window, over the mean of windows; None for one window."""
    not_measured: str | None = None
    """Why there is no energy, in a sentence; None when there is one."""
    notes: list[str] = []
    """What a reader of the row must know."""

    @property
    def energy_is_estimate(self) -> bool:
        """Whether the joules of this row are no measurement."""
        return is_energy_estimate(self.energy_source)

    @model_validator(mode="after")
    def _check(self) -> EnergyRow:
        if self.energy_j is None and not self.not_measured:
            raise ValueError(f"{self.load} has neither energy_j nor a reason in not_measured")
        if self.energy_j is not None and self.energy_source == "none":
            raise ValueError(f"energy_j={self.energy_j:g} has no energy_source")
        if self.energy_j is not None and not self.windows:
            raise ValueError(f"energy_j={self.energy_j:g} comes from windows=0")
        if self.energy_j_per_unit is not None and not self.units:
            raise ValueError(f"energy_j_per_unit={self.energy_j_per_unit:g} comes from units=0")
        return self
