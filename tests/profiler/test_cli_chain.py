"""``qt-profile chain`` beyond one model: the paper's protocol, several models, and solutions of earlier runs."""

import json
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from profiler.cli import app
from profiler.cli_chain_command import _engine
from profiler.cli_chain_paper import KERNELS, paper_figures
from profiler.record import HopSample, QuerySample, VariantResult, load_run
from reasoning import chain_recorded
from reasoning.chain import ChainRun
from reasoning.chain_prompts import ChainPrompts
from reasoning.chain_spec import ChainSpec, Engine
from reasoning.problems import Problem

QUESTIONS = (
    ("Tom has 3 apples and buys 4 more. How many apples has he?", "He has 3 + 4 = <<3+4=7>>7.\n#### 7"),
    ("A box holds 6 pens. How many pens do 2 boxes hold?", "They hold 2*6=<<2*6=12>>12.\n#### 12"),
)
QUICK = ("--max-new", "4", "--ablation", "0", "--energy-windows", "0", "--device", "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decode without waiting for a compiler, and leave torch's threads as they were."""
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    monkeypatch.delenv("QT_PROFILE_TDP_W", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    file = tmp_path / "gsm8k.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in QUESTIONS))
    return file


def chain(*words: object) -> Any:
    result = CliRunner().invoke(app, ["chain", *map(str, words)], prog_name="qt-profile")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*words: object) -> tuple[int, str]:
    """Code and sentence of a command that ends with one."""
    result = chain(*words)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.output
    return result.exit_code, result.stderr


def test_the_paper_s_protocol_is_one_command(
    gsm8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("QT_PROFILE_TDP_W", "100")
    words = ("--protocol", "paper", "--problems", gsm8k, *QUICK, "--out", tmp_path / "runs")
    result = chain(*words, "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    arguments = record["arguments"]
    assert (arguments["engine"], arguments["batch_size"], arguments["baseline"]) == ("eager", 1, "bf16")
    assert (arguments["kernels"], arguments["protocol"]) == (list(KERNELS), "paper")
    figures = record["derived"]["paper"]
    assert list(figures) == ["bf16", *KERNELS]
    rows = {row["kernel"]: row for row in record["results"]}
    for kernel, found in figures.items():
        # HLI is TDP times time, so S_SI by it is the ratio of the times.
        assert found["hli_j_per_query"] == rows[kernel]["hli_j_per_query"] > 0
        ratio = rows["bf16"]["hli_j_per_query"] / rows[kernel]["hli_j_per_query"]
        assert found["s_si_hli"] == pytest.approx(ratio)
        assert found["cor_tps"] == pytest.approx(rows["bf16"]["tps"] / rows[kernel]["tps"] - 1)
        assert found["counter_j_per_query"] is None and found["s_si_counter"] is None
    printed = chain(*words).stdout
    for part in ("as the paper forms them", "J per query, HLI (estimate)", "SI by HLI (Eq. 6)", "bnb_int8"):
        assert part in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--engine", "graph"), "--engine graph contradicts --protocol paper, which runs --engine eager"),
        (
            ("--kernel", "fused_nf4"),
            "--kernel fused_nf4 contradicts --protocol paper, which runs --kernel bnb_nf4,",
        ),
        (("--kernel", "bnb_nf4"), "--kernel bnb_nf4 contradicts"),
        (("--baseline", "fused_nf4"), "which runs --baseline bf16"),
        (("--batch", "8"), "--batch 8 contradicts --protocol paper, which runs --batch 1"),
        (("--mode", "replay"), "which runs --mode generate"),
        (("--hops", "3"), "--hops 3 contradicts --protocol paper, which has no --hops"),
        (("--context", "64"), "which has no --context"),
        (("--double-quant",), "which has no --double-quant"),
        (("--group-size", "64"), "which has no --group-size"),
        (("--problems", "synthetic"), "--protocol paper solves GSM8K or MathQA, not synthetic problems"),
    ],
)
def test_what_contradicts_the_protocol(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    code, told = refused("--protocol", "paper", *words, "--out", tmp_path)
    assert code == 2 and sentence in told
    assert list(tmp_path.iterdir()) == []


def test_a_protocol_and_problems_that_are_unknown(tmp_path: Path) -> None:
    assert refused("--protocol", "peper") == (2, "error: --protocol 'peper' is none of paper\n")
    pytest.importorskip("bitsandbytes")
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"id": "a", "question": "1 + 1?", "answer": "2", "operations": 1}) + "\n")
    code, told = refused("--protocol", "paper", "--problems", file, *QUICK, "--out", tmp_path)
    assert code == 2 and "holds synthetic problems" in told
    words = ("--protocol", "paper", "--problems", file, "--kernel", "bnb_int8,bnb_nf4", "--engine", "eager")
    assert "holds synthetic problems" in refused(*words, *QUICK, "--out", tmp_path)[1], "the same words agree"


