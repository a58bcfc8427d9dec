"""From samples to the rows, samples and derived figures of a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from analysis.stats import Interval, bootstrap_difference, bootstrap_interval, bootstrap_ratio
from benchmarks.gate import GateResult
from benchmarks.plan import Shape, SweepPlan
from benchmarks.timer import CALL, CAST, COMP, Rounds
from benchmarks.variants import BASELINE, Variant
from benchmarks.weights import Weight
from kernels.traffic import Scheme
from profiler.hardware import GpuSpec
from profiler.record import KernelSample, SweepRow
from profiler.timing import median, percentile

_US = 1e6
_LEAST_SAMPLES = 2
_RESAMPLES = 2000
# Thousands of pairs of a long sweep would take minutes at the usual number.
_QUICK_RESAMPLES = 500


@dataclass(frozen=True)
class Context:
    """What rows of one shape and m share."""

    plan: SweepPlan
    """The sweep."""
    shape: Shape
    """The weight."""
    m: int
    """Rows of x."""
    arch: str | None
    """Key of the hardware table."""
    read_gb_s: float
    """Read bandwidth measured in this run, or the vendor's where nothing is measured, GB/s."""
    on_cuda: bool = True
    """Whether the device is a GPU, on which the cast of unfused kernels is timed alone."""


def measured_row(
    context: Context,
    variant: Variant,
    *,
    weight: Weight,
    implementation: str,
    gate: GateResult,
    rounds: Rounds,
    peers: Sequence[Variant] = (),
    notes: list[str],
    missing: str = "",
) -> SweepRow:
    """The row of a variant that was checked, and timed if the check allowed it.

    Args:
        context: shape, m and machine.
        variant: what was checked.
        weight: its weight.
        implementation: what ran, in the words of a record.
        gate: the check's result.
        rounds: samples of every variant at this shape and m.
        peers: peers of this sweep, the fastest of which is named.
        notes: what a reader must know.
        missing: why there are no samples although the check passed.
    """
    row = _common(context, variant, weight) | {
        "implementation": implementation,
        "gate": gate.verdict,
        "rel_error": gate.rel_error,
        "rel_error_bound": gate.rel_error_bound,
    }
    call_s = rounds.times_s(variant.name)
    if not gate.may_be_timed or len(call_s) < _LEAST_SAMPLES:
        reason = gate.reason or missing or f"{len(call_s)} samples were taken, needed are {_LEAST_SAMPLES}"
        return SweepRow(**row, not_measured=reason, notes=notes)
    p50_s = median(call_s)
    row |= {
        "time_us_p50": p50_s * _US,
        "time_us_p05": percentile(call_s, 5) * _US,
        "time_us_p95": percentile(call_s, 95) * _US,
        "timings": len(call_s),
    }
    if row["bytes_moved"] is not None:
        gb_s = row["bytes_moved"] / p50_s / 1e9
        row |= {"gb_s": gb_s, "read_bandwidth_share": gb_s / context.read_gb_s}
    if row["weight_bytes"] is not None:
        row["weight_floor_share"] = row["weight_bytes"] / p50_s / 1e9 / context.read_gb_s
    if variant.has_ranges:
        cast_s, comp_s = rounds.times_s(variant.name, CAST), rounds.times_s(variant.name, COMP)
        row["cast_us_p50"] = median(cast_s) * _US
        # On a GPU it is a difference, which noise can make negative; tau_figures has it with its interval.
        row["comp_us_p50"] = median(comp_s) * _US if median(comp_s) >= 0 else None
    baseline_s = rounds.times_s(BASELINE)
    if variant.name != BASELINE and len(baseline_s) == len(call_s):
        speedup = bootstrap_ratio(baseline_s, call_s, paired=True, seed=context.plan.seed)
        row |= {
            "baseline": BASELINE,
            "speedup_p50": speedup.point,
            "speedup_ci95": (speedup.low, speedup.high),
        }
    return SweepRow(**row, **_best_peer(context, variant, peers, rounds), notes=notes)


def unmeasured_row(context: Context, variant: Variant, reason: str, *, notes: list[str]) -> SweepRow:
    """A row with traffic and floor only.

    Args:
        context: shape and m; its bandwidth gives the floor.
        variant: what is not measured.
        reason: why there is no time, in a sentence.
        notes: what a reader must know.
    """
    return SweepRow(**_common(context, variant), not_measured=reason, notes=notes)


def floor_rows(plan: SweepPlan, spec: GpuSpec) -> list[SweepRow]:
    """Traffic and bandwidth floors on a GPU that is not here; every row is marked as not measured."""
    certainty = f" ({spec.certainty})" if spec.certainty else ""
    notes = [f"floor_us is at the vendor's {spec.memory_gb_s:g} GB/s{certainty}, which no kernel reaches"]
    rows = []
    for shape, m in plan.cells:
        context = Context(plan, shape, m, spec.key, spec.memory_gb_s)
        rows += [
            unmeasured_row(context, v, f"not measured: {spec.name} is not here", notes=notes)
            for v in plan.variants
        ]
    return rows


def samples_of(shape: Shape, m: int, rounds: Rounds) -> Iterator[KernelSample]:
    """Every sample; ranges of a kernel go by ``<kernel>.tau_cast`` and ``<kernel>.tau_comp``."""
    for repeat, by_name in enumerate(rounds.taken):
        for name, by_range in by_name.items():
            for range_name, seconds in by_range.items():
                label = name if range_name == CALL else f"{name}.{range_name}"
                yield KernelSample(
                    kernel=label, m=m, n=shape.n, k=shape.k, repeat=repeat, time_us=seconds * _US
                )


