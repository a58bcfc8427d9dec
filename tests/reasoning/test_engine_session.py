"""Batches through a session: ends, limits, forced tokens, sampling, traces and errors."""

from contextlib import nullcontext

import pytest
import torch
from engine_models import PROMPTS, decode, generate, random_model

from kernels.registry import get_kernel
from profiler.nvtx import ranges_to
from profiler.timing import HopTimer
from reasoning.decode import BatchTrace, decode_batch, end_tokens, greedy, pad_token
from reasoning.engine.decoder import Decoder
from reasoning.engine.run import Engine, session_steps
from reasoning.engine.sampling import Sampling
from reasoning.engine.session import Session, StepMode
from reasoning.engine.state import KVCache
from reasoning.model import load_model
from reasoning.prompts import format_prompt
from reasoning.synthetic.generator import synthetic_problems

BF16 = get_kernel("bf16")


@pytest.fixture(scope="module")
def model():
    return random_model("qwen3")


@pytest.fixture(scope="module")
def decoder(model) -> Decoder:
    return Decoder.from_model(model)


@pytest.fixture(scope="module")
def session(decoder: Decoder) -> Session:
    return Session(decoder, BF16, 3, 40, mode=StepMode.GRAPH)


def run(
    session: Session, *, lengths=(12, 12, 12), ends=(), forced=None, on_logits=None, ranges=None
) -> BatchTrace:
    trace = BatchTrace(tokens=[])
    steps = session_steps(
        session,
        PROMPTS,
        lengths=list(lengths),
        end_tokens=ends,
        padding=0,
        timer=HopTimer(),
        trace=trace,
        forced=forced,
        on_logits=on_logits,
        ranges=ranges,
    )
    for _ in steps:
        pass
    return trace


def test_traces_are_those_of_the_eager_engine(model, session: Session) -> None:
    free = run(session).tokens
    # Ends at different times: after 4 and 9 tokens, and at the limit.
    ends = frozenset({free[0][3], free[1][8]})
    arguments = {"lengths": [12, 12, 5], "end_tokens": ends, "padding": 0, "timer": HopTimer()}
    eager = decode_batch(model, PROMPTS, greedy, **arguments)
    ours = run(session, lengths=[12, 12, 5], ends=ends)
    assert ours.tokens == eager.tokens
    assert len({len(tokens) for tokens in ours.tokens}) > 1
    assert ours.active == eager.active
    assert len(ours.hop_s) == len(eager.hop_s) < 11
    assert ours.prefill_s > 0 and min(ours.hop_s) > 0
    assert ours.cache_bytes == session.cache.nbytes == 2 * 3 * 3 * 2 * 64 * 32 * 4


def test_the_bundled_model_solves_its_problems_as_in_the_eager_engine() -> None:
    tiny = load_model("tiny", dtype=torch.float32)
    stream = synthetic_problems(5, operations=(3, 1, 2))
    prompts = [tiny.tokenizer(format_prompt(next(stream).question)).input_ids for _ in range(3)]
    arguments = {
        "lengths": [150] * 3,
        "end_tokens": end_tokens(tiny.model, tiny.tokenizer),
        "padding": pad_token(tiny.tokenizer),
        "timer": HopTimer(),
    }
    eager = decode_batch(tiny.model, prompts, greedy, **arguments)
    session = Session(Decoder.from_model(tiny.model), BF16, 3, 400, mode=StepMode.GRAPH)
    trace = BatchTrace(tokens=[])
    for _ in session_steps(session, prompts, **arguments, trace=trace):
        pass
    assert trace.tokens == eager.tokens
    assert trace.active == eager.active
    assert {tokens[-1] for tokens in trace.tokens} <= arguments["end_tokens"]


def test_a_batch_of_one_hop_or_none(session: Session) -> None:
    assert [len(t) for t in run(session, lengths=[1, 1, 1]).tokens] == [1, 1, 1]
    trace = run(session, lengths=[1, 2, 1])
    assert [len(t) for t in trace.tokens] == [1, 2, 1]
    assert trace.active == [1]


