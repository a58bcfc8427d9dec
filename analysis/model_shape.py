"""What a hop of a model consists of: sizes, linears, other kernels by engine, and the traffic of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from analysis.fit_crossing import Layer

DTYPE_BYTES = 2


class HopEngine(str, Enum):
    """How a hop is launched: ``eager`` kernel by kernel, the others from one CUDA graph."""

    GRAPH = "graph"
    COMPILE = "compile"
    FUSED = "fused"
    EAGER = "eager"


@dataclass(frozen=True)
class Kernels:
    """Kernels (and copies) that a hop on a GPU runs besides its linears, as the tests count them.

    Attributes:
        per_layer: of every decoder layer, without attention.
        attention: of the attention of a layer.
        head_norm: more of them in a layer that normalizes queries and keys.
        bias: more of them in a layer whose q, k and v have a bias.
        alone: more of them in a layer where the batch is one row.
        once: of a hop.
    """

    per_layer: int
    attention: int
    head_norm: int
    bias: int
    alone: int
    once: int


KERNELS: Mapping[HopEngine, Kernels] = {
    HopEngine.GRAPH: Kernels(per_layer=31, attention=1, head_norm=8, bias=1, alone=0, once=37),
    # Two for heads, rotation and cache (three for one row), two for residuals with norms, one for the activation.
    HopEngine.COMPILE: Kernels(per_layer=5, attention=1, head_norm=0, bias=0, alone=1, once=8),
    # One for each call, at any number of rows; heads, rotation and cache belong to the one of attention.
    # Once: the rows of the embedding, the first norm, the most likely token, two to accept it, and the copy.
    HopEngine.FUSED: Kernels(per_layer=3, attention=1, head_norm=0, bias=0, alone=0, once=6),
    HopEngine.EAGER: Kernels(per_layer=32, attention=2, head_norm=16, bias=3, alone=0, once=24),
}
# Tensors of the hidden width that a row reads and writes between the linears of a layer, and of the feed-forward width.
_HIDDEN_PASSES, _WIDE_PASSES = 8, 3
_LOGITS_PASSES = 1


def merged_layers(
    layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, head_dim: int
) -> tuple[Layer, ...]:
    """Return the linears of all decoder layers in the order of a hop, q/k/v and gate/up in one.

    Args:
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width inside the feed-forward block.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
    """
    queries = heads * head_dim
    sizes = (
        (queries + 2 * kv_heads * head_dim, hidden),
        (hidden, queries),
        (2 * intermediate, hidden),
        (hidden, intermediate),
    )
    return tuple(Layer(n, k, layers) for n, k in sizes)


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only model.

    Attributes:
        key: its name.
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width inside the feed-forward block.
        kv_heads: key and value heads.
        head_dim: width of a head.
        vocabulary: rows of the embedding.
        merged: linears of all layers as the engine runs them, q/k/v and gate/up in one.
        separate: the same one by one, as an eager forward pass runs them.
        tied_head: whether the output layer is the embedding.
        head_norm: whether queries and keys are normalized.
        qkv_bias: whether q, k and v have a bias.
    """

    key: str
    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    merged: tuple[Layer, ...]
    separate: tuple[Layer, ...]
    tied_head: bool = False
    head_norm: bool = False
    qkv_bias: bool = False

    def linears(self, engine: HopEngine) -> tuple[Layer, ...]:
        """Return the linears of a hop, without the output layer."""
        return self.separate if engine is HopEngine.EAGER else self.merged

    @property
    def head(self) -> Layer:
        """The output layer, which stays native."""
        return Layer(self.vocabulary, self.hidden)

    @property
    def linear_weights(self) -> int:
        """Weights of the linears in all layers."""
        return sum(layer.count * layer.n * layer.k for layer in self.merged)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the KV cache per token and sequence."""
        return 2 * self.layers * self.kv_heads * self.head_dim * DTYPE_BYTES

    def other_kernels(self, engine: HopEngine, batch: int) -> int:
        """Return how many kernels a hop runs besides linears and attention."""
        count = KERNELS[engine]
        per_layer = count.per_layer + count.head_norm * self.head_norm + count.bias * self.qkv_bias
        return self.layers * (per_layer + count.alone * (batch == 1)) + count.once

    def attention_kernels(self, engine: HopEngine) -> int:
        """Return how many kernels the attention of a hop runs."""
        return self.layers * KERNELS[engine].attention

    def row_bytes(self, context: int) -> int:
        """Return what a row reads and writes between the linears of a hop, KV cache included, bytes."""
        between = self.layers * (_HIDDEN_PASSES * self.hidden + _WIDE_PASSES * self.intermediate)
        return self.kv_bytes_per_token * context + DTYPE_BYTES * (
            between + _LOGITS_PASSES * self.vocabulary + self.hidden
        )
