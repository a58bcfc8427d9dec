from pathlib import Path

import pytest

from profiler.energy import (
    EnergyReading,
    FakeMeter,
    HliMeter,
    NoMeter,
    NvmlCounterMeter,
    RaplMeter,
    best_meter,
)
from profiler.host import CpuFacts
from profiler.nvml import Nvml, NvmlUnavailableError

KNOWN_CPU = CpuFacts("AMD EPYC 9554 64-Core Processor", sockets=2, cores=128, threads=256, virtual=False)
UNKNOWN_CPU = CpuFacts("Some CPU", sockets=1, cores=4, threads=8, virtual=True)


def test_nvml_window_starts_and_ends_on_a_tick(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200")
    meter = NvmlCounterMeter(Nvml.open(), (0,), clock_ns=clock.ns, sleep=clock.sleep)
    window = meter.begin()
    assert clock.now_s == pytest.approx(100.1, abs=0.002)
    clock.sleep(7.03)
    reading = meter.end(window)
    assert reading.duration_s == pytest.approx(7.1, abs=0.002)
    assert reading.energy_j == pytest.approx(7.1 * 300)
    assert (reading.source, reading.is_estimate, reading.idle_w) == ("nvml_counter", False, None)
    assert reading.active_j is None
    assert reading.detail == "NVML total energy of NVIDIA H200 GPU-00aa-0000"


def test_nvml_adds_gpus(install_nvml, clock) -> None:
    install_nvml(*["NVIDIA H200"] * 3)
    meter = NvmlCounterMeter(Nvml.open(), (0, 2), clock_ns=clock.ns, sleep=clock.sleep)
    window = meter.begin()
    clock.sleep(10)
    assert meter.end(window).energy_j == pytest.approx(4000, rel=0.02)
    assert len(NvmlCounterMeter(Nvml.open(), tick_timeout_s=0).gpus) == 3


def test_nvml_short_windows_are_flagged(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200")
    meter = NvmlCounterMeter(Nvml.open(), clock_ns=clock.ns, sleep=clock.sleep)
    window = meter.begin()
    clock.sleep(0.05)
    assert "0.05 s is shorter than the counter's tick of 0.1 s" in meter.end(window).detail
    window = meter.begin()
    clock.sleep(1)
    assert "shorter than 5 s" in meter.end(window).detail


def test_nvml_counter_that_stands_still_is_flagged(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200", tick_s=0)
    meter = NvmlCounterMeter(Nvml.open(), clock_ns=clock.ns, sleep=clock.sleep)
    reading = meter.end(meter.begin())
    assert reading.detail.count("did not advance within 0.5 s") == 2


def test_nvml_idle_power_is_taken_off(install_nvml, clock) -> None:
    fake = install_nvml("NVIDIA H200", power_w=[120.0])
    meter = NvmlCounterMeter(Nvml.open(), clock_ns=clock.ns, sleep=clock.sleep)
    assert meter.measure_idle(2.0) == pytest.approx(120, rel=0.01)
    window = meter.begin()
    clock.sleep(5.0)
    reading = meter.end(window)
    assert reading.idle_w == pytest.approx(120, rel=0.01)
    assert reading.active_j == pytest.approx(0, abs=10)
    assert fake.power_w == [120.0]


def test_nvml_meter_refuses_a_gpu_without_counter_at_once(install_nvml) -> None:
    install_nvml("Tesla P100", has_counter=False)
    with pytest.raises(NvmlUnavailableError, match="no readable energy counter"):
        NvmlCounterMeter(Nvml.open())


def test_hli_is_tdp_times_time_and_says_estimate(clock) -> None:
    meter = HliMeter(250, reason="TDP from a test", clock_ns=clock.ns)
    window = meter.begin()
    clock.sleep(3)
    reading = meter.end(window)
    assert reading.energy_j == pytest.approx(750)
    assert (reading.source, reading.is_estimate, meter.is_estimate) == ("hli", True, True)
    assert reading.detail == "estimate: TDP of 250 W times time; TDP from a test"
    assert meter.measure_idle() is None
    for bad in (0.0, -5.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is not a positive number"):
            HliMeter(bad)


def test_no_meter_gives_no_number(clock) -> None:
    meter = NoMeter("nothing here counts", clock_ns=clock.ns)
    reading = meter.end(meter.begin())
    assert (reading.energy_j, reading.source, reading.detail) == (
        None,
        "none",
        "not measured: nothing here counts",
    )
    assert reading.active_j is None


def test_fake_meter_is_marked(clock) -> None:
    meter = FakeMeter([5.0], power_w=2.0, clock_ns=clock.ns)
    first, second = meter.begin(), meter.begin()
    clock.sleep(4)
    assert [meter.end(first).energy_j, meter.end(second).energy_j] == [5.0, pytest.approx(8.0)]
    assert (meter.source, meter.is_estimate) == ("fake", True)


@pytest.mark.parametrize("energy_j", [-1.0, float("nan"), float("inf")])
def test_a_reading_that_is_no_energy_cannot_be_built(energy_j: float) -> None:
    with pytest.raises(ValueError, match="is not an energy"):
        EnergyReading(energy_j, 1.0, "rapl", None, "")
    with pytest.raises(ValueError, match="duration_s=-1 is negative"):
        EnergyReading(1.0, -1.0, "rapl", None, "")


def test_best_is_the_gpu_counter_for_work_on_a_gpu(install_nvml, tmp_path: Path) -> None:
    install_nvml("NVIDIA H200", "NVIDIA H200")
    meter = best_meter(powercap=tmp_path)
    assert isinstance(meter, NvmlCounterMeter)
    assert len(meter.gpus) == 1
    assert meter.reason == "NVML's energy counter is readable"


def test_best_never_charges_the_cpu_to_the_gpu_counter(install_nvml, tmp_path: Path) -> None:
    install_nvml("NVIDIA H200")
    assert isinstance(best_meter(device="cpu", powercap=tmp_path, cpu=UNKNOWN_CPU), NoMeter)


def test_best_is_rapl_for_work_on_the_cpu(no_nvml, tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "1000")):
        (zone / name).write_text(text)
    assert isinstance(best_meter(powercap=tmp_path), RaplMeter)
    assert isinstance(best_meter(device="cuda", powercap=tmp_path), NoMeter)


def test_a_hidden_gpu_leaves_the_cpu(install_nvml, monkeypatch, tmp_path: Path) -> None:
    install_nvml("NVIDIA H200")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    meter = best_meter(powercap=tmp_path, cpu=KNOWN_CPU)
    assert isinstance(meter, HliMeter)
    assert meter.tdp_w == 720
    assert "2 x AMD EPYC 9554" in meter.reason


def test_a_mig_slice_has_no_meter_unless_a_tdp_is_given(install_nvml, monkeypatch, tmp_path: Path) -> None:
    install_nvml("NVIDIA H200")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    meter = best_meter(powercap=tmp_path, cpu=KNOWN_CPU)
    assert isinstance(meter, NoMeter)
    assert "MIG slice" in meter.reason


def test_a_gpu_without_counter_is_estimated_from_the_table(install_nvml, tmp_path: Path) -> None:
    install_nvml("NVIDIA H200", "NVIDIA H200", has_counter=False)
    meter = best_meter(gpus=None, powercap=tmp_path)
    assert isinstance(meter, HliMeter)
    assert meter.tdp_w == 1400
    assert "no readable energy counter" in meter.reason
    install_nvml("NVIDIA H200", "Unlisted", has_counter=False)
    assert isinstance(best_meter(gpus=None, powercap=tmp_path), NoMeter)


def test_a_tdp_given_beats_the_tables(no_nvml, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QT_PROFILE_TDP_W", "45.5")
    meter = best_meter(powercap=tmp_path, cpu=KNOWN_CPU)
    assert isinstance(meter, HliMeter)
    assert meter.tdp_w == 45.5
    assert "TDP from QT_PROFILE_TDP_W" in meter.reason
    meter = best_meter(15, device="cuda", powercap=tmp_path)
    assert isinstance(meter, HliMeter)
    assert meter.tdp_w == 15


def test_nothing_known_is_no_meter_that_says_what_to_do(no_nvml, tmp_path: Path) -> None:
    meter = best_meter(powercap=tmp_path, cpu=UNKNOWN_CPU)
    assert isinstance(meter, NoMeter)
    assert "no TDP is known for Some CPU, set QT_PROFILE_TDP_W" in meter.reason


def test_a_virtual_machine_is_said(no_nvml, tmp_path: Path) -> None:
    cpu = CpuFacts(KNOWN_CPU.model, sockets=1, cores=2, threads=2, virtual=True)
    assert "a virtual machine owns only a part" in best_meter(powercap=tmp_path, cpu=cpu).reason


def test_bad_settings_are_refused(no_nvml, monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tdp_w=-3 is not a positive number of watts"):
        best_meter(-3, powercap=tmp_path)
    with pytest.raises(ValueError, match="device='tpu'"):
        best_meter(device="tpu", powercap=tmp_path)  # type: ignore[arg-type]
    for text in ("much", "nan", "0"):
        monkeypatch.setenv("QT_PROFILE_TDP_W", text)
        with pytest.raises(ValueError, match="QT_PROFILE_TDP_W="):
            best_meter(powercap=tmp_path)


@pytest.mark.gpu
def test_a_real_gpu_draws_a_plausible_power() -> None:
    import torch

    meter = best_meter(device="cuda")
    if meter.source != "nvml_counter":
        pytest.skip(meter.reason)
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    idle_w = meter.measure_idle(1.0)
    window = meter.begin()
    for _ in range(2000):
        x = x @ x.T / 4096
    torch.cuda.synchronize()
    reading = meter.end(window)
    assert reading.energy_j is not None
    assert idle_w is not None
    assert 5 < idle_w < 1.2 * reading.energy_j / reading.duration_s < 2000
