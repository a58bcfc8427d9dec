"""``qt-profile predict``: from the command to the history, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from prediction_world import WHEN, chain, fits
from typer.testing import CliRunner

from analysis.fit_file import write_fits
from analysis.predict_file import (
    read_prediction,
)
from profiler.cli import app
from profiler.cli_predict_inputs import model_shape, parse_batches
from profiler.record import write_run
from reasoning.model_table import MODELS, get_model_spec


def invoke(*words: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["predict", "--json", *words])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def test_from_the_command_to_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiler.cli_predict_inputs.packaged_fits", lambda: tmp_path / "none")
    write_fits(tmp_path, fits())
    stored = tmp_path / "p.json"
    options = ("--fits", str(tmp_path), "--arch", "h200", "--context", "640", "--draws", "20")
    code, fields = invoke(*options, "--model", "qwen3-0.6b", "--batch", "1:8", "--out", str(stored))
    assert code == 0 and fields["is_transferred"] is False and fields["held_out"] == []
    assert [(c["kernel"], c["batch_size"]) for c in fields["cells"]] == [
        (kernel, b) for kernel in ("bf16", "fused_nf4") for b in (1, 2, 4, 8)
    ]
    assert {(c["quantity"]) for c in fields["crossings"]} == {"time", "energy"}
    found = read_prediction(stored)
    code, fields = invoke(*options, "--out", str(stored))
    assert code == 2 and "is not overwritten" in fields["error"]
    late = (found.created_utc - WHEN).total_seconds() + 60
    hops = {(c.kernel, c.batch_size): 1.02 * c.hop_s for c in found.cells}
    run = write_run(tmp_path / "runs", chain(hops, later_s=late, model="qwen3-0.6b"), [])
    code, fields = invoke("--check", str(stored), str(run), "--fits", str(tmp_path))
    assert code == 0 and fields["added"] == 8
    assert fields["errors"][0]["error_share_p50"] == pytest.approx(0.02 / 1.02)
    code, fields = invoke(*options, "--model", "tiny", "--batch", "1")
    assert fields["held_out"][0]["cells"] == 8
    shown = CliRunner().invoke(app, ["predict", *options, "--model", "tiny", "--batch", "1"]).stdout
    first, second = shown.splitlines()[:2]
    assert first.startswith("predicted, not measured: from stored fits of NVIDIA H200 (")
    assert second.startswith("held-out errors so far: hop time, 8 cells: median 2.0 %")
    table = shown[shown.index("held-out errors of every prediction checked so far: |predicted") :]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]
    assert [row[3:7] for row in rows] == [
        ["bf16", "hop time", "4", "2.0 %"],
        ["fused_nf4", "hop time", "4", "2.0 %"],
    ]
    assert rows[0][:3] == ["NVIDIA H200", "its own", "graph"]


def test_a_gpu_without_fits_gets_those_of_the_h200(tmp_path: Path) -> None:
    write_fits(tmp_path, fits())
    options = ("--fits", str(tmp_path), "--draws", "20", "--model", "qwen2.5-72b", "--batch", "1,64")
    code, fields = invoke(*options, "--arch", "a100-80")
    assert code == 0 and fields["is_transferred"] is True
    assert fields["source"].startswith("from the hardware table: NVIDIA A100-SXM4-80GB was not measured")
    native = next(c for c in fields["cells"] if c["kernel"] == "bf16")
    assert native["memory"]["fits"] is False and native["memory"]["largest_batch"] == 0
    code, fields = invoke(*options, "--arch", "a100-80", "--kernel", "native_fp8")
    assert code == 2 and "has no arithmetic for it" in fields["error"]


def test_without_any_fits_of_ones_own_those_of_the_package_serve(tmp_path: Path) -> None:
    code, fields = invoke("--fits", str(tmp_path), "--arch", "l4", "--batch", "1", "--draws", "20")
    assert code == 0 and fields["is_transferred"] is True and "NVIDIA L4 was not measured" in fields["source"]
    code, fields = invoke("--fits", str(tmp_path), "--arch", "h200", "--batch", "1", "--draws", "20")
    assert code == 0 and fields["is_transferred"] is False


def test_a_native_run_calibrates_by_the_command(tmp_path: Path) -> None:
    write_fits(tmp_path, fits())
    native = {("bf16", b): 5e-3 + b * 1e-4 for b in (1, 8)}
    run = write_run(tmp_path / "runs", chain(native, model="qwen3-0.6b"), [])
    options = ("--fits", str(tmp_path), "--arch", "h200", "--draws", "20", "--model", "qwen3-0.6b")
    code, fields = invoke(*options, "--batch", "1,8", "--calibrate", str(run))
    assert code == 0 and fields["calibration_runs"] == [run.name]
    calibrated = {(c["kernel"], c["batch_size"]): c["calibrated"] for c in fields["cells"]}
    assert calibrated == {
        ("bf16", 1): True,
        ("bf16", 8): True,
        ("fused_nf4", 1): False,
        ("fused_nf4", 8): False,
    }
    native_s = next(c["hop_s"] for c in fields["cells"] if c["kernel"] == "bf16")
    assert native_s == pytest.approx(5.1e-3, rel=0.3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "h201"], "unknown arch 'h201'"),
        (["--model", "mistral-8b"], "unknown model 'mistral-8b'"),
        (["--engine", "jax"], "--engine 'jax' is none of graph, compile, fused, eager"),
        (["--kernel", "fused_nf4,,"], "has 2 empty entries"),
        (["--batch", "8:1"], "--batch 8:1 goes from 8 to 1"),
        (["--batch", "1:x"], "is not of the form FROM:TO"),
        (["--batch", "1,0"], "--batch '0' is no batch size"),
        (["--context", "0"], "context=0"),
        (["--arch", "cpu"], "no fits of "),
        (["some-run"], "1 runs are given without --check"),
        (["--check", "none.json"], "needs 1 or more chain runs"),
    ],
)
def test_bad_arguments_end_in_a_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    write_fits(tmp_path, fits())
    arch = [] if "--arch" in words else ["--arch", "h200"]
    code, fields = invoke("--fits", str(tmp_path), *arch, *words)
    assert code == 2 and message in fields["error"]


def test_batches() -> None:
    assert parse_batches("1:128") == (1, 2, 4, 8, 16, 32, 64, 128)
    assert parse_batches("3:20") == (3, 6, 12, 20)
    assert parse_batches("5:5") == (5,) and parse_batches("8, 1,8") == (8, 1)


@pytest.mark.parametrize("key", MODELS)
def test_shapes_are_those_of_the_model_table(key: str) -> None:
    shape, spec = model_shape(key), get_model_spec(key)
    assert shape.linear_weights == spec.linear_parameters
    assert sum(layer.count * layer.n * layer.k for layer in shape.separate) == spec.linear_parameters
    assert (shape.head.n, shape.head.k) == (spec.vocab_size, spec.hidden_size)
