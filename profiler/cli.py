"""The command ``qt-profile``. Exit codes: 0 done, 1 a check failed, 2 bad arguments, 3 missing hardware, 130 interrupted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rich.progress import Progress

    from profiler.record import RunRecord
    from reasoning.chain import ChainOutcome
    from reasoning.chain_spec import ChainSpec

EXIT_CHECK_FAILED = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_MISSING_HARDWARE = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    help="Profile low-bit LLM kernels: what casting costs, what it does to accuracy, and whether a variant is trapped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 a check failed, 2 bad arguments, 3 missing hardware, 130 interrupted (results kept).",
)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


@app.command()
def chain(
    model: Annotated[str, typer.Option(help="tiny, a key of the model table, a local folder, or a hub id.")] = "tiny",
    kernel: Annotated[
        list[str] | None, typer.Option(help="Variant to profile; repeat for several. See `qt-profile kernels`.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="Reference kernel.")] = "bf16",
    problems: Annotated[
        str, typer.Option(help="synthetic, a GSM8K or MathQA file, recorded solutions, or openai/gsm8k.")
    ] = "synthetic",
    limit: Annotated[int | None, typer.Option(help="At most this many problems; 20 synthetic ones by default.")] = None,
    mode: Annotated[str, typer.Option(help="generate: solve the problems; replay: force recorded solutions.")] = "generate",
    batch: Annotated[int, typer.Option(help="Sequences decoded together, B.")] = 1,
    max_new: Annotated[int, typer.Option(help="Most tokens per solution.")] = 400,
    seed: Annotated[int, typer.Option(help="Seeds the synthetic problems, random weights and intervals.")] = 1,
    group_size: Annotated[int | None, typer.Option(help="Weights per scale (32, 64, 128) of the grouped formats.")] = None,
    double_quant: Annotated[bool, typer.Option("--double-quant", help="Quantize the group scales too.")] = False,
    ablation: Annotated[
        int, typer.Option(help="Problems replayed with unfused, fused and null kernels to isolate the cast; 0: none.")
    ] = 4,
    weights: Annotated[str, typer.Option(help="real, or random: time and energy only, accuracy is not measured.")] = "real",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tdp_w: Annotated[float | None, typer.Option(help="TDP for an energy estimate where no counter is readable, W.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default half of the logical CPUs, so that others do not stall us.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip malformed lines of the problem file.")] = False,
    out: Annotated[Path, typer.Option(help="Folder that the run record is written into.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Solve multi-hop problems with a baseline and with low-bit kernels; print the table, store the run."""
    with _errors():
        from reasoning.chain_spec import ChainMode, ChainSpec

        spec = ChainSpec(
            model=model,
            kernels=tuple(kernel or ["fused_nf4"]),
            baseline=baseline,
            problems=problems,
            limit=limit,
            mode=_choice("mode", mode, ChainMode),
            batch_size=batch,
            max_new_tokens=max_new,
            seed=seed,
            group_size=group_size,
            double_quant=double_quant,
            ablation_problems=ablation,
        )
        _check_one_of("device", device, ("auto", "cpu", "cuda"))
        _check_one_of("weights", weights, ("real", "random"))
        _use_threads(threads)
        chosen_weights: Literal["real", "random"] = "random" if weights == "random" else "real"
        record = _run_chain(spec, chosen_weights, _device(device), tdp_w, skip_bad, out, quiet=as_json)
    if record.status == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)


def _run_chain(
    spec: ChainSpec,
    weights: Literal["real", "random"],
    device: Literal["cpu", "cuda"],
    tdp_w: float | None,
    skip_bad: bool,
    out: Path,
    *,
    quiet: bool,
) -> RunRecord:
    from datetime import datetime, timezone

    from analysis.chain_summary import summarise
    from analysis.chain_table import print_chain
    from profiler.energy import best_meter
    from profiler.environment import capture_environment
    from profiler.record import RunRecord, new_run_id, write_run
    from reasoning.chain import ChainRun, select_problems
    from reasoning.model import load_model

    created = datetime.now(timezone.utc)
    chosen, skipped = select_problems(spec, skip_bad=skip_bad)
    loaded = load_model(spec.model, device=device, weights=weights, seed=spec.seed)
    meter = best_meter(tdp_w, device=device)
    environment = capture_environment(sys.argv)
    run_id = new_run_id(f"chain-{loaded.name}-{'-'.join(spec.kernels)}", created)
    console = Console(stderr=True)
    with _progress_bar(console) as progress:
        task = progress.add_task("loading", total=None)
        run = ChainRun(
            spec,
            loaded,
            chosen,
            meter,
            lambda done, total, label: progress.update(task, completed=done, total=total, description=label),
        )
        outcome = run.run()
    summary = summarise(outcome.rows, outcome.samples, baseline=spec.baseline, seed=spec.seed)
    record = RunRecord(
        run_id=run_id,
        kind="chain",
        status="interrupted" if outcome.interrupted else "complete",
        created_utc=created,
        command=environment.command,
        environment=environment,
        arguments=_arguments(spec, loaded.source, weights, device, len(chosen)),
        results=summary.rows,
        derived=summary.derived,
        warnings=_warnings(outcome, meter.reason, [f"{b.position}: {b.reason}" for b in skipped]),
    )
    folder = write_run(out, record, outcome.samples)
    if quiet:
        typer.echo(record.model_copy(update={"run_id": folder.name}).model_dump_json())
    else:
        print_chain(record, Console())
        typer.echo(f"run record: {folder}")
    return record


