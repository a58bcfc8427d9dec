"""Captured hops on a GPU: the tokens of Hugging Face, no waiting, and the bits of the same step uncaptured."""

from typing import Any

import pytest
import torch
from engine_models import (
    BOUND,
    FAMILIES,
    PROMPTS,
    check_same_choices,
    decode,
    forced_logits,
    generate,
    random_model,
)

from kernels.ranges import NO_RANGES
from kernels.registry import get_kernel
from profiler.timing import HopTimer
from reasoning.decode import BatchTrace, decode_batch, greedy
from reasoning.engine.decoder import Decoder
from reasoning.engine.run import session_steps
from reasoning.engine.sampling import Sampling
from reasoning.engine.session import Session, StepMode
from reasoning.quant_linear import replace_linears

pytestmark = pytest.mark.gpu
COUNT = 18
MODES = list(StepMode)
# k of every linear is a multiple of the largest group.
ALIGNED: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "head_dim": 64,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_choices_are_those_of_hugging_face_up_to_ties(
    family: str, dtype: torch.dtype, mode: StepMode
) -> None:
    model = random_model(family, dtype, "cuda")
    references = [generate(model, prompt, COUNT) for prompt in PROMPTS]
    session = Session(Decoder.from_model(model), get_kernel("bf16"), 3, 40, mode=mode)
    assert session.is_captured
    logits = forced_logits(session, PROMPTS, [reference.tokens for reference in references])
    for i, reference in enumerate(references):
        check_same_choices(logits[:, i], reference.logits, BOUND[dtype])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["bf16", "fused_nf4", "unfused_nf4", "null_nf4", "fused_int8", "native_fp8"])
def test_a_captured_hop_is_the_same_step_bit_for_bit(name: str, mode: StepMode) -> None:
    kernel = get_kernel(name)
    decoder = Decoder.from_model(random_model("qwen3", torch.bfloat16, "cuda", **ALIGNED))
    decoder.add_format(kernel)
    session = Session(decoder, kernel, 3, 40, mode=mode)
    runs = []
    for captured in (True, False):
        session.start(PROMPTS, [COUNT] * 3)
        logits = []
        while session.hops_left:
            if captured:
                session.hop()
            else:
                session.hop_with_ranges(NO_RANGES)
            # As integers: the null kernels may end in NaN, which equals nothing.
            logits.append(session.logits.view(torch.int16).clone())
        runs.append((session.tokens(), torch.stack(logits)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("name", ["fused_nf4", "fused_int8"])
def test_quantized_linears_give_the_logits_of_the_replaced_model(name: str) -> None:
    kernel = get_kernel(name)
    model = random_model("qwen2.5", torch.bfloat16, "cuda", **ALIGNED)
    replace_linears(model, kernel)
    references = [generate(model, prompt, COUNT) for prompt in PROMPTS]
    # The other modes round less often than Hugging Face, which this model magnifies.
    session = Session(Decoder.from_model(model), kernel, 3, 40, mode=StepMode.GRAPH)
    logits = forced_logits(session, PROMPTS, [reference.tokens for reference in references])
    for i, reference in enumerate(references):
        check_same_choices(logits[:, i], reference.logits, BOUND[torch.bfloat16])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_in_a_hop_waits_for_the_device(mode: StepMode, temperature: float) -> None:
    kernel = get_kernel("fused_nf4")
    decoder = Decoder.from_model(random_model("qwen3", torch.bfloat16, "cuda", **ALIGNED))
    decoder.add_format(kernel)
    session = Session(decoder, kernel, 3, 40, mode=mode, sampling=Sampling(temperature, 1))
    session.start(PROMPTS, [COUNT] * 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            session.hop()
        for _ in range(5):
            session.hop_with_ranges(NO_RANGES)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [len(tokens) for tokens in session.tokens()] == [11] * 3


def test_batches_end_as_in_the_eager_engine() -> None:
    model = random_model("llama-3", device="cuda")
    free = [generate(model, prompt, 30).tokens for prompt in PROMPTS]
    arguments = {
        "lengths": [30, 30, 5],
        "end_tokens": frozenset({free[0][3], free[1][8]}),
        "padding": 0,
        "timer": HopTimer(torch.cuda.synchronize),
    }
    eager = decode_batch(model, PROMPTS, greedy, **arguments)
    session = Session(Decoder.from_model(model), get_kernel("bf16"), 3, 40)
    # With a timer that waits for the device the end is seen at once, without one a little later.
    for timer in (HopTimer(torch.cuda.synchronize), HopTimer()):
        trace = BatchTrace(tokens=[])
        for _ in session_steps(session, PROMPTS, **{**arguments, "timer": timer}, trace=trace):
            pass
        assert trace.tokens == eager.tokens
        assert trace.active == eager.active
        assert len(trace.hop_s) == len(eager.hop_s)


@pytest.mark.parametrize("mode", MODES)
def test_captured_draws_differ_from_hop_to_hop_and_repeat_with_the_seed(mode: StepMode) -> None:
    decoder = Decoder.from_model(random_model("qwen3", device="cuda"))

    def draw(seed: int) -> list[list[int]]:
        session = Session(decoder, get_kernel("bf16"), 3, 40, mode=mode, sampling=Sampling(1e4, seed))
        runs = []
        for _ in range(2):
            runs.append(decode(session, [[7]] * 3, 30))
        assert runs[0] == runs[1]
        return runs[0]

    first = draw(1)
    assert draw(1) == first != draw(2)
    # At this temperature a draw is nearly uniform over 301 tokens.
    assert min(len(set(row)) for row in first) > 20


def test_a_session_for_every_batch_size_up_to_128() -> None:
    decoder = Decoder.from_model(random_model("qwen3", torch.bfloat16, "cuda", **ALIGNED))
    kernel = get_kernel("bf16")
    for batch in (1, 2, 3, 4, 8, 16, 32, 64, 100, 128):
        session = Session(decoder, kernel, batch, 20)
        assert len({tuple(row) for row in decode(session, [[5, 17, 300]] * batch, 10)}) == 1
