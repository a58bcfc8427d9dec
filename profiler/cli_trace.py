"""The job behind ``qt-profile trace``: trace one of our commands, or read a trace that exists."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import typer
from rich.console import Console

from profiler.cli_errors import MissingHardwareError
from profiler.nsys import INSTALL, NsysMissingError, export_sqlite, find_nsys, profile

_READ = "read"
_PROGRAM = "qt-profile"
_REPORTS = (".nsys-rep", ".qdrep")
# A table of ranges is wider than most: eleven columns of numbers beside the nested names.
_TABLE_WIDTH = 160


@dataclass(frozen=True)
class TraceJob:
    """What the command line asks for."""

    words: tuple[str, ...]
    """``read FILE``, or one of our commands with its arguments."""
    out: Path
    """Folder that a new trace is written into."""
    fallback: bool
    """Trace by torch.profiler where there is no nsys."""
    png: Path | None
    """Picture to draw of the trace."""
    domain: str | None
    """NVTX domain to read, or ``all``."""
    layers: bool
    """Keep decoder layers apart."""
    as_json: bool
    """Print one JSON object instead of tables."""
    against: Path | None = None
    """Run record whose own ranges the trace is compared with."""


def run_trace(job: TraceJob, commands: Collection[str], run_here: Callable[[Sequence[str]], object]) -> int:
    """Trace a command and show what its ranges cost, or do so for a trace that exists.

    Args:
        job: what to do.
        commands: names of our commands.
        run_here: runs one of our commands in this process; returns its exit code.

    Returns:
        The exit code: that of the command where one was traced.

    Raises:
        ValueError: the words are no command of ours, or the trace cannot be read.
        MissingHardwareError: there is no nsys.
        OSError: nsys failed, or a file cannot be written.
    """
    if job.png is not None and not job.png.resolve().parent.is_dir():
        raise ValueError(f"--png {job.png}: {job.png.parent} is no folder")
    if job.words[:1] == (_READ,):
        if len(job.words) != 2:
            raise ValueError(f"trace read takes 1 file, got {len(job.words) - 1}")
        _read(job, Path(job.words[1]))
        return 0
    if job.against is not None:
        raise ValueError(
            f"--against {job.against} takes trace read FILE, got {' '.join(job.words) or 'nothing'}"
        )
    return _trace(job, _without_energy_windows(_command(job.words, commands)), run_here)


def _command(words: Sequence[str], commands: Collection[str]) -> list[str]:
    ours = list(words[1:] if words[:1] == (_PROGRAM,) else words)
    known = [name for name in commands if name != "trace"]
    if not ours or ours[0] not in known:
        what = repr(ours[0]) if ours else "nothing"
        raise ValueError(
            f"trace takes read FILE, or -- and a command of qt-profile ({', '.join(known)}), got {what}"
        )
    return ours


def _without_energy_windows(command: list[str]) -> list[str]:
    """A chain that repeats problems to fill energy windows makes traces of gigabytes, of slowed hops at that."""
    option = "--energy-windows"
    if command[0] != "chain" or any(word.split("=")[0] == option for word in command):
        return command
    typer.echo(f"a traced chain fills no energy windows: {option} 0", err=True)
    return [*command, option, "0"]


def _nsys() -> Path:
    try:
        return find_nsys()
    except NsysMissingError as error:
        raise MissingHardwareError(str(error)) from error


def _trace(job: TraceJob, command: list[str], run_here: Callable[[Sequence[str]], object]) -> int:
    from profiler.cli_chain import check_out
    from profiler.record import new_run_id

    try:
        nsys = find_nsys()
    except NsysMissingError as error:
        if not job.fallback:
            raise MissingHardwareError(f"{error}; --fallback traces by torch.profiler instead") from error
        nsys = None
    check_out(job.out)
    job.out.mkdir(parents=True, exist_ok=True)
    stem = job.out / new_run_id(f"trace-{command[0]}", datetime.now(timezone.utc))
    if nsys is None:
        return _fall_back(job, command, stem.with_name(f"{stem.name}.trace.json.gz"), run_here)
    report = stem.with_name(f"{stem.name}.nsys-rep")
    words = [sys.executable, "-m", "profiler.cli", *command]
    code = profile(nsys, words, report, quiet=job.as_json)
    export = export_sqlite(nsys, report, report.with_suffix(".sqlite"))
    if not job.as_json:
        typer.echo(f"trace: {report}, {export}")
    try:
        _show(job, export, {"command_exit_code": code})
    except ValueError as error:
        if not code:
            raise
        typer.echo(f"error: {error}", err=True)
    return code


def _fall_back(
    job: TraceJob, command: list[str], target: Path, run_here: Callable[[Sequence[str]], object]
) -> int:
    from profiler.torch_trace import chrome_trace

    if job.png is not None:
        raise ValueError(f"--png {job.png} draws a trace of nsys, and there is none here; {INSTALL}")
    typer.echo("nsys is not here: torch.profiler traces instead", err=True)
    elsewhere = contextlib.redirect_stdout(sys.stderr) if job.as_json else contextlib.nullcontext()
    with chrome_trace(target), elsewhere:
        code = int(str(run_here(command) or 0))
    if job.as_json:
        typer.echo(json.dumps({"trace": str(target), "command_exit_code": code}))
    else:
        typer.echo(f"trace: {target}, which ui.perfetto.dev opens")
    return code


def _read(job: TraceJob, file: Path) -> None:
    if file.suffix not in _REPORTS:
        _show(job, file, {})
        return
    if not file.is_file():
        raise ValueError(f"{file} is no file")
    nsys = _nsys()
    with tempfile.TemporaryDirectory(prefix="qt-profile-") as folder:
        _show(job, export_sqlite(nsys, file, Path(folder) / f"{file.stem}.sqlite"), {})


def _show(job: TraceJob, export: Path, more: dict[str, object]) -> None:
    from profiler.nsys_picture import draw_timeline
    from profiler.nsys_report import print_reading, to_json
    from profiler.nsys_trace import open_trace
    from profiler.trace_against_run import compare_with_run, print_comparison

    with open_trace(export, domain=job.domain, layers=job.layers) as trace:
        compared = None if job.against is None else compare_with_run(trace.reading, job.against)
        if compared is not None:
            more = {**more, "against": compared.as_json()}
        if not job.as_json:
            console = Console()
            console = console if console.is_terminal else Console(width=_TABLE_WIDTH)
            print_reading(trace.reading, console)
            if compared is not None:
                print_comparison(compared, console)
        if job.png is not None:
            draw_timeline(trace, job.png)
        if job.as_json:
            typer.echo(json.dumps(to_json(trace.reading) | more, allow_nan=False))
        elif job.png is not None:
            typer.echo(f"picture: {job.png}")
