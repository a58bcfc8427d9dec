"""``qt-profile compare``: what got faster or slower between two runs, beyond noise."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from profiler.cli_errors import EXIT_CHECK_FAILED
from profiler.record import RecordError, RunRecord, Sample, load_run

if TYPE_CHECKING:
    from analysis.compare import Change, Comparison

_TABLE_WIDTH = 150
_STYLES = {"improved": "green", "regressed": "red", "same": "dim", "ambiguous": "yellow"}


def compare_command(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of the earlier run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of the later run.")],
    tolerance: Annotated[
        float,
        typer.Option(help="Share below which a change is none, since machines differ from start to start."),
    ] = 0.03,
    only_changed: Annotated[
        bool, typer.Option("--changed", help="Show only what got better or worse.")
    ] = False,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail", help="Exit with 1 where anything got worse beyond noise.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Compare two runs of the same command: sweeps, chains or energy runs; environments first.

    Exit codes: 0 done, 1 something got worse and --fail is given, 2 runs that cannot be compared.
    """
    from analysis.compare import compare_runs

    found = compare_runs(_load(first), _load(second), tolerance=tolerance, seed=seed)
    failed = fail_on_regression and bool(found.regressions)
    if as_json:
        typer.echo(json.dumps(_fields(found) | {"exit_code": EXIT_CHECK_FAILED if failed else 0}))
    else:
        _show(found, only_changed)
    if failed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _load(path: Path) -> tuple[RunRecord, list[Sample]]:
    """Read a run; one that cannot be read is a bad argument here."""
    try:
        return load_run(path)
    except RecordError as error:
        raise ValueError(str(error)) from error


def _fields(found: Comparison) -> dict[str, Any]:
    fields = asdict(found)
    for change in fields["changes"]:
        change["outcome"] = change["outcome"].value
        ratio = change.pop("ratio")
        change["ratio"] = None if ratio is None else ratio["point"]
        change["ratio_ci95"] = None if ratio is None else [ratio["low"], ratio["high"]]
    return fields | {"counts": found.counts, "time_shift": found.time_shift}


def _show(found: Comparison, only_changed: bool) -> None:
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_TABLE_WIDTH)
    console.print(f"A: {found.first}\nB: {found.second}")
    if not found.differences:
        console.print("the environments are the same")
    for sentence in found.differences:
        console.print(f"differs: {sentence}")
    changes = [c for c in found.changes if not only_changed or c.outcome.value in ("improved", "regressed")]
    table = Table(
        title=f"B over A (95 % intervals; changes within {100 * found.tolerance:g} % are none)",
        title_justify="left",
    )
    for heading in ("what", "metric", "A", "B", "B / A", "verdict"):
        table.add_column(heading)
    for change in changes:
        table.add_row(
            change.cell,
            change.metric,
            f"{change.first:.4g}",
            f"{change.second:.4g}",
            _ratio_words(change),
            f"[{_STYLES[change.outcome.value]}]{change.word}[/]",
        )
    if changes:
        console.print(table)
    for side, cells in (("A", found.only_first), ("B", found.only_second)):
        if cells:
            more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
            console.print(f"only in {side}: {', '.join(cells[:3])}{more}")
    shift = found.time_shift
    if shift is not None and abs(shift - 1) > found.tolerance:
        console.print(
            f"half of the times changed by {100 * (shift - 1):+.1f} % or more: look at the machine first"
        )
    console.print(", ".join(f"{count} {name}" for name, count in found.counts.items()))


def _ratio_words(change: Change) -> str:
    return change.reason if change.ratio is None else str(change.ratio)
