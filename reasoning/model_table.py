"""The model table: architectures by key, without their weights.

The rows live in ``reasoning/data/models.csv``; a model is added there and nowhere else. The bundled model
``tiny`` is described by its own ``config.json`` and is not a row.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

TINY = "tiny"
_MAX_POSITIONS = 32768


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of one decoder-only model; n is out_features and k is in_features throughout."""

    key: str
    """Name for ``--model``, such as ``qwen3-0.6b``."""
    hf_id: str
    """Repository on the hub that holds the weights; empty for the bundled model."""
    hidden_size: int
    """Width of the residual stream."""
    num_hidden_layers: int
    """Decoder layers."""
    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of one head."""
    intermediate_size: int
    """Width inside the feed-forward block."""
    vocab_size: int
    """Rows of the embedding."""
    tie_word_embeddings: bool
    """Whether the output layer is the embedding."""
    rope_theta: float
    """Base of the rotary position embedding."""
    rms_norm_eps: float
    """Epsilon of the norms."""
    notes: str
    """What else the architecture has, and how certain the row is."""

    @property
    def model_type(self) -> str:
        """The architecture's name in transformers: qwen3, qwen2, mistral or llama."""
        for prefix, model_type in _MODEL_TYPES.items():
            if self.key.startswith(prefix):
                return model_type
        raise ValueError(f"model table: no architecture is known for the key {self.key!r}")

    @property
    def qkv_bias(self) -> bool:
        """Whether q_proj, k_proj and v_proj have a bias."""
        return self.model_type == "qwen2"

    @property
    def rope_scaling_factor(self) -> float | None:
        """Factor of the llama3 rope scaling, or None where positions are not scaled."""
        match = re.search(r"rope scaling llama3 factor (\d+(?:\.\d+)?)", self.notes)
        return float(match.group(1)) if match else None

    @property
    def linear_parameters(self) -> int:
        """Weights in the linear layers of all decoder layers, without embedding, output layer and biases."""
        shapes = self.linear_shapes()
        return self.num_hidden_layers * sum(n * k for n, k in (shapes[name] for name in LINEARS))

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Shapes (n, k) of a decoder layer's linears, and of the fused ``qkv_proj`` and ``gate_up_proj``."""
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        hidden, wide = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (q, hidden),
            "k_proj": (kv, hidden),
            "v_proj": (kv, hidden),
            "o_proj": (hidden, q),
            "gate_proj": (wide, hidden),
            "up_proj": (wide, hidden),
            "down_proj": (hidden, wide),
            "qkv_proj": (q + 2 * kv, hidden),
            "gate_up_proj": (2 * wide, hidden),
        }

    def to_config(self) -> Any:
        """The transformers config of this architecture; special tokens are left out, the table has none."""
        from transformers import AutoConfig

        rope: dict[str, object] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling_factor is not None:
            rope |= {
                "rope_type": "llama3",
                "factor": self.rope_scaling_factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        sizes: dict[str, object] = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.tie_word_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": rope,
            "max_position_embeddings": _MAX_POSITIONS,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }
        if self.model_type == "mistral":
            # The default is the 4096-token window of v0.1; from v0.2 on Mistral attends to everything.
            sizes["sliding_window"] = None
        return AutoConfig.for_model(self.model_type, **sizes)


def parse_models(lines: Iterable[str]) -> dict[str, ModelSpec]:
    """Parse the model table.

    Args:
        lines: CSV lines, the first of them the header.

    Returns:
        One spec per row, by key, in the table's order.

    Raises:
        ValueError: a key appears twice or names no known architecture, or a value is missing, malformed
            or not positive.
    """
    specs: dict[str, ModelSpec] = {}
    for row in csv.DictReader(lines, restval=""):
        key = row["key"]
        if key in specs or key == TINY:
            raise ValueError(f"model table: key {key!r} appears twice")
        try:
            specs[key] = _parse_row(row)
            _ = specs[key].model_type
        except ValueError as error:
            raise ValueError(f"model table, row {key!r}: {error}") from error
    return specs


def get_model_spec(key: str) -> ModelSpec:
    """Return the sizes of a model of the table, or of the bundled model.

    Args:
        key: a key such as ``qwen3-0.6b``, in any case, or ``tiny``.

    Returns:
        The model's sizes.

    Raises:
        ValueError: no such key; the message lists the known ones, the nearest first.
    """
    if key.lower() == TINY:
        return _tiny_spec()
    spec = MODELS.get(key.lower())
    if spec is None:
        raise ValueError(f"unknown model {key!r}: {known_models(key)}")
    return spec


def known_models(key: str) -> str:
    """The end of an error sentence about an unknown model: the nearest key, then all of them."""
    names = [TINY, *MODELS]
    near = difflib.get_close_matches(key.lower(), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known are {', '.join(names)}"


def _parse_row(row: Mapping[str, str]) -> ModelSpec:
    return ModelSpec(
        key=row["key"],
        hf_id=row["hf_id"],
        hidden_size=_count(row["hidden_size"]),
        num_hidden_layers=_count(row["num_hidden_layers"]),
        num_attention_heads=_count(row["num_attention_heads"]),
        num_key_value_heads=_count(row["num_key_value_heads"]),
        head_dim=_count(row["head_dim"]),
        intermediate_size=_count(row["intermediate_size"]),
        vocab_size=_count(row["vocab_size"]),
        tie_word_embeddings=_flag(row["tie_word_embeddings"]),
        rope_theta=_positive(row["rope_theta"]),
        rms_norm_eps=_positive(row["rms_norm_eps"]),
        notes=row["notes"],
    )


def _tiny_spec() -> ModelSpec:
    config = json.loads(resources.files("reasoning").joinpath("tiny", "config.json").read_text("utf-8"))
    return ModelSpec(
        key=TINY,
        hf_id="",
        hidden_size=config["hidden_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        tie_word_embeddings=config["tie_word_embeddings"],
        rope_theta=config["rope_parameters"]["rope_theta"],
        rms_norm_eps=config["rms_norm_eps"],
        notes="QK norm; bundled",
    )


def _count(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise ValueError(f"{text!r} is not a positive number")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a positive number")
    return value


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linears of a decoder layer, in the order of computation."""

_MODEL_TYPES = {
    TINY: "qwen3",
    "qwen3-": "qwen3",
    "qwen2.5-": "qwen2",
    "mistral-": "mistral",
    "falcon3-": "llama",
    "llama-": "llama",
}

MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    parse_models(resources.files("reasoning").joinpath("data", "models.csv").read_text("utf-8").splitlines())
)
"""Every model of the table by key."""
