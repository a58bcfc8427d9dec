"""What stays behind of a run: full disks, interruptions, signals, resumed sweeps."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, SHORT, SWEEP, assert_refused, run_short

from profiler import cli_chain, cli_errors, record_io
from profiler.cli_errors import StopSignals
from profiler.record import load_run
from reasoning.chain import ChainRun


def test_out_is_tried_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for command in ("chain", "sweep"):
        assert_refused((command, "--out", file), 1, str(file), "is a file, expected a folder")
        assert_refused((command, "--out", file / "runs"), 1, "Not a directory")
    assert file.read_text() == "kept"

    def refuse(**settings: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli_chain.tempfile, "TemporaryFile", refuse)
    assert_refused(("chain", "--out", tmp_path / "a" / "b"), 1, "No space left on device")
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_refused(("chain", "--out", tmp_path / "runs"), 1, "Permission denied")


def full_disk(monkeypatch: pytest.MonkeyPatch, *, refusals: int) -> None:
    """Let the first ``refusals`` flushes to disk find it full."""
    count = 0
    fsync = os.fsync

    def flush(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count <= refusals:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(record_io.os, "fsync", flush)


def check_earlier_run(earlier_run: tuple[Path, dict[str, bytes]]) -> None:
    out, files = earlier_run
    (folder,) = out.iterdir()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_disk_costs_no_result(
    as_json: bool,
    odd: Path,
    earlier_run: tuple[Path, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli_chain.tempfile, "tempdir", str(tmp_path))
    full_disk(monkeypatch, refusals=1)
    result = run_short("--model", odd, "--out", earlier_run[0], *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert "No space left on device; earlier runs are unchanged; this run was stored in" in result.stderr
    (rescued,) = tmp_path.glob("qt-profile-*/*")
    assert str(rescued) in result.stderr
    assert load_run(rescued)[0].status == "complete"
    if as_json:
        printed = json.loads(result.stdout)
        assert (printed["exit_code"], printed["run"]) == (1, str(rescued))
        assert "No space left" in printed["error"]
        assert printed["results"]
    else:
        assert "hop_ms_p50" in result.stdout
    check_earlier_run(earlier_run)


def test_a_run_that_no_disk_takes_is_printed(
    odd: Path, earlier_run: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_chain.tempfile, "tempdir", str(tmp_path))
    full_disk(monkeypatch, refusals=99)
    result = run_short("--model", odd, "--out", earlier_run[0], "--json")
    printed = json.loads(result.stdout)
    assert (result.exit_code, printed["exit_code"], printed["run"]) == (1, 1, None)
    assert printed["error"].endswith("so this run is not stored")
    assert len(printed["results"]) == 2
    assert not list(tmp_path.glob("qt-profile-*"))
    check_earlier_run(earlier_run)


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_an_interrupted_run_keeps_what_was_measured(
    batches: int, odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, count = ChainRun._advance, 0

    def advance_until(self: ChainRun, work: float, label: str) -> None:
        nonlocal count
        advance(self, work, label)
        count += work > 0
        if count == batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(ChainRun, "_advance", advance_until)
    result = run_short("--model", odd, "--limit", "2", "--ablation", "1", "--out", tmp_path, "--json")
    printed = json.loads(result.stdout)
    assert (result.exit_code, printed["exit_code"], printed["status"]) == (130, 130, "interrupted")
    record, samples = load_run(printed["run"])
    assert record.status == "interrupted"
    solved = [row["problems"] for row in printed["results"] if row["mode"] == "generate"]
    assert sum(solved) == min(batches, 4)
    assert samples


@pytest.mark.parametrize("step", ["_make_backend", "_run_part"])
def test_an_interruption_before_any_result_leaves_no_record(
    step: str, odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: ChainRun, argument: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ChainRun, step, interrupt)
    words = ("chain", *SHORT, "--model", odd, "--out", tmp_path / "runs")
    assert_refused(words, 130, "interrupted before anything was measured", "no record")
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_sweep_is_resumed_where_it_stopped(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_part = ChainRun._run_part

    def stop_at_two(self: ChainRun, part: Any) -> None:
        run_part(self, part)
        if part.batch_size == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(ChainRun, "_run_part", stop_at_two)
    first = run_short("--model", odd, *SWEEP, "--out", tmp_path, "--json")
    begun = json.loads(first.stdout)
    assert (first.exit_code, begun["status"]) == (130, "interrupted")
    assert begun["derived"]["batch_sizes_measured"] == [1]
    monkeypatch.setattr(ChainRun, "_run_part", run_part)
    words = ("--model", odd, *SWEEP, "--out", tmp_path, "--resume", begun["run"])
    printed = json.loads(run_short(*words, "--json").stdout)
    assert (printed["status"], printed["exit_code"]) == ("complete", 0)
    assert printed["derived"]["batch_sizes_measured"] == [1, 2]
    assert printed["derived"]["resumed"]["run_id"] == begun["run_id"]
    assert set(printed["derived"]["by_batch_size"]) == {"1", "2"}
    kept = [row for row in printed["results"] if row["batch_size"] == 1]
    assert kept == begun["results"]
    assert {row["batch_size"] for row in printed["results"]} == {1, 2}
    _, samples = load_run(printed["run"])
    assert {sample.batch_size for sample in samples} == {1, 2}
    again = ("chain", *SHORT, "--model", odd, *SWEEP, "--out", tmp_path, "--resume", printed["run"])
    assert_refused(again, 2, "has measured all 2 batch sizes")
    assert_refused((*again, "--seed", "9"), 2, "ran with seed=1, this command asks for 9")
    assert_refused((*again, "--batch", "4,8"), 2, "has finished 0 of the batch sizes 4, 8")


DRIVER = """
import sys, time
from profiler import cli, cli_chain
from reasoning.chain import ChainRun

advance, write = ChainRun._advance, cli_chain.write_run

def told(self, work, label):
    advance(self, work, label)
    if work:
        print("measured", file=sys.stderr, flush=True)

def slow(*arguments):
    print("writing", file=sys.stderr, flush=True)
    time.sleep(1.0)
    return write(*arguments)

ChainRun._advance = told
cli_chain.write_run = slow
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_a_whole_record(number: signal.Signals, odd: Path, tmp_path: Path) -> None:
    """The first ends the run; a second, while the record is being written, is only answered."""
    words = (
        "chain",
        *SHORT,
        "--limit",
        "500",
        "--model",
        str(odd),
        "--out",
        str(tmp_path / "runs"),
        "--json",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "measured" in line:
                process.send_signal(number)
                break
        for line in process.stderr:
            if "writing" in line:
                process.send_signal(signal.SIGINT)
                break
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "already stopping" in stderr
    printed = json.loads(stdout)
    assert (printed["status"], printed["exit_code"]) == ("interrupted", 130)
    (folder,) = (tmp_path / "runs").iterdir()
    assert load_run(folder)[0].status == "interrupted"


def test_an_impatient_second_signal_is_ignored_and_a_late_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(cli_errors.time, "monotonic", lambda: now_s)
    signals = StopSignals()
    with signals.held():
        signals.on_signal(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        signals.on_signal(signal.SIGINT, None)
    now_s = 101.0
    signals.on_signal(signal.SIGINT, None)
    now_s = 110.0
    with pytest.raises(KeyboardInterrupt):
        signals.on_signal(signal.SIGINT, None)
