"""The chain on every engine and at several batch sizes: same tokens, fixed hops, contexts, and memory that runs out."""

from dataclasses import dataclass, replace

import pytest
import torch

import reasoning.chain_part as part_module
from kernels.quantize import quantize
from kernels.registry import get_kernel
from kernels.torch_compile import can_compile
from profiler.energy import NoMeter
from profiler.record import AgreementSample, HopSample, QuerySample, RangeSample
from reasoning.chain import ChainOutcome, ChainRun
from reasoning.chain_backend import DecodeJob, decode, layouts_of
from reasoning.chain_captured import CapturedBackend
from reasoning.chain_memory import BatchNeed
from reasoning.chain_problems import select_problems
from reasoning.chain_prompts import ChainPrompts
from reasoning.chain_spec import ChainMode, ChainSpec, Engine
from reasoning.engine.event_timer import EventTimer
from reasoning.model import LoadedModel, load_model

ENGINES = [
    Engine.GRAPH,
    pytest.param(
        Engine.COMPILE,
        marks=pytest.mark.skipif(not can_compile(), reason="no C++ compiler or Python headers"),
    ),
]


def tiny32() -> LoadedModel:
    """In fp32, so that engines that round at different places choose the same tokens."""
    return load_model("tiny", dtype=torch.float32)


def run(spec: ChainSpec, loaded: LoadedModel | None = None) -> ChainOutcome:
    problems, _ = select_problems(spec)
    return ChainRun(spec, loaded or load_model("tiny"), problems, NoMeter("none in tests")).run()


