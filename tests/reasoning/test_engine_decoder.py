"""The decoder against Hugging Face's ``generate``, for every architecture."""

from dataclasses import replace

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
    relative_error,
)

from kernels.quantize import quantize
from kernels.registry import get_kernel
from kernels.torch_compile import can_compile
from reasoning.engine.architecture import read_architecture
from reasoning.engine.decoder import Decoder
from reasoning.engine.session import Session, StepMode
from reasoning.quant_linear import add_format, replace_linears

COUNT = 18


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_of_a_ragged_batch_are_those_of_hugging_face(family: str) -> None:
    model = random_model(family)
    references = [generate(model, prompt, COUNT) for prompt in PROMPTS]
    session = Session(Decoder.from_model(model), get_kernel("bf16"), 3, 40, mode=StepMode.GRAPH)
    assert decode(session, PROMPTS, COUNT) == [reference.tokens for reference in references]
    assert len({token for reference in references for token in reference.tokens}) > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_choices_are_those_of_hugging_face_up_to_ties(family: str, dtype: torch.dtype) -> None:
    model = random_model(family, dtype)
    references = [generate(model, prompt, COUNT) for prompt in PROMPTS]
    session = Session(Decoder.from_model(model), get_kernel("bf16"), 3, 40, mode=StepMode.GRAPH)
    logits = forced_logits(session, PROMPTS, [reference.tokens for reference in references])
    for i, reference in enumerate(references):
        check_same_choices(logits[:, i], reference.logits, BOUND[dtype])


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests marked gpu run the fused engine on a GPU")
@pytest.mark.parametrize("family", ["qwen3", "llama-biases"])
def test_fused_hops_give_the_logits_of_plain_ones(family: str) -> None:
    pytest.importorskip("triton")
    decoder = Decoder.from_model(random_model(family))
    tokens = [[5, 8, 13]] * 3
    plain, fused = (
        forced_logits(Session(decoder, get_kernel("bf16"), 3, 40, mode=mode), PROMPTS, tokens)
        for mode in (StepMode.GRAPH, StepMode.FUSED)
    )
    assert relative_error(fused.flatten(0, 1), plain.flatten(0, 1)) < BOUND[torch.float32]
    assert not torch.equal(fused, plain)


@pytest.mark.skipif(not can_compile(), reason="no C++ compiler")
@pytest.mark.parametrize("family", ["qwen3", "llama-biases"])
def test_compiled_hops_give_the_logits_of_plain_ones(family: str) -> None:
    model = random_model(family)
    decoder = Decoder.from_model(model)
    tokens = [generate(model, prompt, 5).tokens for prompt in PROMPTS]
    plain, compiled = (
        forced_logits(Session(decoder, get_kernel("bf16"), 3, 40, mode=mode), PROMPTS, tokens)
        for mode in (StepMode.GRAPH, StepMode.COMPILE)
    )
    assert relative_error(compiled.flatten(0, 1), plain.flatten(0, 1)) < BOUND[torch.float32]


def test_a_model_with_replaced_linears_brings_its_quantized_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    model = random_model("qwen2.5")
    kernel = get_kernel("fused_int8")
    replacement = replace_linears(model, get_kernel("bf16"))
    add_format(replacement, kernel)
    before = model(torch.tensor([PROMPTS[0]])).logits
    decoder = Decoder.from_model(model)
    # The model's own linears are views of the merged weights now and compute what they did.
    qkv = decoder.layers[0].qkv.weights(get_kernel("bf16"))[0]
    assert isinstance(qkv, torch.Tensor)
    k_proj = model.model.layers[0].self_attn.k_proj
    assert k_proj.dense.data_ptr() == qkv[decoder.layers[0].qkv.rows[0] :].data_ptr()
    assert torch.equal(model(torch.tensor([PROMPTS[0]])).logits, before)
    replacement.use(kernel)
    references = [generate(model, prompt, COUNT) for prompt in PROMPTS]
    session = Session(decoder, kernel, 3, 40, mode=StepMode.GRAPH)
    logits = forced_logits(session, PROMPTS, [reference.tokens for reference in references])
    for i, reference in enumerate(references):
        check_same_choices(logits[:, i], reference.logits, BOUND[torch.float32])


