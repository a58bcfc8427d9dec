"""The engine ``hf_graph`` of a chain: what it measures, what it refuses, and its name in records and reports."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from static_backends import BF16, SPEC, job_of, made, static_backend
from typer.testing import CliRunner

from kernels.peers.kernel import PEER_KERNELS, PeerFailedError
from profiler.cli import app
from profiler.energy import NoMeter
from profiler.record import AgreementSample, HopSample, QuerySample, RangeSample
from reasoning.chain import ChainOutcome, ChainRun, check_kernels
from reasoning.chain_backend import decode
from reasoning.chain_hf_graph import HFGraphBackend
from reasoning.chain_problems import select_problems
from reasoning.chain_spec import ChainMode, ChainSpec, Engine
from reasoning.model import load_model


@pytest.fixture(autouse=True)
def eager_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")


def run(spec: ChainSpec) -> ChainOutcome:
    problems, _ = select_problems(spec)
    loaded = load_model("tiny", dtype=torch.float32)
    return ChainRun(spec, loaded, problems, NoMeter("none in tests")).run()


@pytest.mark.parametrize("mode", ChainMode)
def test_a_chain_replays_the_same_hops_with_every_kernel(mode: ChainMode) -> None:
    spec = replace(
        SPEC,
        limit=2,
        batch_sizes=(2,),
        mode=mode,
        max_new_tokens=5,
        ablation_problems=2,
        ablation_hops=4,
        ablation_repeats=1,
    )
    eager, ours = run(replace(spec, engine=Engine.EAGER)), run(spec)
    solved = [
        {(s.kernel, s.problem_id): (s.text, s.hops) for s in outcome.samples if isinstance(s, QuerySample)}
        for outcome in (eager, ours)
    ]
    assert solved[0] == solved[1]
    for row, other in zip(ours.rows, eager.rows, strict=True):
        assert (row.kernel, row.mode, row.hops, row.tokens) == (
            other.kernel,
            other.mode,
            other.hops,
            other.tokens,
        )
        assert (row.engine, row.captured, row.hop_clock) == ("hf_graph", False, "wall")
        assert row.weight_bytes == other.weight_bytes
        if row.mode == "generate":
            # The static cache of two sequences is counted whole, in steps of 64 columns.
            assert row.peak_memory_bytes > other.peak_memory_bytes > row.weight_bytes
    divergences = [
        {(s.kernel, s.problem_id, s.hop): s.kl_nats for s in o.samples if isinstance(s, AgreementSample)}
        for o in (eager, ours)
    ]
    assert divergences[0] and divergences[1] == pytest.approx(divergences[0], abs=1e-4)
    ranges = [s for s in ours.samples if isinstance(s, RangeSample)]
    assert {s.kernel for s in ranges} == set(spec.ablation_kernels)
    assert all(0 < s.linear_s < s.device_s for s in ranges)
    assert any("engine hf_graph: nothing was captured" in warning for warning in ours.warnings)


def test_fixed_hops_and_contexts() -> None:
    outcome = run(replace(SPEC, context=70, hops=4, batch_sizes=(2,), ablation_problems=0))
    assert [(row.kernel, row.hops, row.context) for row in outcome.rows] == [
        ("bf16", 8, 70),
        ("fused_int8", 8, 70),
    ]
    assert {s.active for s in outcome.samples if isinstance(s, HopSample)} == {2}
    with pytest.raises(
        ValueError, match="a prompt of 2000 tokens with 400 new ones needs 2399 positions.*=2048"
    ):
        run(replace(SPEC, context=2000))


def test_models_that_a_graph_cannot_hold_are_refused() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0}
    with pytest.raises(ValueError, match="--engine hf_graph: rope_type='dynamic' .*; --engine eager runs it"):
        HFGraphBackend(SPEC, made("qwen3", rope_parameters=dynamic))
    loaded = made()
    loaded.model.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="attention 'eager' is not 'sdpa'"):
        HFGraphBackend(SPEC, loaded)
    loaded = made()
    loaded.model._can_compile_fullgraph = False
    with pytest.raises(ValueError, match="runs a 'qwen3' model on no static cache"):
        HFGraphBackend(SPEC, loaded)
    from transformers import AutoConfig

    config = AutoConfig.for_model("qwen3_next", num_hidden_layers=4)
    hybrid = SimpleNamespace(config=config, _can_compile_fullgraph=True)
    config._attn_implementation = "sdpa"
    with pytest.raises(
        ValueError, match="its cache has layers of a kind that holds no keys and values by column"
    ):
        HFGraphBackend(SPEC, replace(made(), model=hybrid))
    backend = static_backend(made("mistral", sliding_window=50), 51)
    with pytest.raises(ValueError, match="max_len=64 exceeds the model's attention window of 50 tokens"):
        decode(backend, BF16, job_of())


def test_what_could_not_be_captured_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = static_backend(made())

    def refuse(*words: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(ours._sessions, "session", refuse)
    with pytest.raises(RuntimeError, match="not permitted"):
        ours._session(BF16)
    monkeypatch.setattr(HFGraphBackend, "is_captured", True)
    with pytest.raises(
        ValueError,
        match=r"of a 'qwen3' model could not .* with bf16 at batch size 3 \(.*\); --engine eager runs",
    ) as caught:
        ours._session(BF16)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        PeerFailedError, match="bnb_nf4 could not be captured in a CUDA graph at batch size 3"
    ):
        ours._session(PEER_KERNELS["bnb_nf4"])
    monkeypatch.setattr(type(BF16), "available", lambda self, device: (True, ""))
    monkeypatch.setattr(type(PEER_KERNELS["bnb_int8"]), "available", lambda self, device: (True, ""))
    with pytest.raises(ValueError, match="--engine hf_graph: bnb_int8 cannot be captured"):
        check_kernels(replace(SPEC, kernels=("bnb_int8",)), "cuda")


def test_weights_are_not_streamed() -> None:
    spec = replace(SPEC, baseline="fused_int8", kernels=("unfused_int8",), ablation_problems=0)
    assert not spec.streams and replace(spec, engine=Engine.GRAPH).streams


def qt_profile(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="qt-profile")


def test_the_command_line_names_it(tmp_path: Path) -> None:
    words = ("--limit", 1, "--max-new", 3, "--ablation", 1, "--kernel", "unfused_int8", "--device", "cpu")
    result = qt_profile(
        "chain", *words, "--engine", "hf_graph", "--energy-windows", 0, "--out", tmp_path, "--json"
    )
    assert result.exit_code == 0, result.stderr
    made = json.loads(result.stdout)
    assert made["arguments"]["engine"] == "hf_graph"
    assert {row["engine"] for row in made["results"]} == {"hf_graph"}
    assert qt_profile("compare", made["run"], made["run"]).exit_code == 0
    result = qt_profile("report", made["run"], "-o", tmp_path / "report.html")
    assert result.exit_code == 0 and "hf_graph" in (tmp_path / "report.html").read_text()
    refused = qt_profile("predict", "--model", "tiny", "--arch", "h200", "--engine", "hf_graph")
    assert refused.exit_code == 2
    assert (
        refused.stderr.startswith("error: --engine hf_graph is not predicted") and "graph" in refused.stderr
    )
