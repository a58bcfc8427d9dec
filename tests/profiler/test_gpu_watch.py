import pytest
from fake_power import give_power

from profiler.gpu_watch import GpuWatch, throttling_sentence


def test_violation_counters_are_differenced(install_nvml) -> None:
    fake = give_power(install_nvml("NVIDIA H200"), violation_ns={74: 10**9, 75: 7 * 10**9, 76: 0, 269: 5})
    watch = GpuWatch.open()
    assert watch is not None
    give_power(fake, violation_ns={74: 3 * 10**9, 75: 7 * 10**9, 76: 4 * 10**9, 269: 1, 270: 9})
    (state,) = watch.states()
    # The reading of 269 went back and 270 was not there before: neither is a difference.
    assert state.violation_s == {"power_cap": 2.0, "thermal": 0.0, "sync_boost": 4.0}
    assert state.throttled == ["power cap for 2 s"]
    assert state.power_limit_w == (650.0, 650.0)
    assert state.sm_clock_mhz == (1980, 1980)
    assert state.temperature_c == (None, None)
    assert throttling_sentence([state, state]) == "; ".join(["NVIDIA H200 throttled: power cap for 2 s"] * 2)


def test_reasons_that_slow_are_told_with_their_moment(install_nvml) -> None:
    fake = install_nvml("NVIDIA H200")
    fake.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: 0x1
    watch = GpuWatch.open()
    assert watch is not None
    fake.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: 0x44
    (state,) = watch.states()
    assert state.clocks_event_reasons == (1, 0x44)
    assert state.throttled == ["power cap after the run", "hardware thermal slowdown after the run"]
    assert throttling_sentence([]) is None


def test_without_nvml_there_is_nothing_to_watch(no_nvml) -> None:
    assert GpuWatch.open() is None


def test_only_the_gpus_that_work_are_watched(install_nvml) -> None:
    install_nvml(*["NVIDIA H200"] * 3)
    watch = GpuWatch.open((2, 0))
    assert watch is not None
    assert [state.uuid for state in watch.states()] == ["GPU-22aa-0000", "GPU-00aa-0000"]
    assert GpuWatch.open((9,)) is None


@pytest.mark.gpu
def test_a_real_gpu_tells_its_state() -> None:
    watch = GpuWatch.open()
    assert watch is not None
    (state,) = watch.states()
    assert state.sm_clock_mhz[1] is not None
    assert all(seconds >= 0 for seconds in state.violation_s.values())
