"""The command ``qt-profile`` as a user meets it: help, bad arguments, tables."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import ROOT, SHORT, SWEEP, assert_refused, run, run_short

from profiler.record import list_runs, load_run
from reasoning.chain import ChainRun


def test_help_and_version_come_without_torch() -> None:
    code = (
        "import sys\n"
        "from profiler.cli import app\n"
        "for words in (['--help'], ['chain', '--help'], ['--version']):\n"
        "    app(words, standalone_mode=False)\n"
        "print([m for m in ('torch', 'transformers', 'scipy', 'reasoning') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    *_, version, heavy = done.stdout.splitlines()
    assert version.startswith("qt-profile 0.")
    assert heavy == "[]"
    assert "sweep" in done.stdout


def test_the_module_runs_as_a_program() -> None:
    words = [sys.executable, "-m", "profiler.cli", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("qt-profile 0.")


def test_no_words_show_the_help() -> None:
    result = run()
    assert "chain" in result.stdout + result.stderr


def test_sweep_has_the_options_of_the_kernel_sweep() -> None:
    result = run("sweep", "--help")
    assert result.exit_code == 0
    assert "Usage: qt-profile sweep [OPTIONS]" in result.stdout
    for option in (
        "--arch",
        "--format",
        "--kernels",
        "--model",
        "--shapes",
        "--m ",
        "--repeats",
        "--json",
        "--out",
    ):
        assert option in result.stdout


def test_sweep_gets_every_word(tmp_path: Path) -> None:
    words = ("sweep", "--arch", "l4", "--shapes", "64x128", "--m", "1,3", "--format", "int8", "--json")
    result = run(*words, "--out", tmp_path)
    if result.exit_code == 0:
        pytest.skip("this machine has the GPU that the test takes for absent")
    assert result.exit_code == 3
    printed = json.loads(result.stdout)
    assert {(row["n"], row["k"], row["m"]) for row in printed["results"]} == {(64, 128, 1), (64, 128, 3)}


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (
            ("--kernel", "fused_nf5"),
            2,
            ("unknown kernel 'fused_nf5'", "fused_nf4", "unfused_int8", "null_fp8"),
        ),
        (("--kernel", "null_nf4"), 2, ("null_nf4 computes nothing meaningful",)),
        (("--baseline", "null_nf4"), 2, ("null_nf4 computes nothing meaningful",)),
        (("--kernel", "unfused_int8"), 2, ("named twice",)),
        (("--model", "tinny"), 2, ("unknown model 'tinny'", "tiny")),
        (("--model", "./no/such/folder"), 2, ("./no/such/folder", "neither a folder")),
        (("--problems", "no-such.jsonl"), 2, ("no-such.jsonl does not exist",)),
        (("--batch", "0"), 2, ("batch_size=0 is below 1",)),
        (("--batch", "2,many"), 2, ("--batch '2,many' holds 'many'",)),
        (("--batch", "8:2"), 2, ("8 to 2 is no range of batch sizes",)),
        (("--batch", "2,1,2"), 2, ("a batch size is given twice: 2, 1, 2",)),
        (("--kernel", "fused_int8,"), 2, ("1 empty words",)),
        (("--engine", "warp"), 2, ("--engine 'warp'", "auto, eager, hf_graph, graph, compile, fused")),
        (("--context", "0"), 2, ("context=0 is below 1",)),
        (("--hops", "0"), 2, ("hops=0 is below 1",)),
        (("--context", "5000"), 2, ("5000 tokens with 3 new ones needs 5002 positions",)),
        (("--ablate",), 2, ("--ablate prints what is replayed, but --ablation 0 replays nothing",)),
        (("--resume", "no-such-run"), 1, ("no-such-run",)),
        (("--limit", "0"), 2, ("limit=0 is below 1",)),
        (("--max-new", "1"), 2, ("max_new_tokens=1 is below 2",)),
        (("--ablation", "-1"), 2, ("ablation_problems=-1 is below 0",)),
        (("--mode", "nonsense"), 2, ("--mode 'nonsense'", "generate, replay")),
        (("--device", "tpu"), 2, ("--device 'tpu'", "auto, cpu, cuda")),
        (("--weights", "none"), 2, ("--weights 'none'", "real, random")),
        (("--threads", "9999"), 2, ("--threads 9999", f"1 to {os.cpu_count()}")),
        (("--tdp-w", "-5"), 2, ("tdp_w=-5 is not a positive number",)),
    ],
)
def test_bad_arguments(words: tuple[str, ...], code: int, parts: tuple[str, ...], tmp_path: Path) -> None:
    assert_refused(("chain", *SHORT, "--out", tmp_path / "runs", *words), code, *parts)
    assert not (tmp_path / "runs").exists()


def test_words_that_cannot_be_parsed_end_with_2_and_one_object() -> None:
    for words in (("chain", "--batch", "many"), ("chain", "--nope"), ("nope",), ("sweep", "--nope")):
        assert run(*words).exit_code == 2
        result = run(*words, "--json")
        assert result.exit_code == 2
        assert json.loads(result.stdout)["exit_code"] == 2


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(("chain", "--device", "cuda"), 3, "sees no CUDA device", "qt-profile doctor")


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nMore."), 3, "GPU is too small"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 3, "this machine is too small"),
        (MemoryError(), 3, "this machine is too small"),
        (OSError(errno.EIO, "Input/output error"), 1, "Input/output error"),
    ],
)
def test_the_machine_gives_up(
    error: Exception, code: int, part: str, odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(self: ChainRun) -> None:
        raise error

    monkeypatch.setattr(ChainRun, "run", give_up)
    assert_refused(("chain", *SHORT, "--model", odd, "--out", tmp_path / "runs"), code, part)
    assert not (tmp_path / "runs").exists()


def test_an_unexpected_error_keeps_its_traceback(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ChainRun) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(ChainRun, "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run_short("--model", odd)


def test_a_run_prints_its_table_and_stores_its_record(odd: Path, tmp_path: Path) -> None:
    result = run_short("--model", odd, "--out", tmp_path)
    assert result.exit_code == 0
    assert "unfused_int8" in result.stdout
    (folder,) = list_runs(tmp_path)
    assert f"run record: {folder}" in result.stdout
    record, samples = load_run(folder)
    assert record.status == "complete"
    assert record.arguments["kernels"] == ["unfused_int8"]
    assert len(samples) == record.samples_count > 0


def test_json_is_one_object_and_says_where_the_record_is(odd: Path, tmp_path: Path) -> None:
    result = run_short("--model", odd, "--out", tmp_path, "--json")
    printed = json.loads(result.stdout)
    record, _ = load_run(printed["run"])
    assert (printed["exit_code"], printed["error"]) == (0, None)
    assert printed["results"] == record.model_dump(mode="json")["results"]
    assert printed["run_id"] == record.run_id


def test_random_weights_are_not_scored(odd: Path, tmp_path: Path) -> None:
    result = run_short("--model", odd, "--weights", "random", "--out", tmp_path, "--json")
    assert {row["accuracy"] for row in json.loads(result.stdout)["results"]} == {None}


def test_a_sweep_prints_a_line_per_batch_size_and_where_the_time_goes(odd: Path, tmp_path: Path) -> None:
    words = ("--model", odd, *SWEEP, "--ablation", "1", "--ablate", "--out", tmp_path)
    result = run_short(*words, "--kernel", "fused_int8,unfused_fp8")
    assert result.exit_code == 0, result.stderr
    assert "engine graph" in result.stdout and "hop_ms_p50 [95 %]" in result.stdout
    for size in (1, 2):
        assert f"where a replayed hop's time goes, ms_p50 [95 %], batch {size}" in result.stdout
    assert "+ exposed cast" in result.stdout and "off by" in result.stdout
    assert "unfused_int8" in result.stdout and "fused_fp8" in result.stdout
    assert "nothing was captured" in result.stdout


def test_kernels_lists_the_registry() -> None:
    listed = json.loads(run("kernels", "--json").stdout)["kernels"]
    rows = {row["kernel"]: row for row in listed}
    assert {"bf16", "fused_nf4", "null_int4", "bnb_nf4", "gptq_marlin_int4"} <= set(rows)
    assert (rows["bnb_int8"]["scheme"], rows["bnb_int8"]["group_sizes"], rows["bnb_nf4"]["bits"]) == (
        "peer",
        [],
        4,
    )
    assert (
        "asks the host" in rows["bnb_int8"]["why_not_captured"] and rows["bf16"]["why_not_captured"] is None
    )
    assert all((row["runs_here"] is None) == (row["why_not"] is not None) for row in listed)
    assert "fused_nf4" in run("kernels").stdout


def test_doctor_says_what_is_missing(tmp_path: Path) -> None:
    result = run("doctor", "--out", tmp_path, "--json")
    checks = json.loads(result.stdout)["checks"]
    assert result.exit_code == any(check["status"] == "missing" for check in checks)
    assert "runs folder" in run("doctor", "--out", tmp_path).stdout