def texts(outcome: ChainOutcome) -> dict[tuple[str, str], tuple[str | None, bool | None, int]]:
    return {
        (s.kernel, s.problem_id): (s.text, s.correct, s.hops)
        for s in outcome.samples
        if isinstance(s, QuerySample)
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_generates_what_eager_does_and_replays_the_same_hops(engine: Engine) -> None:
    # Three problems in batches of two: the last batch is not full.
    spec = ChainSpec(
        kernels=("fused_int8",),
        limit=3,
        batch_sizes=(2,),
        max_new_tokens=60,
        ablation_problems=3,
        ablation_hops=6,
        ablation_repeats=1,
    )
    eager, ours = run(spec, tiny32()), run(replace(spec, engine=engine), tiny32())
    assert texts(ours) == texts(eager)
    rows = {(r.kernel, r.mode): r for r in eager.rows}
    assert {(r.kernel, r.mode) for r in ours.rows} == set(rows)
    for row in ours.rows:
        other = rows[row.kernel, row.mode]
        assert (row.hops, row.tokens, row.problems, row.correct) == (
            other.hops,
            other.tokens,
            other.problems,
            other.correct,
        )
        assert (row.engine, row.captured, row.hop_clock) == (engine.value, False, "wall")
        assert (other.engine, other.captured, other.hop_clock) == ("eager", False, "wall")
        assert row.weight_bytes is not None and other.weight_bytes is not None
    assert any("nothing was captured" in warning for warning in ours.warnings)
    assert not any("captured" in warning for warning in eager.warnings)
    compared = [s for s in ours.samples if isinstance(s, AgreementSample)]
    there = [s for s in eager.samples if isinstance(s, AgreementSample)]
    assert {(s.kernel, s.problem_id, s.hop, s.step) for s in compared} == {
        (s.kernel, s.problem_id, s.hop, s.step) for s in there
    }
    # The same logits up to the order of fp32 sums, so the same divergence from the baseline.
    by_place = {(s.kernel, s.problem_id, s.hop): s.kl_nats for s in there}
    assert all(
        s.kl_nats == pytest.approx(by_place[s.kernel, s.problem_id, s.hop], abs=1e-4) for s in compared
    )
    ranges = [s for s in ours.samples if isinstance(s, RangeSample)]
    assert {s.kernel for s in ranges} == set(spec.ablation_kernels)
    assert all(0 < s.linear_s < s.device_s for s in ranges)


def test_captured_weights_are_those_of_the_replaced_model() -> None:
    spec = ChainSpec(kernels=("fused_nf4",), limit=1, max_new_tokens=4, ablation_problems=0)
    eager, ours = run(spec), run(replace(spec, engine=Engine.GRAPH))
    sizes = {row.kernel: row.weight_bytes for row in eager.rows}
    for row in ours.rows:
        assert row.weight_bytes == pytest.approx(sizes[row.kernel], rel=1e-3)


def test_a_sweep_of_batch_sizes_with_fixed_hops_is_not_scored() -> None:
    spec = ChainSpec(
        kernels=("fused_int8", "unfused_int8"),
        batch_sizes=(1, 3),
        engine=Engine.GRAPH,
        context=40,
        hops=5,
        ablation_problems=1,
        ablation_repeats=1,
    )
    outcome = run(spec)
    assert outcome.measured == [1, 3]
    assert outcome.not_measured == {}
    for size in (1, 3):
        rows = [r for r in outcome.rows if r.batch_size == size and r.mode == "generate"]
        assert [r.kernel for r in rows] == ["bf16", "fused_int8", "unfused_int8"]
        for row in rows:
            assert (row.problems, row.hops, row.tokens) == (2 * size, 10, 10 * size)
            assert (row.accuracy, row.correct, row.context) == (None, None, 40)
        hops = [s for s in outcome.samples if isinstance(s, HopSample) and s.batch_size == size]
        assert {s.active for s in hops} == {size}
    assert all(s.correct is None for s in outcome.samples if isinstance(s, QuerySample))


@pytest.mark.parametrize("engine", [Engine.EAGER, Engine.GRAPH])
def test_a_batch_size_without_memory_is_left_out_and_the_others_are_measured(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ChainSpec(
        kernels=("fused_int8",), batch_sizes=(1, 4, 2), engine=engine, hops=3, ablation_problems=0
    )
    need = BatchNeed.of(load_model("tiny").model.config, 128, 64).needed_bytes(1, 1)
    monkeypatch.setattr(part_module, "free_bytes", lambda device: 3 * need)
    outcome = run(replace(spec, context=64))
    assert outcome.measured == [1, 2]
    assert {row.batch_size for row in outcome.rows} == {1, 2}
    assert outcome.interrupted and isinstance(outcome.failure, MemoryError)
    sentence = outcome.not_measured[4]
    assert sentence.startswith("batch 4 needs")
    assert sentence.endswith("the largest batch that fits is 3")


def test_running_out_of_memory_half_way_leaves_the_next_batch_size_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ChainSpec(
        kernels=("fused_int8",), batch_sizes=(2, 1), engine=Engine.GRAPH, hops=3, ablation_problems=0
    )
    steps = CapturedBackend.steps

    def filling(self, kernel, job: DecodeJob, trace, **rest):
        if len(job.prompts) == 2 and kernel.name == "fused_int8" and job.lengths == [4, 4]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nMore.")
        return steps(self, kernel, job, trace, **rest)

    monkeypatch.setattr(CapturedBackend, "steps", filling)
    outcome = run(spec)
    assert outcome.measured == [1]
    assert "torch: CUDA out of memory. Tried 2 GiB." in outcome.not_measured[2]
    # What the other kernel had measured before is kept.
    assert {(r.kernel, r.batch_size) for r in outcome.rows} == {("bf16", 2), ("bf16", 1), ("fused_int8", 1)}


def test_nothing_measured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_module, "free_bytes", lambda device: 10)
    with pytest.raises(MemoryError, match="the largest batch that fits is 0"):
        run(ChainSpec(kernels=("fused_int8",), hops=3, ablation_problems=0))


def test_needed_memory_counts_a_cache_per_kernel() -> None:
    config = load_model("tiny").model.config
    need = BatchNeed.of(config, 64, 10)
    heads = config.num_key_value_heads * config.head_dim
    assert need.cache_bytes == 2 * 2 * config.num_hidden_layers * heads * 64
    assert need.needed_bytes(3, 2) == 3 * (2 * need.cache_bytes + need.prompt_bytes)
    assert need.largest_batch(need.needed_bytes(7, 2) - 1, 2) == 6
    assert need.largest_batch(-5, 1) == 0


def test_contexts_have_their_length_and_end_with_the_question() -> None:
    loaded = load_model("tiny")
    problems, _ = select_problems(ChainSpec(limit=2))
    plain = ChainPrompts(ChainSpec(), loaded)
    own = plain.prompt(problems[0])
    longer, cut = ChainPrompts(ChainSpec(context=900), loaded), ChainPrompts(ChainSpec(context=7), loaded)
    assert len(longer.prompt(problems[0])) == 900
    assert longer.prompt(problems[0])[-len(own) :] == own
    assert longer.prompt(problems[0]) == longer.prompt(problems[0])
    assert "####" in loaded.tokenizer.decode(longer.prompt(problems[1])[: -len(own)])
    assert cut.prompt(problems[0]) == own[-7:]
    random = ChainPrompts(ChainSpec(context=900), replace(loaded, random_weights=True))
    assert len(random.prompt(problems[0])) == 900
    assert len(set(random.prompt(problems[0])[:500])) > 200
    assert random.prompt(problems[0])[:100] != random.prompt(problems[1])[:100]


def test_sequences_beyond_the_model_s_positions_are_refused() -> None:
    loaded = load_model("tiny")
    with pytest.raises(
        ValueError, match="a prompt of 2000 tokens with 400 new ones needs 2399 positions.*=2048"
    ):
        ChainPrompts(ChainSpec(context=2000), loaded)
    with pytest.raises(ValueError, match="with 5001 new ones needs .* positions, the model has"):
        run(ChainSpec(hops=5000, ablation_problems=0))


def test_recorded_solutions_that_do_not_fit_are_refused() -> None:
    loaded = load_model("tiny")
    spec = ChainSpec(mode=ChainMode.REPLAY, limit=1)
    (problem,), _ = select_problems(spec)
    prompts = ChainPrompts(spec, loaded)
    with pytest.raises(
        ValueError, match=f"problem {problem.id} has token 896, outside the model's vocabulary"
    ):
        prompts.check_tokens(problem, [5, 896])
    with pytest.raises(ValueError, match="has 0 tokens"):
        prompts.solution(replace(problem, solution=""))

    class Foreign:
        """A tokenizer that knows nothing of the text."""

        unk_token_id = 3

        def __call__(self, text: str, **settings: object):
            from types import SimpleNamespace

            return SimpleNamespace(input_ids=[3, 3, 9])

    foreign = ChainPrompts(spec, replace(loaded, tokenizer=Foreign()))
    with pytest.raises(ValueError, match="does not fit the tokenizer: 2 of its 3 tokens are unknown"):
        foreign.solution(problem)


def test_a_batch_size_is_prepared_before_anything_decodes() -> None:
    loaded = load_model("tiny")
    backend = CapturedBackend(ChainSpec(kernels=("fused_int8",), engine=Engine.GRAPH), loaded)
    job = DecodeJob([[5, 6]], [3], frozenset(), 0)
    with pytest.raises(ValueError, match="before prepare"):
        decode(backend, get_kernel("bf16"), job)
    backend.prepare(2, 8, in_lockstep=False)
    first = decode(backend, get_kernel("bf16"), job)
    assert len(first.tokens) == 1 and first.active == [1, 1]
    # Captured steps are kept where they fit, and made anew where they do not.
    sessions = backend._sessions
    backend.prepare(2, 7, in_lockstep=False)
    assert backend._sessions is sessions
    backend.prepare(2, 7, in_lockstep=True)
    assert backend._sessions is not sessions
    assert decode(backend, get_kernel("bf16"), job).tokens == first.tokens


def test_layouts_beside_weights_are_counted_once() -> None:
    weight = quantize(torch.randn(8, 64), get_kernel("fused_nf4").format)
    assert layouts_of([weight]) == 0
    words = torch.zeros(10, dtype=torch.int32)
    layouts = {"a": (words, "name"), "b": [words, torch.zeros(3)], "c": SimpleLayout(torch.zeros(4))}
    weight.repacked.update(layouts)
    assert layouts_of([weight, weight]) == 40 + 12 + 16
    weight.repacked["by itself"] = (weight.packed, [weight.scales])
    assert layouts_of([weight, weight]) == 40 + 12 + 16


@dataclass
class SimpleLayout:
    """A layout that is more than a tensor."""

    words: torch.Tensor


class FakeEvent:
    """An event whose time is what the clock says when it is recorded."""

    clock_ms = 0.0
    waits = 0

    def record(self) -> None:
        self.at_ms = FakeEvent.clock_ms

    def synchronize(self) -> None:
        FakeEvent.waits += 1

    def elapsed_time(self, other: "FakeEvent") -> float:
        return other.at_ms - self.at_ms


def test_events_are_read_after_the_batch() -> None:
    timer = EventTimer(FakeEvent)
    for length_ms in (3.0, 5.0):
        with timer.hop():
            FakeEvent.clock_ms += length_ms
        FakeEvent.clock_ms += 100.0
    with pytest.raises(KeyboardInterrupt), timer.hop():
        raise KeyboardInterrupt
    assert FakeEvent.waits == 0
    assert timer.take() == pytest.approx([0.003, 0.005])
    assert FakeEvent.waits == 1
    assert timer.take() == []