def _arguments(spec: ChainSpec, source: str, weights: str, device: str, problems: int) -> dict[str, object]:
    from dataclasses import asdict

    from profiler.environment import scrub_command

    settings = {k: v.value if hasattr(v, "value") else v for k, v in asdict(spec).items()}
    settings["kernels"] = list(spec.kernels)
    settings["problems"], settings["model"] = scrub_command([spec.problems, spec.model])
    return settings | {"weights": weights, "weights_source": source, "device": device, "problem_count": problems}


def _warnings(outcome: ChainOutcome, meter_reason: str, skipped: list[str]) -> list[str]:
    lines = [*outcome.warnings, f"energy: {meter_reason}"]
    if skipped:
        lines.append(f"{len(skipped)} malformed records skipped: {'; '.join(skipped[:3])}")
    return lines


@app.command()
def kernels(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """List every kernel: scheme, format, implementations, and whether it runs here."""
    import json

    import torch

    from kernels.registry import KERNELS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for item in KERNELS.values():
        runs, why = item.available(device)
        chosen = item.implementation_for(device)
        rows.append(
            {
                "kernel": item.name,
                "scheme": item.scheme.value,
                "format": None if item.format is None else item.format.name,
                "bits": 16 if item.format is None else item.format.bits,
                "group_sizes": [] if item.format is None else list(item.format.group_sizes),
                "implementations": list(item.implementations),
                "runs_here": item.implementation_detail(chosen, device) if runs else None,
                "why_not": why or None,
                "meaningful_output": item.meaningful_output,
            }
        )
    if as_json:
        typer.echo(json.dumps({"device": device, "kernels": rows}))
        return
    table = Table(title=f"kernels on {device}", title_justify="left")
    for heading in ("kernel", "bits", "weights per scale", "implementations", "runs here as"):
        table.add_column(heading)
    for row in rows:
        groups = ", ".join(map(str, row["group_sizes"])) or ("–" if row["format"] is None else "row")
        runs_as = row["runs_here"] or f"no: {row['why_not']}"
        suffix = "" if row["meaningful_output"] else " (costs only, output has no meaning)"
        table.add_row(row["kernel"] + suffix, str(row["bits"]), groups, ", ".join(row["implementations"]), runs_as)
    Console().print(table)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="Folder that run records would be written into.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Say what this machine can and cannot measure, and what would fix it; exit code 1 if something is missing."""
    import json
    from dataclasses import asdict

    from profiler.doctor import diagnose

    checks = diagnose(out)
    if as_json:
        typer.echo(json.dumps({"checks": [asdict(check) for check in checks]}))
    else:
        table = Table(title="what this machine can measure", title_justify="left")
        for heading in ("check", "status", "detail", "fix"):
            table.add_column(heading, overflow="fold")
        styles = {"ok": "green", "warn": "yellow", "missing": "red"}
        for check in checks:
            table.add_row(check.name, f"[{styles[check.status]}]{check.status}[/]", check.detail, check.fix)
        Console().print(table)
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(EXIT_CHECK_FAILED)


_Choice = TypeVar("_Choice", bound=Enum)


def _choice(option: str, value: str, kind: type[_Choice]) -> _Choice:
    _check_one_of(option, value, [str(member.value) for member in kind])
    return kind(value)


def _check_one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"--{option} {value!r} is none of {', '.join(allowed)}")


def _use_threads(threads: int | None) -> None:
    import os

    import torch

    cpus = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cpus:
        raise ValueError(f"--threads {threads} is outside 1 to {cpus}, the logical CPUs here")
    torch.set_num_threads(threads or max(1, cpus // 2))


def _device(wanted: str) -> Literal["cpu", "cuda"]:
    import torch

    here = torch.cuda.is_available()
    if wanted == "cuda" and not here:
        _fail("--device cuda, but torch sees no CUDA device here; see `qt-profile doctor`", EXIT_MISSING_HARDWARE)
    return "cuda" if here and wanted != "cpu" else "cpu"


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the toolkit's errors into one sentence and an exit code."""
    from profiler.record import RecordError
    from reasoning.name_clash import NameClashError

    try:
        yield
    except (RecordError, NameClashError) as error:
        _fail(str(error), EXIT_CHECK_FAILED)
    except ValueError as error:
        _fail(str(error), EXIT_BAD_ARGUMENTS)
    except KeyboardInterrupt:
        _fail("interrupted before anything was measured", EXIT_INTERRUPTED)


@contextmanager
def _progress_bar(console: Console) -> Iterator[Progress]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; a termination signal counts as Ctrl-C, so that it keeps results too."""
    import signal

    signal.signal(signal.SIGTERM, _interrupt)
    app()
