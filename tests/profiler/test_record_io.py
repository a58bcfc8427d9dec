import errno
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler import record_io
from profiler.record import (
    QuerySample,
    RecordError,
    RunRecord,
    iter_samples,
    list_runs,
    load_run,
    write_run,
    write_whole,
)

ROOT = Path(__file__).resolve().parents[2]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_round_trip(tmp_path: Path, make_record, samples) -> None:
    path = write_run(tmp_path / "runs", make_record(), iter(samples))
    assert path == tmp_path / "runs" / "20260131T120005Z-chain-tiny"
    assert sorted(p.name for p in path.iterdir()) == ["run.json", "samples.jsonl.gz"]
    record, loaded = load_run(path)
    assert loaded == samples
    assert record.samples_count == len(samples)
    unpacked = gzip.decompress((path / "samples.jsonl.gz").read_bytes())
    assert record.samples_sha256 == hashlib.sha256(unpacked).hexdigest()
    assert load_run(path / "run.json")[0] == record
    assert record.model_copy(update={"samples_count": 0, "samples_sha256": None}) == make_record()


def test_the_same_samples_give_the_same_bytes(tmp_path: Path, make_record, samples) -> None:
    packed = [
        (write_run(tmp_path / name, make_record(), samples) / "samples.jsonl.gz").read_bytes()
        for name in "ab"
    ]
    assert packed[0] == packed[1]


def test_samples_of_older_runs_are_plain(tmp_path: Path, make_record, samples) -> None:
    path = write_run(tmp_path, make_record(), samples)
    packed = path / "samples.jsonl.gz"
    (path / "samples.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert load_run(path)[1] == samples


def test_a_run_without_samples(tmp_path: Path, make_record) -> None:
    path = write_run(tmp_path, make_record(status="failed", error="no weights", results=[]), [])
    record, samples = load_run(path)
    assert (record.status, samples) == ("failed", [])


def test_runs_are_listed_oldest_first_and_strangers_left_out(tmp_path: Path, make_record) -> None:
    assert list_runs(tmp_path / "absent") == []
    later = write_run(tmp_path, make_record(run_id="20270101T000000Z-b"), [])
    earlier = write_run(tmp_path, make_record(run_id="20250101T000000Z-a"), [])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".partial-x").mkdir()
    (tmp_path / ".partial-x" / "run.json").write_text("{}")
    assert list_runs(tmp_path) == [earlier, later]


def test_namesakes_of_the_same_second_both_stay(tmp_path: Path, make_record, samples) -> None:
    paths = [write_run(tmp_path, make_record(), samples[:count]) for count in (1, 2, 3)]
    assert [p.name.removeprefix("20260131T120005Z-") for p in paths] == [
        "chain-tiny",
        "chain-tiny-2",
        "chain-tiny-3",
    ]
    for count, path in enumerate(paths, start=1):
        record, loaded = load_run(path)
        assert (record.run_id, loaded) == (path.name, samples[:count])


def test_writers_at_once_each_get_a_whole_run(tmp_path: Path, make_record, samples) -> None:
    barrier = threading.Barrier(4)
    paths: list[Path] = []

    def write(count: int) -> None:
        barrier.wait()
        paths.append(write_run(tmp_path, make_record(), samples[:count]))

    threads = [threading.Thread(target=write, args=(count,)) for count in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(paths) == list_runs(tmp_path)
    assert sorted(len(load_run(path)[1]) for path in paths) == [1, 2, 3, 4]


def test_a_name_taken_between_look_and_rename(tmp_path: Path, make_record, samples, monkeypatch) -> None:
    replace = os.replace

    def other_is_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        write_run(tmp_path, make_record(), samples[:1])
        replace(source, target)

    monkeypatch.setattr(os, "replace", other_is_first)
    path = write_run(tmp_path, make_record(), samples)
    assert path.name.endswith("-2")
    assert [len(load_run(run)[1]) for run in list_runs(tmp_path)] == [1, len(samples)]


class Disk:
    """Fails the n-th call of an operation with a given error."""

    def __init__(self, real, number: int, code: int) -> None:
        self.real, self.left, self.code = real, number, code

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args, **kwargs)


