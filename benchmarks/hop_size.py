"""Sizes of the hops that tell apart what lies between the linears, and the kernels whose hops are measured."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from analysis.model_shape import DTYPE_BYTES, HopEngine, ModelShape, merged_layers
from reasoning.model_table import get_model_spec

# A small and a large hidden width, with and without norms of heads, with a large and a small vocabulary.
_MODELS = ("qwen3-0.6b", "mistral-7b")
_LAYERS = (4, 12)
_BATCHES = (1, 8, 32, 128)
_CACHED_TOKENS = 512
# One of each kind: a kernel that is not measured takes the first of its scheme.
KERNELS = (
    "bf16",
    "fused_nf4",
    "fused_fp4",
    "fused_int8",
    "fused_fp8",
    "unfused_nf4",
    "unfused_int8",
    "native_fp8",
)
"""Kernels whose hops are measured."""


@dataclass(frozen=True)
class HopSize:
    """Sizes of a hop.

    Attributes:
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width inside the feed-forward block.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        vocabulary: width of the logits.
        has_head_norm: whether queries and keys are normalized.
        batch_size: sequences.
        cached_tokens: columns of the cache that every sequence reads.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    has_head_norm: bool
    batch_size: int
    cached_tokens: int

    @property
    def row_bytes(self) -> int:
        """What a row reads and writes between the linears, by the formula of predictions."""
        return self.shape.row_bytes(self.cached_tokens)

    @property
    def shape(self) -> ModelShape:
        """The sizes as predictions have them."""
        return ModelShape(
            key="",
            layers=self.layers,
            hidden=self.hidden,
            intermediate=self.intermediate,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocabulary=self.vocabulary,
            merged=merged_layers(
                self.layers, self.hidden, self.intermediate, self.heads, self.kv_heads, self.head_dim
            ),
            separate=(),
        )

    @property
    def kv_bytes(self) -> int:
        """Bytes of all keys and values of the batch."""
        values = self.layers * self.batch_size * self.kv_heads * self.cached_tokens * self.head_dim
        return 2 * values * DTYPE_BYTES


def hop_sizes() -> tuple[HopSize, ...]:
    """Sizes that tell apart what a hop, a layer and a byte take: widths of models of the table with few layers."""
    specs = [get_model_spec(key) for key in _MODELS]
    return tuple(
        HopSize(
            layers=layers,
            hidden=spec.hidden_size,
            intermediate=spec.intermediate_size,
            heads=spec.num_attention_heads,
            kv_heads=spec.num_key_value_heads,
            head_dim=spec.head_dim,
            vocabulary=spec.vocab_size,
            has_head_norm=spec.model_type == "qwen3",
            batch_size=batch,
            cached_tokens=_CACHED_TOKENS,
        )
        for spec in specs
        for layers in _LAYERS
        for batch in _BATCHES
    )


def sizes_of(size: HopSize) -> dict[str, JsonValue]:
    """Return engine and sizes of a hop by name, as records have them."""
    return {
        "engine": HopEngine.FUSED.value,
        "layers": size.layers,
        "hidden": size.hidden,
        "intermediate": size.intermediate,
        "heads": size.heads,
        "kv_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "vocabulary": size.vocabulary,
        "batch_size": size.batch_size,
        "cached_tokens": size.cached_tokens,
        "row_bytes": size.row_bytes,
    }
