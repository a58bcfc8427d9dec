"""Predictions: hop time, throughput, energy, memory, B*, N* and verdicts for models, kernels and batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.crossing import CrossingEstimate, estimate_crossing
from analysis.fit_solver import interval_of
from analysis.hop_cost import Cost
from analysis.kernel_kinds import BASELINE
from analysis.model_shape import ModelShape
from analysis.power_cap import capped
from analysis.predict_file import PredictedCell, PredictedCrossing, PredictedMemory, PredictedScale
from analysis.predict_hop import HopSetting, hop_energy_of, hop_time_of
from analysis.predict_machine import LEAST_DRAWS, Machine
from analysis.predict_memory import Memory
from analysis.scale import FamilyPoint, FamilyScale, family_scale
from analysis.stats import Interval
from analysis.verdict import decide

Progress = Callable[[str], object]
_ROUNDING = 1e-9


def no_progress(label: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Costs:
    """A kernel's hop over the batch, the estimate first and then the draws.

    Attributes:
        time: T(B), s.
        energy: E(B), J; None where no energy was fitted.
        full_clocks: T(B) by the estimate as no power cap would have it, s.
    """

    time: tuple[Cost, ...]
    energy: tuple[Cost, ...] | None
    full_clocks: Cost

    def time_at(self, batch: int) -> np.ndarray:
        """Return the times of every row, s."""
        return np.array([float(cost.at(batch)) for cost in self.time])

    def energy_at(self, batch: int) -> np.ndarray | None:
        """Return the energies of every row, J."""
        return None if self.energy is None else np.array([float(cost.at(batch)) for cost in self.energy])


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        models: by key, in order.
        kernels: variants; the baseline is always predicted too.
        batches: batch sizes.
        setting: engine, context, calibration.
        hops: hops of a query.
        b_max: largest batch that B* is looked for in.
        n_draws: draws used of those that the fits hold.
    """

    models: tuple[ModelShape, ...]
    kernels: tuple[str, ...]
    batches: tuple[int, ...]
    setting: HopSetting
    hops: int = 256
    b_max: int = 256
    n_draws: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be predicted."""
        if not self.models or not self.kernels or not self.batches:
            raise ValueError(
                f"{len(self.models)} models, {len(self.kernels)} kernels and {len(self.batches)} batch sizes are no "
                "request: each needs at least 1"
            )
        if min(self.batches) < 1:
            raise ValueError(f"batch={min(self.batches)} is less than 1")
        if self.hops < 1 or self.b_max < 2:
            raise ValueError(f"hops={self.hops} must be at least 1 and b_max={self.b_max} at least 2")
        if self.n_draws < LEAST_DRAWS:
            raise ValueError(f"n_draws={self.n_draws} is less than {LEAST_DRAWS}, too few for an interval")

    @property
    def all_kernels(self) -> tuple[str, ...]:
        """The baseline, then the variants."""
        return (BASELINE, *dict.fromkeys(k for k in self.kernels if k != BASELINE))


@dataclass(frozen=True)
class Predicted:
    """The answer to a request."""

    cells: list[PredictedCell]
    crossings: list[PredictedCrossing]
    scales: list[PredictedScale]


def predict(
    machine: Machine,
    request: Request,
    memories: Mapping[tuple[str, str], Memory],
    *,
    family: Sequence[ModelShape] = (),
    calibrated: Sequence[tuple[str, str]] = (),
    on_step: Progress = no_progress,
) -> Predicted:
    """Predict.

    Args:
        machine: its parameters.
        request: what is asked for.
        memories: memory by model and kernel.
        family: models that N* is looked for in; none leaves N* out.
        calibrated: models and kernels whose own runs calibrated the machine.
        on_step: told what is being done.

    Returns:
        A cell per model, kernel and batch size, B* per model and variant, N* per variant and batch size.

    Raises:
        ValueError: the machine lacks a kernel, or what an eager hop needs.
    """
    cells: list[PredictedCell] = []
    crossings: list[PredictedCrossing] = []
    for model in request.models:
        costs = {}
        for kernel in request.all_kernels:
            on_step(f"{model.key}, {kernel}")
            costs[kernel] = costs_of(machine, model, kernel, request, request.n_draws)
        for kernel in request.all_kernels:
            memory = memories[model.key, kernel]
            own = (model.key, kernel) in calibrated
            cells += [
                _cell(model.key, kernel, batch, costs, memory, request.hops, calibrated=own)
                for batch in request.batches
            ]
            if kernel != BASELINE:
                crossings += _crossings(model.key, kernel, costs, request)
    scales: list[PredictedScale] = []
    if family:
        on_step("N* over the model table")
        scales = _scales(machine, family, request)
    return Predicted(cells, crossings, scales)


def why_longer(cells: Sequence[PredictedCell], cap_w: float | None) -> str | None:
    """Say which hops a card's power cap makes longer; None where it does so to none.

    Args:
        cells: predicted.
        cap_w: power cap, W; None where it is not known.
    """
    over = [cell for cell in cells if cell.held_down_share > 0]
    if not over or cap_w is None:
        return None
    most = max(over, key=lambda cell: cell.held_down_share)
    return (
        f"{len(over)} of {len(cells)} hops would draw more than the {cap_w:.0f} W of the card at full clocks and are "
        f"predicted at lower ones, most {most.model} {most.kernel} at B = {most.batch_size}, "
        f"{100 * most.held_down_share:.1f} % longer"
    )


def costs_of(machine: Machine, model: ModelShape, kernel: str, request: Request, n_draws: int) -> Costs:
    """Return a kernel's hop over the batch, as the card's power cap leaves it."""
    most = max(request.b_max, *request.batches)
    found = [
        _hop(machine, model, kernel, request.setting, row, most)
        for row in range(1 + min(machine.draws, n_draws))
    ]
    energies = tuple(energy for _, energy in found if energy is not None)
    return Costs(
        tuple(time for time, _ in found),
        energies if len(energies) == len(found) else None,
        hop_time_of(machine, model, kernel, request.setting, 0),
    )


def _hop(
    machine: Machine, model: ModelShape, kernel: str, setting: HopSetting, row: int, most: int
) -> tuple[Cost, Cost | None]:
    time = hop_time_of(machine, model, kernel, setting, row)
    energy = hop_energy_of(machine, model, kernel, setting, time, row)
    if energy is None or machine.energy is None or machine.tdp_w is None:
        return time, energy
    static_w = machine.energy.named(row)["static_w"]
    return capped(time, energy, cap_w=machine.tdp_w, static_w=static_w, most=most)


def _cell(
    model: str,
    kernel: str,
    batch: int,
    costs: Mapping[str, Costs],
    memory: Memory,
    hops: int,
    *,
    calibrated: bool,
) -> PredictedCell:
    own, native = costs[kernel], costs[BASELINE]
    time_s = own.time_at(batch)
    time, tps = _interval(time_s), _interval(batch / time_s)
    ratio = _interval(time_s / native.time_at(batch))
    energy_j, native_j = own.energy_at(batch), native.energy_at(batch)
    per_token, energy_ratio = None, None
    if energy_j is not None and native_j is not None:
        per_token, energy_ratio = _interval(energy_j / batch), _interval(energy_j / native_j)
    return PredictedCell(
        model=model,
        kernel=kernel,
        batch_size=batch,
        hop_s=time.point,
        hop_s_ci95=(time.low, time.high),
        tps=tps.point,
        tps_ci95=(tps.low, tps.high),
        time_ratio=ratio.point,
        time_ratio_ci95=(ratio.low, ratio.high),
        verdict_time="baseline" if kernel == BASELINE else decide(ratio).value,
        energy_j_per_token=None if per_token is None else per_token.point,
        energy_j_per_token_ci95=None if per_token is None else (per_token.low, per_token.high),
        energy_j_per_query=None if per_token is None else hops * per_token.point,
        energy_ratio_ci95=None if energy_ratio is None else (energy_ratio.low, energy_ratio.high),
        verdict_energy="baseline" if kernel == BASELINE else decide(energy_ratio).value,
        memory=PredictedMemory(
            weight_bytes=memory.weight_bytes,
            layout_bytes=memory.layout_bytes,
            kv_bytes=batch * memory.kv_bytes_per_sequence,
            total_bytes=memory.total_bytes(batch),
            fits=memory.fits(batch),
            largest_batch=memory.largest_batch,
        ),
        calibrated=calibrated,
        held_down_share=_held_down(own, batch),
    )


def _held_down(costs: Costs, batch: int) -> float:
    """By how much the estimate is longer than at full clocks; a rounding is no difference."""
    share = float(costs.time[0].at(batch)) / float(costs.full_clocks.at(batch)) - 1
    return share if share > _ROUNDING else 0.0


def _crossings(
    model: str, kernel: str, costs: Mapping[str, Costs], request: Request
) -> list[PredictedCrossing]:
    own, native = costs[kernel], costs[BASELINE]

    def estimate(a: Sequence[Cost], b: Sequence[Cost]) -> CrossingEstimate:
        pairs = list(zip(a, b, strict=True))
        return estimate_crossing(pairs[0], pairs[1:], b_max=request.b_max)

    found = [_crossing_row(model, kernel, "time", estimate(native.time, own.time))]
    if own.energy is not None and native.energy is not None:
        found.append(_crossing_row(model, kernel, "energy", estimate(native.energy, own.energy)))
    return found


def _crossing_row(model: str, kernel: str, quantity: str, found: CrossingEstimate) -> PredictedCrossing:
    star = found.b_star
    return PredictedCrossing.model_validate(
        {
            "model": model,
            "kernel": kernel,
            "quantity": quantity,
            "answer": found.sentence,
            "regime": found.point.regime.value,
            "confidence": found.confidence,
            "loses": [(float(low), float(high)) for low, high in found.point.loses],
            "b_star": [float(b) for b in found.point.b_star],
            "b_star_ci95": None if star is None else (star.low, star.high),
        }
    )


def _scales(machine: Machine, family: Sequence[ModelShape], request: Request) -> list[PredictedScale]:
    """N* over a family of models, with as many draws as give an interval."""
    sizes = {model.linear_weights: model for model in family}

    def costs(kernel: str) -> list[tuple[Cost, ...]]:
        return [costs_of(machine, model, kernel, request, LEAST_DRAWS).time for model in sizes.values()]

    native = costs(BASELINE)
    return [
        _scale_row(kernel, batch, list(sizes), native, own)
        for kernel, own in ((kernel, costs(kernel)) for kernel in request.all_kernels[1:])
        for batch in request.batches
    ]


def _scale_row(
    kernel: str,
    batch: int,
    sizes: Sequence[int],
    native: Sequence[Sequence[Cost]],
    own: Sequence[Sequence[Cost]],
) -> PredictedScale:
    def scale(row: int) -> FamilyScale:
        points = [
            FamilyPoint(size, float(reference[row].at(batch)), float(variant[row].at(batch)))
            for size, reference, variant in zip(sizes, native, own, strict=True)
        ]
        return family_scale(points)

    best = scale(0)
    firsts = [s.brackets[0][2] for s in (scale(row) for row in range(1, len(native[0]))) if s.brackets]
    star = None
    if best.brackets and firsts:
        star = interval_of(best.brackets[0][2], np.array(firsts))
    return PredictedScale(
        kernel=kernel,
        batch_size=batch,
        n_star=[bracket[2] for bracket in best.brackets],
        n_star_ci95=None if star is None else (star.low, star.high),
        trapped_models=len(best.trapped),
        free_models=len(best.free),
    )


def _interval(rows: np.ndarray) -> Interval:
    return interval_of(float(rows[0]), rows[1:])
