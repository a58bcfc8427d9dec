"""``python -m benchmarks.kernel_sweep``: check, time and compare every kernel over shapes and rows of x.

The command line only: ``plan`` says what is measured, ``sweep`` measures it, ``outcome`` and ``table`` show
it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import outcome as ends
from benchmarks.machine import Absent, Target, find_target, known_archs
from benchmarks.plan import SweepPlan, SweepRequest, make_plan
from benchmarks.rows import floor_rows
from benchmarks.sweep import OnProgress, SweepOutcome, run_sweep
from benchmarks.table import floors_table, reasons_and_notes, tau_table, times_table
from kernels.formats import FORMATS
from profiler.environment import capture_environment
from profiler.record import RecordError, RunRecord, write_run

_TABLE_WIDTH = 150


def sweep_command(
    arch: Annotated[str, typer.Option(help=f"Device: {known_archs()}.", show_default=True)] = "auto",
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"Format, repeatable or comma-separated: {', '.join(FORMATS)}, all."),
    ] = None,
    kernels: Annotated[
        str | None, typer.Option(help="Kernels, comma-separated; bf16 is always there to compare with.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Shapes of a model of the table, such as tiny.")] = None,
    shapes: Annotated[
        str | None, typer.Option(metavar="NxK,...", help="Shapes of the weight, out-features first.")
    ] = None,
    m: Annotated[str | None, typer.Option("--m", metavar="M,...", help="Rows of x, such as 1,8,64.")] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Samples of each; without it a time limit may end sampling early.")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Weights along K that share a scale; each format has a default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random data and of the order.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
) -> None:
    """Time every kernel with cold weights and compare it with bf16; a wrong result gets no time.

    Exit codes: 0 done, 1 a check failed or the record could not be written, 2 bad arguments, 3 the GPU named
    is not here, 130 interrupted (what was measured is kept).
    """
    request = SweepRequest(tuple(formats or ()), kernels, model, shapes, m, repeats, group_size, seed)
    try:
        target = find_target(arch)
        plan = make_plan(request, "cuda" if isinstance(target, Absent) else target.device.type)
    except ValueError as error:
        _refuse(str(error), as_json)
    if isinstance(target, Absent):
        _show_absent(plan, target, as_json)
        raise typer.Exit(ends.EXIT_NO_HARDWARE)
    raise typer.Exit(_measure(plan, request, target, out, as_json))


def main() -> None:
    """Run the command as a program."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(sweep_command)
    app(prog_name="python -m benchmarks.kernel_sweep")


def _measure(plan: SweepPlan, request: SweepRequest, target: Target, out: Path, as_json: bool) -> int:
    created_utc = datetime.now(timezone.utc)
    before = capture_environment(sys.argv)
    if not as_json:
        _console().print(target.sentence)
    with _progress(plan) as on_progress:
        outcome = run_sweep(plan, target, on_progress=on_progress)
    record = ends.to_record(
        outcome, plan, request, target, command=sys.argv, created_utc=created_utc, before=before
    )
    path: Path | None = None
    problems = []
    try:
        path = write_run(out, record, outcome.samples)
    except RecordError as error:
        problems.append(str(error))
    if as_json:
        _print_json(ends.to_json(record, outcome, path, problems))
    else:
        _show(record, outcome, path)
    for sentence in problems:
        print(f"error: {sentence}", file=sys.stderr)
    return ends.exit_code(outcome, has_problems=bool(problems))


def _show(record: RunRecord, outcome: SweepOutcome, path: Path | None) -> None:
    console = _console()
    if outcome.rows:
        console.print(times_table(outcome.rows))
    if outcome.tau:
        console.print(tau_table(outcome.tau))
        console.print(
            "unfused: tau_cast and tau_comp are ranges, or the cast alone and the rest of the call; "
            "fused: tau_comp = t(null), tau_cast = t(fused) - t(null)"
        )
    if outcome.bandwidth is not None:
        bandwidth = outcome.bandwidth
        console.print(
            f"measured here in this run: read {bandwidth.read_gb_s_p50:,.1f} GB/s, "
            f"copy {bandwidth.copy_gb_s_p50:,.1f} GB/s (p50 of {len(bandwidth.read_s)} each)"
        )
    for line in [*reasons_and_notes(outcome.rows), *_other_warnings(record, outcome)]:
        console.print(line)
    if outcome.interrupted:
        console.print(f"interrupted: {len(outcome.rows)} rows were kept")
    if path is not None:
        console.print(f"run: {path}")


def _other_warnings(record: RunRecord, outcome: SweepOutcome) -> Sequence[str]:
    return [text for text in record.warnings if "throttled" in text]


def _show_absent(plan: SweepPlan, absent: Absent, as_json: bool) -> None:
    rows = floor_rows(plan, absent.spec)
    if as_json:
        _print_json(ends.absent_json(absent, rows))
        return
    console = _console()
    console.print(absent.sentence)
    console.print(floors_table(rows))
    console.print(
        "Traffic follows from the shapes; a floor is traffic over the vendor's bandwidth, and no time. "
        f"Predicted times come from fits to runs measured on {absent.spec.name}, which need that GPU."
    )


def _refuse(sentence: str, as_json: bool) -> NoReturn:
    if as_json:
        _print_json({"error": sentence, "exit_code": ends.EXIT_BAD_ARGUMENTS})
    print(f"error: {sentence}", file=sys.stderr)
    raise typer.Exit(ends.EXIT_BAD_ARGUMENTS)


def _print_json(fields: Mapping[str, JsonValue]) -> None:
    print(json.dumps(fields, allow_nan=False))


@contextmanager
def _progress(plan: SweepPlan) -> Iterator[OnProgress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("sweep", total=len(plan.shapes) * len(plan.ms))

        def on_progress(done: float, text: str) -> None:
            progress.update(task, completed=done, description=text)

        yield on_progress


def _console() -> Console:
    """Standard output, wide enough for a table where it is no terminal."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=_TABLE_WIDTH)


if __name__ == "__main__":
    main()