def test_gptq_weights_with_their_orders_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    model = random_model("llama-3", hidden_size=96, intermediate_size=160)
    kernel = get_kernel("fused_int4")
    stored = {}
    for name, linear in model.named_modules():
        if isinstance(linear, torch.nn.Linear) and name != "lm_head":
            # As GPTQ files have it: one order where linears share their input; gate and up differ for the test.
            seed = len(name) if "gate" in name or "up" in name else linear.in_features
            order = torch.randperm(linear.in_features, generator=torch.Generator().manual_seed(seed))
            weight = quantize(linear.weight[:, order], "int4", group_size=32)
            stored[name] = replace(weight, input_permutation=order, repacked={})
    replace_linears(model, kernel, group_size=32, prequantized=stored)
    references = [generate(model, prompt, COUNT) for prompt in PROMPTS]
    decoder = Decoder.from_model(model)
    assert len(decoder.layers[0].qkv.weights(kernel)) == 1
    assert len(decoder.layers[0].gate_up.weights(kernel)) == 2
    session = Session(decoder, kernel, 3, 40, mode=StepMode.GRAPH)
    logits = forced_logits(session, PROMPTS, [reference.tokens for reference in references])
    for i, reference in enumerate(references):
        check_same_choices(logits[:, i], reference.logits, BOUND[torch.float32])


def test_a_state_dict_gives_the_same_decoder() -> None:
    model = random_model("qwen3-tied")
    tensors = {name: t.clone() for name, t in model.state_dict().items() if name != "lm_head.weight"}
    config = model.config
    own = Session(Decoder.from_model(model), get_kernel("bf16"), 1, 9, mode=StepMode.GRAPH)
    loaded = Session(Decoder.from_state_dict(config, tensors), get_kernel("bf16"), 1, 9, mode=StepMode.GRAPH)
    for session in (own, loaded):
        session.start([[3, 4]], [5])
    assert torch.equal(own.logits, loaded.logits)
    with pytest.raises(ValueError, match=r"the weights lack model\.norm\.weight \(34 tensors are there\)"):
        Decoder.from_state_dict(config, {k: v for k, v in tensors.items() if k != "model.norm.weight"})
    tensors["model.layers.1.self_attn.k_proj.weight"] = torch.zeros(33, 96)
    with pytest.raises(
        ValueError, match=r"1\.self_attn\.k_proj has shape \[33, 96\], .* asks for \[64, 96\]"
    ):
        Decoder.from_state_dict(config, tensors)


def test_weights_may_be_quantized_only_and_added_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    kernel = get_kernel("fused_nf4")
    model = random_model(
        "llama-3", num_attention_heads=4, head_dim=32, hidden_size=128, intermediate_size=192
    )
    native = Decoder.from_model(model)
    native.add_format(kernel, double_quant=True)
    replacement = replace_linears(model, kernel, double_quant=True)
    rest = {name: t for name, t in model.state_dict().items() if "proj" not in name}
    quantized = {name: layer.quantized for name, layer in replacement.replaced.items()}
    packed = Decoder.from_state_dict(model.config, rest, quantized)
    assert (
        packed.weight_bytes(kernel) == native.weight_bytes(kernel) < native.weight_bytes(get_kernel("bf16"))
    )
    sessions = [Session(decoder, kernel, 1, 12, mode=StepMode.GRAPH) for decoder in (native, packed)]
    for session in sessions:
        session.start([[3, 4, 5]], [3])
        session.hop()
    assert torch.equal(sessions[0].logits, sessions[1].logits)
    with pytest.raises(
        ValueError, match=r"q_proj\+k_proj\+v_proj has no native weight \(formats held: nf4\)"
    ):
        Session(packed, get_kernel("bf16"), 1, 12, mode=StepMode.GRAPH)


def test_unknown_architectures_are_refused() -> None:
    config = random_model("llama-3").config
    config.model_type = "gpt2"
    with pytest.raises(ValueError, match="'gpt2' is none of qwen3, qwen2, mistral, llama"):
        read_architecture(config)
    config = random_model("llama-3", rope_parameters={"rope_type": "default", "rope_theta": 10.0}).config
    config.hidden_act = "gelu"
    with pytest.raises(ValueError, match="activation 'gelu' is not 'silu'"):
        read_architecture(config)
    config.hidden_act = "silu"
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10.0, "factor": 2.0}
    with pytest.raises(ValueError, match="rope_type='dynamic' is none of default"):
        read_architecture(config)


def test_a_cache_beyond_the_attention_window_is_refused() -> None:
    decoder = Decoder.from_model(random_model("mistral", sliding_window=128))
    Session(decoder, get_kernel("bf16"), 1, 128, mode=StepMode.GRAPH)
    with pytest.raises(ValueError, match="max_len=192 exceeds the model's attention window of 128"):
        Session(decoder, get_kernel("bf16"), 1, 129, mode=StepMode.GRAPH)
