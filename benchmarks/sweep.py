"""Runs a sweep: weights per shape, the gate, interleaved timing; keeps what it has when it is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pydantic import JsonValue
from torch import Tensor

from benchmarks.bandwidth import Bandwidth, measure_bandwidth
from benchmarks.gate import GateResult, Reference, check, make_reference
from benchmarks.machine import Target
from benchmarks.plan import Shape, SweepPlan, Variant
from benchmarks.rows import Context, measured_row, samples_of, tau_figures, unmeasured_row
from benchmarks.timer import Rounds, Rules, Sampler, make_sampler, run_rounds
from benchmarks.weights import (
    Ring,
    Weight,
    count_copies,
    decoded,
    make_ring,
    make_weight,
    random_weight,
    random_x,
    stored_bytes,
)
from profiler.record import KernelSample, SweepRow

DTYPE = torch.bfloat16
_GATE_SHARE = 0.3

OnProgress = Callable[[float, str], object]
"""Called with the number of finished shape-and-m pairs (a part of one counts) and what is being done."""


@dataclass
class SweepOutcome:
    """What a sweep has measured so far."""

    rows: list[SweepRow] = field(default_factory=list)
    """One row per kernel, shape and m."""
    samples: list[KernelSample] = field(default_factory=list)
    """Every sample."""
    tau: list[dict[str, JsonValue]] = field(default_factory=list)
    """tau_cast and tau_comp per kernel, shape and m."""
    bandwidth: Bandwidth | None = None
    """Bandwidth of this machine in this run; None where the run ended before."""
    failures: list[str] = field(default_factory=list)
    """Kernels that failed the gate or could not be timed, and why, a sentence each."""
    interrupted: bool = False
    """Whether Ctrl-C ended the sweep."""


@dataclass(frozen=True)
class _Stock:
    """The weights of one format at one shape."""

    weight: Weight
    reference: Reference
    ring: Ring[Weight]
    note: str | None


def run_sweep(
    plan: SweepPlan,
    target: Target,
    *,
    on_progress: OnProgress = lambda done, text: None,
    bandwidth: Callable[[Target], Bandwidth] = measure_bandwidth,
) -> SweepOutcome:
    """Measure everything in a plan.

    Args:
        plan: what to measure.
        target: where.
        on_progress: told how far the sweep is.
        bandwidth: measures the machine's bandwidth.

    Returns:
        What was measured; after Ctrl-C, what was measured until then.
    """
    outcome = SweepOutcome()
    try:
        on_progress(0.0, "read bandwidth")
        outcome.bandwidth = bandwidth(target)
        done = 0
        for index, shape in enumerate(plan.shapes):
            on_progress(done, f"{shape}: weights")
            _run_shape(plan, target, shape, plan.seed + index, outcome, _offset(on_progress, done))
            done += len(plan.ms)
            on_progress(done, f"{shape}: done")
            if target.is_cuda:
                torch.cuda.empty_cache()
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome


def _offset(on_progress: OnProgress, done: int) -> OnProgress:
    return lambda more, text: on_progress(done + more, text)


def _run_shape(
    plan: SweepPlan, target: Target, shape: Shape, seed: int, outcome: SweepOutcome, on_progress: OnProgress
) -> None:
    if outcome.bandwidth is None:
        raise ValueError(f"the bandwidth must be measured before shape {shape}")
    runnable = []
    reasons = {}
    for variant in plan.variants:
        is_available, reason = variant.kernel.available(target.device)
        if is_available:
            runnable.append(variant)
        else:
            reasons[variant.name] = reason
    x = random_x(max(plan.ms), shape.k, seed=seed, device=target.device, dtype=DTYPE)
    try:
        stocks = _make_stocks(plan, target, shape, seed, x, runnable)
    except (RuntimeError, MemoryError) as error:  # torch reports exhausted memory as one or the other
        reason = f"the weights of shape {shape} could not be made: {str(error).splitlines()[0]}"
        outcome.failures.append(reason)
        reasons |= {variant.name: reason for variant in runnable}
        stocks = {}
    for index, m in enumerate(plan.ms):
        context = Context(plan, shape, m, target.arch, outcome.bandwidth.read_gb_s_p50, target.is_cuda)
        timed = [variant for variant in plan.variants if variant.name not in reasons]
        for variant in plan.variants:
            if variant.name in reasons:
                outcome.rows.append(unmeasured_row(context, variant, reasons[variant.name], notes=[]))
        _run_cell(context, target, timed, x[:m], stocks, outcome, _offset(on_progress, index))


def _make_stocks(
    plan: SweepPlan, target: Target, shape: Shape, seed: int, x: Tensor, variants: list[Variant]
) -> dict[str, _Stock]:
    w = random_weight(shape.n, shape.k, seed=seed + 1, device=target.device)
    stocks: dict[str, _Stock] = {}
    for variant in variants:
        if variant.weight_key in stocks:
            continue
        fmt = variant.kernel.format
        weight = make_weight(w, fmt, plan.group_size_for(fmt, shape.k), DTYPE)
        count = count_copies(stored_bytes(weight), target)
        reference = make_reference(x, decoded(weight))
        stocks[variant.weight_key] = _Stock(weight, reference, make_ring(weight, count.copies), count.note)
    return stocks


def _run_cell(
    context: Context,
    target: Target,
    variants: list[Variant],
    x: Tensor,
    stocks: dict[str, _Stock],
    outcome: SweepOutcome,
    on_progress: OnProgress,
) -> None:
    """Gate and time every variant at one shape and m; rows are added also when this is interrupted."""
    plan, label = context.plan, f"{context.shape} m={context.m}"
    gates: dict[str, GateResult] = {}
    samplers: dict[str, Sampler] = {}
    missing: dict[str, str] = {}
    for index, variant in enumerate(variants):
        on_progress(_GATE_SHARE * index / len(variants), f"{label}: gate of {variant.name}")
        stock = stocks[variant.weight_key]
        gate = gates[variant.name] = check(variant, x, stock.weight, stock.reference)
        if not gate.may_be_timed:
            outcome.failures.append(f"{variant.name} {label}: {gate.reason}")
            continue
        try:
            samplers[variant.name] = make_sampler(variant, x, stock.ring)
        except RuntimeError as error:
            missing[variant.name] = (
                f"its calls could not be captured for timing: {str(error).splitlines()[0]}"
            )
            outcome.failures.append(f"{variant.name} {label}: {missing[variant.name]}")
    rounds = Rounds()
    why = "interrupted before it was timed"

    def on_round() -> None:
        share = len(rounds.taken) / plan.repeats
        on_progress(_GATE_SHARE + (1 - _GATE_SHARE) * share, f"{label}: round {len(rounds.taken)}")

    try:
        on_progress(_GATE_SHARE, f"{label}: warm-up")
        rules = Rules(plan.repeats, plan.limit_s)
        run_rounds(samplers, rules, rounds, seed=plan.seed, on_round=on_round)
    except RuntimeError as error:
        why = f"timing stopped: {str(error).splitlines()[0]}"
        outcome.failures.append(f"{label}: {why}")
    finally:
        for variant in variants:
            outcome.rows.append(
                measured_row(
                    context,
                    variant,
                    implementation=variant.kernel.implementation_detail(
                        variant.implementation, target.device
                    ),
                    gate=gates[variant.name],
                    rounds=rounds,
                    notes=_notes(plan, variant, stocks[variant.weight_key], rounds),
                    missing=missing.get(variant.name, why),
                )
            )
        outcome.samples += samples_of(context.shape, context.m, rounds)
        outcome.tau += tau_figures(context, tuple(variants), rounds)


def _notes(plan: SweepPlan, variant: Variant, stock: _Stock, rounds: Rounds) -> list[str]:
    taken = len(rounds.times_s(variant.name))
    notes = [] if stock.note is None else [stock.note]
    if 0 < taken < plan.repeats:
        notes.append(f"sampling stopped after {taken} of {plan.repeats} rounds")
    if variant.name in rounds.unsettled:
        notes.append("warm-up ended before the times had settled within 10 %")
    return notes
