"""Hops of the fused engine without their linears: what lies between the linears of a hop takes, on the device.

The engine is the real one, and so are its graph, kernels, cache and state. Only the products are missing: every linear
hands out a buffer of the right shape that was filled before. Hops of several sessions are replayed in turn where one
session's keys and values would stay in the L2, so that they come from memory as they do beside a model's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import JsonValue
from torch import Tensor

from analysis.model_shape import ModelShape
from benchmarks.machine import Target
from benchmarks.weights import COLD_FACTOR
from kernels.registry import get_kernel
from profiler.timing import percentile
from reasoning.engine.architecture import Architecture
from reasoning.engine.decoder import Decoder, DecoderLayer
from reasoning.engine.layer_math import LayerMath
from reasoning.engine.linear import EngineLinear, LinearWeights, NativeLinear
from reasoning.engine.session import Session, StepMode, layer_math
from reasoning.model_table import get_model_spec

# A small and a large hidden width, with and without norms of heads, with a large and a small vocabulary.
_MODELS = ("qwen3-0.6b", "mistral-7b")
_LAYERS = (4, 12)
_BATCHES = (1, 8, 64)
_CACHED_TOKENS = 512
# A sample is long against the events around it.
_SAMPLE_US = 1e3
_DTYPE = torch.bfloat16
_ENGINE = StepMode.FUSED


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
        shape = ModelShape(
            key="",
            layers=self.layers,
            hidden=self.hidden,
            intermediate=self.intermediate,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocabulary=self.vocabulary,
            merged=(),
            separate=(),
        )
        return shape.row_bytes(self.cached_tokens)

    @property
    def kv_bytes(self) -> int:
        """Bytes of all keys and values of the batch."""
        values = self.layers * self.batch_size * self.kv_heads * self.cached_tokens * self.head_dim
        return 2 * values * _DTYPE.itemsize


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


def why_no_empty_hops(device: torch.device) -> str:
    """Say why the fused engine does not run on a device, in a clause; empty where it does."""
    return get_kernel("fused_nf4").implementations["triton"].why_not(device)


class EmptyHops:
    """Sessions of the fused engine whose linears launch nothing.

    Args:
        size: sizes of the hop.
        device: where it runs.
        copies: sessions, each with a cache of its own.
        between: functions of the fused engine, to share what has been compiled; None compiles them.

    Raises:
        ValueError: the device has no Triton kernels.
    """

    def __init__(
        self, size: HopSize, device: torch.device, *, copies: int = 1, between: LayerMath | None = None
    ) -> None:
        decoder = _decoder(size, device)
        products = {
            linear.shape: torch.randn(size.batch_size, linear.shape[0], device=device, dtype=_DTYPE)
            for linear in decoder.linears
        }
        without = replace(between or layer_math(_ENGINE, device), native_linear=_handing_out(products))
        self.sessions = [
            Session(
                decoder,
                get_kernel("bf16"),
                size.batch_size,
                size.cached_tokens,
                mode=_ENGINE,
                math=without,
            )
            for _ in range(copies)
        ]
        self.most_rounds = self.sessions[0].state.capacity
        """Rounds after which the sessions must be rewound."""
        for session in self.sessions:
            for cached in (*session.cache.keys, *session.cache.values):
                cached.normal_()
            # Sequences that end with their first hop: they compute on, and stay where the cache is as long as wanted.
            lengths, limits = ([count] * size.batch_size for count in (size.cached_tokens, 1))
            session.state.reset(lengths, limits, (), 0, None)

    def rewind(self) -> None:
        """Let every session choose its tokens from the first on."""
        for session in self.sessions:
            session.state.position.zero_()

    def queue(self, rounds: int) -> None:
        """Queue a hop of every session, some times over."""
        for _ in range(rounds):
            for session in self.sessions:
                session.queue_hop()


def measure_empty_hops(
    sizes: Sequence[HopSize],
    target: Target,
    repeats: int,
    on_size: Callable[[HopSize], object] = lambda size: None,
) -> Iterator[dict[str, JsonValue]]:
    """Time hops without linears on the device, replays queued behind one another.

    Args:
        sizes: of the hops.
        target: a GPU.
        repeats: samples of each.
        on_size: told each size ahead of its measurement.

    Yields:
        Sizes, bytes of a row, quantiles of the time of a hop in us, and the number of samples.

    Raises:
        ValueError: the device is no GPU with Triton kernels.
    """
    if not target.is_cuda:
        raise ValueError(f"empty hops are timed on cuda, the device is {target.device}")
    between = layer_math(_ENGINE, target.device)
    for size in sizes:
        on_size(size)
        yield _measured(size, target, between, repeats)
        torch.cuda.empty_cache()


def _measured(size: HopSize, target: Target, between: LayerMath, repeats: int) -> dict[str, JsonValue]:
    copies = max(1, math.ceil(COLD_FACTOR["cuda"] * target.cache_bytes / size.kv_bytes))
    hops = EmptyHops(size, target.device, copies=copies, between=between)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sample_us(rounds: int) -> float:
        hops.rewind()
        hops.queue(1)  # the timed hops are queued while the device is busy
        start.record()
        hops.queue(rounds)
        end.record()
        end.synchronize()
        return 1e3 * float(start.elapsed_time(end)) / (rounds * copies)

    once_us = sample_us(1)
    rounds = max(1, min(hops.most_rounds - 1, math.ceil(_SAMPLE_US / (copies * once_us))))
    taken_us = [sample_us(rounds) for _ in range(repeats)]
    return {
        "engine": _ENGINE.value,
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
        "time_us_p50": percentile(taken_us, 50),
        "time_us_p05": percentile(taken_us, 5),
        "time_us_p95": percentile(taken_us, 95),
        "timings": repeats,
    }


def _handing_out(products: Mapping[tuple[int, int], Tensor]) -> NativeLinear:
    """A product that is looked up by the shape of the weight."""

    def native_linear(x: Tensor, w: Tensor) -> Tensor:
        n, k = w.shape
        return products[n, k]

    return native_linear


def _decoder(size: HopSize, device: torch.device) -> Decoder:
    """A decoder of ones: weights of linears and the embedding take the memory of one row at most."""

    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, device=device, dtype=_DTYPE)

    def linear(name: str, n: int, k: int) -> EngineLinear:
        return EngineLinear([LinearWeights(name, ones(1, 1).expand(n, k))])

    queries = size.heads * size.head_dim
    heads = size.heads + size.kv_heads
    layers = tuple(
        DecoderLayer(
            attention_norm=ones(size.hidden),
            qkv=linear("qkv", (heads + size.kv_heads) * size.head_dim, size.hidden),
            head_norm=ones(heads, size.head_dim) if size.has_head_norm else None,
            o=linear("o", size.hidden, queries),
            mlp_norm=ones(size.hidden),
            gate_up=linear("gate_up", 2 * size.intermediate, size.hidden),
            down=linear("down", size.hidden, size.intermediate),
        )
        for _ in range(size.layers)
    )
    architecture = Architecture(
        layers=size.layers,
        hidden=size.hidden,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        vocabulary=size.vocabulary,
        norm_epsilon=1e-6,
        has_qk_norm=size.has_head_norm,
        has_tied_head=False,
        window=None,
        inverse_frequencies=tuple(1e4 ** (-2 * i / size.head_dim) for i in range(size.head_dim // 2)),
        rotary_scale=1.0,
    )
    embedding = ones(1, size.hidden).expand(size.vocabulary, size.hidden)
    return Decoder(
        architecture, embedding, layers, ones(size.hidden), linear("head", size.vocabulary, size.hidden)
    )
