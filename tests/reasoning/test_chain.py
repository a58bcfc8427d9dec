"""The chain runner on the bundled model: what it measures, in which order, and what survives an interruption."""

from collections import Counter

import pytest
import torch

import reasoning.chain_backend as backend_module
from kernels.formats import FORMATS
from kernels.registry import get_kernel
from profiler.energy import FakeMeter, NoMeter
from profiler.record import AgreementSample, HopSample, QuerySample, RangeSample
from profiler.timing import HopTimer
from reasoning.chain import ChainRun
from reasoning.chain_problems import select_problems
from reasoning.chain_spec import ChainMode, ChainSpec
from reasoning.decode import Forced, decode_batch, pad_token
from reasoning.model import load_model
from reasoning.prompts import format_prompt
from reasoning.quant_linear import add_format, replace_linears
from reasoning.synthetic.generator import synthetic_problems


def run(spec: ChainSpec, **changes):
    loaded = load_model(spec.model)
    problems, _ = select_problems(spec)
    return ChainRun(spec, loaded, problems, changes.pop("meter", NoMeter("none in tests")), **changes).run()


def test_generate_measures_every_kernel_on_every_problem_and_replays_the_ablation() -> None:
    spec = ChainSpec(
        kernels=("fused_int8",),
        limit=3,
        batch_sizes=(2,),
        ablation_problems=2,
        ablation_hops=20,
        ablation_repeats=1,
    )
    outcome = run(spec)
    assert not outcome.interrupted
    rows = {(r.kernel, r.mode): r for r in outcome.rows}
    assert set(rows) == {
        *((k, "generate") for k in ("bf16", "fused_int8")),
        *((k, "replay") for k in ("bf16", "unfused_int8", "fused_int8", "null_int8")),
    }
    for kernel in ("bf16", "fused_int8"):
        row = rows[kernel, "generate"]
        queries = [s for s in outcome.samples if isinstance(s, QuerySample) and s.kernel == kernel]
        hops = [
            s
            for s in outcome.samples
            if isinstance(s, HopSample) and (s.kernel, s.mode) == (kernel, "generate")
        ]
        assert row.problems == len(queries) == 3
        assert row.correct == sum(bool(q.correct) for q in queries)
        assert row.hops == len(hops)
        assert row.tokens == sum(q.hops - 1 for q in queries) == sum(h.tokens for h in hops)
        assert row.decode_s == pytest.approx(sum(h.hop_s for h in hops))
        assert row.energy_j_per_query is None and row.energy_source == "none"
    assert rows["bf16", "generate"].correct == 3, "the bundled model solves one to three operations"
    replayed = [s for s in outcome.samples if isinstance(s, HopSample) and s.mode == "replay"]
    counts = Counter(s.kernel for s in replayed)
    assert set(counts.values()) == {20}, "every kernel replays the same hops"
    ranges = [s for s in outcome.samples if isinstance(s, RangeSample)]
    assert Counter(s.kernel for s in ranges) == counts
    for sample in ranges:
        assert (sample.cast_s is not None) == sample.kernel.startswith("unfused")
        assert sample.linear_s > 0
    compared = {s.kernel for s in outcome.samples if isinstance(s, AgreementSample)}
    assert compared == {"unfused_int8", "fused_int8"}, (
        "null kernels have no meaning and the baseline is itself"
    )
    assert rows["fused_int8", "generate"].weight_bytes < rows["bf16", "generate"].weight_bytes


def test_replay_needs_no_generation_and_measures_no_accuracy() -> None:
    spec = ChainSpec(mode=ChainMode.REPLAY, kernels=("unfused_fp8",), limit=2, ablation_repeats=1)
    outcome = run(spec)
    assert {r.mode for r in outcome.rows} == {"replay"}
    assert all(r.accuracy is None and r.energy_j_per_query is None for r in outcome.rows)
    problems, _ = select_problems(spec)
    tokenizer = load_model("tiny").tokenizer
    expected = sum(len(tokenizer(p.solution).input_ids) for p in problems)
    assert next(r for r in outcome.rows if r.kernel == "bf16").hops == expected


