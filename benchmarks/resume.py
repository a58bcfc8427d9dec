"""Takes over the finished cells of an earlier run of the same sweep on the same machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from benchmarks.cell import CellResult
from benchmarks.machine import Target
from benchmarks.sweep import CellKey
from profiler.record import KernelSample, RecordError, RunRecord, SweepRow, load_run

_GIVEN = "given"


@dataclass(frozen=True)
class Earlier:
    """An earlier run."""

    record: RunRecord
    """Its record."""
    cells: Mapping[CellKey, CellResult]
    """What it finished."""

    def summary(self) -> list[JsonValue]:
        """This run and those that it took cells from, for the new record."""
        before = self.record.derived.get("resumed")
        own: JsonValue = {
            "run_id": self.record.run_id,
            "status": self.record.status,
            "cells": len(self.cells),
            "read_bandwidth": self.record.derived.get("read_bandwidth"),
            "git_commit": self.record.environment.git_commit,
            "versions": dict(self.record.environment.versions),
        }
        return [*(before if isinstance(before, list) else []), own]


def load_earlier(path: Path, arguments: Mapping[str, JsonValue], target: Target) -> Earlier:
    """Read a run that is to be continued.

    Args:
        path: its folder.
        arguments: the new sweep's arguments, as its record will have them.
        target: the device at hand.

    Returns:
        The run and its finished cells; a cell that was interrupted is not among them.

    Raises:
        ValueError: there is no such run, it is no sweep, or it was measured with other arguments or on another
            device; the sentence has both values.
    """
    try:
        record, samples = load_run(path)
    except RecordError as error:
        raise ValueError(f"--resume: {error}") from error
    if record.kind != "sweep":
        raise ValueError(f"--resume {record.run_id} is the record of a {record.kind}, not of a sweep")
    _check_arguments(record, arguments)
    name = record.derived.get("device")
    if name != target.name:
        raise ValueError(f"--resume {record.run_id} was measured on {name}, the device here is {target.name}")
    return Earlier(record, _finished_cells(record, [s for s in samples if isinstance(s, KernelSample)]))


def _check_arguments(record: RunRecord, arguments: Mapping[str, JsonValue]) -> None:
    for name, value in arguments.items():
        earlier = record.arguments.get(name)
        if name != _GIVEN and earlier != value:
            raise ValueError(
                f"--resume {record.run_id} was measured with {name}={_words(earlier)}, "
                f"this command asks for {name}={_words(value)}"
            )


def _finished_cells(record: RunRecord, samples: list[KernelSample]) -> dict[CellKey, CellResult]:
    unfinished = {tuple(key) for key in _list(record, "unfinished")}
    cells: dict[CellKey, CellResult] = {}
    for row in record.results:
        if isinstance(row, SweepRow) and (row.n, row.k, row.m) not in unfinished:
            cell = cells.setdefault((row.n, row.k, row.m), CellResult(is_whole=True))
            cell.rows.append(_from_run(row, record.run_id))
            if row.gate == "failed":
                told = cell.failures if row.kernel in _kernels(record) else cell.warnings
                told.append(f"{row.kernel} {row.n}x{row.k} m={row.m}: {row.not_measured}")
    for sample in samples:
        if (sample.n, sample.k, sample.m) in cells:
            cells[sample.n, sample.k, sample.m].samples.append(sample)
    for name in ("tau", "peer_ratios"):
        for entry in _list(record, name):
            key = (entry["n"], entry["k"], entry["m"])
            if key in cells:
                getattr(cells[key], name).append(entry)
    return cells


def _from_run(row: SweepRow, run_id: str) -> SweepRow:
    if any(note.startswith("measured in run ") for note in row.notes):
        return row
    note = f"measured in run {run_id}, and compared with that run's read bandwidth"
    return row.model_copy(update={"notes": [*row.notes, note]})


def _kernels(record: RunRecord) -> list[Any]:
    kernels = record.arguments.get("kernels")
    return kernels if isinstance(kernels, list) else []


def _list(record: RunRecord, name: str) -> list[Any]:
    entries = record.derived.get(name)
    return entries if isinstance(entries, list) else []


def _words(value: JsonValue) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
