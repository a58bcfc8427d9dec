"""``qt-profile runs``: what run folders hold, and the schema that they follow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from profiler.record import (
    EnergyRow,
    RecordError,
    RunRecord,
    VariantResult,
    iter_samples,
    list_runs,
    load_record,
)

_TABLE_WIDTH = 150
_MOST_ROWS = 40

app = typer.Typer(no_args_is_help=True, help="List run records, show one, or print their JSON Schema.")


@app.command("list")
def list_command(
    folder: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """List the runs of a folder, oldest first; damaged ones are listed with what is wrong."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, so it holds no runs")
    entries = [_entry(path) for path in list_runs(folder)]
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "runs": entries}))
        return
    table = Table("run", "kind", "status", "machine", "rows", "samples", "warnings")
    for entry in entries:
        cells = (
            entry["kind"],
            entry["status"],
            entry["machine"],
            entry["rows"],
            entry["samples"],
            entry["warnings"],
        )
        table.add_row(entry["run"], *("–" if cell is None else str(cell) for cell in cells))
    _console().print(table)
    for entry in entries:
        if entry["error"]:
            _console().print(f"{entry['run']}: {entry['error']}")
    _console().print(f"{len(entries)} runs in {folder}")


@app.command("show")
def show_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its run.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as one JSON object.")] = False,
) -> None:
    """Show one run: machine, settings, rows, derived figures, warnings; its samples are checked."""
    record = load_record(run)
    kinds: Counter[str] = Counter(sample.type for sample in iter_samples(run))
    if as_json:
        typer.echo(record.model_dump_json())
        return
    console = _console()
    console.print(
        f"[bold]{record.run_id}[/] ({record.kind}, {record.status}, {record.created_utc:%Y-%m-%d %H:%M} UTC)"
    )
    console.print(" ".join(record.command), highlight=False)
    console.print(_machine_of(record))
    console.print(_pairs("settings", record.arguments))
    console.print(_results(record))
    console.print(f"derived: {', '.join(record.derived) or 'nothing'}")
    samples = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    console.print(f"samples: {samples or 'none'}; their digest is the record's")
    for warning in record.warnings:
        console.print(f"warning: {warning}")
    if record.error:
        console.print(f"error: {record.error}")


@app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of run.json and of the lines of samples.jsonl.gz."""
    from profiler.record_samples import SAMPLE

    schemas = {"run.json": RunRecord.model_json_schema(), "samples.jsonl.gz": SAMPLE.json_schema()}
    typer.echo(json.dumps(schemas))


def _entry(path: Path) -> dict[str, Any]:
    blank = {"kind": None, "status": None, "machine": None, "rows": None, "samples": None, "warnings": None}
    try:
        record = load_record(path)
    except RecordError as error:
        return {"run": path.name, **blank, "error": str(error)}
    return {
        "run": path.name,
        "kind": record.kind,
        "status": record.status,
        "machine": _device_of(record),
        "rows": len(record.results),
        "samples": record.samples_count,
        "warnings": len(record.warnings),
        "error": record.error,
    }


def _device_of(record: RunRecord) -> str:
    gpus = record.environment.gpus
    if not gpus:
        return record.environment.cpu_model
    return gpus[0].name if len(gpus) == 1 else f"{len(gpus)} x {gpus[0].name}"


def _machine_of(record: RunRecord) -> str:
    environment = record.environment
    parts = [_device_of(record), environment.platform]
    parts += [f"driver {environment.nvidia_driver}"] if environment.nvidia_driver else []
    parts += [
        f"{name} {version}" for name, version in environment.versions.items() if name in ("torch", "triton")
    ]
    if environment.git_commit:
        parts.append(
            f"commit {environment.git_commit[:12]}{' with changes' if environment.git_dirty else ''}"
        )
    return "; ".join(parts)


def _pairs(title: str, values: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, json.dumps(value))
    return table


def _results(record: RunRecord) -> Table:
    table = Table(title="results", title_justify="left")
    if record.kind == "chain":
        for heading in ("kernel", "mode", "hop_ms_p50", "accuracy", "energy_j_per_query", "verdict"):
            table.add_column(heading)
    elif record.kind == "energy":
        for heading in ("load", "n x k, m", "power_w", "energy_j_per_unit", "unit", "energy_source"):
            table.add_column(heading)
    else:
        for heading in ("kernel", "implementation", "n x k", "m", "time_us_p50", "speedup_p50", "gate"):
            table.add_column(heading)
    for row in record.results[:_MOST_ROWS]:
        cells: tuple[object, ...]
        if isinstance(row, VariantResult):
            judged = row.verdict_reason
            cells = (row.kernel, row.mode, row.hop_ms_p50, row.accuracy, row.energy_j_per_query, judged)
        elif isinstance(row, EnergyRow):
            size = None if row.n is None else f"{row.n} x {row.k}, {row.m}"
            cells = (row.load, size, row.power_w, row.energy_j_per_unit, row.unit, row.energy_source)
        else:
            size = f"{row.n} x {row.k}"
            cells = (row.kernel, row.implementation, size, row.m, row.time_us_p50, row.speedup_p50, row.gate)
        table.add_row(*(_cell(cell) for cell in cells))
    if len(record.results) > _MOST_ROWS:
        table.caption = f"{_MOST_ROWS} of {len(record.results)} rows; --json has all"
    return table


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_TABLE_WIDTH)
