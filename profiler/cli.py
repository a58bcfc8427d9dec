"""The command ``qt-profile``: its subcommands and options; ``cli_chain`` and ``cli_errors`` do the work.

Exit codes: 0 done, 1 a check failed or a record could not be written, 2 bad arguments, 3 missing hardware,
130 interrupted: what was measured is kept, and where nothing was, no record is written.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from profiler.cli_chain_command import chain_command
from profiler.cli_compare import compare_command
from profiler.cli_errors import EXIT_CHECK_FAILED, STOP_SIGNALS, FrontDoor
from profiler.cli_fit import fit_command
from profiler.cli_predict import predict_command
from profiler.cli_report import report_command
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


app.command("chain")(chain_command)


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
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="With read: compare with the ranges that this run record timed itself."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Run a command under Nsight Systems, or read such a trace: kernels, device time, gaps, tau_cast, tau_comp.

    Exit codes: 0 done, 1 nsys failed, 2 bad arguments or a file that is no trace, 3 nsys is not here; otherwise
    that of the command.
    """
    from profiler.cli_trace import TraceJob, run_trace

    root: Any = context.find_root().command
    job = TraceJob(tuple(words), out, fallback, png, domain, layers, as_json, against)
    here = functools.partial(root.main, prog_name="qt-profile", standalone_mode=False)
    raise typer.Exit(run_trace(job, root.list_commands(context), here))


@app.command()
def kernels(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """List every kernel, ours and other libraries': scheme, format, implementations, and whether it runs here."""
    import torch

    from kernels.peers.kernel import PEER_KERNELS, PeerKernel
    from kernels.registry import KERNELS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table(title=f"kernels on {device}", title_justify="left")
    for heading in ("kernel", "bits", "weights per scale", "implementations", "runs here as"):
        table.add_column(heading)
    rows = []
    for item in (*KERNELS.values(), *PEER_KERNELS.values()):
        runs, why = item.available(device)
        runs_as = item.implementation_detail(item.implementation_for(device), device) if runs else None
        if isinstance(item, PeerKernel):
            peer = item.peer
            bits, group_sizes = peer.bits, [] if peer.group_size is None else [peer.group_size]
            implementations = [peer.distribution]
        else:
            group_sizes = [] if item.format is None else list(item.format.group_sizes)
            bits = 16 if item.format is None else item.format.bits
            implementations = list(item.implementations)
        rows.append(
            {
                "kernel": item.name,
                "scheme": item.scheme.value,
                "format": None if item.format is None else item.format.name,
                "bits": bits,
                "group_sizes": group_sizes,
                "implementations": implementations,
                "runs_here": runs_as,
                "why_not": why or None,
                "why_not_captured": item.why_not_captured or None,
                "meaningful_output": item.meaningful_output,
            }
        )
        table.add_row(
            item.name + ("" if item.meaningful_output else " (costs only, output has no meaning)"),
            str(bits),
            ", ".join(map(str, group_sizes)) or ("–" if item.scheme.value == "native" else "row"),
            ", ".join(implementations),
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
app.command("report")(report_command)
app.command("predict")(predict_command)
app.command("compare")(compare_command)


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
