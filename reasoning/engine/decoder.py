"""``Decoder``: the weights of a Llama-like model as the engine runs them, and its two forward passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.quant_weight import QuantWeight
from kernels.ranges import NO_RANGES, RangeHook
from kernels.registry import Kernel
from profiler.nvtx import open_range
from reasoning.engine.architecture import Architecture, read_architecture
from reasoning.engine.attention import prompt_attention
from reasoning.engine.layer_math import LayerMath, heads_of, rms_norm
from reasoning.engine.linear import EngineLinear, NativeLinear
from reasoning.engine.state import BatchState, KVCache
from reasoning.engine.weights import ModelWeights, StateDictWeights, WeightSource, check_shape
from reasoning.quant_linear import KEPT_BY_DEFAULT

_EAGER = LayerMath()


@dataclass(frozen=True, eq=False)
class DecoderLayer:
    """One decoder layer.

    Args:
        attention_norm: [hidden].
        qkv: q_proj, k_proj and v_proj.
        head_norm: weights of the query and key norms by head, [heads + kv_heads, head_dim], or None.
        o: o_proj.
        mlp_norm: [hidden].
        gate_up: gate_proj and up_proj.
        down: down_proj.
    """

    attention_norm: Tensor
    qkv: EngineLinear
    head_norm: Tensor | None
    o: EngineLinear
    mlp_norm: Tensor
    gate_up: EngineLinear
    down: EngineLinear

    @property
    def linears(self) -> tuple[EngineLinear, ...]:
        """The linears in the order of computation."""
        return (self.qkv, self.o, self.gate_up, self.down)


@dataclass(frozen=True, eq=False)
class Decoder:
    """A model's weights. Kernels, caches and batches belong to whoever runs it.

    Args:
        architecture: its sizes.
        embedding: [vocabulary, hidden].
        layers: the decoder layers.
        norm: of the last hidden state, [hidden].
        head: the output layer.
    """

    architecture: Architecture
    embedding: Tensor
    layers: tuple[DecoderLayer, ...]
    norm: Tensor
    head: EngineLinear

    @classmethod
    def from_model(cls, model: Any, quantized: Mapping[str, QuantWeight] | None = None) -> Decoder:
        """Take over the weights of a transformers model.

        Args:
            model: a causal language model, its linears replaced by ``QuantLinear`` or not. It stays usable: its linears
                become views of the merged native weights. Quantized weights are copied where they are merged.
            quantized: weights of a quantized checkpoint by module name, beside those of replaced linears.

        Raises:
            ValueError: an architecture that the decoder does not know.
        """
        return cls.build(read_architecture(model.config), ModelWeights(model, quantized))

    @classmethod
    def from_state_dict(
        cls,
        config: Any,
        tensors: Mapping[str, Tensor],
        quantized: Mapping[str, Mapping[str, QuantWeight]] | None = None,
        *,
        keep: Collection[str] = KEPT_BY_DEFAULT,
    ) -> Decoder:
        """Put a decoder together from tensors in transformers' names.

        Args:
            config: the transformers config.
            tensors: norms, embedding, biases and native weights.
            quantized: quantized linears by module name and format, whose native weights may be missing.
            keep: last name parts of linears that stay native.

        Raises:
            ValueError: an unknown architecture, or a tensor that is missing or has another shape.
        """
        return cls.build(read_architecture(config), StateDictWeights(tensors, quantized, keep=keep))

    @classmethod
    def build(cls, architecture: Architecture, source: WeightSource) -> Decoder:
        """Ask a source for every weight, layer by layer, merging as it goes.

        Raises:
            ValueError: a weight that is missing or has another shape.
        """
        embedding_name = "model.embed_tokens"
        embedding = check_shape(
            embedding_name,
            source.tensor(f"{embedding_name}.weight"),
            (architecture.vocabulary, architecture.hidden),
        )
        layers = tuple(_layer(architecture, source, index) for index in range(architecture.layers))
        norm = check_shape("model.norm", source.tensor("model.norm.weight"), (architecture.hidden,))
        if architecture.has_tied_head:
            tied = {"lm_head.weight": embedding}
            head = _linear(
                StateDictWeights(tied), "", {"lm_head": architecture.vocabulary}, architecture.hidden
            )
        else:
            head = _linear(source, "", {"lm_head": architecture.vocabulary}, architecture.hidden)
        return cls(architecture, embedding, layers, norm, head)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of activations and of the cache."""
        return self.embedding.dtype

    @property
    def linears(self) -> tuple[EngineLinear, ...]:
        """Every linear, the output layer last."""
        return (*(linear for layer in self.layers for linear in layer.linears), self.head)

    def linear_calls(self, kernel: Kernel, rows: int, native: NativeLinear = F.linear) -> Callable[[], None]:
        """Return what runs every linear once, in the order of a hop, with nothing between them.

        Args:
            kernel: runs the linears.
            rows: of their inputs, which are random.
            native: product with native weights, as in ``LayerMath``.
        """
        widths = {linear.shape[1] for linear in self.linears}
        x = {k: torch.randn(rows, k, device=self.device, dtype=self.dtype) for k in widths}

        def call() -> None:
            for linear in self.linears:
                linear(x[linear.shape[1]], kernel, NO_RANGES, native)

        return call

    def add_format(
        self, kernel: Kernel, *, group_size: int | None = None, double_quant: bool = False
    ) -> None:
        """Quantize every linear that is not kept native to the kernel's format, where that has not been done yet.

        Raises:
            ValueError: a weight that the format cannot hold.
        """
        for linear in self.linears:
            linear.add_format(kernel, group_size=group_size, double_quant=double_quant)

    def weight_bytes(self, kernel: Kernel) -> int:
        """Bytes that a hop reads of the linears' weights, the output layer included."""
        return sum(linear.nbytes(kernel) for linear in self.linears)

    @property
    def other_bytes(self) -> int:
        """Bytes of everything but the linears' weights; a tied embedding is one of those."""
        tensors = [self.norm, *(linear.bias for linear in self.linears)]
        for layer in self.layers:
            tensors += [layer.attention_norm, layer.mlp_norm, layer.head_norm]
        if not self.architecture.has_tied_head:
            tensors.append(self.embedding)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def prefill(
        self,
        prompts: Tensor,
        lengths: Tensor,
        cache: KVCache,
        kernel: Kernel,
        ranges: RangeHook = NO_RANGES,
    ) -> Tensor:
        """Read prompts into the cache.

        Args:
            prompts: int64 [batch, width], padded on the right.
            lengths: int64 [batch], tokens of each prompt.
            cache: written in columns 0 to width - 1; what padding leaves behind is masked, then overwritten.
            kernel: runs the linears.
            ranges: given to the linears.

        Returns:
            Logits of each prompt's last token, [batch, vocabulary].
        """
        model = self.architecture
        batch, width = prompts.shape
        cos, sin = (table[:width].repeat(batch, 1) for table in (cache.cosines, cache.sines))
        x = F.embedding(prompts.flatten(), self.embedding)
        normal = rms_norm(x, self.layers[0].attention_norm, model.norm_epsilon)
        for index, layer in enumerate(self.layers):
            with open_range(f"layer.{index}"):
                qkv = layer.qkv(normal, kernel, ranges)
                heads = heads_of(
                    qkv, layer.qkv.bias, layer.head_norm, model.norm_epsilon, cos, sin, model.kv_heads
                )
                q, k, v = (t.unflatten(0, (batch, width)) for t in heads)
                cache.keys[index][:, :, :width] = k.transpose(1, 2)
                cache.values[index][:, :, :width] = v.transpose(1, 2)
                x, normal = self._rest(index, x, prompt_attention(q, k, v), kernel, ranges, _EAGER)
        last = torch.arange(batch, device=prompts.device) * width + lengths - 1
        return self._logits(normal[last], kernel, ranges, _EAGER)

    def hop(
        self,
        state: BatchState,
        cache: KVCache,
        kernel: Kernel,
        math: LayerMath = _EAGER,
        ranges: RangeHook = NO_RANGES,
    ) -> Tensor:
        """One new token per sequence: everything on the device, nothing waits for the host.

        Args:
            state: its ``tokens`` are read, at cache column ``column``.
            cache: written there.
            kernel: runs the linears.
            math: what runs between them, and those whose weights are native.
            ranges: given to the linears.

        Returns:
            Logits [batch, vocabulary].
        """
        epsilon = self.architecture.norm_epsilon
        x, cos, sin, mask = math.begin_hop(
            state.tokens, state.column, self.embedding, cache.cosines, cache.sines, cache.max_len
        )
        normal = math.rms_norm(x, self.layers[0].attention_norm, epsilon)
        for index, layer in enumerate(self.layers):
            with open_range(f"layer.{index}"):
                keys, values = cache.keys[index], cache.values[index]
                qkv = layer.qkv(normal, kernel, ranges, math.native_linear)
                attended = math.attend(
                    qkv,
                    layer.qkv.bias,
                    layer.head_norm,
                    epsilon,
                    cos,
                    sin,
                    mask,
                    keys,
                    values,
                    state.column,
                    cache.arrivals,
                )
                x, normal = self._rest(index, x, attended, kernel, ranges, math)
        return self._logits(normal, kernel, ranges, math)

    def _rest(
        self, index: int, x: Tensor, attended: Tensor, kernel: Kernel, ranges: RangeHook, math: LayerMath
    ) -> tuple[Tensor, Tensor]:
        """A layer after its attention: the residual stream, and its norm for what comes next."""
        layer, epsilon = self.layers[index], self.architecture.norm_epsilon
        after = self.layers[index + 1].attention_norm if index + 1 < len(self.layers) else self.norm
        update = layer.o(attended, kernel, ranges, math.native_linear)
        x, normal = math.add_norm(x, update, layer.o.bias, layer.mlp_norm, epsilon)
        gate_up = layer.gate_up(normal, kernel, ranges, math.native_linear)
        wide = math.silu_times(gate_up, layer.gate_up.bias)
        update = layer.down(wide, kernel, ranges, math.native_linear)
        x, normal = math.add_norm(x, update, layer.down.bias, after, epsilon)
        return x, normal

    def _logits(self, normal: Tensor, kernel: Kernel, ranges: RangeHook, math: LayerMath) -> Tensor:
        logits = self.head(normal, kernel, ranges, math.native_linear)
        return logits if self.head.bias is None else logits + self.head.bias


