"""Writes run folders whole or not at all, and reads them back with every check.

A run is built in a hidden folder beside its place (``.partial-...``), flushed to disk, and appears under its
name by one rename. A process that is killed, or a disk that fills up, leaves at most a hidden folder that no
reader looks at.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from profiler.record_migrate import migrate
from profiler.record_samples import SAMPLE, Sample
from profiler.record_schema import RunRecord

RECORD_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl.gz"
_PLAIN_SAMPLES_FILE = "samples.jsonl"
_PARTIAL = ".partial-"
_MOST_NAMESAKES = 1000
# A million samples in a few seconds, an eighteenth of their size.
_LEVEL = 6


class RecordError(ValueError):
    """A run cannot be written or read; the message says why in one sentence."""


def write_run(directory: str | Path, record: RunRecord, samples: Iterable[Sample]) -> Path:
    """Write a run as ``<directory>/<run_id>/``.

    Args:
        directory: folder of runs, made when missing.
        record: the run; its ``samples_count`` and ``samples_sha256`` are filled in here, and its ``run_id``
            gets a number when another run of the same second and name is already there.
        samples: the run's samples, consumed once.

    Returns:
        The run's folder.

    Raises:
        RecordError: the record is illegal, or the disk refuses (full, no permission). Nothing is left behind
            then, and earlier runs are as they were.
    """
    record = _revalidated(record)
    directory = Path(directory)
    partial = directory / f"{_PARTIAL}{record.run_id}-{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        count, digest = _write_samples(partial / SAMPLES_FILE, samples)
        update = {"samples_count": count, "samples_sha256": digest}
        return _publish(partial, directory, record.model_copy(update=update))
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RecordError(
            f"cannot write run {record.run_id} into {directory}: {error.strerror or error}; "
            "earlier runs are unchanged"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all, replacing what was there; missing folders are made.

    Args:
        path: the file.
        text: its content, written as UTF-8.

    Raises:
        OSError: the disk refuses; the file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{_PARTIAL}{path.name}-{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as stream:
            stream.write(text.encode("utf-8"))
            _flush(stream)
        os.replace(partial, path)
        _flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def load_record(path: str | Path) -> RunRecord:
    """Read ``run.json`` without the samples.

    Args:
        path: a run's folder, or its ``run.json``.

    Returns:
        The record.

    Raises:
        RecordError: there is no run, its schema version is newer or unknown, or it is damaged.
    """
    file = _folder(path) / RECORD_FILE
    try:
        fields = json.loads(file.read_bytes())
    except OSError as error:
        raise RecordError(
            f"{path} is not a run: {RECORD_FILE} cannot be read ({error.strerror or error})"
        ) from error
    except ValueError as error:
        raise RecordError(f"{file} is not JSON: {error}") from error
    try:
        fields = migrate(fields if isinstance(fields, dict) else {})
    except ValueError as error:
        raise RecordError(f"{file}: {error}") from error
    try:
        return RunRecord.model_validate(fields)
    except ValidationError as error:
        raise RecordError(f"{file} is not a legal record: {_first_error(error)}") from error


def iter_samples(path: str | Path) -> Iterator[Sample]:
    """Stream a run's samples; the count and the digest are checked when the last one has been read.

    Args:
        path: a run's folder, or its ``run.json``.

    Yields:
        The samples in the order in which they were written.

    Raises:
        RecordError: the run cannot be read, or its samples are not those that the record was written with.
    """
    record = load_record(path)
    file = _samples_file(_folder(path))
    digest = hashlib.sha256()
    count = 0
    try:
        with gzip.open(file) if file.name == SAMPLES_FILE else file.open("rb") as stream:
            for line in stream:
                digest.update(line)
                count += 1
                try:
                    yield SAMPLE.validate_json(line)
                except ValidationError as error:
                    raise RecordError(
                        f"{file} line {count} is not a sample: {_first_error(error)}"
                    ) from error
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise RecordError(f"{file} is damaged after line {count}: {error}") from error
    if count != record.samples_count:
        raise RecordError(f"{file} has {count} samples, the record counts {record.samples_count}")
    if digest.hexdigest() != record.samples_sha256:
        raise RecordError(
            f"{file} was changed: its sha256 is {digest.hexdigest()}, the record has {record.samples_sha256}"
        )


def load_run(path: str | Path) -> tuple[RunRecord, list[Sample]]:
    """Read a run whole.

    Args:
        path: a run's folder, or its ``run.json``.

    Returns:
        The record and its samples.

    Raises:
        RecordError: the run cannot be read, has a newer or unknown schema version, or is damaged.
    """
    return load_record(path), list(iter_samples(path))


def list_runs(directory: str | Path) -> list[Path]:
    """List the runs of a folder, oldest first.

    Args:
        directory: folder of runs; one that does not exist holds none.

    Returns:
        Folders that hold a ``run.json``; hidden ones, which are unfinished, are left out.
    """
    directory = Path(directory)
    if not directory.is_dir():
        return []
    folders = (entry for entry in directory.iterdir() if not entry.name.startswith("."))
    return sorted(entry for entry in folders if (entry / RECORD_FILE).is_file())


def _revalidated(record: RunRecord) -> RunRecord:
    # Lists and dicts inside a frozen model can still be changed after its checks ran.
    try:
        return RunRecord.model_validate(record.model_dump())
    except ValidationError as error:
        raise RecordError(f"run {record.run_id} is not a legal record: {_first_error(error)}") from error


def _write_samples(file: Path, samples: Iterable[Sample]) -> tuple[int, str]:
    digest = hashlib.sha256()
    count = 0
    with file.open("xb") as stream:
        # No name and no time in the file: the same samples give the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=_LEVEL, mtime=0) as packed:
            for sample in samples:
                line = sample.model_dump_json(exclude_none=True).encode() + b"\n"
                digest.update(line)
                packed.write(line)
                count += 1
        _flush(stream)
    return count, digest.hexdigest()


def _publish(partial: Path, directory: Path, record: RunRecord) -> Path:
    run_id = record.run_id
    for namesake in range(1, _MOST_NAMESAKES + 1):
        if namesake > 1:
            run_id = f"{record.run_id}-{namesake}"
        target = directory / run_id
        if target.exists():
            continue
        named = record.model_copy(update={"run_id": run_id})
        with (partial / RECORD_FILE).open("wb") as stream:
            stream.write(named.model_dump_json(indent=2).encode() + b"\n")
            _flush(stream)
        _flush_folder(partial)
        try:
            os.replace(partial, target)
        except OSError:
            if not target.exists():
                raise
            continue  # another writer took the name between the look and the rename
        try:
            _flush_folder(directory)
        except OSError:
            os.replace(target, partial)  # the caller is told that nothing was written, so nothing may stay
            raise
        return target
    raise RecordError(f"{directory} already holds {_MOST_NAMESAKES} runs named {record.run_id}")


def _samples_file(folder: Path) -> Path:
    """The packed samples, or as they were written before they were packed."""
    plain = folder / _PLAIN_SAMPLES_FILE
    return plain if plain.is_file() else folder / SAMPLES_FILE


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folder(path: str | Path) -> Path:
    path = Path(path)
    return path.parent if path.name == RECORD_FILE else path


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
