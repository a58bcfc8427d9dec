"""``python -m benchmarks.kernel_sweep``: check, time and compare every kernel over shapes and rows of x.

The command line only: ``plan`` says what is measured, ``sweep`` measures it, ``outcome`` and ``report`` show
it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
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
from benchmarks.checkpoint import Checkpoint
from benchmarks.fit_plan import fit_plan
from benchmarks.for_fit import ForFit, measure_for_fit
from benchmarks.machine import Absent, Target, find_target, known_archs
from benchmarks.outcome import SweepRun
from benchmarks.pictures import Machine, draw_pictures
from benchmarks.plan import SweepPlan, SweepRequest, make_plan
from benchmarks.report import console, show, show_absent
from benchmarks.resume import Earlier, load_earlier
from benchmarks.rows import floor_rows
from benchmarks.sweep import OnProgress, SweepOutcome, run_sweep
from kernels.formats import FORMATS
from kernels.peers.registry import PEERS
from profiler.environment import capture_environment
from profiler.hardware import find_gpu
from profiler.record import RecordError, RunRecord

_TUNING = "kernels.tuning"


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
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Measure other libraries' kernels too; one that is missing is listed."),
    ] = False,
    peer: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help=f"Only these peers, comma-separated: {', '.join(PEERS)}."),
    ] = None,
    for_fit: Annotated[
        bool,
        typer.Option(
            "--for-fit",
            help="Measure all that `qt-profile fit` needs: kernels, shapes and m are given, energy and launches added.",
        ),
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Choose our kernels' configurations for this GPU anew, ahead of the sweep."
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Folder of a run of the same sweep; what it finished is not repeated."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
) -> None:
    """Time every kernel with cold weights and compare it with bf16; a wrong result gets no time.

    Exit codes: 0 done, 1 a check failed or the record could not be written, 2 bad arguments, 3 the GPU named
    is not here, 130 interrupted (what was measured is kept).
    """
    request = SweepRequest(
        tuple(formats or ()), kernels, model, shapes, m, repeats, group_size, seed, peers, peer, for_fit
    )
    try:
        target = find_target(arch)
        if isinstance(target, Absent):
            plan = make_plan(request, "cuda", is_here=False)
        else:
            plan = make_plan(request, target.device.type)
            earlier = _earlier(resume, plan, request, target)
            if tune:
                _tune(plan, target)
    except ValueError as error:
        _refuse(str(error), as_json)
    if isinstance(target, Absent):
        rows = floor_rows(plan, target.spec)
        if as_json:
            _print_json(ends.absent_json(target, rows))
        else:
            show_absent(target, rows)
        raise typer.Exit(ends.EXIT_NO_HARDWARE)
    created_utc = datetime.now(timezone.utc)
    before = capture_environment(sys.argv)
    run = SweepRun(plan, request, target, sys.argv, created_utc, before, earlier)
    raise typer.Exit(_measure(run, out, as_json))


def main() -> None:
    """Run the command as a program."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(sweep_command)
    app(prog_name="python -m benchmarks.kernel_sweep")


def _earlier(resume: Path | None, plan: SweepPlan, request: SweepRequest, target: Target) -> Earlier | None:
    if resume is None:
        return None
    return load_earlier(resume, ends.arguments_of(plan, request, target), target)


def _tune(plan: SweepPlan, target: Target) -> None:
    """Redo the choice of configurations.

    Raises:
        ValueError: there is no GPU to tune for, or nothing to tune.
    """
    if not target.is_cuda:
        raise ValueError(f"--tune chooses configurations for a GPU, but this sweep runs on {target.name}")
    if importlib.util.find_spec(_TUNING) is None:
        raise ValueError(f"--tune needs the module {_TUNING}, which is not installed")
    names = [variant.name for variant in plan.variants if variant.format is not None]
    sizes = [(shape.n, shape.k) for shape in plan.shapes]
    with _progress("tuning", 1.0) as on_progress:
        importlib.import_module(_TUNING).tune(
            names, sizes, plan.ms, device=target.device, on_progress=on_progress
        )


