import threading
from typing import Any

import pytest
from fake_power import failing, give_power

from profiler.energy import NvmlCounterMeter, NvmlPolledMeter
from profiler.nvml import MigError, Nvml, NvmlUnavailableError
from profiler.nvml_counter import CounterBackwardsError, CounterStuckError, TickingCounters
from profiler.nvml_power import PowerPoller, trapezoid_j


def counter_meter(clock: Any, gpus: Any = (0,), **settings: Any) -> NvmlCounterMeter:
    settings = {"poll_period_s": None, **settings}
    return NvmlCounterMeter(Nvml.open(), gpus, clock_ns=clock.ns, sleep=clock.sleep, **settings)


def test_a_window_starts_and_ends_on_a_tick(install_nvml, clock) -> None:
    give_power(install_nvml("NVIDIA H200"))
    meter = counter_meter(clock, tdp_w=700.0)
    window = meter.begin()
    assert clock.now_s % 0.1 == pytest.approx(0.0, abs=0.002)
    clock.sleep(7.03)
    reading = meter.end(window)
    assert reading.duration_s == pytest.approx(7.1, abs=0.002)
    assert reading.energy_j == reading.counter_j == pytest.approx(7.1 * 300)
    assert reading.polled_j == pytest.approx(7.1 * 300, rel=1e-3)
    assert reading.hli_j == pytest.approx(7.1 * 700, rel=1e-3)
    assert (reading.source, reading.is_estimate, reading.idle_w) == ("nvml_counter", False, None)
    assert reading.active_j is None
    assert reading.detail.startswith("NVML total energy of NVIDIA H200 GPU-00aa-0000")