@pytest.mark.parametrize(
    ("operation", "number"),
    [("fsync", 1), ("fsync", 2), ("fsync", 3), ("fsync", 4), ("replace", 1)],
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_disk_that_refuses_changes_nothing(
    tmp_path: Path, make_record, samples, monkeypatch, operation: str, number: int, code: int
) -> None:
    write_run(tmp_path, make_record(), samples)
    before = tree(tmp_path)
    monkeypatch.setattr(os, operation, Disk(getattr(os, operation), number, code))
    with pytest.raises(RecordError) as caught:
        write_run(tmp_path, make_record(), samples)
    sentence = str(caught.value)
    assert os.strerror(code) in sentence
    assert sentence.endswith("earlier runs are unchanged")
    assert "\n" not in sentence
    assert tree(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_real_limit_on_file_size(tmp_path: Path) -> None:
    code = (
        "import os, resource, sys, signal\n"
        "from datetime import datetime, timezone\n"
        "from profiler.record import *\n"
        "now = datetime.now(timezone.utc)\n"
        "env = Environment(captured_utc=now, platform='x', cpu_model='x', cpu_threads=1, compute_threads=1)\n"
        "record = RunRecord(run_id=new_run_id('x', now), kind='chain', status='failed', error='e',"
        " created_utc=now, command=[], environment=env, arguments={})\n"
        "texts = [os.urandom(2000).hex() for _ in range(100)]  # nothing to pack\n"
        "queries = [QuerySample(kernel='x', problem_id='1', hops=1, text=text) for text in texts]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: write_run(sys.argv[1], record, queries)\n"
        "except RecordError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path: Path, make_record) -> None:
    file = tmp_path / "runs"
    file.write_text("a file where the folder should be")
    with pytest.raises(RecordError, match=r"cannot write run .*: .*; earlier runs are unchanged"):
        write_run(file, make_record(), [])
    assert file.read_text() == "a file where the folder should be"


def test_a_kill_in_the_middle_leaves_nothing_that_is_read(tmp_path: Path, make_record, samples) -> None:
    old = write_run(tmp_path, make_record(), samples)
    before = tree(old)
    code = (
        "import os, signal, sys\n"
        "from profiler.record import *\n"
        "record, samples = load_run(sys.argv[1])\n"
        "def dying():\n"
        "    yield from samples\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_run(sys.argv[2], record, dying())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(old), str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    leftover = [entry for entry in tmp_path.iterdir() if entry != old]
    assert [entry.name.startswith(".partial-") for entry in leftover] == [True]
    assert list_runs(tmp_path) == [old]
    assert tree(old) == before
    with pytest.raises(RecordError, match="is not a run"):
        load_run(leftover[0])


def test_an_interrupt_passes_through_and_cleans_up(tmp_path: Path, make_record) -> None:
    def interrupted():
        yield QuerySample(kernel="x", problem_id="1", hops=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path, make_record(), interrupted())
    assert list(tmp_path.iterdir()) == []


def test_nan_slipped_in_after_the_checks_is_not_written(tmp_path: Path, make_record) -> None:
    record = make_record()
    record.derived["phi_j"] = float("nan")
    with pytest.raises(RecordError, match="derived.phi_j.* finite number"):
        write_run(tmp_path, record, [])
    assert list(tmp_path.iterdir()) == []


def change(path: Path, **fields: object) -> None:
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, **fields}))


def test_every_damage_is_one_sentence(tmp_path: Path, make_record, samples) -> None:
    def refused(message: str) -> None:
        with pytest.raises(RecordError, match=message) as caught:
            load_run(path)
        assert "\n" not in str(caught.value)

    path = write_run(tmp_path, make_record(), samples)
    whole = tree(path)
    packed = path / "samples.jsonl.gz"
    plain = gzip.decompress(whole[packed.name])
    lines = plain.splitlines(keepends=True)

    sentences = {
        0: "schema_version=0 is older than 1",
        2: "schema_version=2 is newer than 1",
        None: "schema_version=None is not a version number",
        "1": "schema_version='1' is not a version number",
    }
    for version, sentence in sentences.items():
        change(path, schema_version=version)
        refused(sentence)
    change(path, schema_version=1, status="failed")
    refused("not a legal record: a failed run cannot carry results")
    (path / "run.json").write_bytes(whole["run.json"][:-20])
    refused("run.json is not JSON")
    (path / "run.json").write_text("[1, 2]")
    refused("schema_version=None is not a version number")
    (path / "run.json").write_bytes(b"\xff\xfe\x00")
    refused("run.json is not JSON")
    (path / "run.json").write_bytes(whole["run.json"])

    packed.write_bytes(gzip.compress(b"".join(lines[:-1])))
    refused(r"has 5 samples, the record counts 6")
    packed.write_bytes(gzip.compress(plain[:-9]))
    refused("line 6 is not a sample")
    packed.write_bytes(gzip.compress(plain.replace(b"0.25", b"0.26")))
    refused("was changed: its sha256 is")
    packed.write_bytes(gzip.compress(plain.replace(b'"hop"', b'"hip"', 1)))
    refused("line 1 is not a sample")
    packed.write_bytes(whole[packed.name][:-9])
    refused("samples.jsonl.gz is damaged after line [0-6]: ")
    packed.write_bytes(whole[packed.name][:30] + b"\xff" * 60)
    refused("samples.jsonl.gz (is damaged after|line) ")
    packed.write_bytes(plain)
    refused("samples.jsonl.gz cannot be read: Not a gzipped file")
    packed.unlink()
    refused("samples.jsonl.gz cannot be read: No such file")
    (path / "run.json").unlink()
    refused("is not a run: run.json cannot be read")


def test_samples_stream(tmp_path: Path, make_record, samples, monkeypatch) -> None:
    path = write_run(tmp_path, make_record(), samples)
    stream = iter_samples(path)
    assert next(stream) == samples[0]
    assert list(stream) == samples[1:]


def test_too_many_namesakes(tmp_path: Path, make_record, monkeypatch) -> None:
    monkeypatch.setattr(record_io, "_MOST_NAMESAKES", 1)
    write_run(tmp_path, make_record(), [])
    with pytest.raises(RecordError, match="already holds 1 runs named"):
        write_run(tmp_path, make_record(), [])
    assert len(list(tmp_path.iterdir())) == 1


@given(text=st.text(), answer=st.none() | st.text(), hops=st.integers(0, 10**9))
def test_any_text_survives(tmp_path_factory, text: str, answer: str | None, hops: int) -> None:
    sample = QuerySample(kernel="k", problem_id=text, answer=answer, hops=hops, text=text)
    line = sample.model_dump_json(exclude_none=True)
    assert "\n" not in line
    assert record_io.SAMPLE.validate_json(line) == sample


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "deep" / "note.json"
    write_whole(path, "first µ\r\n")
    assert path.read_bytes() == "first µ\r\n".encode()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("profiler.record_io.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "second")
    assert path.read_bytes() == "first µ\r\n".encode() and [p.name for p in path.parent.iterdir()] == [
        path.name
    ]


def test_the_record_type_is_what_is_loaded(tmp_path: Path, make_record) -> None:
    assert isinstance(load_run(write_run(tmp_path, make_record(), []))[0], RunRecord)
