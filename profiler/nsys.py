"""Runs Nsight Systems: finds ``nsys``, profiles a command with the flags the reader needs, exports SQLite."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from profiler.nvtx import SWITCH

PROFILE_FLAGS = (
    "--trace=cuda,nvtx",
    "--sample=none",
    "--cpuctxsw=none",
    "--cuda-graph-trace=node",
    "--force-overwrite=true",
    "--wait=primary",
)
"""Without sampling and context switches nsys disturbs the host least; graphs have to be traced kernel by kernel;
and a compiler's workers that outlive the command are not waited for."""

INSTALL = (
    "install Nsight Systems: `apt-get install nsight-systems-cli` from NVIDIA's package repository, "
    "or the installer of developer.nvidia.com/nsight-systems; then put its folder on PATH"
)
_REPORT = ".nsys-rep"
_IMPORTER = "QdstrmImporter"
# Nsight Compute brings a nsys of its own for its system traces; it is the last resort.
_PLACES = (
    "usr/local/cuda*/bin/nsys",
    "opt/nvidia/nsight-systems*/*/bin/nsys",
    "opt/nvidia/nsight-systems*/*/target-linux-*/nsys",
    "usr/local/cuda*/nsight-systems*/bin/nsys",
    "usr/local/cuda*/nsight-compute*/host/target-linux-*/nsys",
    "opt/nvidia/nsight-compute*/*/host/target-linux-*/nsys",
)


class NsysMissingError(Exception):
    """There is no nsys here; the message says how to get one."""


class NsysFailedError(OSError):
    """nsys ran and did not do what was asked for; the message has its last words."""


def find_nsys(root: Path = Path("/")) -> Path:
    """The newest ``nsys`` of this machine: on PATH, else where NVIDIA's installers put it.

    Args:
        root: folder that stands for ``/``.

    Raises:
        NsysMissingError: there is none.
    """
    on_path = shutil.which("nsys")
    if on_path is not None:
        return Path(on_path)
    for pattern in _PLACES:
        found = [path for path in root.glob(pattern) if path.is_file() and os.access(path, os.X_OK)]
        if found:
            return max(found, key=_version_key)
    raise NsysMissingError(f"nsys is neither on PATH nor in the folders of NVIDIA's installers; {INSTALL}")


def _version_key(path: Path) -> tuple[tuple[int, ...], str]:
    """Sorts ``2025.10`` behind ``2025.9``."""
    digits = "".join(letter if letter.isdigit() else " " for letter in str(path))
    return tuple(map(int, digits.split())), str(path)


def profile(nsys: Path, command: Sequence[str], report: Path, *, quiet: bool = False) -> int:
    """Run a command under nsys, with NVTX ranges on; its output goes where ours goes.

    Args:
        nsys: the program.
        command: what to run.
        report: the ``.nsys-rep`` to write; an older one is replaced.
        quiet: both outputs go to stderr.

    Returns:
        The command's exit code.

    Raises:
        NsysFailedError: no report came out of it.
    """
    stem = report.parent / report.name.removesuffix(_REPORT)
    words = [str(nsys), "profile", *PROFILE_FLAGS, f"--output={stem}", *command]
    report.unlink(missing_ok=True)
    code = _wait(words, {**os.environ, SWITCH: "1"}, 2 if quiet else None)
    if not report.is_file():
        _import_stream(nsys, stem.parent / f"{stem.name}.qdstrm", report)
    if not report.is_file():
        raise NsysFailedError(
            f"{nsys} ended with code {code} and wrote no {report.name}; its messages above say why"
        )
    return code


def _wait(words: Sequence[str], environment: dict[str, str], stdout: int | None) -> int:
    """Run to the end; a signal that stops us stops the command, and nsys still writes its report then."""
    # In a session of its own the command gets each signal once, from here, whether Ctrl-C or kill sent it.
    process = subprocess.Popen(words, env=environment, stdout=stdout, start_new_session=True)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)


def _import_stream(nsys: Path, stream: Path, report: Path) -> None:
    """Make a report of a raw stream, which is all that a nsys without its importer leaves behind."""
    importer = next(nsys.resolve().parent.parent.glob(f"*/{_IMPORTER}"), None)
    if not stream.is_file():
        return
    if importer is None:
        raise NsysFailedError(
            f"{nsys} left the raw stream {stream} and has no {_IMPORTER} beside it to make a report of it; {INSTALL}"
        )
    done = subprocess.run(
        [importer, "--input-file", stream, "--output-file", report],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NsysFailedError(f"{importer} could not read {stream}: {_last_line(done.stderr or done.stdout)}")


def export_sqlite(nsys: Path, report: Path, target: Path) -> Path:
    """Export a report as SQLite.

    Args:
        nsys: the program.
        report: an ``.nsys-rep``.
        target: the file to write; an older one is replaced.

    Returns:
        ``target``.

    Raises:
        NsysFailedError: the report cannot be exported.
    """
    words = [
        str(nsys),
        "export",
        "--type=sqlite",
        "--force-overwrite=true",
        f"--output={target}",
        str(report),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode or not target.is_file():
        raise NsysFailedError(
            f"{nsys} could not export {report} (code {done.returncode}): {_last_line(done.stderr or done.stdout)}"
        )
    return target


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
