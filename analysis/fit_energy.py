"""Energy of micro-benchmarks: static power, joules per byte, per operation, per decoded weight; alpha and phi in J.

    E = P0 T + Pa busy time + e_B bytes + e_F flops + sum over kernels of e_cast decoded weights

per unit of work. Windows that are all memory-bound cannot tell P0 from e_B, because their bytes are proportional to
their time: an idle and a compute-bound window are needed. Pa, what a busy device draws beyond an idle one whatever it
moves and computes, takes a busy window of little traffic besides; without one it is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.checks import above_zero
from analysis.fit_solver import CONDITION_LIMIT, Solution, linear_problem, solve

BASE_PARAMETERS = ("static_w", "j_per_byte", "j_per_flop")
ACTIVE = "active_w"
CAST_PREFIX = "cast_j_per_weight."
_IDLE = "idle"
_MISSING = {
    "static_w": "a window of idling with the context alive",
    "j_per_byte": "a memory-bound window, m = 1 at a large shape",
    "j_per_flop": "a compute-bound window, m = 256 or more at a large shape",
}


@dataclass(frozen=True)
class EnergyWork:
    """Energy of one unit of work.

    Attributes:
        load: kernel, or ``idle``, whose unit is a second.
        energy_j: energy of a unit, J.
        relative_se: standard error over the energy.
        time_s: time of a unit, s.
        bytes_moved: bytes that a unit reads and writes.
        flops: operations of a unit.
        decoded_weights: weights that a unit decodes.
    """

    load: str
    energy_j: float
    relative_se: float
    time_s: float
    bytes_moved: float = 0.0
    flops: float = 0.0
    decoded_weights: float = 0.0


@dataclass(frozen=True)
class EnergyFit:
    """The fitted energy of a machine.

    Attributes:
        solution: ``static_w``, ``j_per_byte``, ``j_per_flop``, ``active_w`` where the windows tell it, and
            ``cast_j_per_weight.<kernel>``.
        warnings: what the data determine badly, and which window would help.
    """

    solution: Solution
    warnings: tuple[str, ...]


def busy_w(parameters: Mapping[str, float]) -> float:
    """Return what a busy device draws ahead of all traffic and arithmetic, P0 + Pa, W.

    Args:
        parameters: of the energy fit, the estimates or one draw.
    """
    return parameters["static_w"] + parameters.get(ACTIVE, 0.0)


def alpha_j_per_bit(parameters: Mapping[str, float], weights: float, bytes_per_s: float) -> float:
    """Return the paper's alpha of a model: moving its weights once, per bit of width, J/bit.

    Args:
        parameters: of the energy fit, the estimates or one draw.
        weights: number of weights, N.
        bytes_per_s: bandwidth, for the power of a busy device during the transfer.

    Raises:
        ValueError: a number not above 0.
    """
    above_zero(weights=weights, bytes_per_s=bytes_per_s)
    return weights / 8 * (parameters["j_per_byte"] + busy_w(parameters) / bytes_per_s)


def phi_j(parameters: Mapping[str, float], kernel: str, weights: float, cast_s: float) -> float:
    """Return the paper's phi: casting energy of a hop, J.

    Args:
        parameters: of the energy fit, the estimates or one draw.
        kernel: a decoding kernel; one without windows of its own has the busy device's power times time alone.
        weights: weights decoded, N.
        cast_s: exposed time of decoding them, s; 0 where it hides.
    """
    return busy_w(parameters) * cast_s + weights * parameters.get(CAST_PREFIX + kernel, 0.0)


def fit_energy(work: Sequence[EnergyWork], *, seed: int, n_draws: int = 200) -> EnergyFit:
    """Fit the energy of a machine.

    Args:
        work: units of work of different kinds, measured by a counter.
        seed: of the bootstrap.
        n_draws: bootstrap draws.

    Raises:
        ValueError: fewer units than parameters and one, or none that moves bytes or computes.
    """
    kernels = sorted({w.load for w in work if w.decoded_weights > 0})
    has_active = _tells_active_power(work)
    active = (ACTIVE,) if has_active else ()
    names = (*BASE_PARAMETERS, *active, *(CAST_PREFIX + kernel for kernel in kernels))
    columns = np.array(
        [
            [
                *_base_columns(w)[: len(BASE_PARAMETERS) + has_active],
                *(w.decoded_weights * (w.load == kernel) for kernel in kernels),
            ]
            for w in work
        ],
        dtype=np.float64,
    ).reshape(len(work), len(names))
    energy, se = (np.array([getattr(w, f) for w in work]) for f in ("energy_j", "relative_se"))
    found = solve(linear_problem(names, columns, energy, se), seed=seed, n_draws=n_draws)
    warnings = []
    if found.condition > CONDITION_LIMIT:
        needed = "; ".join(_MISSING[name] for name in found.valley if name in _MISSING)
        warnings.append(
            f"condition number {found.condition:.3g}: {' and '.join(found.valley)} trade; needed: {needed}"
        )
    if not any(w.load == _IDLE for w in work):
        warnings.append(f"no idle window: static_w rests on the slopes alone; needed: {_MISSING['static_w']}")
    return EnergyFit(found, tuple(warnings))


def _base_columns(work: EnergyWork) -> tuple[float, float, float, float]:
    """What static power, joules per byte and per operation, and active power are multiplied by."""
    return work.time_s, work.bytes_moved, work.flops, work.time_s * (work.load != _IDLE)


def _tells_active_power(work: Sequence[EnergyWork]) -> bool:
    """Whether the windows of kernels that decode nothing tell active power from the rest, by their condition number."""
    plain = [w for w in work if w.decoded_weights == 0 and w.energy_j > 0]
    if not any(w.load == _IDLE for w in plain):
        return False
    columns = np.array([_base_columns(w) for w in plain]) / np.array([[w.energy_j] for w in plain])
    lengths = np.linalg.norm(columns, axis=0)
    return bool(lengths.all() and np.linalg.cond(columns / lengths) < CONDITION_LIMIT)