@pytest.mark.parametrize("fmt", FORMATS)
def test_fused_and_unfused_agree_in_replay(fmt: str) -> None:
    """Both decode to the same bf16 weights, so their logits differ by accumulation order and bf16 rounding only.

    Each of the 56 linears rounds its output to bf16 (2**-9 relative at most), so errors of two runs that round
    differently add up to at most about sqrt(56) * 2**-8 = 3 % where they are independent.
    """
    loaded = load_model("tiny")
    problem = next(synthetic_problems(11, operations=(3,)))
    prompt = loaded.tokenizer(format_prompt(problem.question)).input_ids
    solution = loaded.tokenizer(problem.solution).input_ids
    replacement = replace_linears(loaded.model, get_kernel("bf16"))
    logits: dict[str, list[torch.Tensor]] = {}
    for scheme in ("unfused", "fused"):
        kernel = get_kernel(f"{scheme}_{fmt}")
        add_format(replacement, kernel)
        replacement.use(kernel)
        seen = logits[scheme] = []
        forced = Forced(
            [solution], torch.device("cpu"), lambda position, row, seen=seen: seen.append(row.float())
        )
        decode_batch(
            loaded.model,
            [prompt],
            forced,
            lengths=[len(solution)],
            end_tokens=frozenset(),
            padding=pad_token(loaded.tokenizer),
            timer=HopTimer(),
        )
    unfused, fused = (torch.cat(rows) for rows in (logits["unfused"], logits["fused"]))
    error = (fused - unfused).norm(dim=-1) / unfused.norm(dim=-1)
    assert error.max() < 0.03
    top = unfused.topk(2, dim=-1).values
    clear = (top[:, 0] - top[:, 1]) > 0.5
    assert clear.float().mean() > 0.8
    assert (fused.argmax(-1) == unfused.argmax(-1))[clear].all()


def test_an_interruption_keeps_finished_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ChainSpec(kernels=("fused_int8",), limit=3, ablation_problems=0)
    calls = 0
    real = backend_module.decode_steps

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > 2 + 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(backend_module, "decode_steps", interrupted)
    outcome = run(spec)
    assert outcome.interrupted
    assert sorted((r.kernel, r.problems) for r in outcome.rows) == [("bf16", 1), ("fused_int8", 2)]
    assert "interrupted" in outcome.warnings[0]


def test_a_full_memory_keeps_finished_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ChainSpec(kernels=("fused_int8",), limit=3, max_new_tokens=5, ablation_problems=0)
    calls = 0
    real = backend_module.decode_steps

    def filling(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > 2 + 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(backend_module, "decode_steps", filling)
    outcome = run(spec)
    assert outcome.interrupted and isinstance(outcome.failure, MemoryError)
    assert sorted((r.kernel, r.problems) for r in outcome.rows) == [("bf16", 1), ("fused_int8", 2)]
    calls = 10
    with pytest.raises(MemoryError):
        run(spec)


def test_energy_is_summed_over_batches() -> None:
    spec = ChainSpec(kernels=("fused_int8",), limit=2, ablation_problems=0)
    outcome = run(spec, meter=FakeMeter(power_w=50.0))
    for row in outcome.rows:
        windows = [s for s in outcome.samples if s.type == "energy" and s.kernel == row.kernel]
        assert len(windows) == 2
        assert row.energy_j_per_query == pytest.approx(sum(w.energy_j for w in windows) / 2)


def test_random_weights_are_never_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    spec = ChainSpec(kernels=("fused_int8",), limit=1, max_new_tokens=4, ablation_problems=0)
    loaded = replace(load_model("tiny"), random_weights=True)
    problems, _ = select_problems(spec)
    outcome = ChainRun(spec, loaded, problems, NoMeter("none in tests")).run()
    assert all(row.accuracy is None and row.correct is None for row in outcome.rows)
    assert all(s.correct is None for s in outcome.samples if isinstance(s, QuerySample))


def test_progress_reaches_its_end() -> None:
    seen: list[tuple[float, float]] = []
    spec = ChainSpec(kernels=("fused_int8",), limit=2, max_new_tokens=5, ablation_repeats=1)
    run(spec, progress=lambda done, total, label: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == pytest.approx(seen[-1][1])
    assert len({total for _, total in seen}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sizes": (0,)}, "batch_size=0 is below 1"),
        ({"limit": 0}, "limit=0 is below 1"),
        ({"max_new_tokens": 1}, "max_new_tokens=1 is below 2"),
        ({"kernels": ()}, "at least 1 kernel, got 0"),
        ({"kernels": ("null_nf4",)}, "null_nf4 computes nothing meaningful"),
        ({"kernels": ("fused_nf5",)}, "unknown kernel 'fused_nf5'; did you mean 'fused_nf4'"),
        ({"kernels": ("fused_nf4", "fused_nf4")}, "a kernel is named twice: bf16, fused_nf4, fused_nf4"),
        ({"baseline": "fp16"}, "unknown kernel 'fp16'"),
    ],
)
def test_a_spec_refuses_what_cannot_run(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChainSpec(**change)


def test_replay_of_problems_without_solutions_is_refused(tmp_path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"id": "a", "question": "1+1?", "answer": 2}\n')
    with pytest.raises(ValueError, match="1 of 1 problems have none"):
        select_problems(ChainSpec(problems=str(file), mode=ChainMode.REPLAY))
