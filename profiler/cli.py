"""The command ``qt-profile``: its subcommands and options; ``cli_chain`` and ``cli_errors`` do the work.

Exit codes: 0 done, 1 a check failed or a record could not be written, 2 bad arguments, 3 missing hardware,
130 interrupted: what was measured is kept, and where nothing was, no record is written.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from profiler.cli_errors import EXIT_CHECK_FAILED, STOP_SIGNALS, FrontDoor, MissingHardwareError
from profiler.cli_fit import fit_command
from profiler.cli_runs import app as runs

_TABLE_WIDTH = 120

app = typer.Typer(
    cls=FrontDoor,
    help="Profile low-bit LLM kernels: what casting costs, what it does to accuracy, and whether a variant "
    "is trapped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 a check failed or the record could not be written, 2 bad arguments, "
    "3 missing hardware, 130 interrupted (results kept).",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kernels import __version__

        typer.echo(f"qt-profile {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def chain(
    model: Annotated[
        str, typer.Option(help="tiny, a key of the model table, a local folder, or a hub id.")
    ] = "tiny",
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            help="Variant to profile; repeat for several; fused_nf4 by default. See `qt-profile kernels`."
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Reference kernel.")] = "bf16",
    problems: Annotated[
        str, typer.Option(help="synthetic, a GSM8K or MathQA file, recorded solutions, or openai/gsm8k.")
    ] = "synthetic",
    limit: Annotated[
        int | None, typer.Option(help="At most this many problems; 20 synthetic ones by default.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="generate: solve the problems; replay: force recorded solutions.")
    ] = "generate",
    batch: Annotated[int, typer.Option(help="Sequences decoded together, B.")] = 1,
    max_new: Annotated[int, typer.Option(help="Most tokens per solution, 2 or more.")] = 400,
    seed: Annotated[
        int, typer.Option(help="Seeds the synthetic problems, random weights and intervals.")
    ] = 1,
    group_size: Annotated[
        int | None, typer.Option(help="Weights per scale (32, 64, 128) of the grouped formats.")
    ] = None,
    double_quant: Annotated[
        bool, typer.Option("--double-quant", help="Quantize the group scales too.")
    ] = False,
    ablation: Annotated[
        int,
        typer.Option(
            help="Problems replayed with unfused, fused and null kernels to isolate the cast; 0: none."
        ),
    ] = 4,
    weights: Annotated[
        str, typer.Option(help="real, or random: time and energy only, accuracy is not measured.")
    ] = "real",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tdp_w: Annotated[
        float | None, typer.Option(help="TDP for an energy estimate where no counter is readable, W.")
    ] = None,
    energy_windows: Annotated[
        int,
        typer.Option(
            help="Windows of 5 s that an energy counter gets per kernel at least; 0: none are filled, for a quick look."
        ),
    ] = 3,
    grid_intensity: Annotated[
        float | None,
        typer.Option("--grid-intensity", help="Carbon intensity of the grid for CAES, kgCO2e/kWh."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads; by default half of the logical CPUs, so that others do not stall us."
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip malformed lines of the problem file.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder that the run record is written into.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Solve multi-hop problems with a baseline and with low-bit kernels; print the table, store the run.

    Exit codes: 0 done, 1 the record could not be written, 2 bad arguments, 3 missing hardware,
    130 interrupted (what was measured is kept; before anything was, no record is written).
    """
    from profiler.cli_chain import ChainJob, run_chain
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
        energy_windows=energy_windows,
        grid_kgco2e_per_kwh=grid_intensity,
    )
    _check_one_of("device", device, ("auto", "cpu", "cuda"))
    _check_one_of("weights", weights, ("real", "random"))
    _use_threads(threads)
    code = run_chain(
        ChainJob(
            spec=spec,
            weights="random" if weights == "random" else "real",
            device=_device(device),
            tdp_w=tdp_w,
            skip_bad=skip_bad,
            out=out,
            as_json=as_json,
        )
    )
    raise typer.Exit(code)


@app.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
def sweep(context: typer.Context) -> None:
    """Check and time every kernel over shapes and rows of x, as python -m benchmarks.kernel_sweep does."""
    # Its options name formats and GPUs, so they cannot be listed without importing torch.
    from benchmarks.kernel_sweep import sweep_command
    from profiler.cli_chain import check_out

    inner_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner_app.command()(sweep_command)
    command = typer.main.get_command(inner_app)
    with command.make_context("sweep", list(context.args), parent=context.parent) as inner:
        check_out(inner.params["out"])
        command.invoke(inner)