def test_the_tick_is_measured_once_and_bounds_the_error(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200", tick_s=0.04)
    meter = counter_meter(clock)
    assert meter.period is None
    window = meter.begin()
    assert meter.period is not None
    assert meter.period.tick_s == pytest.approx(0.04, abs=0.001)
    assert meter.period.spread_s <= 0.001 + 1e-9
    begun_s = clock.now_s
    clock.sleep(5)
    reading = meter.end(window)
    # Both looks of 1 ms leave half a millisecond; the period's spread may leave a whole one.
    assert 300 * 0.001 - 1e-6 <= reading.error_j <= 2 * 300 * 0.001 + 1e-6
    meter.end(meter.begin())
    assert clock.now_s < begun_s + 5 + 3 * 0.05  # no second calibration


def test_gpus_are_added_each_between_its_own_ticks(install_nvml, clock) -> None:
    fake = install_nvml(*["NVIDIA H200"] * 3)
    own = fake.nvmlDeviceGetTotalEnergyConsumption

    def shifted(handle: int) -> int:
        clock.now_s += 0.03 * handle
        value = own(handle)
        clock.now_s -= 0.03 * handle
        return value

    fake.nvmlDeviceGetTotalEnergyConsumption = shifted
    meter = counter_meter(clock, (0, "GPU-22aa-0000"))
    window = meter.begin()
    clock.sleep(10)
    reading = meter.end(window)
    assert reading.energy_j / reading.duration_s == pytest.approx(400, rel=1e-3)
    assert len(counter_meter(clock, None).gpus) == 3


def test_short_windows_are_flagged(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200")
    meter = counter_meter(clock)
    window = meter.begin()
    clock.sleep(1)
    assert "the window of 1 s is shorter than 5 s" in meter.end(window).detail
    with pytest.raises(ValueError, match="window_s=0 is not above 0"):
        counter_meter(clock, window_s=0.0)


def test_the_device_is_kept_busy_while_a_tick_is_awaited(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200")
    meter = counter_meter(clock)
    calls = []

    def busy() -> None:
        calls.append(clock.now_s)
        clock.sleep(0.002)

    window = meter.begin(busy)
    assert calls
    begun = len(calls)
    clock.sleep(5.05)
    reading = meter.end(window, busy)
    assert len(calls) > begun
    assert reading.energy_j / reading.duration_s == pytest.approx(300, rel=1e-3)


def test_idle_power_is_taken_off(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200", power_w=[120.0])
    meter = counter_meter(clock)
    assert meter.measure_idle() == pytest.approx(120, rel=1e-3)
    window = meter.begin()
    clock.sleep(5.0)
    reading = meter.end(window)
    assert reading.idle_w == pytest.approx(120, rel=1e-3)
    assert reading.active_j == pytest.approx(0, abs=2)


def test_a_counter_that_stands_still_is_no_zero(install_nvml, clock) -> None:
    fake = install_nvml("NVIDIA H200", tick_s=0)
    bare = counter_meter(clock)
    reading = bare.end(bare.begin())
    assert (reading.energy_j, reading.counter_j, reading.source) == (None, None, "none")
    assert "stands still at 0.000 J, watched for 2 s; downgraded to none" in reading.detail
    assert "power was not polled" in reading.detail
    estimated = counter_meter(clock, tdp_w=700.0)
    window = estimated.begin()
    clock.sleep(3)
    reading = estimated.end(window)
    assert (reading.energy_j, reading.source) == (pytest.approx(2100), "hli")
    give_power(fake)
    polled = counter_meter(clock, tdp_w=700.0)
    window = polled.begin()
    clock.sleep(3)
    reading = polled.end(window)
    assert (reading.energy_j, reading.source) == (pytest.approx(900), "nvml_polled")
    assert "downgraded to nvml_polled" in reading.detail
    assert bare.measure_idle() is None
    assert polled.measure_idle() == pytest.approx(300)


@pytest.mark.parametrize("within", [False, True])
def test_a_counter_that_jumps_back_is_no_energy(install_nvml, clock, within: bool) -> None:
    fake = give_power(install_nvml("NVIDIA H200"))
    meter = counter_meter(clock)
    window = meter.begin()
    clock.sleep(5)
    if within:  # reset between the two waits, and ticking since
        meter_j = fake.nvmlDeviceGetTotalEnergyConsumption
        fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: meter_j(handle) - 31_000_000
    else:  # reset while the last tick is awaited
        values = iter([40_000_000, 5])
        fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(values)
    reading = meter.end(window)
    assert (reading.source, reading.counter_j) == ("nvml_polled", None)
    assert reading.energy_j == pytest.approx(1500, rel=0.05)
    assert ("went from" if within else "went back from 40000.000 J to 0.005 J") in reading.detail


def test_a_gpu_that_is_lost_leaves_an_estimate_and_says_so(install_nvml, clock) -> None:
    fake = give_power(install_nvml("NVIDIA H200"))
    meter = counter_meter(clock, tdp_w=700.0)
    window = meter.begin()
    clock.sleep(5)
    fake.nvmlDeviceGetTotalEnergyConsumption = failing(fake, 15)
    fake.nvmlDeviceGetFieldValues = failing(fake, 15)
    reading = meter.end(window)
    assert (reading.source, reading.counter_j, reading.polled_j) == ("hli", None, None)
    assert reading.detail.count("is lost") == 2


def test_named_errors_of_the_counter(install_nvml, clock) -> None:
    fake = install_nvml("NVIDIA H200", tick_s=0)
    nvml = Nvml.open()
    counters = TickingCounters(nvml, nvml.gpus, clock_ns=clock.ns, sleep=clock.sleep)
    with pytest.raises(CounterStuckError, match="stands still"):
        counters.next_ticks()
    values = iter([9000, 8000])
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(values)
    with pytest.raises(CounterBackwardsError, match="from 9.000 J to 8.000 J"):
        counters.next_ticks()
    with pytest.raises(ValueError, match="ticks=1 is below 2"):
        counters.measure_period(1)


def test_cards_without_counter_or_split_by_mig_are_refused_at_once(install_nvml, clock) -> None:
    install_nvml("Tesla P100", has_counter=False)
    with pytest.raises(NvmlUnavailableError, match="no readable energy counter"):
        counter_meter(clock)
    fake = install_nvml("NVIDIA H200")
    with pytest.raises(NvmlUnavailableError, match="instantaneous power"):
        NvmlPolledMeter(Nvml.open())
    fake.nvmlDeviceGetMigMode = lambda handle: (1, 1)
    with pytest.raises(MigError):
        counter_meter(clock)


def test_trapezoid_follows_the_true_times() -> None:
    times_ns = [0, 1_000_000_000, 4_000_000_000]
    power_w = [100.0, 300.0, 0.0]
    assert trapezoid_j(times_ns, power_w, 0, 4_000_000_000) == pytest.approx(200 + 450)
    assert trapezoid_j(times_ns, power_w, 500_000_000, 1_000_000_000) == pytest.approx(125)
    assert trapezoid_j(times_ns, power_w, 1_500_000_000, 1_500_000_000) == 0
    offset = 10**18  # a clock that began long ago loses no nanosecond
    late = [t + offset for t in times_ns]
    assert trapezoid_j(late, power_w, offset + 1, offset + 1_000_000_001) == pytest.approx(200, rel=1e-6)
    for wrong, message in (
        (([0, 1], [1.0], 0, 1), "2 times do not belong to 1 samples"),
        (([0, 5], [1.0, 1.0], 3, 2), "end_ns=2 is before start_ns=3"),
        (([1, 5], [1.0, 1.0], 0, 4), "do not cover"),
        (([0, 3], [1.0, 1.0], 0, 4), "do not cover"),
        (([], [], 0, 1), "0 samples do not cover"),
        (([0, 3, 2, 9], [1.0] * 4, 1, 4), "1 of 4 samples lie before"),
    ):
        with pytest.raises(ValueError, match=message):
            trapezoid_j(*wrong)


def test_polled_power_is_integrated_over_its_window_and_gaps_are_told(install_nvml, clock) -> None:
    fake = give_power(install_nvml("NVIDIA H200", "NVIDIA H200"))
    meter = NvmlPolledMeter(
        Nvml.open(), None, tdp_w=1400, poll_period_s=None, clock_ns=clock.ns, sleep=clock.sleep
    )
    window = meter.begin()
    clock.sleep(2)
    fake.power_w = [500.0, 100.0]
    clock.sleep(0)
    reading = meter.end(window)
    assert reading.energy_j == pytest.approx(2 * (300 + 500) / 2 + 2 * 100)
    assert (reading.source, reading.is_estimate, reading.hli_j) == ("nvml_polled", False, 2800)
    assert (reading.counter_j, reading.error_j) == (None, None)
    assert "2 samples" in reading.detail
    counted = counter_meter(clock)
    window = counted.begin()
    clock.sleep(6)
    assert "two samples of polled power lie 6" in counted.end(window).detail


def test_the_background_thread_samples_until_the_last_window_closes(install_nvml, clock) -> None:
    fake = give_power(install_nvml("NVIDIA H200"))
    enough = threading.Event()
    asked = []
    fields = fake.nvmlDeviceGetFieldValues

    def count(handle: int, keys: Any) -> Any:
        asked.append(threading.current_thread().name)
        if len(set(asked)) > 1 and len(asked) > 6:
            enough.set()
        return fields(handle, keys)

    fake.nvmlDeviceGetFieldValues = count
    nvml = Nvml.open()
    poller = PowerPoller(nvml, nvml.gpus, period_s=0.001, clock_ns=clock.ns)
    poller.open()
    poller.open()
    assert enough.wait(10)
    poller.close()
    assert threading.active_count() > 1
    poller.close()
    assert poller.energy_j(clock.ns(), clock.ns()).energy_j == 0
    taken = len(asked)
    poller.sample()
    assert len(asked) == taken + 1
    with pytest.raises(ValueError, match="period_s=0 is not above 0"):
        PowerPoller(nvml, nvml.gpus, period_s=0.0)
