"""What lies between the linears of a hop, by kernel: a hop of the fused engine less its linears alone.

    between = (hop of few layers) - (graph of the same linears in the same order)

The engine is the real one, with random weights, and so are its graph, kernels, cache and state; its weights stream
through the L2 as a model's do. The difference therefore holds what a hop without linears would hide: code, descriptors,
keys and values that come from memory, and what a linear and the kernel beside it take from each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from pydantic import JsonValue
from torch import Tensor

from benchmarks.energy_loads import cycles_per_s, wait
from benchmarks.hop_size import KERNELS, HopSize, sizes_of
from benchmarks.machine import Target
from kernels.registry import Kernel, get_kernel
from profiler.energy import Load
from profiler.timing import QueuedSteps, TimedGraph, percentile
from reasoning.engine.architecture import Architecture
from reasoning.engine.decoder import Decoder, DecoderLayer
from reasoning.engine.layer_math import LayerMath
from reasoning.engine.linear import EngineLinear, LinearWeights
from reasoning.engine.session import Session, StepMode, layer_math

# A sample is long against the events around it.
_SAMPLE_US = 1e3
_DTYPE = torch.bfloat16
_ENGINE = StepMode.FUSED


def why_no_hops(device: torch.device) -> str:
    """Say why the fused engine does not run on a device, in a clause; empty where it does."""
    return get_kernel("fused_nf4").implementations["triton"].why_not(device)


class HopParts:
    """A session of the fused engine at the end of its cache, and its linears alone.

    Args:
        decoder: layers with weights of the kernel.
        kernel: runs the linears.
        size: sizes of the hop.
        math: functions of the fused engine, to share what has been compiled.
    """

    def __init__(self, decoder: Decoder, kernel: Kernel, size: HopSize, math: LayerMath) -> None:
        self.session = Session(decoder, kernel, size.batch_size, size.cached_tokens, mode=_ENGINE, math=math)
        self.most_rounds = self.session.state.capacity
        """Hops after which the session must be rewound."""
        self.multiply = decoder.linear_calls(kernel, size.batch_size, math.native_linear)
        """Runs the linears in the order of a hop, and nothing else."""
        for cached in (*self.session.cache.keys, *self.session.cache.values):
            cached.normal_()
        # Sequences that end with their first hop: they compute on, and stay where the cache is as long as wanted.
        lengths, limits = ([count] * size.batch_size for count in (size.cached_tokens, 1))
        self.session.state.reset(lengths, limits, (), 0, None)

    def rewind(self) -> None:
        """Let the session choose its tokens from the first on."""
        self.session.state.position.zero_()

    def queue(self, hops: int) -> None:
        """Queue some hops."""
        for _ in range(hops):
            self.session.queue_hop()

    def load(self, hop_s: float, wait_share: float) -> tuple[Load, float | None]:
        """Return hops for as long as one likes.

        Args:
            hop_s: about the time of one, s.
            wait_share: time that the device waits after each, over the time of a hop.

        Returns:
            The load, and the time that it waits after each hop, s; None where it does not.
        """
        queued = 0
        each_s = cycles_per_s() if wait_share > 0 else 0.0
        cycles = math.ceil(wait_share * hop_s * each_s)

        def queue_one() -> None:
            nonlocal queued
            if queued % self.most_rounds == 0:
                self.rewind()
            self.queue(1)
            if cycles:
                wait(cycles)
            queued += 1

        steps = QueuedSteps(queue_one, hop_s, torch.cuda.Event)
        return Load(steps.step, steps.units, steps.finish), cycles / each_s if cycles else None


def measure_hop_parts(
    sizes: Sequence[HopSize],
    target: Target,
    repeats: int,
    kernels: Sequence[str] = KERNELS,
    on_size: Callable[[HopSize, str], object] = lambda size, kernel: None,
    then: Callable[[HopSize, HopParts, dict[str, JsonValue]], object] = lambda size, parts, row: None,
) -> Iterator[dict[str, JsonValue]]:
    """Time hops and their linears on the device, in turn.

    Args:
        sizes: of the hops; those of one width beside each other share their weights.
        target: a GPU.
        repeats: samples of each.
        kernels: by name.
        on_size: told each size and kernel ahead of its measurement.
        then: given each hop after its measurement, with what was measured.

    Yields:
        Kernel, sizes, bytes of a row, medians of the hop and of its linears and quantiles of their difference in us,
        and the number of samples.

    Raises:
        ValueError: the device is no GPU with Triton kernels.
    """
    if not target.is_cuda:
        raise ValueError(f"hops are timed on cuda, the device is {target.device}")
    math_ = layer_math(_ENGINE, target.device)
    for width in dict.fromkeys(_width(size) for size in sizes):
        own = [size for size in sizes if _width(size) == width]
        decoder = random_decoder(max(own, key=lambda size: size.layers), target.device)
        for name in kernels:
            kernel = get_kernel(name)
            for layer in decoder.layers:
                for linear in layer.linears:
                    linear.add_format(kernel)
            for size in own:
                on_size(size, name)
                parts = HopParts(first_layers(decoder, size.layers), kernel, size, math_)
                row = {"kernel": name, **_measured(size, parts, repeats)}
                yield row
                then(size, parts, row)
                del parts
                torch.cuda.empty_cache()
        del decoder


def _width(size: HopSize) -> HopSize:
    return replace(size, layers=0, batch_size=0)


def _measured(size: HopSize, parts: HopParts, repeats: int) -> dict[str, JsonValue]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def hop_us(hops: int) -> float:
        parts.rewind()
        parts.queue(1)  # the timed hops are queued while the device is busy
        start.record()
        parts.queue(hops)
        end.record()
        end.synchronize()
        return 1e3 * float(start.elapsed_time(end)) / hops

    parts.multiply()
    linears = TimedGraph(1, lambda index: parts.multiply())
    hops = max(1, min(parts.most_rounds - 1, math.ceil(_SAMPLE_US / hop_us(1))))
    taken = [(hop_us(hops), 1e6 * linears.call_s()) for _ in range(repeats)]
    between_us = [hop - alone for hop, alone in taken]
    return {
        **sizes_of(size),
        "hop_us_p50": percentile([hop for hop, _ in taken], 50),
        "linears_us_p50": percentile([alone for _, alone in taken], 50),
        "time_us_p50": percentile(between_us, 50),
        "time_us_p05": percentile(between_us, 5),
        "time_us_p95": percentile(between_us, 95),
        "timings": repeats,
    }


def first_layers(decoder: Decoder, layers: int) -> Decoder:
    """Return a decoder of the first layers, which shares their weights."""
    return replace(
        decoder,
        architecture=replace(decoder.architecture, layers=layers),
        layers=decoder.layers[:layers],
    )


def random_decoder(size: HopSize, device: torch.device) -> Decoder:
    """Return a decoder whose linears have random native weights; its embedding takes the memory of one row."""

    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, device=device, dtype=_DTYPE)

    def linear(name: str, n: int, k: int, *, is_kept: bool = False) -> EngineLinear:
        weight = torch.randn(n, k, device=device, dtype=_DTYPE) / math.sqrt(k)
        return EngineLinear([LinearWeights(name, weight, is_kept=is_kept)])

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
        architecture,
        embedding,
        layers,
        ones(size.hidden),
        linear("head", size.vocabulary, size.hidden, is_kept=True),
    )
