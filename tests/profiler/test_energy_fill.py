from typing import Any

import pytest

from profiler.energy import (
    FakeMeter,
    HliMeter,
    Load,
    NvmlCounterMeter,
    energy_per_unit,
    fill_window,
    interleaved_windows,
)
from profiler.energy_fill import Windows
from profiler.nvml import Nvml


def test_work_is_repeated_until_the_window_is_full(clock) -> None:
    finished = []
    load = Load(lambda: clock.sleep(0.7), units_per_step=3, finish=lambda: finished.append(clock.now_s))
    meter = FakeMeter(power_w=10.0, shortest_window_s=2.0, clock_ns=clock.ns)
    filled = fill_window(meter, load, clock_ns=clock.ns)
    assert (filled.steps, filled.units) == (3, 9)
    assert filled.reading.duration_s == pytest.approx(2.1)
    assert len(finished) == 1
    assert fill_window(meter, load, least_s=0.0, clock_ns=clock.ns).steps == 1
    before_s = clock.now_s
    filled = fill_window(meter, load, least_s=0.5, lead_in_s=1.0, clock_ns=clock.ns)
    assert (filled.steps, clock.now_s - before_s) == (1, pytest.approx(2.1))
    with pytest.raises(ValueError, match="least_s=-1 and lead_in_s=0"):
        fill_window(meter, load, least_s=-1.0)


def test_work_goes_on_between_ticks_and_is_counted_from_tick_to_tick(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200")
    meter = NvmlCounterMeter(Nvml.open(), poll_period_s=None, clock_ns=clock.ns, sleep=clock.sleep)
    filled = fill_window(meter, Load(lambda: clock.sleep(0.002)), clock_ns=clock.ns)
    assert filled.reading.duration_s >= 5
    assert filled.steps * 0.002 == pytest.approx(filled.reading.duration_s, abs=0.003)


def test_loads_take_turns_in_orders_that_follow_the_seed(clock) -> None:
    meter = FakeMeter(power_w=10.0, clock_ns=clock.ns)

    def order(seed: int, windows: int = 6) -> list[str]:
        told: list[str] = []
        loads = {name: Load(lambda: clock.sleep(0.1)) for name in "abc"}
        into = Windows()
        interleaved_windows(
            meter, loads, into, windows=windows, seed=seed, on_window=told.append, clock_ns=clock.ns
        )
        assert {name: len(taken) for name, taken in into.taken.items()} == dict.fromkeys("abc", windows)
        return told

    first = order(1)
    assert first == order(1) != order(2)
    rounds = [tuple(first[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds) and len(set(rounds)) > 1
    with pytest.raises(ValueError, match="windows=0 is below 1"):
        order(1, windows=0)


def test_an_interruption_leaves_the_windows_before_it(clock) -> None:
    into = Windows()
    calls: list[Any] = []

    def step() -> None:
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        clock.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        meter = FakeMeter(clock_ns=clock.ns)
        interleaved_windows(meter, {"a": Load(step)}, into, windows=9, seed=0, clock_ns=clock.ns)
    assert len(into.taken["a"]) == 3


def test_energy_per_unit_by_hand() -> None:
    figure = energy_per_unit([10.0, 12.0, 11.0], [1, 1, 1], [0.0, 0.0, 0.0])
    assert figure is not None
    assert figure.energy_j == 11.0
    # Student's t with 2 degrees of freedom is 4.3027; the deviation is 1.
    assert figure.high_j - 11.0 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    widened = energy_per_unit([10.0, 12.0, 11.0], [1, 1, 1], [0.3, 0.3, 0.3])
    assert widened is not None
    assert widened.high_j - figure.high_j == pytest.approx(0.3)
    assert energy_per_unit([10.0, 90.0], [1, 9], [None, None]) is not None
    weighted = energy_per_unit([10.0, 100.0], [1, 9], [0.0, 0.0])
    assert weighted is not None and weighted.energy_j == 11.0
    assert weighted.low_j >= 0


def test_one_window_has_the_ticks_alone_or_no_interval() -> None:
    figure = energy_per_unit([10.0], [4], [0.2])
    assert figure is not None
    assert (figure.low_j, figure.energy_j, figure.high_j) == (2.45, 2.5, 2.55)
    assert energy_per_unit([10.0], [4], [None]) is None


def test_lists_that_are_no_windows_are_refused() -> None:
    for lists in (([], [], []), ([1.0], [1, 2], [0.0]), ([1.0], [1], [])):
        with pytest.raises(ValueError, match="are no list of windows"):
            energy_per_unit(*lists)
    with pytest.raises(ValueError, match="units=0, below 1"):
        energy_per_unit([1.0], [0], [0.0])


def test_an_estimate_needs_no_length(clock) -> None:
    filled = fill_window(HliMeter(100, clock_ns=clock.ns), Load(lambda: clock.sleep(0.25)), clock_ns=clock.ns)
    assert (filled.steps, filled.reading.energy_j) == (1, pytest.approx(25))
