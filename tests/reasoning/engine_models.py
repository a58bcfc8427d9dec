"""Small random models of every architecture, and what Hugging Face makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reasoning.engine.session import Session

PROMPTS = [[5, 17, 300, 41, 88, 2, 96], [7], [11, 250, 3]]

SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 301,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}

COMPUTED = "computed"
"""A size that the config leaves out."""

# What each family has of its own; qwen2 computes its head_dim, 16, from the other sizes.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen2.5": ("qwen2", {"head_dim": COMPUTED}),
    "mistral": ("mistral", {"sliding_window": None, "num_key_value_heads": 6}),
    "llama-3": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "qwen3-yarn": ("qwen3", {"rope_parameters": YARN_ROPE}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "falcon3": ("llama", {"head_dim": 64, "num_attention_heads": 3, "num_key_value_heads": 1}),
}


def random_model(family: str, dtype: torch.dtype = torch.float32, device: str = "cpu", **sizes: Any) -> Any:
    """A model whose logits differ enough that its greedy tokens vary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, own = FAMILIES[family]
    wanted = {**SIZES, **own, **sizes}
    config = AutoConfig.for_model(model_type, **{k: v for k, v in wanted.items() if v != COMPUTED})
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(0.0, 0.15)
    return model.to(device, dtype)


@dataclass(frozen=True)
class Reference:
    """What ``generate`` chose for one prompt, greedily, and the logits [tokens, vocabulary] that it chose from."""

    tokens: list[int]
    logits: Tensor


def generate(model: Any, prompt: list[int], count: int) -> Reference:
    """Let Hugging Face decode one prompt."""
    ids = torch.tensor([prompt], device=model.device)
    out = model.generate(
        ids, max_new_tokens=count, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    return Reference(out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits))


def decode(session: Session, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Greedy tokens of a batch."""
    session.start(prompts, [count] * len(prompts))
    while session.hops_left:
        session.hop()
    return session.tokens()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest ‖found − expected‖/‖expected‖ over rows."""
    difference = torch.linalg.vector_norm(found.double() - expected.double(), dim=-1)
    return float((difference / torch.linalg.vector_norm(expected.double(), dim=-1)).max())


# Both sides round in 3 layers, about 12 times each on the way to the residual stream, in fp32 also at each of up to 192
# steps of 6 sums. Errors of u/2 add up like a random walk; 3 for cancellation.
BOUND = {
    torch.float32: 4 * (2 * 3 * (12 + 6 * 192)) ** 0.5 * 2.0**-24,
    torch.bfloat16: 4 * (2 * 3 * 12) ** 0.5 * 2.0**-8,
}


def forced_logits(session: Session, prompts: list[list[int]], tokens: list[list[int]]) -> Tensor:
    """Logits [position, sequence, vocabulary] while the tokens are forced."""
    session.start(prompts, [len(t) for t in tokens], forced=tokens)
    logits = [session.logits.clone()]
    while session.hops_left:
        session.hop()
        logits.append(session.logits.clone())
    assert session.tokens() == tokens
    return torch.stack(logits)


def check_same_choices(found: Tensor, expected: Tensor, bound: float) -> None:
    """Rows within the bound of each other, whose largest logits agree unless two are as near as the rows are."""
    assert relative_error(found, expected) < bound
    chosen = found.argmax(-1, keepdim=True)
    lost = (expected.amax(-1) - expected.gather(-1, chosen)[:, 0]).double()
    largest_difference = (found.double() - expected.double()).abs().amax(-1)
    assert bool((lost <= 2 * largest_difference).all())
    assert bool((chosen[:, 0] == expected.argmax(-1)).double().mean() > 0.8)