def test_sequences_that_ended_leave_the_others_alone(model, session: Session) -> None:
    trace = run(session, lengths=[2, 30, 3])
    assert trace.tokens[1] == generate(model, PROMPTS[1], 30).tokens
    assert trace.active == [3, 2] + [1] * 27


def test_the_cache_may_be_filled_to_its_last_column_but_no_further(model, decoder: Decoder) -> None:
    session = Session(decoder, BF16, 1, 64, mode=StepMode.GRAPH)
    assert session.cache.max_len == 64
    assert decode(session, [PROMPTS[0]], 58)[0] == generate(model, PROMPTS[0], 58).tokens
    with pytest.raises(ValueError, match="hop 58 was asked for, but the batch has 57 hops"):
        session.hop()
    message = "a prompt of 7 tokens with 59 new ones needs 65 cache columns, the cache has 64"
    with pytest.raises(ValueError, match=message):
        session.start([PROMPTS[0]], [59])


def test_a_batch_does_not_see_what_an_earlier_one_left(decoder: Decoder, session: Session) -> None:
    first = run(session, lengths=[30] * 3)
    for tensor in (*session.cache.keys, *session.cache.values):
        tensor.fill_(float("nan"))
    assert run(session, lengths=[30] * 3).tokens == first.tokens


def test_forced_tokens_are_chosen_and_the_logits_are_those_of_free_running(session: Session) -> None:
    free_logits: list[torch.Tensor] = []
    free = run(session, on_logits=lambda position, logits: free_logits.append(logits.clone()))
    seen: list[int] = []
    forced_logits: list[torch.Tensor] = []

    def watch(position: int, logits: torch.Tensor) -> None:
        seen.append(position)
        forced_logits.append(logits.clone())

    forced = run(session, forced=free.tokens, on_logits=watch)
    assert forced.tokens == free.tokens
    assert seen == list(range(12))
    assert torch.equal(torch.stack(forced_logits), torch.stack(free_logits))
    others = [[9, 8, 7, 6], [1, 2], [5, 5, 5]]
    assert run(session, lengths=[4, 2, 3], forced=others).tokens == others
    # Forcing does not outlast its batch.
    assert run(session).tokens == free.tokens


def test_an_iterator_closed_early_leaves_a_trace_of_what_ran(session: Session) -> None:
    trace = BatchTrace(tokens=[])
    steps = session_steps(
        session, PROMPTS, lengths=[9] * 3, end_tokens=(), padding=0, timer=HopTimer(), trace=trace
    )
    for _ in range(4):
        next(steps)
    steps.close()
    assert [len(t) for t in trace.tokens] == [4] * 3
    assert trace.active == [3] * 3 and len(trace.hop_s) == 3


def test_sampling_is_seeded_and_follows_the_temperature(decoder: Decoder) -> None:
    def sample(temperature: float, seed: int) -> list[list[int]]:
        sampling = Sampling(temperature, seed)
        session = Session(decoder, BF16, 3, 40, mode=StepMode.GRAPH, sampling=sampling)
        first = run(session).tokens
        assert run(session).tokens == first
        return first

    assert sample(1.0, 1) == sample(1.0, 1) != sample(1.0, 2)
    assert sample(1e-6, 1) == sample(0.0, 1)
    with pytest.raises(ValueError, match=r"temperature=-1\.0 is not a finite number of at least 0"):
        Sampling(-1.0)


def test_draws_have_the_probabilities_of_the_softmax() -> None:
    sampling = Sampling(2.0, 3)
    logits = torch.tensor([0.0, 1.0, 2.0, -30.0]).expand(4000, 4)
    drawn = sampling.choose(logits, sampling.generator(torch.device("cpu")))
    found = torch.bincount(drawn, minlength=4) / 4000
    expected = torch.softmax(logits[0] / 2, 0)
    # Four standard deviations of a share of 4,000 draws.
    assert float((found - expected).abs().max()) < 4 * 0.5 / 4000**0.5
    assert found[3] == 0


