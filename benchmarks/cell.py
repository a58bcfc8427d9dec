"""One cell of a sweep, a shape and an m: every variant is checked, then all are timed in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue
from torch import Tensor

from benchmarks.gate import GateResult, check
from benchmarks.rows import Context, measured_row, peer_ratios, samples_of, tau_figures
from benchmarks.stock import DTYPE, Stock
from benchmarks.timer import Rounds, Rules, Sampler, make_sampler, run_rounds
from benchmarks.variants import Variant
from kernels.ranges import RangeHook
from profiler.record import KernelSample, SweepRow

GATE_SHARE = 0.3
"""Part of a cell's progress that the checks count for."""


@dataclass
class CellResult:
    """What was measured at one shape and m."""

    rows: list[SweepRow] = field(default_factory=list)
    """One row per variant."""
    samples: list[KernelSample] = field(default_factory=list)
    """Every sample."""
    tau: list[dict[str, JsonValue]] = field(default_factory=list)
    """tau_cast and tau_comp per kernel."""
    peer_ratios: list[dict[str, JsonValue]] = field(default_factory=list)
    """Ours against each peer."""
    failures: list[str] = field(default_factory=list)
    """Kernels of ours that failed the gate or could not be timed, a sentence each."""
    warnings: list[str] = field(default_factory=list)
    """The same of peers."""
    is_whole: bool = False
    """False where an interruption or an error ended it early."""


def run_cell(
    context: Context,
    variants: list[Variant],
    x: Tensor,
    stocks: Mapping[str, Stock],
    into: CellResult,
    *,
    ranges: RangeHook,
    on_progress: Callable[[float, str], object],
) -> None:
    """Check and time every variant; rows are added also when this is interrupted between two rounds.

    Args:
        context: shape, m and machine.
        variants: those whose weights are there.
        x: activations [m, k].
        stocks: weights by key.
        into: receives what is measured.
        ranges: opens NVTX ranges.
        on_progress: told the finished share and what is being done.
    """
    label = f"{context.shape} m={context.m}"
    gates: dict[str, GateResult] = {}
    samplers: dict[str, Sampler] = {}
    missing: dict[str, str] = {}
    for index, variant in enumerate(variants):
        on_progress(GATE_SHARE * index / len(variants), f"{label}: gate of {variant.name}")
        told = into.warnings if variant.is_peer else into.failures
        stock = stocks[variant.weight_key]
        with ranges(variant.name):
            gate = check(
                variant, x, stock.weight, stock.reference, wide_bound=stock.wide_bound, ranges=ranges
            )
        gates[variant.name] = gate
        if not gate.may_be_timed:
            told.append(f"{variant.name} {label}: {gate.reason}")
            continue
        try:
            samplers[variant.name] = make_sampler(variant, x, stock.ring)
        except Exception as error:
            if not variant.is_peer and not isinstance(error, RuntimeError):
                raise  # a peer may raise anything, ours only what torch raises
            lines = str(error).splitlines() or [type(error).__name__]
            missing[variant.name] = f"its calls could not be captured for timing: {lines[0]}"
            told.append(f"{variant.name} {label}: {missing[variant.name]}")
    rounds = Rounds()
    why = "interrupted before it was timed"
    plan = context.plan

    def on_round() -> None:
        share = len(rounds.taken) / plan.repeats
        on_progress(GATE_SHARE + (1 - GATE_SHARE) * share, f"{label}: round {len(rounds.taken)}")

    try:
        on_progress(GATE_SHARE, f"{label}: warm-up")
        rules = Rules(plan.repeats, plan.limit_s)
        run_rounds(samplers, rules, rounds, seed=plan.seed, ranges=ranges, on_round=on_round)
        into.is_whole = True
    except RuntimeError as error:
        why = f"timing stopped: {str(error).splitlines()[0]}"
        into.failures.append(f"{label}: {why}")
    finally:
        peers = [variant for variant in variants if variant.is_peer]
        for variant in variants:
            stock = stocks[variant.weight_key]
            row = measured_row(
                context,
                variant,
                weight=stock.weight,
                implementation=variant.detail(stock.weight, context.m, DTYPE),
                gate=gates[variant.name],
                rounds=rounds,
                peers=peers,
                notes=_notes(plan.repeats, variant, stock, rounds),
                missing=missing.get(variant.name, why),
            )
            into.rows.append(row)
        into.samples += samples_of(context.shape, context.m, rounds)
        into.tau += tau_figures(context, tuple(variants), rounds)
        into.peer_ratios += peer_ratios(context, tuple(variants), rounds)


def _notes(repeats: int, variant: Variant, stock: Stock, rounds: Rounds) -> list[str]:
    taken = len(rounds.times_s(variant.name))
    notes = list(stock.notes)
    if 0 < taken < repeats:
        notes.append(f"sampling stopped after {taken} of {repeats} rounds")
    if variant.name in rounds.unsettled:
        notes.append("warm-up ended before the times had settled within 10 %")
    return notes
