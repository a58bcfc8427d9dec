import pytest
from fake_power import failing, give_power

from profiler.nvml import (
    GpuLostError,
    MigError,
    Nvml,
    NvmlPermissionError,
    NvmlUnavailableError,
)

GPUS = ("NVIDIA H200", "NVIDIA H200", "NVIDIA H200")


@pytest.mark.parametrize(
    ("variable", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("1, 7, 0", [1]),
        ("GPU-22aa-0000", [2]),
        ("GPU-11,0", [1, 0]),
        ("GPU-", []),
        ("0,0", []),
        ("²", []),
    ],
)
def test_visible_follows_cuda_visible_devices(install_nvml, monkeypatch, variable, indices) -> None:
    install_nvml(*GPUS)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [gpu.index for gpu in Nvml.open().visible()] == indices


def test_a_mig_slice_is_refused(install_nvml, monkeypatch) -> None:
    install_nvml(*GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    with pytest.raises(MigError, match="MIG slice"):
        Nvml.open().visible()


def test_a_card_that_is_split_is_refused_by_any_name(install_nvml) -> None:
    fake = install_nvml(*GPUS)
    nvml = Nvml.open()
    nvml.refuse_mig(nvml.gpus[0])  # this binding cannot tell
    fake.nvmlDeviceGetMigMode = lambda handle: (0, 1)
    nvml.refuse_mig(nvml.gpus[0])  # pending is not on
    fake.nvmlDeviceGetMigMode = lambda handle: (1, 1)
    with pytest.raises(MigError, match="NVIDIA H200 GPU-11aa-0000 is split by MIG"):
        nvml.refuse_mig(nvml.gpus[1])


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (4, NvmlPermissionError, "of NVIDIA H200 GPU-00aa-0000 may not be read"),
        (15, GpuLostError, "NVIDIA H200 GPU-00aa-0000 is lost"),
        (16, GpuLostError, "is lost"),
        (3, NvmlUnavailableError, "NVIDIA H200 has no readable"),
    ],
)
def test_errors_have_names(install_nvml, code, error, message) -> None:
    fake = give_power(install_nvml("NVIDIA H200"))
    nvml = Nvml.open()
    fake.nvmlDeviceGetTotalEnergyConsumption = failing(fake, code)
    fake.nvmlDeviceGetFieldValues = failing(fake, code)
    for read in (nvml.total_energy_j, nvml.power_w):
        with pytest.raises(error, match=message):
            read(nvml.gpus[0])
    assert nvml.violation_s(nvml.gpus[0]) == {}


def test_fields_are_read_by_their_own_types_and_left_out_where_not_offered(install_nvml) -> None:
    fake = install_nvml("NVIDIA H200", "NVIDIA H200")
    nvml = Nvml.open()
    with pytest.raises(NvmlUnavailableError, match="cannot read the instantaneous power"):
        nvml.power_w(nvml.gpus[0])
    give_power(fake, power_w=[321.5, 80.0], violation_ns={74: 2_500_000_000, 269: 0})
    assert [nvml.power_w(gpu) for gpu in nvml.gpus] == [321.5, 80.0]
    assert nvml.violation_s(nvml.gpus[0]) == {"power_cap": 2.5, "sw_thermal": 0.0}
    give_power(fake, power_w=None)
    with pytest.raises(NvmlUnavailableError, match="has no readable instantaneous power"):
        nvml.power_w(nvml.gpus[0])


def test_select_by_ordinal_and_uuid(install_nvml, monkeypatch) -> None:
    install_nvml(*GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    nvml = Nvml.open()
    assert [gpu.index for gpu in nvml.select((0, "GPU-00aa-0000"))] == [2, 0]
    assert [gpu.index for gpu in nvml.select(None)] == [2, 1]
    for missing in (2, -1, "GPU-99"):
        with pytest.raises(NvmlUnavailableError, match="not among the 2 visible"):
            nvml.select((missing,))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(NvmlUnavailableError, match="no GPU is visible"):
        nvml.select(None)


def test_counter_is_in_joules(install_nvml, clock) -> None:
    install_nvml("NVIDIA H200")
    nvml = Nvml.open()
    clock.now_s = 10.0
    assert nvml.total_energy_j(nvml.gpus[0]) == pytest.approx(3000)


def test_what_is_missing_is_said(install_nvml, no_nvml) -> None:
    with pytest.raises(NvmlUnavailableError, match="nvidia-ml-py is not installed"):
        Nvml.open()
    install_nvml(starts=False)
    with pytest.raises(NvmlUnavailableError, match=r"does not start \(Driver Not Loaded\)"):
        Nvml.open()
    install_nvml("Tesla P100", has_counter=False)
    nvml = Nvml.open()
    with pytest.raises(NvmlUnavailableError, match="Tesla P100 has no readable energy counter"):
        nvml.total_energy_j(nvml.gpus[0])
    assert nvml.query("nvmlDeviceGetTemperature", nvml.gpus[0], 0) is None
    assert nvml.query("nvmlDeviceGetNothingLikeIt", nvml.gpus[0]) is None