def test_ranges_surround_the_linears_of_prefill_and_hops(session: Session) -> None:
    seen: list[str] = []
    counts: list[int] = []

    def hook(name: str) -> nullcontext[None]:
        seen.append(name)
        return nullcontext()

    trace = run(session, ranges=hook, on_logits=lambda position, logits: counts.append(len(seen)))
    # qkv, o, gate_up and down of 3 layers, and the output layer, at every position.
    assert counts == [13 * (position + 1) for position in range(12)]
    assert set(seen) == {"linear"}
    assert trace.tokens == run(session).tokens


def test_a_profiler_sees_prefill_hops_layers_and_linears(decoder: Decoder) -> None:
    class Sink:
        def __init__(self) -> None:
            self.open: list[str] = []
            self.seen: list[tuple[str, ...]] = []

        def push(self, name: str, payload: int | None) -> None:
            self.open.append(name if payload is None else f"{name} {payload}")
            self.seen.append(tuple(self.open))

        def pop(self) -> None:
            self.open.pop()

    sink = Sink()
    with ranges_to(sink):
        watched = Session(decoder, BF16, 3, 40, mode=StepMode.GRAPH)
        sink.seen.clear()
        run(watched, lengths=[3] * 3)
    assert sink.open == []
    assert [path[0] for path in sink.seen if len(path) == 1] == ["prefill", "hop 0", "hop 1"]
    assert sink.seen.count(("prefill", "layer.2", "linear")) == 4
    assert sink.seen.count(("hop 1", "layer.2", "linear")) == 4
    assert sink.seen.count(("hop 1", "linear")) == 1


def test_an_engine_keeps_its_sessions(decoder: Decoder) -> None:
    engine = Engine(decoder, 40, mode=StepMode.GRAPH)
    session = engine.session(BF16, 2)
    assert engine.session(BF16, 2) is session
    assert engine.session(BF16, 1) is not session
    engine.release(1)
    assert engine.session(BF16, 2) is session
    engine.release()
    assert engine.session(BF16, 2) is not session


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": [[1], [2]]}, "a batch of 3 needs as many prompts with a token, got 2, 0 of them empty"),
        ({"prompts": [[1], [], [2]]}, "got 3, 1 of them empty"),
        ({"limits": [3, 0, 3]}, r"3 prompts need as many lengths of at least 1, got \[3, 0, 3\]"),
        ({"end_tokens": range(17)}, "17 end tokens are more than 16"),
        ({"prompts": [[1], [301], [2]]}, "token 301 is outside the vocabulary of 301"),
        ({"forced": [[1, 1, 1], [1, 1, -4], [1, 1, 1]]}, "token -4 is outside the vocabulary of 301"),
        (
            {"forced": [[1, 1, 1], [1], [1, 1, 1]]},
            r"sequences of \[3, 3, 3\] tokens cannot be forced with \[3, 1, 3\] tokens",
        ),
    ],
)
def test_bad_batches_are_refused(session: Session, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        session.start(**{"prompts": PROMPTS, "limits": [3, 3, 3], **change})


def test_a_cleared_cache_counts_from_zero(decoder: Decoder) -> None:
    cache = KVCache(decoder.architecture, 3, 64, torch.float32, torch.device("cpu"))
    assert cache.arrivals.dtype == torch.int32 and cache.arrivals.shape == (3 * 2,)
    # As an interrupted launch leaves them.
    cache.arrivals.fill_(5)
    cache.keys[1].fill_(7)
    cache.clear()
    assert not cache.arrivals.any() and not cache.keys[1].any()


def test_bad_sessions_are_refused(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Session(decoder, BF16, 1, 4, mode=StepMode.GRAPH)
    with pytest.raises(ValueError, match="0 batches have been started"):
        _ = fresh.logits
    with pytest.raises(ValueError, match=r"has no nf4 weight \(formats held: none\)"):
        Session(decoder, get_kernel("fused_nf4"), 1, 4, mode=StepMode.GRAPH)
    with pytest.raises(ValueError, match="batch=0 and max_len=64 is empty"):
        KVCache(decoder.architecture, 0, 64, torch.float32, torch.device("cpu"))
    monkeypatch.setattr("reasoning.engine.session.can_compile", lambda: False)
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler"):
        Session(decoder, BF16, 1, 4, mode=StepMode.COMPILE)
