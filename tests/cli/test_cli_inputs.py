"""Checkpoints and problem files that cannot be used, or only in part."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import DATA, NORM, Q_PROJ, SHORT, assert_refused, run, run_short
from safetensors.torch import load_file, save_file

from profiler.record import load_run


def test_k_that_no_group_divides(odd: Path, tmp_path: Path) -> None:
    words = ("chain", *SHORT, "--model", odd, "--out", tmp_path / "runs", "--kernel", "fused_nf4")
    assert_refused(words, 2, "k=96 is not divisible by group_size=64")
    assert_refused((*words, "--group-size", "48"), 2, "group_size=48", "nf4", "32, 64, 128")
    done = run(*words, "--group-size", "32", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["arguments"]["group_size"] == 32


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def edit(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = change(tensors[name].clone())
        save_file(tensors, folder / "model.safetensors")

    return damage


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[5] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (truncate, ("model.safetensors is damaged or truncated",)),
        (edit(NORM, lambda t: t[:-1].contiguous()), (NORM, "[95]", "[96]")),
        (edit(NORM, with_nan), (NORM, "1 values that are NaN or Inf of 96")),
        (edit(Q_PROJ, with_nan), (Q_PROJ, "1 values that are NaN or Inf of 9216")),
    ],
    ids=["truncated", "shape", "nan-in-norm", "nan-in-linear"],
)
def test_a_damaged_checkpoint(
    damage: Callable[[Path], None], parts: tuple[str, ...], odd: Path, tmp_path: Path
) -> None:
    damage(odd)
    assert_refused(("chain", *SHORT, "--model", odd, "--out", tmp_path / "runs"), 2, *parts)


GOOD = json.dumps({"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"})


@pytest.mark.parametrize(
    ("content", "parts"),
    [("", ("is empty",)), (f"{GOOD}\n{{\n", ("line 2", "not JSON")), ('{"a": 1}\n', ("line 1", "found a"))],
    ids=["empty", "malformed", "unknown"],
)
def test_a_bad_problem_file(content: str, parts: tuple[str, ...], odd: Path, tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(content)
    assert_refused(("chain", *SHORT, "--model", odd, "--problems", file), 2, str(file), *parts)


def test_bad_lines_are_skipped_on_demand_and_noted(odd: Path, tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(f"{GOOD}\n{{\n")
    result = run_short("--model", odd, "--problems", file, "--skip-bad", "--out", tmp_path / "runs")
    assert result.exit_code == 0
    assert "1 malformed records skipped: line 2: not JSON" in result.stdout


@pytest.mark.parametrize("weights", ["real", "random"])
def test_without_a_native_kernel_the_weights_are_streamed(weights: str, odd: Path, tmp_path: Path) -> None:
    words = ("--model", odd, "--baseline", "unfused_int8", "--kernel", "fused_int8", "--max-new", "8")
    words = (
        "chain",
        *SHORT[:6],
        "--device",
        "cpu",
        *words,
        "--weights",
        weights,
        "--out",
        tmp_path,
        "--json",
    )
    streamed = json.loads(run(*words, "--engine", "graph").stdout)
    whole = json.loads(run(*words, "--engine", "eager").stdout)
    assert {row["kernel"] for row in streamed["results"]} == {"unfused_int8", "fused_int8"}
    for ours, theirs in zip(streamed["results"], whole["results"], strict=True):
        assert ours["weight_bytes"] == pytest.approx(theirs["weight_bytes"], rel=1e-3)
    if weights == "real":
        texts = [[s.text for s in load_run(r["run"])[1] if s.type == "query"] for r in (streamed, whole)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_checkpoint_without_a_tensor(engine: str, odd: Path, tmp_path: Path) -> None:
    tensors = load_file(odd / "model.safetensors")
    del tensors[Q_PROJ]
    save_file(tensors, odd / "model.safetensors")
    words = ("chain", *SHORT, "--model", odd, "--out", tmp_path / "runs", "--engine", engine)
    assert_refused(words, 2, "lack 1 tensor", Q_PROJ)
    assert_refused((*words, "--baseline", "fused_int8"), 2, "lack 1 tensor", Q_PROJ)


def test_streamed_weights_that_are_no_numbers(odd: Path, tmp_path: Path) -> None:
    words = ("chain", *SHORT, "--model", odd, "--out", tmp_path / "runs", "--engine", "graph")
    for name in (NORM, Q_PROJ):
        edit(name, with_nan)(odd)
        assert_refused((*words, "--baseline", "fused_int8"), 2, name, "1 values that are NaN or Inf")


def test_an_architecture_that_the_engine_does_not_know(odd: Path, tmp_path: Path) -> None:
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    words = ("chain", *SHORT, "--model", odd, "--out", tmp_path / "runs")
    assert_refused((*words, "--engine", "graph"), 2, "activation 'gelu' is not 'silu'")
    assert run(*words).exit_code == 0


def test_gsm8k(tmp_path: Path) -> None:
    file = DATA / "gsm8k" / "test.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is not here; QT_PROFILE_DATA names the folder of data sets")
    words = ("--model", "tiny", "--kernel", "unfused_int8", "--problems", file, "--limit", 2, "--max-new", 20)
    result = run("chain", *words, "--ablation", 1, "--device", "cpu", "--out", tmp_path, "--json")
    printed = json.loads(result.stdout)
    assert result.exit_code == 0
    rows = {row["kernel"]: row for row in printed["results"] if row["mode"] == "generate"}
    assert {(name, row["problems"]) for name, row in rows.items()} == {("bf16", 2), ("unfused_int8", 2)}
    assert printed["arguments"]["problems"] == "test.jsonl"
