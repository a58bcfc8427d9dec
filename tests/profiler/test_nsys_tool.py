"""Finding and running nsys, played by a script."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from profiler.nsys import (
    PROFILE_FLAGS,
    NsysFailedError,
    NsysMissingError,
    export_sqlite,
    find_nsys,
    profile,
)

# Profiles by running the command; a report is the list of its own words, and an export is a copy of the report.
FAKE = """#!{python}
import os, pathlib, shutil, signal, subprocess, sys
signal.signal(signal.SIGINT, lambda *_: None)
words = sys.argv[1:]
output = pathlib.Path(next(w for w in words if w.startswith("--output=")).partition("=")[2])
if words[0] == "profile":
    code = subprocess.run(words[words.index(f"--output={{output}}") + 1:]).returncode
    kind = os.environ.get("FAKE_NSYS", ".nsys-rep")
    if kind != "nothing":
        pathlib.Path(f"{{output}}{{kind}}").write_text("\\n".join(words))
    sys.exit(code)
if os.environ.get("FAKE_NSYS_EXPORT") == "fails":
    sys.exit("first line\\nFailed to open the report")
shutil.copy(os.environ.get("FAKE_NSYS_SQLITE", words[-1]), output)
"""


def put(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def nsys(tmp_path: Path) -> Path:
    return put(tmp_path / "target-linux-x64" / "nsys", FAKE.format(python=sys.executable))


def test_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "opt/nvidia/nsight-systems/2025.3.2/bin/nsys")
    on_path = put(tmp_path / "bin" / "nsys")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_nsys(tmp_path) == on_path


@pytest.mark.parametrize(
    ("places", "best"),
    [
        (
            [
                "opt/nvidia/nsight-systems/2025.9.1/bin/nsys",
                "opt/nvidia/nsight-systems/2025.10.1/bin/nsys",
                "opt/nvidia/nsight-compute/2026.1.0/host/target-linux-x64/nsys",
            ],
            1,
        ),
        (["opt/nvidia/nsight-compute/2025.3.1/host/target-linux-x64/nsys"], 0),
        (["opt/nvidia/nsight-systems-cli/2024.1.1/target-linux-x64/nsys"], 0),
        (["usr/local/cuda-13.0/nsight-compute-2025.3.0/host/target-linux-x64/nsys"], 0),
    ],
)
def test_places_of_the_installers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: list[str], best: int
) -> None:
    monkeypatch.setenv("PATH", "")
    found = [put(tmp_path / place) for place in places]
    assert find_nsys(tmp_path) == found[best]


def test_without_nsys_the_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "opt/nvidia/nsight-systems/2025.1.1/bin").mkdir(parents=True)
    (tmp_path / "opt/nvidia/nsight-systems/2025.1.1/bin/nsys").write_text("not to be run")
    with pytest.raises(NsysMissingError, match="apt-get install nsight-systems-cli"):
        find_nsys(tmp_path)


def test_profile_runs_the_command_with_our_flags_and_ranges_on(nsys: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = (
        f"import os, pathlib, sys; pathlib.Path({str(seen)!r}).write_text(os.environ['QT_PROFILE_NVTX']); "
        "sys.exit(5)"
    )
    report = tmp_path / "a.b.nsys-rep"
    assert profile(nsys, [sys.executable, "-c", code], report) == 5
    words = report.read_text().split("\n")
    assert words[: len(PROFILE_FLAGS) + 2] == ["profile", *PROFILE_FLAGS, f"--output={tmp_path / 'a.b'}"]
    assert {"--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--cuda-graph-trace=node"} <= set(words)
    assert seen.read_text() == "1"


def test_a_signal_reaches_the_command_and_the_report_is_written(
    nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, stopped = tmp_path / "started", tmp_path / "stopped"
    code = (
        "import pathlib, sys, time\n"
        "try:\n"
        f"    pathlib.Path({str(started)!r}).touch()\n"
        "    time.sleep(60)\n"
        f"except KeyboardInterrupt: pathlib.Path({str(stopped)!r}).touch(); sys.exit(130)\n"
    )
    wait = subprocess.Popen.wait

    def interrupted_once(process: Any, timeout: float | None = None) -> int:
        monkeypatch.setattr(subprocess.Popen, "wait", wait)
        while not started.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted_once)
    assert profile(nsys, [sys.executable, "-c", code], tmp_path / "t.nsys-rep") == 130
    assert stopped.exists() and (tmp_path / "t.nsys-rep").exists()


def test_no_report_is_an_error(nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NSYS", "nothing")
    with pytest.raises(NsysFailedError, match=r"ended with code 0 and wrote no t\.nsys-rep"):
        profile(nsys, ["true"], tmp_path / "t.nsys-rep")


def test_an_older_report_is_not_taken_for_the_new_one(
    nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.nsys-rep").write_text("old")
    monkeypatch.setenv("FAKE_NSYS", "nothing")
    with pytest.raises(NsysFailedError):
        profile(nsys, ["true"], tmp_path / "t.nsys-rep")


def test_a_raw_stream_needs_the_importer(nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NSYS", ".qdstrm")
    with pytest.raises(NsysFailedError, match=r"left the raw stream .*t\.qdstrm and has no QdstrmImporter"):
        profile(nsys, ["true"], tmp_path / "t.nsys-rep")
    script = '#!/bin/sh\ncp "$2" "$4"\n'
    put(tmp_path / "linux-desktop-glibc_2_11_3-x64" / "QdstrmImporter", script)
    assert profile(nsys, ["true"], tmp_path / "t.nsys-rep") == 0
    assert (tmp_path / "t.nsys-rep").read_text().startswith("profile")
    put(
        tmp_path / "linux-desktop-glibc_2_11_3-x64" / "QdstrmImporter",
        "#!/bin/sh\necho wrong version; exit 3\n",
    )
    with pytest.raises(NsysFailedError, match="could not read .*: wrong version"):
        profile(nsys, ["true"], tmp_path / "t.nsys-rep")


def test_export(nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "t.nsys-rep"
    report.write_text("rows")
    assert export_sqlite(nsys, report, tmp_path / "t.sqlite").read_text() == "rows"
    monkeypatch.setenv("FAKE_NSYS_EXPORT", "fails")
    with pytest.raises(NsysFailedError, match=r"could not export .* \(code 1\): Failed to open the report"):
        export_sqlite(nsys, report, tmp_path / "t.sqlite")