def test_without_bitsandbytes_the_protocol_says_how_to_get_it(
    gsm8k: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    code, told = refused("--protocol", "paper", "--problems", gsm8k, *QUICK, "--out", tmp_path)
    assert code == 3 and "--protocol paper needs bnb_nf4" in told
    assert told.endswith("; pip install bitsandbytes\n")
    code, told = refused("--kernel", "bnb_nf4", *QUICK, "--out", tmp_path)
    assert code == 2 and "pip install bitsandbytes" in told


def row(kernel: str, **fields: object) -> VariantResult:
    counted: dict[str, object] = {
        "kernel": kernel,
        "implementation": "torch",
        "mode": "generate",
        "batch_size": 1,
        "problems": 4,
        "hops": 40,
        "tokens": 40,
        "prefill_s": 1.0,
        "decode_s": 3.0,
    }
    return VariantResult.model_validate(counted | fields)


def test_the_paper_s_figures_by_hand() -> None:
    rows = [
        row("bf16", tps=40.0, hli_j_per_query=700.0, counter_j_per_query=150.0, t_si=1.0, e_si=1.0),
        row("bnb_nf4", tps=16.0, hli_j_per_query=1750.0, counter_j_per_query=300.0, t_si=0.9, e_si=0.5),
        row(
            "bnb_int8", tps=None, prefill_s=2.0, decode_s=6.0, counter_j_per_query=120.0, t_si=None, e_si=0.5
        ),
    ]
    figures = paper_figures([*rows, row("bnb_nf4", mode="replay")], "bf16")
    assert list(figures) == ["bf16", "bnb_nf4", "bnb_int8"]
    nf4, int8 = figures["bnb_nf4"], figures["bnb_int8"]
    assert nf4["cor_tps"] == pytest.approx(1.5)
    assert (nf4["s_si_hli"], nf4["s_si_counter"]) == (pytest.approx(0.4), pytest.approx(0.5))
    assert nf4["si_hli"] == pytest.approx(0.34 * 0.9 + 0.33 * 0.5 + 0.33 * 0.4)
    assert nf4["si_counter"] == pytest.approx(0.34 * 0.9 + 0.33 * 0.5 + 0.33 * 0.5)
    # Without joules by HLI the TDP cancels: the times, 4 s against 8 s.
    assert int8["s_si_hli"] == pytest.approx(0.5) and int8["s_si_counter"] == pytest.approx(1.25)
    assert int8["cor_tps"] is None and int8["si_hli"] is None and int8["si_counter"] is None
    assert paper_figures(rows[1:], "bf16") == {}


def test_auto_leaves_out_the_engines_that_a_kernel_does_not_allow() -> None:
    plain, asking = ChainSpec(kernels=("bnb_nf4",)), ChainSpec(kernels=("bnb_nf4", "bnb_int8"))
    assert _engine("auto", "cuda", plain) is Engine.FUSED
    assert _engine("auto", "cuda", asking) is _engine("auto", "cpu", plain) is Engine.EAGER
    # What was asked for by name is refused with the reason, not replaced.
    assert _engine("graph", "cuda", asking) is Engine.GRAPH


SEVERAL = ("--limit", "1", "--kernel", "unfused_int8", *QUICK)


def test_several_models_make_a_record_each_and_one_that_fails_costs_no_other(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    result = chain("--model", "tiny,nosuchmodel", "--model", "qwen3-0.6", *SEVERAL, "--out", out)
    assert result.exit_code == 2
    assert len(list(out.iterdir())) == 1
    for part in (
        "model 1 of 3: tiny",
        "error: nosuchmodel: ",
        "model 3 of 3: qwen3-0.6\n",
        "error: qwen3-0.6: ",
    ):
        assert part in result.stderr
    assert result.stdout.count("run record: ") == 1
    as_json = chain("--model", "nosuchmodel,tiny", *SEVERAL, "--out", out, "--json")
    told = json.loads(as_json.stdout)
    assert as_json.exit_code == told["exit_code"] == 2
    failed, done = told["runs"]
    assert (failed["model"], failed["run"], failed["exit_code"]) == ("nosuchmodel", None, 2)
    assert told["error"] == f"nosuchmodel: {failed['error']}"
    assert done["exit_code"] == 0 and load_run(done["run"])[0].arguments["model"] == "tiny"


def test_ctrl_c_in_a_later_model_keeps_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = 0
    usual = ChainRun.run

    def interrupted(self: ChainRun) -> Any:
        nonlocal begun
        begun += 1
        if begun == 2:
            raise KeyboardInterrupt
        return usual(self)

    monkeypatch.setattr(ChainRun, "run", interrupted)
    # The bundled model under two names.
    folder = resources.files("reasoning").joinpath("tiny")
    result = chain(
        "--model", "tiny", "--model", folder, "--model", "third", *SEVERAL, "--out", tmp_path, "--json"
    )
    told = json.loads(result.stdout)
    assert result.exit_code == told["exit_code"] == 130
    assert [run["exit_code"] for run in told["runs"]] == [0, 130]
    assert "interrupted before anything was measured" in told["runs"][1]["error"]
    assert told["error"].endswith("interrupted: not begun: third")
    assert len(list(tmp_path.iterdir())) == 1


def test_models_that_cannot_be_told_apart_or_resumed(tmp_path: Path) -> None:
    assert refused("--model", "tiny", "--model", "tiny") == (2, "error: a model is named twice: tiny, tiny\n")
    assert refused("--model", "tiny,,x")[0] == 2
    code, told = refused("--model", "tiny,other", "--resume", tmp_path)
    assert code == 2 and "--resume goes on with 1 model, --model names 2: tiny, other" in told


def test_a_run_is_replayed_with_what_its_baseline_generated(tmp_path: Path) -> None:
    first = chain(
        "--limit", "3", "--kernel", "unfused_int8", *QUICK, "--seed", "5", "--out", tmp_path, "--json"
    )
    earlier = json.loads(first.stdout)["run"]
    words = ("--mode", "replay", "--problems", earlier, "--kernel", "unfused_nf4", "--max-new", "9")
    again = chain(*words, "--device", "cpu", "--out", tmp_path, "--json")
    assert again.exit_code == 0, again.stderr
    record, samples = load_run(json.loads(again.stdout)["run"])
    assert record.arguments["problems"] == Path(earlier).name
    hops = [s for s in samples if isinstance(s, HopSample) and s.kernel == "unfused_nf4" and s.repeat == 0]
    assert {s.batch_index for s in hops} == {0, 1, 2}
    # Four generated tokens and the end token make four hops; text that is cut mid-word may be read as more.
    assert all(3 <= sum(s.batch_index == index for s in hops) <= 8 for index in range(3))
    limited = chain(*words, "--limit", "1", "--device", "cpu", "--out", tmp_path, "--json")
    assert json.loads(limited.stdout)["arguments"]["problem_count"] == 1


def test_runs_that_cannot_be_replayed(gsm8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "runs"
    words = ("--problems", gsm8k, "--kernel", "unfused_int8", *QUICK, "--out", out, "--json")
    generated = Path(json.loads(chain(*words).stdout)["run"])
    replay = ("--mode", "replay", "--device", "cpu", "--out", out, "--problems")
    code, told = refused(*replay, generated)
    assert code == 2 and "solved problems of gsm8k.jsonl, which have to be in this folder" in told
    monkeypatch.chdir(tmp_path)
    assert chain(*replay, generated, "--kernel", "unfused_int8", "--max-new", "3").exit_code == 0
    gsm8k.write_text(gsm8k.read_text().splitlines()[0] + "\n")
    assert "gsm8k.jsonl holds 1 of its 2 problems no more" in refused(*replay, generated)[1]
    replayed = next(folder for folder in out.iterdir() if folder != generated)
    assert "has generated 0 solutions to replay" in refused(*replay, replayed)[1]
    (generated / "run.json").write_text("{")
    code, told = refused(*replay, generated)
    assert code == 2 and f"--problems {generated}: " in told


@pytest.mark.parametrize(
    ("text", "strange", "sentence"),
    [
        ("", None, "all 2 solutions of its baseline bf16 are empty"),
        ("7 apples", 5000, "has token 5000, outside the model's vocabulary of "),
    ],
)
def test_recorded_solutions_that_cannot_be_replayed(
    text: str, strange: int | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = chain("--limit", "2", "--kernel", "unfused_int8", *QUICK, "--out", tmp_path, "--json")
    folder = Path(json.loads(first.stdout)["run"])
    usual, check_tokens = chain_recorded.load_run, ChainPrompts.check_tokens

    def changed(source: str) -> Any:
        record, samples = usual(source)
        return record, [
            s.model_copy(update={"text": text}) if isinstance(s, QuerySample) else s for s in samples
        ]

    def with_stranger(self: ChainPrompts, problem: Problem, tokens: list[int]) -> None:
        check_tokens(self, problem, tokens if strange is None else [*tokens, strange])

    monkeypatch.setattr(chain_recorded, "load_run", changed)
    monkeypatch.setattr(ChainPrompts, "check_tokens", with_stranger)
    code, told = refused("--mode", "replay", "--problems", folder, "--device", "cpu", "--out", tmp_path)
    assert code == 2 and sentence in told
