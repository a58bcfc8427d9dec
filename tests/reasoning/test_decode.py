"""The eager engine against Hugging Face's own generation, ragged batches and replay."""

import pytest
import torch

from profiler.timing import HopTimer
from reasoning.decode import Forced, decode_batch, end_tokens, greedy, pad_token
from reasoning.model import LoadedModel, load_model
from reasoning.prompts import format_prompt
from reasoning.synthetic.generator import synthetic_problems


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    """In fp32, so that batches of different padding give the same tokens."""
    return load_model("tiny", dtype=torch.float32)


def prompts_of(tiny: LoadedModel, *operations: int) -> list[list[int]]:
    stream = synthetic_problems(5, operations=operations)
    return [tiny.tokenizer(format_prompt(next(stream).question)).input_ids for _ in operations]


def run(tiny: LoadedModel, prompts: list[list[int]], choose=greedy, *, lengths=None, ends=None):
    return decode_batch(
        tiny.model,
        prompts,
        choose,
        lengths=lengths or [150] * len(prompts),
        end_tokens=end_tokens(tiny.model, tiny.tokenizer) if ends is None else ends,
        padding=pad_token(tiny.tokenizer),
        timer=HopTimer(),
    )


def test_same_tokens_as_hugging_face(tiny: LoadedModel) -> None:
    prompt = prompts_of(tiny, 2)[0]
    ours = run(tiny, [prompt]).tokens[0]
    theirs = tiny.model.generate(torch.tensor([prompt]), max_new_tokens=150, do_sample=False)[
        0, len(prompt) :
    ]
    assert ours == theirs.tolist()
    assert ours[-1] == tiny.tokenizer.eos_token_id


def test_a_ragged_batch_gives_what_its_sequences_give_alone(tiny: LoadedModel) -> None:
    prompts = prompts_of(tiny, 3, 1, 2)
    together = run(tiny, prompts)
    assert together.tokens == [run(tiny, [p]).tokens[0] for p in prompts]
    longest = max(len(t) for t in together.tokens)
    assert len(together.hop_s) == longest - 1
    assert together.active[0] == 3 and together.active[-1] == 1
    assert sum(together.active) == sum(len(t) - 1 for t in together.tokens)
    assert together.prefill_s > 0 and min(together.hop_s) > 0


def test_lengths_end_sequences(tiny: LoadedModel) -> None:
    trace = run(tiny, prompts_of(tiny, 3, 4), lengths=[5, 9])
    assert [len(t) for t in trace.tokens] == [5, 9]
    assert trace.active == [2] * 4 + [1] * 4


def test_replay_forces_the_tokens_and_sees_the_logits_of_free_running(tiny: LoadedModel) -> None:
    prompts = prompts_of(tiny, 1, 3)
    free_logits: list[torch.Tensor] = []

    def watching(position: int, logits: torch.Tensor) -> torch.Tensor:
        free_logits.append(logits)
        return greedy(position, logits)

    free = run(tiny, prompts, watching)
    forced_logits: list[torch.Tensor] = []
    forced = Forced(free.tokens, torch.device("cpu"), lambda position, logits: forced_logits.append(logits))
    replay = run(tiny, prompts, forced, lengths=[len(t) for t in free.tokens], ends=frozenset())
    assert replay.tokens == free.tokens
    torch.testing.assert_close(forced_logits[5], free_logits[5])
    other = [[7, 8, 9], [9, 8, 7, 6]]
    assert (
        run(tiny, prompts, Forced(other, torch.device("cpu")), lengths=[3, 4], ends=frozenset()).tokens
        == other
    )


def test_bad_input(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match="of 2 prompts 1 are empty"):
        run(tiny, [[1], []])
    with pytest.raises(ValueError, match=r"2 prompts need as many lengths of at least 1, got \[3, 0\]"):
        run(tiny, [[1], [2]], lengths=[3, 0])
