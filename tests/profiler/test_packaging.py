"""What an installed copy holds."""

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kernels", "profiler", "reasoning", "analysis", "benchmarks")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed: pip install -e '.[test]'")
    if not (ROOT / "README.md").is_file():
        pytest.skip("README.md is not there, which the wheel's description is made of")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("qt_profile-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_tracked_kind_of_file(wheel_names: set[str]) -> None:
    files = (f for package in PACKAGES for f in (ROOT / package).rglob("*") if f.is_file())
    kinds = {".py", ".csv", ".json", ".safetensors", ".txt", ".md", ".cu"}
    left_out = {"__pycache__", "results"}
    expected = {str(f.relative_to(ROOT)) for f in files if f.suffix in kinds and not left_out & set(f.parts)}
    assert expected - wheel_names == set()
    assert "profiler/data/hardware.csv" in wheel_names
    assert "profiler/data/cpus.csv" in wheel_names


def test_the_wheel_holds_nothing_else(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} <= set(PACKAGES)
    assert not [name for name in wheel_names if "__pycache__" in name or name.startswith("tests")]


def test_the_version_is_that_of_kernels(wheel_names: set[str]) -> None:
    import kernels

    assert any(name.startswith(f"qt_profile-{kernels.__version__}.dist-info/") for name in wheel_names)
