"""The command ``qt-profile`` as a user meets it: every way to end, and what stays behind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from profiler import cli_chain, cli_errors, record_io
from profiler.cli import app
from profiler.cli_errors import StopSignals
from profiler.record import list_runs, load_run
from reasoning.chain import ChainRun

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("QT_PROFILE_DATA", ROOT / "../shared/data"))
TINY = Path(str(resources.files("reasoning").joinpath("tiny")))
SHORT = ("--limit", "1", "--max-new", "3", "--ablation", "0", "--kernel", "unfused_int8", "--device", "cpu")
NORM = "model.layers.0.input_layernorm.weight"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decode without waiting for a compiler, and leave torch's threads as they were."""
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    monkeypatch.delenv("QT_PROFILE_TDP_W", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer whose hidden size, 96, is no multiple of the default group."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "qwen3",
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=32,
        vocab_size=896,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("odd")
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return folder


@pytest.fixture
def odd(made_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_model, tmp_path / "odd"))


def run(*words: object) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="qt-profile")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_short(*words: object) -> Any:
    """Run a chain of two hops; later words win over the short ones."""
    return run("chain", *SHORT, *words)


def assert_refused(words: tuple[object, ...], code: int, *parts: str) -> None:
    """The command ends with a code and one sentence on stderr, with ``--json`` in one object on stdout."""
    plain, as_json = run(*words), run(*words, "--json")
    assert (plain.exit_code, as_json.exit_code) == (code, code), plain.stderr
    assert plain.stdout == ""
    sentence = json.loads(as_json.stdout)
    assert sentence.keys() == {"error", "exit_code"}
    assert sentence["exit_code"] == code
    for stderr in (plain.stderr, as_json.stderr):
        assert stderr == f"error: {sentence['error']}\n"
    assert "\n" not in sentence["error"]
    for part in parts:
        assert part in sentence["error"]


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
        (("--engine", "warp"), 2, ("--engine 'warp'", "auto, eager, graph, compile")),
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


@pytest.fixture
def earlier_run(odd: Path, tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder of runs with one run, and the bytes of its files."""
    out = tmp_path / "runs"
    assert run_short("--model", odd, "--out", out).exit_code == 0
    (folder,) = list_runs(out)
    return out, {file.name: file.read_bytes() for file in folder.iterdir()}


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


SWEEP = ("--batch", "1,2", "--hops", "2", "--engine", "graph", "--limit", "2")


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


def test_kernels_lists_the_registry() -> None:
    listed = json.loads(run("kernels", "--json").stdout)["kernels"]
    assert {"bf16", "fused_nf4", "null_int4"} <= {row["kernel"] for row in listed}
    assert "fused_nf4" in run("kernels").stdout


def test_doctor_says_what_is_missing(tmp_path: Path) -> None:
    result = run("doctor", "--out", tmp_path, "--json")
    checks = json.loads(result.stdout)["checks"]
    assert result.exit_code == any(check["status"] == "missing" for check in checks)
    assert "runs folder" in run("doctor", "--out", tmp_path).stdout


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
