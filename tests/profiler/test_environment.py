import getpass
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from profiler import environment
from profiler.environment import capture_environment, distribution_version, scrub_command


def test_what_is_captured_here(no_nvml) -> None:
    captured = capture_environment(["/opt/bin/qt-profile", "chain"])
    assert captured.command == ["qt-profile", "chain"]
    assert captured.captured_utc.utcoffset().total_seconds() == 0
    assert captured.versions["python"] == sys.version.split()[0]
    assert captured.versions["torch"] == distribution_version("torch")
    assert captured.cpu_threads >= 1
    assert captured.compute_threads >= 1
    assert (captured.gpus, captured.nvidia_driver) == ([], None)


def test_no_names_of_people_or_places(no_nvml) -> None:
    text = capture_environment(["/opt/qt-profile", str(Path.home() / "m"), os.getcwd()]).model_dump_json()
    for secret in (socket.gethostname(), str(Path.home()) + "/", os.getcwd() + "/"):
        assert secret not in text
    assert getpass.getuser() not in text.replace("root", "") or getpass.getuser() == "root"


def test_gpus_are_described_in_the_order_of_cuda(install_nvml, monkeypatch) -> None:
    install_nvml("NVIDIA H200", "Unlisted GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    captured = capture_environment()
    assert [(gpu.index, gpu.name, gpu.arch) for gpu in captured.gpus] == [
        (0, "Unlisted GPU", None),
        (1, "NVIDIA H200", "h200"),
    ]
    gpu = captured.gpus[1]
    assert (gpu.uuid, gpu.memory_bytes, gpu.power_limit_w) == ("GPU-00aa-0000", 80 << 30, 650.0)
    assert (gpu.sm_clock_mhz, gpu.memory_clock_mhz) == (1980, 2619)
    assert (gpu.temperature_c, gpu.power_limit_default_w, gpu.clocks_event_reasons) == (None, None, None)
    assert (gpu.ecc_enabled, gpu.mig_enabled, gpu.persistence_enabled) == (None, None, None)
    assert captured.nvidia_driver == "580.1"


def test_modes_of_a_gpu(install_nvml) -> None:
    fake = install_nvml("NVIDIA H200")
    fake.nvmlDeviceGetEccMode = lambda handle: [1, 0]
    fake.nvmlDeviceGetMigMode = lambda handle: (0, 1)
    fake.nvmlDeviceGetPersistenceMode = lambda handle: 1
    (gpu,) = capture_environment().gpus
    assert (gpu.ecc_enabled, gpu.mig_enabled, gpu.persistence_enabled) == (True, False, True)


def test_commands_lose_home_and_working_folder(monkeypatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.chdir(tmp_path)
    words = [
        "/usr/bin/python",
        f"{home}/x",
        f"--runs={home}/runs",
        f"{tmp_path}/a",
        str(tmp_path),
        "tiny",
        "",
    ]
    assert scrub_command(words) == ["python", "./home/x", "--runs=./home/runs", "./a", ".", "tiny", ""]
    monkeypatch.chdir("/")
    assert scrub_command(["p", f"--runs={home}/runs", str(home), "/etc"]) == [
        "p",
        "--runs=~/runs",
        "~",
        "/etc",
    ]
    assert scrub_command([]) == []


def test_other_absolute_paths_keep_their_last_part_only() -> None:
    words = ["p", "--out", "/data/me/runs", "--out=/data/me/runs", "openai/gsm8k", "a/b", "/srv"]
    assert scrub_command(words) == ["p", "--out", ".../runs", "--out=.../runs", "openai/gsm8k", "a/b", "/srv"]


def test_threads_without_torch(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert 1 <= environment._compute_threads() <= (os.cpu_count() or 1)


def test_versions_of_what_is_not_installed() -> None:
    assert distribution_version("no-such-distribution-at-all") is None


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-qm", "x"], check=True)
    return tmp_path.resolve()


def test_git_commit_and_dirt(checkout: Path) -> None:
    commit, dirty = environment._git_state(checkout)
    assert commit is not None
    assert (len(commit), dirty) == (40, False)
    (checkout / "file").write_text("2")
    assert environment._git_state(checkout) == (commit, True)


def test_a_copy_inside_another_checkout_has_no_commit(checkout: Path, tmp_path_factory) -> None:
    installed = checkout / "site-packages"
    installed.mkdir()
    assert environment._git_state(installed) == (None, None)
    assert environment._git_state(tmp_path_factory.mktemp("plain")) == (None, None)


def test_an_archive_names_its_commit(checkout: Path, tmp_path_factory) -> None:
    unpacked = tmp_path_factory.mktemp("unpacked")
    (unpacked / ".git_archival.txt").write_text("node: $Format:%H$\n")
    assert environment._git_state(unpacked) == (None, None)
    (checkout / ".git_archival.txt").write_text("node: $Format:%H$\n")
    (checkout / ".gitattributes").write_text(".git_archival.txt export-subst\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(checkout), "add", "."], check=True)
    subprocess.run(["git", "-C", str(checkout), *identity, "commit", "-qm", "y"], check=True)
    archive = subprocess.run(["git", "-C", str(checkout), "archive", "HEAD"], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(unpacked)], input=archive.stdout, check=True)
    commit, _ = environment._git_state(checkout)
    assert commit is not None
    assert environment._git_state(unpacked) == (commit, None)


def test_no_git(monkeypatch, checkout: Path) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment._git_state(checkout) == (None, None)
