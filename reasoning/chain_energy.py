"""Energy of a chain: windows that are filled with whole batches, and what a row says of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from profiler.energy import EnergyMeter, EnergyReading, NoMeter, energy_per_unit
from profiler.energy_totals import add_up
from profiler.record import EnergySample
from reasoning.chain_spec import ChainSpec


def meter_for(spec: ChainSpec, meter: EnergyMeter) -> EnergyMeter:
    """Return what measures a run's energy: nothing where the meter needs windows of some length and none are filled."""
    if spec.energy_windows or not meter.shortest_window_s:
        return meter
    return NoMeter(
        f"{meter.source} needs windows of {meter.shortest_window_s:g} s, and energy_windows=0 fills none"
    )


@dataclass
class OpenWindow:
    """A window that is being filled.

    Args:
        meter: measures it.
        least_s: how long it is to be, s.
        clock_ns: monotonic clock, ns.
    """

    meter: EnergyMeter
    least_s: float
    clock_ns: Callable[[], int] = time.perf_counter_ns
    passes: int = 1

    def __post_init__(self) -> None:
        """Begin the window."""
        self._window = self.meter.begin()

    @property
    def is_short(self) -> bool:
        """Whether the window is not yet as long as it is to be."""
        return (self.clock_ns() - self._window.start_ns) / 1e9 < self.least_s

    def close(self) -> EnergyReading:
        """End the window."""
        return self.meter.end(self._window)


@dataclass
class _Log:
    readings: list[EnergyReading] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    passes: int = 0


class ChainEnergy:
    """The energy windows of a chain by kernel.

    Args:
        meter: measures every window.
        batch_size: sequences decoded together, for the samples.
    """

    def __init__(self, meter: EnergyMeter, batch_size: int) -> None:
        self.meter = meter
        self.least_s = meter.shortest_window_s
        """How long every window is to be, s."""
        self._batch_size = batch_size
        self._logs: dict[str, _Log] = {}

    def open(self) -> OpenWindow:
        """Begin a window."""
        return OpenWindow(self.meter, self.least_s)

    def add(
        self, kernel: str, window: OpenWindow, reading: EnergyReading, *, problems: int, hops: int
    ) -> EnergySample:
        """Keep a window.

        Args:
            kernel: what ran.
            window: the window, for its passes.
            reading: its energy.
            problems: problems of one pass.
            hops: hops of one pass.

        Returns:
            The window as a sample, numbered within the kernel.
        """
        log = self._logs.setdefault(kernel, _Log())
        number = len(log.readings)
        log.readings.append(reading)
        log.queries.append(problems * window.passes)
        log.passes += window.passes
        return EnergySample(
            kernel=kernel,
            batch_size=self._batch_size,
            repeat=number,
            queries=problems * window.passes,
            hops=hops * window.passes,
            passes=window.passes,
            energy_j=reading.energy_j,
            energy_error_j=reading.error_j,
            duration_s=reading.duration_s,
            energy_source=reading.source,
            counter_j=reading.counter_j,
            polled_j=reading.polled_j,
            hli_j=reading.hli_j,
            idle_w=reading.idle_w,
            energy_detail=reading.detail,
        )

    def windows(self, kernel: str) -> int:
        """Windows of a kernel so far."""
        return len(self._logs[kernel].readings) if kernel in self._logs else 0

    def row_fields(self, kernel: str) -> dict[str, object]:
        """The energy fields of a kernel's row; None where a figure was not measured in every window."""
        log = self._logs.get(kernel)
        if log is None:
            return {"energy_source": self.meter.source}
        total, queries = add_up(log.readings), sum(log.queries)
        fields: dict[str, object] = {
            "energy_source": total.source,
            "energy_detail": total.detail,
            "energy_windows": len(log.readings),
            "energy_passes": log.passes,
            "idle_w": total.idle_w,
        }
        for name in ("energy_j", "counter_j", "polled_j", "hli_j", "active_j"):
            value = getattr(total, name)
            fields[f"{name}_per_query"] = None if value is None else value / queries
        energies = [reading.energy_j for reading in log.readings if reading.energy_j is not None]
        if len(energies) == len(log.readings):
            figure = energy_per_unit(energies, log.queries, [reading.error_j for reading in log.readings])
            if figure is not None:
                fields["energy_j_per_query_ci95"] = (figure.low_j, figure.high_j)
        return fields