def _measure(run: SweepRun, out: Path, as_json: bool) -> int:
    if not as_json:
        console().print(run.target.sentence)
    checkpoint = Checkpoint(out)
    problems: list[str] = []

    missed: list[str] = []

    def on_cell(outcome: SweepOutcome) -> None:
        if not checkpoint.is_due:
            return
        try:
            checkpoint.write(ends.to_record(outcome, run, is_running=True), outcome.samples)
        except RecordError as error:  # a disk that refuses now may take the whole run later
            missed.append(f"unfinished, the run could not be stored: {error}")

    # Other libraries print; standard output belongs to the tables, or to one JSON object.
    with (
        _progress("sweep", len(run.plan.shapes) * len(run.plan.ms)) as on_progress,
        contextlib.redirect_stdout(sys.stderr),
    ):
        outcome = run_sweep(
            run.plan,
            run.target,
            earlier=None if run.earlier is None else run.earlier.cells,
            on_progress=on_progress,
            on_cell=on_cell,
        )
    more = _for_fit(run, outcome)
    drawn, not_drawn = _draw(run, outcome)
    record = more.added_to(ends.to_record(outcome, run, warnings=[*not_drawn, *missed[:1]]))
    path: Path | None = None
    pictures: list[Path] = []
    try:
        path = checkpoint.write(record, [*outcome.samples, *more.samples])
        pictures = _store(drawn, path)
    except (RecordError, OSError) as error:
        problems.append(str(error))
    _end(record, outcome, path, pictures, problems, as_json)
    return ends.exit_code(outcome, has_problems=bool(problems))


def _for_fit(run: SweepRun, outcome: SweepOutcome) -> ForFit:
    """Energy and launches, after the times: a window of energy warms the card."""
    if not run.request.for_fit or outcome.interrupted:
        return ForFit()
    plan = fit_plan(run.plan, run.target)
    with (
        _progress("for the fit", plan.steps) as on_progress,
        contextlib.redirect_stdout(sys.stderr),
    ):
        more = measure_for_fit(plan, run.target, on_progress=on_progress)
    outcome.interrupted = more.interrupted
    return more


def _draw(run: SweepRun, outcome: SweepOutcome) -> tuple[dict[str, bytes], list[str]]:
    if outcome.bandwidth is None or not outcome.rows:
        return {}, []
    spec = find_gpu(run.target.name) if run.target.is_cuda else None
    return draw_pictures(outcome.rows, Machine(run.target.name, outcome.bandwidth.read_gb_s_p50, spec))


def _store(pictures: Mapping[str, bytes], folder: Path) -> list[Path]:
    paths = []
    for name, content in pictures.items():
        paths.append(folder / name)
        paths[-1].write_bytes(content)
    return paths


def _end(
    record: RunRecord,
    outcome: SweepOutcome,
    path: Path | None,
    pictures: Sequence[Path],
    problems: Sequence[str],
    as_json: bool,
) -> None:
    if as_json:
        _print_json(ends.to_json(record, outcome, path, problems))
    else:
        show(record, outcome, path, pictures)
    for sentence in problems:
        print(f"error: {sentence}", file=sys.stderr)


def _refuse(sentence: str, as_json: bool) -> NoReturn:
    if as_json:
        _print_json({"error": sentence, "exit_code": ends.EXIT_BAD_ARGUMENTS})
    print(f"error: {sentence}", file=sys.stderr)
    raise typer.Exit(ends.EXIT_BAD_ARGUMENTS)


def _print_json(fields: Mapping[str, JsonValue]) -> None:
    print(json.dumps(fields, allow_nan=False))


@contextmanager
def _progress(what: str, total: float) -> Iterator[OnProgress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    stderr = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=stderr, transient=True, redirect_stdout=False
    ) as bar:
        task = bar.add_task(what, total=total)

        def on_progress(done: float, text: str) -> None:
            bar.update(task, completed=done, description=text)

        yield on_progress


if __name__ == "__main__":
    main()
