"""What the report reads and refuses: mixtures, doubles, damage, runs that say nothing; one sentence each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import report_runs as given
from typer.testing import CliRunner

from analysis.report.read import read_inputs
from profiler.cli import app
from profiler.record import HopSample, RunRecord, write_run


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["report", *words])


def test_notes_say_what_was_mixed_or_left_out(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folder = write_run(runs, given.sweep(), [])
    write_run(runs, given.sweep(1, environment=given.environment(given.A100)), [])
    write_run(runs, given.record("chain", 2, status="failed", error="the GPU fell off"), [])
    write_run(runs, given.sweep(3, status="interrupted"), [])
    (runs / "other.json").write_text("[1]")
    bare = tmp_path / "bare.json"
    bare.write_text(given.energy_run(6).model_dump_json())
    notes = "\n".join(read_inputs([runs, folder / "run.json", bare]).notes)
    assert "2 machines, which are shown apart" in notes
    assert "failed and is left out: the GPU fell off" in notes
    assert "was interrupted" in notes and "given twice and is shown once" in notes
    assert "other.json is no run, fit or prediction" in notes and "without its samples" in notes


def without(kernel: str, run_record: RunRecord) -> RunRecord:
    rows = [row for row in run_record.results if getattr(row, "kernel", None) != kernel]
    return run_record.model_copy(update={"results": rows})


def few_hops() -> RunRecord:
    rows = [given.variant("bf16", 1, hops=1, hop_ms_p50_ci95=None, hop_ms_p95=None)]
    return given.batch_chain(results=rows)


BAD_RUNS = {
    "no baseline of a sweep": (
        without("bf16", given.sweep()),
        "has no row of the baseline bf16, only of fused",
    ),
    "no baseline of a chain": (
        without("bf16", given.batch_chain()),
        "has no row of its baseline bf16, only of",
    ),
    "few hops": (few_hops(), "too few samples: 1 hops give no interval"),
    "few timings": (
        given.sweep(results=[given.sweep_row("bf16", 1, 64, 64, timings=3)]),
        "too few samples: 3 timings a row at most, needed are 5",
    ),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_runs_that_nothing_can_be_said_about_are_refused(name: str, tmp_path: Path) -> None:
    bad, sentence = BAD_RUNS[name]
    write_run(tmp_path / "runs", bad, [])
    result = run(str(tmp_path / "runs"), "-o", str(tmp_path / "r.html"))
    assert result.exit_code == 2 and sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_damaged_and_absent_input_is_one_sentence(tmp_path: Path) -> None:
    sample = HopSample(
        kernel="bf16", mode="replay", repeat=0, batch_index=0, hop=0, active=1, tokens=1, hop_s=1.0
    )
    folder = write_run(tmp_path / "runs", given.batch_chain(), [sample])
    lines = folder / "samples.jsonl.gz"
    lines.write_bytes(
        gzip.compress(gzip.decompress(lines.read_bytes()).replace(b'"hop_s":1.0', b'"hop_s":NaN'))
    )
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps({"run_id": "x", "schema_version": 99}))
    nan = tmp_path / "nan.json"
    nan.write_text(given.sweep().model_dump_json().replace('"time_us_p05":', '"time_us_p05":NaN,"x":', 1))
    noise, history = tmp_path / "noise.json", tmp_path / "held_out.jsonl"
    noise.write_text("{")
    history.write_text("{}\n")
    alien = tmp_path / "alien.json"
    alien.write_text("{}")
    (tmp_path / "empty").mkdir()
    for path, sentence in (
        (tmp_path / "empty", "holds no runs, fits or predictions"),
        (tmp_path / "none", "does not exist"),
        (folder, "is not a sample"),
        (newer, "has schema_version=99, this program shows"),
        (nan, "is not a legal record"),
        (noise, "is not JSON"),
        (alien, "is no run, fit or prediction"),
        (history, "held_out.jsonl, line 1"),
    ):
        result = run(str(path), "-o", str(tmp_path / "r.html"))
        assert result.exit_code == 2, (path, result.output)
        assert sentence in result.stderr and result.stderr.count("\n") == 1, result.stderr
    failed = write_run(tmp_path / "f", given.record("chain", 2, status="failed", error="it burnt"), [])
    assert "nothing to report" in run(str(failed)).stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "gpt-9"], "gpt-9"),
        (["--b-max", "1"], "--b-max 1 is outside 2 to"),
        (["-o", "."], "--out . is a folder"),
        (["--md", "."], "--md . is a folder"),
    ],
)
def test_wrong_options(words: list[str], sentence: str, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", given.energy_run(), [])
    result = run(str(tmp_path / "runs"), "-o", str(tmp_path / "r.html"), *words)
    assert result.exit_code == 2 and sentence in result.stderr
