"""B* from fits: kernels of one shape or of a whole model against the baseline, beside the measured crossing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.call_time import Deviations, call_time
from analysis.cost_ratio import time_ratio
from analysis.crossing import (
    CrossingEstimate,
    MeasuredCrossing,
    crossing_of_verdicts,
    estimate_crossing,
    measured_crossing,
)
from analysis.fit_energy import busy_w, cached_j, product_j
from analysis.fit_file import FitsFile, Fitted, KernelFit
from analysis.hop_cost import Cost, hop_energy, total
from analysis.kernel_kinds import BASELINE, cached_bytes
from analysis.stats import Interval
from analysis.verdict import Verdict
from profiler.record import RunRecord, SweepRow, VariantResult

_DTYPE_BYTES = 2
_NATIVE_BITS = 16


@dataclass(frozen=True)
class Layer:
    """Linear layers of one shape.

    Attributes:
        n: out-features.
        k: in-features.
        count: how many of them a hop runs.
    """

    n: int
    k: int
    count: int = 1


def linear_time(parameters: Sequence[float], deviations: Deviations, layers: Sequence[Layer]) -> Cost:
    """Return the time of the linear layers of a hop over the batch, s.

    Args:
        parameters: of the kernel's fit, the estimates or one draw.
        deviations: of measured calls from that fit.
        layers: the layers.
    """
    return total([call_time(parameters, deviations, layer.n, layer.k).times(layer.count) for layer in layers])


def fitted_time(fit: Fitted, layers: Sequence[Layer]) -> Cost:
    """Return the time of the linear layers of a hop over the batch by the estimates of a stored fit, s."""
    return linear_time(_point(fit), Deviations.of(fit.residuals), layers)


def linear_energy(
    time: Cost,
    kernel: str,
    fit: KernelFit,
    energy: Fitted,
    row: Sequence[float],
    layers: Sequence[Layer],
    cache_bytes: float | None,
) -> Cost | None:
    """Return the energy of the linear layers of a hop over the batch, J.

    Args:
        time: their time, s.
        kernel: its name; one of ours pays for its own way of multiplying, and for decoding.
        fit: of the kernel, for the bytes that a pass over one weight moves and the width of its codes.
        energy: the machine's energy fit.
        row: its parameters, the estimates or one draw.
        layers: the layers.
        cache_bytes: the GPU's last-level cache; None where it is not known.

    Returns:
        None where no run says what bytes the kernel moves.
    """
    if fit.pass_bytes_per_weight is None:
        return None
    by_name = dict(zip(energy.parameters, map(float, row), strict=True))
    pass_j, row_j = product_j(by_name, kernel, fit.bits)
    _, weights, edge = layer_sizes(layers)
    return hop_energy(
        time,
        static_w=busy_w(by_name),
        pass_j=weights * (fit.pass_bytes_per_weight * by_name["j_per_byte"] + pass_j)
        - saved_by_cache_j(by_name, kernel, layers, cache_bytes),
        row_j=weights * (2 * by_name["j_per_flop"] + row_j) + _DTYPE_BYTES * edge * by_name["j_per_byte"],
    )


def saved_by_cache_j(
    parameters: Mapping[str, float], kernel: str, layers: Sequence[Layer], cache_bytes: float | None
) -> float:
    """Return the joules that a hop's linears do not spend because decoded weights stay in the cache.

    Args:
        parameters: of the energy fit, the estimates or one draw.
        kernel: its name.
        layers: the layers.
        cache_bytes: the GPU's last-level cache; None where it is not known.
    """
    cached = sum(layer.count * cached_bytes(kernel, layer.n, layer.k, cache_bytes) for layer in layers)
    return cached * parameters["j_per_byte"] - cached_j(parameters, cached)


def time_crossing(fits: FitsFile, kernel: str, layers: Sequence[Layer], *, b_max: int) -> CrossingEstimate:
    """Return where the linear layers of a kernel take longer than the baseline's.

    Args:
        fits: of the machine.
        kernel: the variant.
        layers: one shape, or those of a model.
        b_max: largest batch to look at.

    Raises:
        ValueError: the fits lack the kernel or the baseline.
    """
    native, variant = fits.kernel(BASELINE).time, fits.kernel(kernel).time
    ours, theirs = Deviations.of(native.residuals), Deviations.of(variant.residuals)
    point = (fitted_time(native, layers), fitted_time(variant, layers))
    draws = [
        (linear_time(a, ours, layers), linear_time(b, theirs, layers))
        for a, b in zip(native.draws, variant.draws, strict=True)
    ]
    return estimate_crossing(point, draws, b_max=b_max)


def energy_crossing(
    fits: FitsFile, kernel: str, layers: Sequence[Layer], *, b_max: int
) -> CrossingEstimate | None:
    """Return where the linear layers of a kernel take more energy than the baseline's.

    Returns:
        None where the fits hold no energy, or not the bytes that a kernel moves.

    Raises:
        ValueError: the fits lack the kernel or the baseline.
    """
    native, variant, energy = fits.kernel(BASELINE), fits.kernel(kernel), fits.energy
    if energy is None:
        return None

    ours, theirs = Deviations.of(native.time.residuals), Deviations.of(variant.time.residuals)

    def pair(a: Sequence[float], b: Sequence[float], e: Sequence[float]) -> tuple[Cost, Cost] | None:
        size = fits.cache_bytes
        first = linear_energy(linear_time(a, ours, layers), BASELINE, native, energy, e, layers, size)
        second = linear_energy(linear_time(b, theirs, layers), kernel, variant, energy, e, layers, size)
        return None if first is None or second is None else (first, second)

    point = pair(_point(native.time), _point(variant.time), list(map(float, energy.point())))
    rows = zip(native.time.draws, variant.time.draws, energy.draws, strict=True)
    draws = [found for found in (pair(a, b, e) for a, b, e in rows) if found is not None]
    if point is None:
        return None
    return estimate_crossing(point, draws, b_max=b_max)


def layer_sizes(layers: Sequence[Layer]) -> tuple[int, int, int]:
    """Return the calls of linear layers, their weights, and the sum of n + k over the calls."""
    return (
        sum(layer.count for layer in layers),
        sum(layer.count * layer.n * layer.k for layer in layers),
        sum(layer.count * (layer.n + layer.k) for layer in layers),
    )


def measured_by_shape(records: Sequence[RunRecord]) -> dict[tuple[str, int, int], MeasuredCrossing]:
    """Return the measured crossings of sweeps, by kernel, n and k, over m."""
    ratios: dict[tuple[str, int, int], dict[int, Interval]] = defaultdict(dict)
    for record in records:
        for row in record.results:
            if isinstance(row, SweepRow) and row.speedup_p50 and row.speedup_ci95 and row.speedup_ci95[0] > 0:
                low, high = row.speedup_ci95
                ratios[row.kernel, row.n, row.k][row.m] = Interval(1 / row.speedup_p50, 1 / high, 1 / low)
    return {key: measured_crossing(by_m) for key, by_m in ratios.items() if len(by_m) > 1}


def measured_by_chain(records: Sequence[RunRecord]) -> dict[tuple[str, str], MeasuredCrossing]:
    """Return the measured crossings of chains, by model and kernel, over the batch size.

    From replayed hops where there are some; else from the two medians of free-running hops, with all that their own
    intervals allow. Hops of one mode are compared with each other alone.
    """
    ratios: dict[tuple[str, str], dict[int, Interval]] = defaultdict(dict)
    for record in records:
        rows = [row for row in record.results if isinstance(row, VariantResult)]
        native = {(row.mode, row.batch_size): row for row in rows if row.kernel == BASELINE}
        variants = [row for row in rows if row.kernel != BASELINE and not row.kernel.startswith("null_")]
        for row in sorted(variants, key=lambda row: row.mode == "replay"):
            found = time_ratio(row, native.get((row.mode, row.batch_size)))
            if found is not None:
                ratios[str(record.arguments.get("model")), row.kernel][row.batch_size] = found
    return {key: measured_crossing(by_batch) for key, by_batch in ratios.items() if len(by_batch) > 1}


def measured_energy_by_chain(records: Sequence[RunRecord]) -> dict[tuple[str, str], MeasuredCrossing]:
    """Return the measured crossings in energy, by model and kernel, over the batch size, from the rows' verdicts.

    Rows whose joules are an estimate are left out: those of TDP times time cross where the time does.
    """
    names = {v.value.replace("_", " "): v for v in Verdict if v is not Verdict.NOT_MEASURED}
    verdicts: dict[tuple[str, str], dict[int, Verdict]] = defaultdict(dict)
    for record in records:
        for row in record.results:
            if isinstance(row, VariantResult) and row.verdict_energy in names and not row.energy_is_estimate:
                key = (str(record.arguments.get("model")), row.kernel)
                verdicts[key][row.batch_size] = names[row.verdict_energy]
    return {key: crossing_of_verdicts(by_batch) for key, by_batch in verdicts.items() if len(by_batch) > 1}


def _point(fit: Fitted) -> list[float]:
    return [float(value) for value in np.asarray(fit.point())]