def tau_figures(
    context: Context, variants: tuple[Variant, ...], rounds: Rounds
) -> list[dict[str, JsonValue]]:
    """tau_cast and tau_comp of one shape and m, with bootstrap intervals.

    Args:
        context: shape and m.
        variants: the kernels that were timed.
        rounds: their samples.

    Returns:
        One entry per unfused kernel, by its ranges (on a GPU: by its cast alone), and per fused kernel whose
        null twin was timed: tau_comp = t(null), tau_cast = t(fused) - t(null), which noise can make negative.
    """
    figures = []
    seed = context.plan.seed
    for variant in variants:
        fmt, call_s = variant.format, rounds.times_s(variant.name)
        if len(call_s) < _LEAST_SAMPLES or fmt is None:
            continue
        if variant.has_ranges:
            cast = bootstrap_interval(rounds.times_s(variant.name, CAST), seed=seed)
            comp = bootstrap_interval(rounds.times_s(variant.name, COMP), seed=seed)
            method = "cast alone" if context.on_cuda else "ranges"
            figures.append(_tau(context, variant, method, cast, comp))
        elif variant.scheme is Scheme.FUSED:
            null_s = rounds.times_s(f"{Scheme.NULL.value}_{fmt.name}")
            if len(null_s) == len(call_s):
                cast = bootstrap_difference(call_s, null_s, paired=True, seed=seed)
                comp = bootstrap_interval(null_s, seed=seed)
                figures.append(_tau(context, variant, "fused - null", cast, comp))
    return figures


def _tau(
    context: Context, variant: Variant, method: str, cast_s: Interval, comp_s: Interval
) -> dict[str, JsonValue]:
    cast, comp = cast_s.scaled(_US), comp_s.scaled(_US)
    return {
        "kernel": variant.name,
        "format": None if variant.format is None else variant.format.name,
        "m": context.m,
        "n": context.shape.n,
        "k": context.shape.k,
        "method": method,
        "tau_cast_us_p50": cast.point,
        "tau_cast_us_ci95": [cast.low, cast.high],
        "tau_comp_us_p50": comp.point,
        "tau_comp_us_ci95": [comp.low, comp.high],
        "cor_direct": cast.point / comp.point,
    }


def peer_ratios(
    context: Context, variants: tuple[Variant, ...], rounds: Rounds
) -> list[dict[str, JsonValue]]:
    """Every fused and W8A8 kernel of ours against every peer of the same bits, at one shape and m.

    Args:
        context: shape and m.
        variants: what was timed.
        rounds: their samples.

    Returns:
        One entry per pair: the peer's median time over ours, with a bootstrap interval.
    """
    ours = [v for v in variants if v.scheme in (Scheme.FUSED, Scheme.W8A8) and rounds.times_s(v.name)]
    theirs = [v for v in variants if v.is_peer and rounds.times_s(v.name)]
    found: list[dict[str, JsonValue]] = []
    for variant in ours:
        for peer in theirs:
            if peer.bits != variant.bits or len(rounds.taken) < _LEAST_SAMPLES:
                continue
            ratio = _ratio(context, peer, variant, rounds, n_boot=_QUICK_RESAMPLES)
            found.append(
                {
                    "kernel": variant.name,
                    "peer": peer.name,
                    "weight_only": peer.quantized_activations is None,
                    "m": context.m,
                    "n": context.shape.n,
                    "k": context.shape.k,
                    "speedup_p50": ratio.point,
                    "speedup_ci95": [ratio.low, ratio.high],
                }
            )
    return found


def _best_peer(
    context: Context, variant: Variant, peers: Sequence[Variant], rounds: Rounds
) -> dict[str, Any]:
    """The fastest weight-only peer of the same bits; nothing for rows that it would say nothing about."""
    if variant.is_peer or variant.scheme not in (Scheme.FUSED, Scheme.W8A8):
        return {}
    timed = [
        peer
        for peer in peers
        if peer.bits == variant.bits and peer.quantized_activations is None and rounds.times_s(peer.name)
    ]
    if not timed:
        return {}
    best = min(timed, key=lambda peer: median(rounds.times_s(peer.name)))
    ratio = _ratio(context, best, variant, rounds, n_boot=_RESAMPLES)
    return {
        "best_peer": best.name,
        "best_peer_speedup_p50": ratio.point,
        "best_peer_speedup_ci95": (ratio.low, ratio.high),
    }


def _ratio(context: Context, slow: Variant, fast: Variant, rounds: Rounds, *, n_boot: int) -> Interval:
    return bootstrap_ratio(
        rounds.times_s(slow.name),
        rounds.times_s(fast.name),
        paired=True,
        seed=context.plan.seed,
        n_boot=n_boot,
    )


def _common(context: Context, variant: Variant, weight: Weight | None = None) -> dict[str, Any]:
    shape = context.shape
    work = variant.work(context.m, shape.n, shape.k, context.plan.group_size, weight)
    moved = work.bytes_moved
    return {
        "kernel": variant.name,
        "arch": context.arch,
        "model": shape.model,
        "layer": shape.layer,
        "m": context.m,
        "n": shape.n,
        "k": shape.k,
        "group_size": work.group_size,
        "bits": variant.bits,
        "weight_only": variant.quantized_activations is None,
        "bytes_moved": moved,
        "flops": work.flops,
        "floor_us": None if moved is None else moved / context.read_gb_s / 1e3,
        "weight_bytes": work.weight_bytes,
    }
