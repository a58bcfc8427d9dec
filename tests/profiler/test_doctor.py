import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from profiler import doctor
from profiler.doctor import Check, diagnose


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_check_has_a_sentence_and_every_lack_a_fix(no_nvml, tmp_path: Path) -> None:
    checks = diagnose(tmp_path)
    names = [check.name for check in checks]
    assert len(names) == len(set(names)) >= 15
    assert all(check.detail and "\n" not in check.detail for check in checks)
    assert [check.name for check in checks if check.status != "ok" and not check.fix] == []
    assert by_name(checks)["nvml"] == Check(
        "nvml", "missing", "the package nvidia-ml-py is not installed", "pip install nvidia-ml-py"
    )


def fake_torch(monkeypatch, *, cuda: str | None, device: str | None) -> None:
    state = SimpleNamespace(is_available=lambda: device is not None, get_device_name=lambda index: device)
    torch = SimpleNamespace(__version__="2.13.0", version=SimpleNamespace(cuda=cuda), cuda=state)
    monkeypatch.setitem(sys.modules, "torch", torch)


@pytest.mark.parametrize(
    ("cuda", "device", "status", "detail"),
    [
        ("13.0", "NVIDIA H200", "ok", "NVIDIA H200 (h200)"),
        ("13.0", "NVIDIA H100 NVL", "warn", "not in the hardware table"),
        ("13.0", None, "missing", "no CUDA device"),
        (None, None, "missing", "NVML shows a GPU, but this torch is a CPU build"),
    ],
)
def test_gpu(install_nvml, monkeypatch, cuda, device, status, detail) -> None:
    install_nvml("NVIDIA H200")
    fake_torch(monkeypatch, cuda=cuda, device=device)
    gpu = by_name(list(doctor._torch_and_gpu()))["gpu"]
    assert gpu.status == status
    assert detail in gpu.detail


def test_settings_of_a_gpu(install_nvml) -> None:
    fake = install_nvml("NVIDIA H200")
    assert [(c.name, c.status) for c in doctor._gpu_states()] == [("gpu 0 settings", "ok")]
    fake.nvmlDeviceGetPowerManagementDefaultLimit = lambda handle: 700_000
    fake.nvmlDeviceGetEccMode = lambda handle: [1, 1]
    fake.nvmlDeviceGetMigMode = lambda handle: [1, 1]
    fake.nvmlDeviceGetPersistenceMode = lambda handle: 0
    checks = by_name(list(doctor._gpu_states()))
    assert checks["gpu 0 settings"].detail == "ECC on, MIG on, persistence off, power limit 650 W"
    assert checks["gpu 0 power limit"].detail == "650 W, shipped with 700 W: slower"
    assert checks["gpu 0 power limit"].fix == "nvidia-smi -i GPU-00aa-0000 -pl 700 (root)"
    assert checks["gpu 0 MIG"].status == checks["gpu 0 persistence"].status == "warn"


def test_torch_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (check,) = doctor._torch_and_gpu()
    assert (check.name, check.status) == ("torch", "missing")


def test_energy_source(install_nvml, no_nvml, monkeypatch) -> None:
    monkeypatch.setenv("QT_PROFILE_TDP_W", "65")
    check = doctor._energy()
    if check.status != "ok":  # a machine with readable RAPL has better than an estimate
        assert check.status == "warn"
        assert check.detail.startswith("hli, an estimate")
    monkeypatch.setenv("QT_PROFILE_TDP_W", "lots")
    assert "QT_PROFILE_TDP_W='lots' is not a number" in doctor._energy().detail
    monkeypatch.delenv("QT_PROFILE_TDP_W")
    install_nvml("NVIDIA H200")
    assert doctor._energy() == Check("energy source", "ok", "nvml_counter: NVML's energy counter is readable")
    assert doctor._nvml() == Check("nvml", "ok", "1 GPU: NVIDIA H200")


def test_unreadable_rapl_names_the_command(tmp_path: Path, monkeypatch) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "1000")):
        (zone / name).write_text(text)
    assert doctor._rapl(tmp_path) == Check("rapl", "ok", "package-0")
    (zone / "energy_uj").unlink()
    assert doctor._rapl(tmp_path).status == "missing"


def test_compiler(monkeypatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/clang++" if name == "clang++" else None)
    assert doctor._compiler().detail.startswith("clang++")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor._compiler().fix == "apt-get install g++"
    monkeypatch.setenv("CXX", "icpx")
    assert "CXX=icpx is not there" in doctor._compiler().detail


def test_tools_and_peers(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nsys" if name == "nsys" else None)
    assert [check.status for check in doctor._tools()] == ["ok", "missing"]
    monkeypatch.setattr(doctor, "distribution_version", {"bitsandbytes": "0.50", "cupy-cuda12x": "13"}.get)
    peers = by_name(list(doctor._peers()))
    assert {name: check.status for name, check in peers.items()} == {
        "bitsandbytes": "ok",
        "gemlite": "missing",
        "torchao": "missing",
        "gptqmodel": "missing",
        "cupy": "ok",
    }
    assert doctor._triton().status == "missing"
    assert doctor._name_clash().status == "ok"
    monkeypatch.setattr(doctor, "distribution_version", {"kernels": "0.17"}.get)
    assert doctor._name_clash().fix == "pip uninstall kernels"


def test_bundled_model(tmp_path: Path) -> None:
    assert doctor._bundled_model(tmp_path).detail == "reasoning/tiny lacks config.json, model.safetensors"
    folder = tmp_path / "reasoning" / "tiny"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("x")
    assert doctor._bundled_model(tmp_path).status == "ok"


def test_disk(tmp_path: Path, monkeypatch) -> None:
    assert doctor._disk(tmp_path / "not" / "yet").status in ("ok", "warn")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5_000_000))
    assert doctor._disk(tmp_path).status == "warn"
    monkeypatch.setattr("os.access", lambda place, mode: False)
    assert doctor._disk(tmp_path).status == "missing"


def test_a_python_too_new(monkeypatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 15, 0))
    assert doctor._python().status == "warn"
