"""From samples to the rows, samples and derived figures of a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from analysis.stats import Interval, bootstrap_difference, bootstrap_interval, bootstrap_ratio
from benchmarks.gate import GateResult
from benchmarks.plan import BASELINE, Shape, SweepPlan, Variant
from benchmarks.timer import CALL, CAST, COMP, Rounds
from kernels.registry import Scheme
from profiler.hardware import GpuSpec
from profiler.record import KernelSample, SweepRow
from profiler.timing import median, percentile

_US = 1e6
_LEAST_SAMPLES = 2


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
    implementation: str,
    gate: GateResult,
    rounds: Rounds,
    notes: list[str],
    missing: str = "",
) -> SweepRow:
    """The row of a variant that was checked, and timed if the check allowed it.

    Args:
        context: shape, m and machine.
        variant: the kernel.
        implementation: what ran, in the words of a record.
        gate: the check's result.
        rounds: samples of every variant at this shape and m.
        notes: what a reader must know.
        missing: why there are no samples although the check passed.
    """
    row = _common(context, variant) | {
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
    gb_s = row["bytes_moved"] / p50_s / 1e9
    row |= {
        "time_us_p50": p50_s * _US,
        "time_us_p05": percentile(call_s, 5) * _US,
        "time_us_p95": percentile(call_s, 95) * _US,
        "timings": len(call_s),
        "gb_s": gb_s,
        "read_bandwidth_share": gb_s / context.read_gb_s,
    }
    if variant.kernel.scheme is Scheme.UNFUSED:
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
    return SweepRow(**row, notes=notes)


def unmeasured_row(context: Context, variant: Variant, reason: str, *, notes: list[str]) -> SweepRow:
    """A row with traffic and floor only.

    Args:
        context: shape and m; its bandwidth gives the floor.
        variant: the kernel.
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
        fmt, call_s = variant.kernel.format, rounds.times_s(variant.name)
        if len(call_s) < _LEAST_SAMPLES or fmt is None:
            continue
        if variant.kernel.scheme is Scheme.UNFUSED:
            cast = bootstrap_interval(rounds.times_s(variant.name, CAST), seed=seed)
            comp = bootstrap_interval(rounds.times_s(variant.name, COMP), seed=seed)
            method = "cast alone" if context.on_cuda else "ranges"
            figures.append(_tau(context, variant, method, cast, comp))
        elif variant.kernel.scheme is Scheme.FUSED:
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
    fmt = variant.kernel.format
    return {
        "kernel": variant.name,
        "format": None if fmt is None else fmt.name,
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


def _common(context: Context, variant: Variant) -> dict[str, Any]:
    shape, kernel = context.shape, variant.kernel
    group_size = context.plan.group_size_for(kernel.format, shape.k)
    traffic = kernel.traffic(context.m, shape.n, shape.k, group_size=group_size)
    return {
        "kernel": variant.name,
        "arch": context.arch,
        "model": shape.model,
        "layer": shape.layer,
        "m": context.m,
        "n": shape.n,
        "k": shape.k,
        "group_size": group_size,
        "bytes_moved": traffic.bytes_moved,
        "flops": traffic.flops,
        "floor_us": traffic.bytes_moved / context.read_gb_s / 1e3,
    }