def _layer(model: Architecture, source: WeightSource, index: int) -> DecoderLayer:
    prefix = f"model.layers.{index}."
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim

    def norm(name: str, size: int) -> Tensor:
        return check_shape(prefix + name, source.tensor(f"{prefix}{name}.weight"), (size,))

    head_norm = None
    if model.has_qk_norm:
        by_kind = (norm(f"self_attn.{kind}_norm", model.head_dim) for kind in "qk")
        counts = (model.heads, model.kv_heads)
        head_norm = torch.cat([w.expand(count, -1) for w, count in zip(by_kind, counts, strict=True)])
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    qkv = _linear(source, attention, {"q_proj": queries, "k_proj": keys, "v_proj": keys}, model.hidden)
    gate_up = _linear(source, mlp, {"gate_proj": None, "up_proj": None}, model.hidden)
    if gate_up.rows[0] != gate_up.rows[1]:
        raise ValueError(f"{mlp}gate_proj has {gate_up.rows[0]} rows, up_proj has {gate_up.rows[1]}")
    return DecoderLayer(
        attention_norm=norm("input_layernorm", model.hidden),
        qkv=qkv,
        head_norm=head_norm,
        o=_linear(source, attention, {"o_proj": model.hidden}, queries),
        mlp_norm=norm("post_attention_layernorm", model.hidden),
        gate_up=gate_up,
        down=_linear(source, mlp, {"down_proj": model.hidden}, gate_up.rows[0]),
    )


def _linear(source: WeightSource, prefix: str, rows: Mapping[str, int | None], columns: int) -> EngineLinear:
    """Merge the linears of one input; ``rows`` says how many outputs each has, None for any number."""
    parts = [source.linear(prefix + name) for name in rows]
    for part, wanted in zip(parts, rows.values(), strict=True):
        shape = (part.shape[0] if wanted is None else wanted, columns)
        if part.shape != shape:
            raise ValueError(
                f"{part.name} has shape {list(part.shape)}, the architecture asks for {list(shape)}"
            )
    linear = EngineLinear(parts)
    for name, view in linear.native_rows():
        source.adopt(name, view)
    return linear
