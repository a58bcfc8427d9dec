"""How much longer a call takes in a hop than behind calls of its own kind.

In the graph that a sweep times, calls of one kernel follow each other: on Hopper each starts, and asks for its first
weights, while the one before it still drains. In a hop a small kernel stands between two linears, and there is little
to hide behind. Here every call follows a residual and norm, as in the fused engine, and the time of those alone is
taken off:

    extra = (norm and call, in turn) - (norms alone) - (call as in the sweep)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from pydantic import JsonValue
from torch import Tensor

from analysis.fit_input import GEMV, GEMV_ROWS
from benchmarks.machine import Target
from benchmarks.plan import Shape, SweepPlan
from benchmarks.stock import DTYPE, Stock, make_stocks
from benchmarks.timer import call_graph
from benchmarks.variants import Variant
from benchmarks.weights import random_x
from kernels.ranges import NO_RANGES
from kernels.registry import get_kernel
from profiler.timing import TimedGraph, percentile

_HIDDEN = 4096
_EPSILON = 1e-6
# Fewer calls in a graph would hold a part of the time that passes between two replays.
_LEAST_CALLS = 32


def why_no_turns(device: torch.device) -> str:
    """Say why the fused engine's norm does not run on a device, in a clause; empty where it does."""
    return get_kernel("fused_nf4").implementations["triton"].why_not(device)


def turn_plan(sweep: SweepPlan, shapes: tuple[tuple[int, int], ...], ms: tuple[int, ...]) -> SweepPlan:
    """Take the part of a sweep for which it is measured: the kernels that give results, at some shapes and m.

    Args:
        sweep: the sweep; shapes and m that it lacks are left out, because there is nothing to compare with.
        shapes: n and k.
        ms: rows of x.
    """
    return replace(
        sweep,
        variants=tuple(v for v in sweep.variants if v.meaningful_output and not v.is_peer),
        shapes=tuple(shape for shape in sweep.shapes if (shape.n, shape.k) in shapes),
        ms=tuple(m for m in sweep.ms if m in ms),
    )


def measure_calls_in_turn(
    plan: SweepPlan,
    target: Target,
    repeats: int,
    on_shape: Callable[[Shape], object] = lambda shape: None,
) -> Iterator[dict[str, JsonValue]]:
    """Time calls behind norms and behind each other.

    Args:
        plan: kernels, shapes and rows of x.
        target: a GPU.
        repeats: samples of each, interleaved.
        on_shape: told each shape ahead of its measurement.

    Yields:
        Kernel, n, k, m; quantiles of the extra time in us (below 0 where the call is faster there), median times of
        the call in turn and as in a sweep, and the number of samples.

    Raises:
        ValueError: the device is no GPU with Triton kernels.
    """
    why_not = why_no_turns(target.device) if target.is_cuda else "it is no GPU"
    if why_not:
        raise ValueError(f"calls in turn are timed on cuda, the device is {target.device}: {why_not}")
    for index, shape in enumerate(plan.shapes):
        on_shape(shape)
        x = random_x(max(plan.ms), shape.k, seed=plan.seed + index, device=target.device, dtype=DTYPE)
        stocks = make_stocks(plan, target, shape, plan.seed + index + 1, x, list(plan.variants))
        for m in plan.ms:
            norm = _Norm(m, target.device)
            for variant in plan.variants:
                stock = stocks.by_key.get(variant.weight_key)
                if stock is None or (variant.name == GEMV and m > GEMV_ROWS):
                    continue
                cell: dict[str, JsonValue] = {
                    "kernel": variant.name,
                    "n": shape.n,
                    "k": shape.k,
                    "m": m,
                }
                yield {**cell, **_extra(variant, x[:m], stock, norm, repeats)}
        del stocks
        torch.cuda.empty_cache()


class _Norm:
    """Residual and norm of the fused engine."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._residual, self._update = (
            torch.randn(rows, _HIDDEN, device=device, dtype=DTYPE) for _ in range(2)
        )
        self._weight = torch.ones(_HIDDEN, device=device, dtype=DTYPE)

    def __call__(self) -> None:
        from kernels.triton_impl.layer_ops import add_norm

        add_norm(self._residual, self._update, None, self._weight, _EPSILON)


def _extra(variant: Variant, x: Tensor, stock: Stock, norm: _Norm, repeats: int) -> dict[str, JsonValue]:
    copies = stock.ring.copies
    calls = len(copies) * -(-_LEAST_CALLS // len(copies))

    def in_turn(index: int) -> None:
        norm()
        variant.linear(x, copies[index % len(copies)], NO_RANGES)

    norm()
    alone = call_graph(variant, x, stock.ring)
    both, norms = TimedGraph(calls, in_turn), TimedGraph(calls, lambda index: norm())
    taken = [(both.call_s() - norms.call_s(), alone.call_s()) for _ in range(repeats)]
    extra_us = [1e6 * (turn_s - alone_s) for turn_s, alone_s in taken]
    return {
        "extra_us_p50": percentile(extra_us, 50),
        "extra_us_p05": percentile(extra_us, 5),
        "extra_us_p95": percentile(extra_us, 95),
        "in_turn_us_p50": percentile([1e6 * turn_s for turn_s, _ in taken], 50),
        "alone_us_p50": percentile([1e6 * alone_s for _, alone_s in taken], 50),
        "timings": repeats,
    }
