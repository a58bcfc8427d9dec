"""``Architecture``: what the decoder needs to know of a model, and which models it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MODEL_TYPES = ("qwen3", "qwen2", "mistral", "llama")
"""Architectures by their name in transformers; Falcon3 is a ``llama``, Qwen2.5 a ``qwen2``."""

_FIXED_ROPE = ("default", "llama3", "yarn")


@dataclass(frozen=True)
class Architecture:
    """Sizes and constants of a decoder-only model.

    Args:
        layers: decoder layers.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads; query head h attends to number ``h // (heads / kv_heads)``.
        head_dim: width of a head.
        vocabulary: rows of the embedding.
        norm_epsilon: of every RMS norm.
        has_qk_norm: queries and keys are normalized per head before rotation.
        has_tied_head: the output layer is the embedding.
        window: tokens that a layer attends to at most, or None for all.
        inverse_frequencies: rotary frequencies, head_dim/2 of them, rounded to fp32.
        rotary_scale: factor on cosines and sines (1 but for YaRN).
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    norm_epsilon: float
    has_qk_norm: bool
    has_tied_head: bool
    window: int | None
    inverse_frequencies: tuple[float, ...]
    rotary_scale: float

    def rotary_tables(self, length: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions 0 to ``length - 1``, each [length, head_dim/2], computed in fp32."""
        frequencies = torch.tensor(self.inverse_frequencies, dtype=torch.float32)
        angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
        tables = (angles.cos() * self.rotary_scale, angles.sin() * self.rotary_scale)
        return tables[0].to(device, dtype), tables[1].to(device, dtype)


def read_architecture(config: Any) -> Architecture:
    """Read a transformers config.

    Args:
        config: of a model whose ``model_type`` is one of ``MODEL_TYPES``.

    Raises:
        ValueError: another architecture, activation or rotary embedding, or heads that do not divide.
    """
    if config.model_type not in MODEL_TYPES:
        raise ValueError(f"architecture {config.model_type!r} is none of {', '.join(MODEL_TYPES)}")
    if config.hidden_act != "silu":
        raise ValueError(f"activation {config.hidden_act!r} is not 'silu'")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads are not divisible by {kv_heads} key and value heads")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    frequencies, scale = _rotary(config, head_dim)
    return Architecture(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=config.vocab_size,
        norm_epsilon=config.rms_norm_eps,
        has_qk_norm=config.model_type == "qwen3",
        has_tied_head=bool(config.tie_word_embeddings),
        window=_window(config),
        inverse_frequencies=tuple(frequencies.tolist()),
        rotary_scale=scale,
    )


def _window(config: Any) -> int | None:
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    # Where a config lists the kinds of its layers, the window counts only for those that slide.
    return window if kinds is None or "sliding_attention" in kinds else None


def _rotary(config: Any, head_dim: int) -> tuple[Tensor, float]:
    """Inverse frequencies fp32 [head_dim/2], on the CPU: powers computed on a GPU differ in the last bit."""
    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind not in _FIXED_ROPE:
        raise ValueError(f"rope_type={kind!r} is none of {', '.join(_FIXED_ROPE)}")
    partial = parameters.get("partial_rotary_factor", 1.0)
    if partial != 1.0:
        raise ValueError(f"partial_rotary_factor={partial} is not 1.0")
    if kind == "default":
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        return 1.0 / (parameters["rope_theta"] ** exponents), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequencies.float(), float(scale)
