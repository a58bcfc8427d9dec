"""The job behind ``qt-profile chain``: check the arguments, run, print the table, store the run."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console

from profiler.cli_chain_resume import KeptSizes, kept_from
from profiler.cli_errors import (
    EXIT_CHECK_FAILED,
    EXIT_INTERRUPTED,
    EXIT_MISSING_HARDWARE,
    STOP_SIGNALS,
    hardware_reason,
)
from profiler.energy import best_meter
from profiler.environment import capture_environment, scrub_command
from profiler.record import RecordError, RunRecord, Sample, load_record, new_run_id, write_run

if TYPE_CHECKING:
    from rich.progress import Progress

    from profiler.energy import EnergyMeter
    from reasoning.chain import ChainOutcome
    from reasoning.chain_spec import ChainSpec
    from reasoning.model import LoadedModel
    from reasoning.problems import BadLine

_TABLE_WIDTH = 120
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True)
class ChainJob:
    """What the command line asks for besides the chain itself."""

    spec: ChainSpec
    """The chain."""
    weights: Literal["real", "random"]
    """Trained weights, or random ones for time and energy alone."""
    device: Literal["cpu", "cuda"]
    """Where it runs."""
    tdp_w: float | None
    """TDP for an energy estimate, W."""
    skip_bad: bool
    """Skip malformed lines of the problem file."""
    out: Path
    """Folder of runs."""
    as_json: bool
    """Print one JSON object instead of tables."""
    resume: Path | None = None
    """An interrupted run of the same chain, whose finished batch sizes are taken over."""
    shows_waterfall: bool = False
    """Print the waterfall of every variant."""


@dataclass(frozen=True)
class ChainEnd:
    """A chain that has been stored, as far as it could be."""

    record: RunRecord
    """Its record."""
    folder: Path | None
    """Where the record is; None where no disk took it."""
    code: int
    """Exit code: 0 done, 1 an error ended the run or the record could not be written where it belongs, 3 the memory of
    the device was too small for all of it, 130 interrupted."""
    trouble: str | None
    """What went wrong, in a sentence."""

    def as_json(self) -> dict[str, Any]:
        """The record as it was stored, and how the command ended."""
        record = self.record if self.folder is None else load_record(self.folder)
        fields = record.model_dump(mode="json")
        run = None if self.folder is None else str(self.folder)
        return fields | {"run": run, "exit_code": self.code, "error": self.trouble}


def run_chain(job: ChainJob) -> int:
    """Run a chain, store its record and print its figures.

    Args:
        job: what to run.

    Returns:
        The exit code, see ``ChainEnd.code``.

    Raises:
        ValueError: an argument, the problems or the model cannot be used.
        KeyboardInterrupt: interrupted before anything was measured, which leaves no record.
    """
    end = measure_chain(job)
    with STOP_SIGNALS.held():
        if job.as_json:
            typer.echo(json.dumps(end.as_json(), allow_nan=False))
        show_chain(end, prints_tables=not job.as_json, shows_waterfall=job.shows_waterfall)
    return end.code


def measure_chain(job: ChainJob) -> ChainEnd:
    """Run a chain and store its record.

    Raises:
        ValueError: an argument, the problems or the model cannot be used.
        KeyboardInterrupt: interrupted before anything was measured, which leaves no record.
    """
    from kernels.peers.kernel import PeerFailedError
    from reasoning.chain import ChainRun, check_kernels
    from reasoning.chain_problems import select_problems
    from reasoning.model import load_model

    spec = job.spec
    created_utc = datetime.now(timezone.utc)
    check_out(job.out)
    kept = None if job.resume is None else kept_from(job.resume, _settings(job))
    todo = spec if kept is None else replace(spec, batch_sizes=kept.missing(spec.batch_sizes))
    check_kernels(spec, job.device)
    problems, skipped = select_problems(spec, skip_bad=job.skip_bad)
    loaded = load_model(
        spec.model, device=job.device, weights=job.weights, seed=spec.seed, streams=spec.streams
    )
    _refuse_nan(loaded.model)
    with _progress_bar() as progress:
        task = progress.add_task("quantizing", total=None)
        run = ChainRun(
            todo,
            loaded,
            problems,
            best_meter(job.tdp_w, device=job.device),
            lambda done, total, label: progress.update(task, completed=done, total=total, description=label),
        )
        try:
            outcome = run.run()
        except PeerFailedError as error:
            raise ValueError(str(error)) from error
    if not outcome.rows:
        raise KeyboardInterrupt
    with STOP_SIGNALS.held():
        record = _record(job, created_utc, loaded, outcome, run.meter, skipped, len(problems), kept)
        folder, trouble = _store(job.out, record, [*(kept.samples if kept else ()), *outcome.samples])
        code = EXIT_INTERRUPTED if outcome.interrupted else 0
        if outcome.failure is not None:
            code = EXIT_MISSING_HARDWARE if hardware_reason(outcome.failure) else EXIT_CHECK_FAILED
        told = "; ".join(part for part in (record.error, trouble) if part) or None
        return ChainEnd(record, folder, EXIT_CHECK_FAILED if trouble else code, told)


def check_out(out: Path) -> None:
    """Write into the folder of runs and take it back, so that a long run is not lost to a typo.

    Raises:
        RecordError: the folder cannot be made or written into.
    """
    if out.exists() and not out.is_dir():
        raise RecordError(f"--out {out} is a file, expected a folder")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out, buffering=0) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise RecordError(f"--out {out} cannot be written into: {error.strerror or error}") from error
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _refuse_nan(model: Any) -> None:
    for name, parameter in model.named_parameters():
        bad = parameter.numel() - int(parameter.isfinite().sum())
        if bad:
            raise ValueError(
                f"{name} has {bad} values that are NaN or Inf of {parameter.numel()}; the model cannot be run"
            )


def _record(
    job: ChainJob,
    created_utc: datetime,
    loaded: LoadedModel,
    outcome: ChainOutcome,
    meter: EnergyMeter,
    skipped: tuple[BadLine, ...],
    problem_count: int,
    kept: KeptSizes | None,
) -> RunRecord:
    from analysis.chain_summary import derived_of, summarise
    from profiler.cli_chain_paper import paper_figures

    spec = job.spec
    environment = capture_environment(sys.argv)
    summary = summarise(
        outcome.rows,
        outcome.samples,
        baseline=spec.baseline,
        seed=spec.seed,
        grid_kgco2e_per_kwh=spec.grid_kgco2e_per_kwh,
        throttled=any(state.throttled for state in outcome.gpu_states),
        host_paced=spec.engine.value == "eager" and job.device == "cuda",
        fixed_hops=spec.hops is not None,
    )
    by_size = (kept.by_batch_size if kept else {}) | summary.by_batch_size
    derived = derived_of(spec.baseline, by_size) | {
        "batch_sizes_measured": [*(kept.measured if kept else ()), *outcome.measured],
        "batch_sizes_not_measured": {str(size): why for size, why in outcome.not_measured.items()},
    }
    if kept is not None:
        derived["resumed"] = kept.origin
    if spec.protocol is not None:
        derived["paper"] = paper_figures([*(kept.rows if kept else ()), *summary.rows], spec.baseline)
    warnings = [*outcome.warnings, f"energy: {meter.reason}"]
    if skipped:
        reasons = "; ".join(f"{line.position}: {line.reason}" for line in skipped[:3])
        warnings.append(f"{len(skipped)} malformed records skipped: {reasons}")
    return RunRecord(
        run_id=new_run_id(f"chain-{loaded.name}-{'-'.join(spec.kernels)}", created_utc),
        kind="chain",
        status="interrupted" if outcome.interrupted else "complete",
        created_utc=created_utc,
        command=environment.command,
        environment=environment,
        arguments=_settings(job) | {"weights_source": loaded.source, "problem_count": problem_count},
        results=[*(kept.rows if kept else ()), *summary.rows],
        gpu_states=outcome.gpu_states,
        derived=derived,
        warnings=warnings,
        error=None if outcome.failure is None else _failure_sentence(outcome.failure),
    )


def _settings(job: ChainJob) -> dict[str, Any]:
    """The arguments that a record keeps, and that a run which resumes it has to repeat."""
    spec = job.spec
    settings = {name: getattr(value, "value", value) for name, value in asdict(spec).items()}
    settings["kernels"], settings["batch_sizes"] = list(spec.kernels), list(spec.batch_sizes)
    # What readers of one batch size look for.
    settings["batch_size"] = spec.batch_sizes[0] if len(spec.batch_sizes) == 1 else None
    # As the first word, the file of problems loses its folder; the model's keeps what is not personal.
    settings["problems"], settings["model"] = scrub_command([spec.problems, spec.model])
    return settings | {"weights": job.weights, "device": job.device}


def _failure_sentence(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    reason = hardware_reason(error) or type(error).__name__
    return f"{reason}: {first_line}; what was measured before is kept"


def _store(out: Path, record: RunRecord, samples: list[Sample]) -> tuple[Path | None, str | None]:
    """Write the run; where its folder refuses it, into a temporary one, and say so."""
    try:
        return write_run(out, record, samples), None
    except RecordError as error:
        refusal = str(error)
    rescue = Path(tempfile.mkdtemp(prefix="qt-profile-"))
    try:
        rescued = write_run(rescue, record, samples)
    except RecordError:
        with suppress(OSError):
            rescue.rmdir()
        return None, f"{refusal}; {rescue.parent} refuses it too, so this run is not stored"
    return rescued, f"{refusal}; this run was stored in {rescued} instead"


def show_chain(end: ChainEnd, *, prints_tables: bool, shows_waterfall: bool) -> None:
    """Print the tables of a chain, where it is, and what went wrong.

    Args:
        end: the chain.
        prints_tables: False where JSON was printed instead.
        shows_waterfall: also where the time of a hop goes.
    """
    if prints_tables:
        from analysis.chain_table import print_chain
        from profiler.cli_chain_paper import print_paper

        console = Console()
        shown = console if console.is_terminal else Console(width=_TABLE_WIDTH)
        print_chain(end.record, shown, shows_waterfall=shows_waterfall)
        print_paper(end.record, shown)
        if end.folder is not None:
            typer.echo(f"run record: {end.folder}")
    if end.trouble is not None:
        typer.echo(f"error: {end.trouble}", err=True)


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left:"))
    console = Console(stderr=True)
    # Where stderr is no terminal the bar would leave an empty line, and nobody sees it move.
    hidden = not console.is_terminal
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden
    ) as progress:
        yield progress