@app.command()
def trace(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="read FILE | -- COMMAND", help="A trace to read, or a command of qt-profile to trace."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder that a new trace is written into.")] = Path("runs"),
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Without nsys, trace by torch.profiler (Chrome, Perfetto).")
    ] = False,
    png: Annotated[Path | None, typer.Option(help="Draw a timeline of two hops into this file.")] = None,
    domain: Annotated[
        str | None,
        typer.Option(help="NVTX domain to read, or all; qt-profile by default, where the trace has it."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every decoder layer by itself.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Run a command under Nsight Systems, or read such a trace: kernels, device time, gaps, tau_cast, tau_comp.

    Exit codes: 0 done, 1 nsys failed, 2 bad arguments or a file that is no trace, 3 nsys is not here; otherwise
    that of the command.
    """
    from profiler.cli_trace import TraceJob, run_trace

    root: Any = context.find_root().command
    job = TraceJob(tuple(words), out, fallback, png, domain, layers, as_json)
    here = functools.partial(root.main, prog_name="qt-profile", standalone_mode=False)
    raise typer.Exit(run_trace(job, root.list_commands(context), here))


@app.command()
def kernels(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """List every kernel: scheme, format, implementations, and whether it runs here."""
    import torch

    from kernels.registry import KERNELS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table(title=f"kernels on {device}", title_justify="left")
    for heading in ("kernel", "bits", "weights per scale", "implementations", "runs here as"):
        table.add_column(heading)
    rows = []
    for item in KERNELS.values():
        runs, why = item.available(device)
        runs_as = item.implementation_detail(item.implementation_for(device), device) if runs else None
        group_sizes = [] if item.format is None else list(item.format.group_sizes)
        bits = 16 if item.format is None else item.format.bits
        rows.append(
            {
                "kernel": item.name,
                "scheme": item.scheme.value,
                "format": None if item.format is None else item.format.name,
                "bits": bits,
                "group_sizes": group_sizes,
                "implementations": list(item.implementations),
                "runs_here": runs_as,
                "why_not": why or None,
                "meaningful_output": item.meaningful_output,
            }
        )
        table.add_row(
            item.name + ("" if item.meaningful_output else " (costs only, output has no meaning)"),
            str(bits),
            ", ".join(map(str, group_sizes)) or ("–" if item.format is None else "row"),
            ", ".join(item.implementations),
            runs_as or f"no: {why}",
        )
    if as_json:
        typer.echo(json.dumps({"device": device, "kernels": rows}))
    else:
        _console().print(table)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="Folder that run records would be written into.")] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Say what this machine can and cannot measure, and what would fix it; exit code 1 if any is missing."""
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
        _console().print(table)
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(EXIT_CHECK_FAILED)


app.add_typer(runs, name="runs")
app.command("fit")(fit_command)

_Choice = TypeVar("_Choice", bound=Enum)


def _choice(option: str, value: str, kind: type[_Choice]) -> _Choice:
    _check_one_of(option, value, [str(member.value) for member in kind])
    return kind(value)


def _check_one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"--{option} {value!r} is none of {', '.join(allowed)}")


def _use_threads(threads: int | None) -> None:
    import torch

    cpus = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cpus:
        raise ValueError(f"--threads {threads} is outside 1 to {cpus}, the logical CPUs here")
    torch.set_num_threads(threads or max(1, cpus // 2))


def _device(wanted: str) -> Literal["cpu", "cuda"]:
    import torch

    here = torch.cuda.is_available()
    if wanted == "cuda" and not here:
        raise MissingHardwareError(
            "--device cuda, but torch sees no CUDA device here; see `qt-profile doctor`"
        )
    return "cuda" if here and wanted != "cpu" else "cpu"


def _console() -> Console:
    """Standard output, wide enough for a table where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_TABLE_WIDTH)


def main() -> None:
    """Run the command line; a termination signal counts as Ctrl-C, so that it keeps results too."""
    STOP_SIGNALS.install()
    app()


if __name__ == "__main__":
    main()
