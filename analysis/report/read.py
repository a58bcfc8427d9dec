"""Reads what a report was given, in any order and mix, and refuses what cannot be shown."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from analysis.accuracy_drift import drift_of
from analysis.fit_file import FitsFile, read_fits
from analysis.fit_input import LEAST_TIMINGS, machine_of
from analysis.kernel_kinds import BASELINE
from analysis.predict_check import check_prediction
from analysis.predict_file import Prediction, read_prediction
from analysis.predict_history import HISTORY, HeldOut, read_history
from analysis.report.inputs import ChainSamples, Inputs, baseline_of, variants_of
from analysis.si_draws import collect_samples
from profiler.record import (
    SCHEMA_VERSION,
    AgreementSample,
    EnergyRow,
    RecordError,
    RunRecord,
    Sample,
    SweepRow,
    iter_samples,
    list_runs,
    load_record,
)

_COMPARED_VERSIONS = ("torch", "triton", "transformers", "cupy-cuda13x")


def read_inputs(paths: Sequence[Path]) -> Inputs:
    """Read what was given, in any order.

    Args:
        paths: runs, folders of runs, fits, predictions, histories of held-out errors, or ``.json`` files that hold a
            record without its samples.

    Returns:
        The usable ones; those of different machines and models are kept apart by the sections.

    Raises:
        ValueError: nothing there, or a run that cannot be shown, in one sentence that says why.
    """
    records: dict[str, RunRecord] = {}
    fits: list[FitsFile] = []
    predictions: list[Prediction] = []
    held_out: list[HeldOut] = []
    notes: list[str] = []
    samples: dict[str, ChainSamples] = {}
    for path in _files_in(paths, notes):
        if path.is_dir() or path.name == "run.json":
            record, own = _checked_run(path)
            if own is not None:
                samples[record.run_id] = own
        elif path.suffix == ".jsonl":
            held_out += read_history(path)
            continue
        else:
            found = _parse(path)
            if _is_fits(found):
                fits.append(read_fits(path))
                continue
            if _is_prediction(found):
                predictions.append(read_prediction(path))
                continue
            record = _bare_record(path, found)
            notes.append(f"{record.run_id} was given without its samples, so they were not checked")
        if record.run_id in records:
            notes.append(f"{record.run_id} was given twice and is shown once")
        elif record.status == "failed":
            notes.append(f"{record.run_id} failed and is left out: {record.error}")
        else:
            _check(record)
            records[record.run_id] = record
    if not records and not fits and not predictions and not held_out:
        raise ValueError(f"nothing to report: {'; '.join(notes) or 'no run was given'}")
    ordered = sorted(records.values(), key=lambda record: record.created_utc)
    newest = {one.machine: one for one in sorted(fits, key=lambda one: one.created_utc)}
    if len(newest) < len(fits):
        notes.append(f"{len(fits)} fits of {len(newest)} machines were given: the newest of each is shown")
    chains = [record for record in ordered if record.kind == "chain"]
    for prediction in predictions:
        held_out += _checked_now(prediction, chains, notes)
    distinct = {entry.key: entry for entry in held_out}
    return Inputs(
        tuple(ordered),
        tuple(newest.values()),
        tuple(predictions),
        tuple(distinct.values()),
        samples,
        (*notes, *_mixtures(ordered)),
    )


def _checked_now(prediction: Prediction, chains: Sequence[RunRecord], notes: list[str]) -> list[HeldOut]:
    if not chains:
        return []
    try:
        found = check_prediction(prediction, chains)
    except ValueError as error:
        notes.append(f"prediction {prediction.name} is not checked: {error}")
        return []
    notes += [f"prediction {prediction.name}: {sentence}" for sentence in found.skipped]
    return found.held_out


def _files_in(paths: Sequence[Path], notes: list[str]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        if path.is_file() or (path / "run.json").is_file():
            yield path
            continue
        inside = list_runs(path)
        loose = sorted(path.glob("[!.]*.json"))
        usable = [file for file in loose if _is_ours(file, notes)]
        usable += [file for file in (path / HISTORY,) if file.is_file()]
        if not inside and not usable:
            raise ValueError(f"{path} holds no runs, fits or predictions")
        yield from (*inside, *usable)


def _is_ours(path: Path, notes: list[str]) -> bool:
    found = _parse(path)
    if _is_fits(found) or _is_prediction(found) or "run_id" in found:
        return True
    notes.append(f"{path.name} is no run, fit or prediction and is left out")
    return False


def _parse(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _is_fits(found: dict[str, Any]) -> bool:
    return "kernels" in found and "machine" in found and "run_id" not in found


def _is_prediction(found: dict[str, Any]) -> bool:
    return "cells" in found and "fit_runs" in found


def _checked_run(path: Path) -> tuple[RunRecord, ChainSamples | None]:
    try:
        record = load_record(path)
        stream = iter_samples(path)
        if record.kind == "chain":
            return record, _take_samples(stream)
        for _ in stream:  # the last sample read checks their count and digest
            pass
    except RecordError as error:
        raise ValueError(str(error)) from error
    return record, None


def _take_samples(stream: Iterator[Sample]) -> ChainSamples:
    agreements: dict[tuple[str, int | None], list[AgreementSample]] = defaultdict(list)

    def others() -> Iterator[Sample]:
        for sample in stream:
            if isinstance(sample, AgreementSample):
                agreements[sample.kernel, sample.batch_size].append(sample)
            else:
                yield sample

    variants = collect_samples(others())
    return ChainSamples({key: drift_of(own) for key, own in agreements.items()}, variants)


def _bare_record(path: Path, found: dict[str, Any]) -> RunRecord:
    version = found.get("schema_version")
    if "run_id" not in found:
        raise ValueError(f"{path} is no run, fit or prediction")
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema_version={version}, this program shows {SCHEMA_VERSION}")
    try:
        return RunRecord.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the record"
        raise ValueError(f"{path} is not a legal record: {place}: {first['msg']}") from error


def _check(record: RunRecord) -> None:
    """Refuse a run that nothing can be said about."""
    if record.kind == "chain":
        rows, baseline = variants_of(record), baseline_of(record)
        if not any(row.kernel == baseline for row in rows):
            kernels = ", ".join(dict.fromkeys(row.kernel for row in rows)) or "no kernel"
            raise ValueError(f"{record.run_id} has no row of its baseline {baseline}, only of {kernels}")
        if all(row.hop_ms_p50_ci95 is None and row.cor_tps_ci95 is None for row in rows):
            hops = max(row.hops for row in rows)
            raise ValueError(
                f"{record.run_id} has too few samples: {hops} hops give no interval of a hop's time, 2 are needed"
            )
    elif record.kind == "sweep":
        timed = [row for row in record.results if isinstance(row, SweepRow) and row.time_us_p50]
        if not timed:
            raise ValueError(f"{record.run_id} holds 0 timed rows of {len(record.results)}")
        most = max(row.timings for row in timed)
        if most < LEAST_TIMINGS:
            raise ValueError(
                f"{record.run_id} has too few samples: {most} timings a row at most, needed are {LEAST_TIMINGS}"
            )
        if not any(row.kernel == BASELINE for row in timed):
            kernels = ", ".join(dict.fromkeys(row.kernel for row in timed))
            raise ValueError(f"{record.run_id} has no row of the baseline {BASELINE}, only of {kernels}")
    elif not any(isinstance(row, EnergyRow) and row.energy_j is not None for row in record.results):
        raise ValueError(f"{record.run_id} holds 0 rows with an energy of {len(record.results)}")


def _mixtures(records: Sequence[RunRecord]) -> list[str]:
    notes = []
    machines = list(dict.fromkeys(map(machine_of, records)))
    if len(machines) > 1:
        notes.append(
            f"the runs are of {len(machines)} machines, which are shown apart: {', '.join(machines)}"
        )
    for machine in machines:
        own = [record for record in records if machine_of(record) == machine]
        for name in _COMPARED_VERSIONS:
            versions = sorted({str(r.environment.versions.get(name, "none")) for r in own})
            if len(versions) > 1:
                notes.append(
                    f"the runs on {machine} have {len(versions)} versions of {name}: {', '.join(versions)}"
                )
    notes += [
        f"{r.run_id} was interrupted: it holds what was measured until then"
        for r in records
        if r.status == "interrupted"
    ]
    return notes
