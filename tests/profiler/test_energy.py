from pathlib import Path

import pytest
from fake_power import give_power

from profiler.energy import (
    EnergyReading,
    FakeMeter,
    HliMeter,
    NoMeter,
    NvmlCounterMeter,
    NvmlPolledMeter,
    RaplMeter,
    best_meter,
)
from profiler.energy_totals import add_up
from profiler.host import CpuFacts

KNOWN_CPU = CpuFacts("AMD EPYC 9554 64-Core Processor", sockets=2, cores=128, threads=256, virtual=False)
UNKNOWN_CPU = CpuFacts("Some CPU", sockets=1, cores=4, threads=8, virtual=True)


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
    assert meter.measure_idle() is None
    idle = FakeMeter(power_w=50.0, idle_w=20.0, tdp_w=80.0, clock_ns=clock.ns)
    assert idle.measure_idle() == 20.0
    window = idle.begin()
    clock.sleep(2)
    reading = idle.end(window)
    assert (reading.counter_j, reading.polled_j, reading.hli_j) == (100.0, 100.0, 160.0)
    assert (reading.active_j, reading.error_j) == (60.0, 0.0)


@pytest.mark.parametrize("energy_j", [-1.0, float("nan"), float("inf")])
def test_a_reading_that_is_no_energy_cannot_be_built(energy_j: float) -> None:
    with pytest.raises(ValueError, match="is not an energy"):
        EnergyReading(energy_j, 1.0, "rapl", None, "")
    with pytest.raises(ValueError, match="polled_j=.* is not an energy"):
        EnergyReading(1.0, 1.0, "rapl", None, "", polled_j=energy_j)
    with pytest.raises(ValueError, match="duration_s=-1 is negative"):
        EnergyReading(1.0, -1.0, "rapl", None, "")


def test_best_is_the_gpu_counter_for_work_on_a_gpu(install_nvml, tmp_path: Path) -> None:
    install_nvml("NVIDIA H200", "NVIDIA H200")
    meter = best_meter(powercap=tmp_path)
    assert isinstance(meter, NvmlCounterMeter)
    assert len(meter.gpus) == 1
    assert meter.tdp_w == 700
    assert meter.reason == "NVML's energy counter is readable"


def test_best_is_polled_power_where_there_is_no_counter(install_nvml, tmp_path: Path) -> None:
    give_power(install_nvml("NVIDIA H200", has_counter=False))
    meter = best_meter(powercap=tmp_path)
    assert isinstance(meter, NvmlPolledMeter)
    assert "no readable energy counter" in meter.reason


def test_best_refuses_a_card_that_is_split_by_mig(install_nvml, tmp_path: Path) -> None:
    fake = install_nvml("NVIDIA H200")
    fake.nvmlDeviceGetMigMode = lambda handle: (1, 1)
    meter = best_meter(powercap=tmp_path)
    assert isinstance(meter, NoMeter)
    assert "split by MIG" in meter.reason


def test_best_never_charges_the_cpu_to_the_gpu_counter(install_nvml, tmp_path: Path) -> None:
    install_nvml("NVIDIA H200")
    assert isinstance(best_meter(device="cpu", powercap=tmp_path, cpu=UNKNOWN_CPU), NoMeter)


def test_best_is_rapl_for_work_on_the_cpu(no_nvml, tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "1000")):
        (zone / name).write_text(text)
    meter = best_meter(powercap=tmp_path, cpu=KNOWN_CPU)
    assert isinstance(meter, RaplMeter)
    assert meter.tdp_w == 720
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


def test_sums_have_the_least_certain_source_and_no_figure_that_one_window_lacks() -> None:
    first = EnergyReading(10.0, 1.0, "nvml_counter", 4.0, "counter", 0.5, 10.0, 9.0, 30.0)
    second = EnergyReading(20.0, 2.0, "nvml_polled", 4.0, "lost; downgraded", None, None, 20.0, 60.0)
    total = add_up([first, second])
    assert (total.energy_j, total.polled_j, total.hli_j, total.counter_j) == (30.0, 29.0, 90.0, None)
    assert (total.source, total.error_j, total.active_j) == ("nvml_polled", None, 18.0)
    assert total.detail == "counter | lost; downgraded"
    many = [EnergyReading(1.0, 1.0, "hli", None, f"remark {i}") for i in range(5)]
    assert add_up(many).detail == "remark 0 | remark 1 | remark 2 | and 2 more remarks"
    with pytest.raises(ValueError, match="0 energy readings"):
        add_up([])


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
