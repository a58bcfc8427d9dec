"""Energy per unit of work: work repeated until it fills windows that a counter can resolve, and the interval."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scipy import stats

from profiler.energy_window import EnergyMeter, EnergyReading


@dataclass(frozen=True)
class Load:
    """Work that can be repeated for as long as a window lasts."""

    step: Callable[[], object]
    """Does some units of work; it may leave the device with the last of them unfinished, as long as each call
    leaves it the same amount."""
    units_per_step: int = 1
    """Units (calls, hops) of one step; 0 for no work, such as idling."""
    finish: Callable[[], object] = lambda: None
    """Waits for everything that steps have left."""


@dataclass(frozen=True)
class FilledWindow:
    """One window full of repeated work."""

    reading: EnergyReading
    """Its energy."""
    steps: int
    """Steps of the load within it."""
    units: int
    """Units of work within it."""


@dataclass(frozen=True)
class EnergyFigure:
    """Energy per unit of work with its interval at 95 %."""

    energy_j: float
    """Energy of all windows over all units, J."""
    low_j: float
    """Lower end, J."""
    high_j: float
    """Upper end, J."""
    windows: int
    """Windows behind it; with one alone the interval holds the counter's ticks and no repetition."""


def fill_window(
    meter: EnergyMeter,
    load: Load,
    *,
    least_s: float | None = None,
    lead_in_s: float = 0.0,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> FilledWindow:
    """Repeat work until a window is long enough; the load goes on while the meter waits for its ticks.

    Args:
        meter: measures the window.
        load: what is repeated.
        least_s: how long the window is at least, s; None for what the meter needs. At least one step is made.
        lead_in_s: time of the same load ahead of the window, s, so that clocks and power have settled.
        clock_ns: monotonic clock, ns.

    Returns:
        The energy and how often the work was done.

    Raises:
        ValueError: a negative time.
    """
    wanted_s = meter.shortest_window_s if least_s is None else least_s
    if min(wanted_s, lead_in_s) < 0:
        raise ValueError(f"least_s={wanted_s:g} and lead_in_s={lead_in_s:g} must not be below 0")
    steps = 0

    def step() -> None:
        nonlocal steps
        load.step()
        steps += 1

    before_ns = clock_ns()
    while (clock_ns() - before_ns) / 1e9 < lead_in_s:
        load.step()
    window = meter.begin(load.step)
    while not steps or (clock_ns() - window.start_ns) / 1e9 < wanted_s:
        step()
    reading = meter.end(window, step)
    load.finish()
    return FilledWindow(reading, steps, steps * load.units_per_step)


@dataclass
class Windows:
    """Windows of several loads, whole rounds of them; an interruption leaves those before it."""

    taken: dict[str, list[FilledWindow]] = field(default_factory=dict)
    """Windows of each load, in the order of the rounds."""


def interleaved_windows(
    meter: EnergyMeter,
    loads: Mapping[str, Load],
    into: Windows,
    *,
    windows: int,
    seed: int,
    least_s: float | None = None,
    lead_in_s: float = 0.0,
    on_window: Callable[[str], object] = lambda name: None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> None:
    """Fill windows of several loads in rounds, each in an order drawn anew, so that drift falls on all of them.

    Args:
        meter: measures.
        loads: what is measured, by name.
        into: receives the windows.
        windows: rounds, at least 1.
        seed: of the orders.
        least_s: see :func:`fill_window`.
        lead_in_s: see :func:`fill_window`.
        on_window: told the load's name after each of its windows.
        clock_ns: monotonic clock, ns.

    Raises:
        ValueError: fewer than 1 window, or a negative time.
    """
    if windows < 1:
        raise ValueError(f"windows={windows} is below 1")
    order = random.Random(seed)
    names = list(loads)
    for _ in range(windows):
        order.shuffle(names)
        for name in names:
            filled = fill_window(meter, loads[name], least_s=least_s, lead_in_s=lead_in_s, clock_ns=clock_ns)
            into.taken.setdefault(name, []).append(filled)
            on_window(name)


def energy_per_unit(
    energies_j: Sequence[float], units: Sequence[int], errors_j: Sequence[float | None]
) -> EnergyFigure | None:
    """Energy per unit of work over several windows.

    The interval is Student's over the windows, widened by what the ticks can put a window off; the ticks' part is
    a bound and no spread, so it is added and not squared.

    Args:
        energies_j: energy of each window, J.
        units: units of work in each window, above 0.
        errors_j: most that the counter's ticks can put each window off, J; None where a source has no ticks.

    Returns:
        The figure, or None where neither repetition nor ticks say how sure it is.

    Raises:
        ValueError: lists of different lengths, no window, or a window without units.
    """
    if not energies_j or not len(energies_j) == len(units) == len(errors_j):
        raise ValueError(
            f"{len(energies_j)} energies, {len(units)} units and {len(errors_j)} errors are no list of windows"
        )
    if min(units) < 1:
        raise ValueError(f"a window of energy_j={energies_j[0]:g} has units={min(units)}, below 1")
    total = sum(units)
    point_j = sum(energies_j) / total
    ticks_j = None if None in errors_j else sum(error or 0.0 for error in errors_j) / total
    count = len(energies_j)
    if count == 1:
        if ticks_j is None:
            return None
        spread_j = 0.0
    else:
        rates = [energy_j / n for energy_j, n in zip(energies_j, units, strict=True)]
        mean = sum(rates) / count
        deviation = (sum((rate - mean) ** 2 for rate in rates) / (count - 1)) ** 0.5
        spread_j = float(stats.t.ppf(0.975, count - 1)) * deviation / count**0.5
    half_j = spread_j + (ticks_j or 0.0)
    return EnergyFigure(point_j, max(0.0, point_j - half_j), point_j + half_j, count)
