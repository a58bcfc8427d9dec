"""The paper's alpha and phi in joules, from fitted casts and energy, and B* as the paper prints it.

alpha = (N / 8) (e_B + (P0 + Pa) / bandwidth)                 J per bit of width: moving N weights once
phi   = pass + B * row,   pass = (P0 + Pa) (launch + pass_s N) + e_cast N,   row = (P0 + Pa) (row_s N + edge_s (n + k))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_crossing import Layer, layer_sizes
from analysis.fit_energy import alpha_j_per_bit, busy_w, phi_j
from analysis.fit_file import FitsFile, Fitted
from analysis.fit_solver import Floats, interval_of
from analysis.model_shape import DTYPE_BYTES
from analysis.stats import Interval

NATIVE_BITS = 8 * DTYPE_BYTES
"""Width of native weights."""
_Named = Mapping[str, float]


@dataclass(frozen=True)
class CastJoules:
    """Joules of casting the linear layers of a model in one hop.

    Attributes:
        pass_j: per pass over the weights, whatever the batch, J.
        row_j: per row of x, J.
    """

    pass_j: Interval
    row_j: Interval


def alpha_of_model(fits: FitsFile, layers: Sequence[Layer]) -> Interval | None:
    """Return alpha of a model's linear layers, J/bit; None where energy or bandwidth was not measured."""
    energy, bandwidth = fits.energy, fits.read_bytes_per_s
    if energy is None or bandwidth is None:
        return None
    _, weights, _ = layer_sizes(layers)
    point, *draws = (
        alpha_j_per_bit(_named(energy, row), weights, bandwidth)
        for row in (energy.point(), *energy.all_draws())
    )
    return interval_of(point, np.array(draws))


def cast_joules(fits: FitsFile, kernel: str, layers: Sequence[Layer]) -> CastJoules | None:
    """Return phi of a kernel per pass and per row; None where casting or energy was not measured.

    Raises:
        ValueError: the fits lack the kernel.
    """
    count, weights, edge = layer_sizes(layers)

    def of_pass(row: Floats, named: _Named) -> float:
        return phi_j(named, kernel, weights, max(0.0, float(row[0] * count + row[1] * weights)))

    def of_row(row: Floats, named: _Named) -> float:
        return busy_w(named) * float(row[2] * weights + row[3] * edge)

    pass_j, row_j = (_over_draws(fits, kernel, of) for of in (of_pass, of_row))
    return None if pass_j is None or row_j is None else CastJoules(pass_j, row_j)


def phi_of_hop(fits: FitsFile, kernel: str, layers: Sequence[Layer]) -> Interval | None:
    """Return phi of a hop at B = 1, J: casting every layer once, by the fitted cast and energy.

    Returns:
        None where casting or energy was not measured.

    Raises:
        ValueError: the fits lack the kernel.
    """
    _, weights, _ = layer_sizes(layers)
    cast_s = _cast_of_hop(layers)
    return _over_draws(fits, kernel, lambda row, named: phi_j(named, kernel, weights, max(0.0, cast_s(row))))


def printed_b_star(fits: FitsFile, kernel: str, layers: Sequence[Layer]) -> Interval | None:
    """Return B* = alpha (16 - p) / phi as the paper prints it (Eq. 10, 18), with fitted alpha and phi at m = 1.

    It is no threshold: by Eq. 19 the variant is the cheaper one below it, whatever the text says.

    Returns:
        As ``printed_with``; where phi is 0, B* is infinite.

    Raises:
        ValueError: the fits lack the kernel.
    """
    return printed_with(
        fits,
        kernel,
        layers,
        lambda alpha, phi, bits: alpha * (NATIVE_BITS - bits) / phi if phi > 0 else math.inf,
    )


def printed_with(
    fits: FitsFile, kernel: str, layers: Sequence[Layer], formula: Callable[[float, float, int], float]
) -> Interval | None:
    """Return a formula of the paper with fitted alpha and phi at m = 1.

    Args:
        fits: of the machine.
        kernel: the variant.
        layers: linear layers of the model asked for; alpha and phi are those of a hop through them.
        formula: of alpha, J/bit, phi, J, and the width of the codes.

    Returns:
        None where energy, casting, bandwidth or the width of the codes was not measured, and where the formula is
        infinite for the estimates or a draw.

    Raises:
        ValueError: the fits lack the kernel.
    """
    bits, bandwidth = fits.kernel(kernel).bits, fits.read_bytes_per_s
    if bandwidth is None or bits is None or bits >= NATIVE_BITS:
        return None
    _, weights, _ = layer_sizes(layers)
    cast_s = _cast_of_hop(layers)

    def of(row: Floats, named: _Named) -> float:
        alpha = alpha_j_per_bit(named, weights, bandwidth)
        return formula(alpha, phi_j(named, kernel, weights, cast_s(row)), bits)

    return _over_draws(fits, kernel, of)


def _cast_of_hop(layers: Sequence[Layer]) -> Callable[[Floats], float]:
    """Time of casting all layers once with one row, s, from the parameters of a cast."""
    count, weights, edge = layer_sizes(layers)
    size = np.array([count, weights, weights, edge], dtype=np.float64)
    return lambda row: float(row @ size)


def _over_draws(fits: FitsFile, kernel: str, of: Callable[[Floats, _Named], float]) -> Interval | None:
    """Evaluate what depends on a kernel's cast and the energy; None without those, or where it is infinite."""
    cast, energy = fits.kernel(kernel).cast, fits.energy
    if cast is None or energy is None:
        return None
    point = of(cast.point(), _named(energy, energy.point()))
    draws = [
        of(row, _named(energy, joules))
        for row, joules in zip(cast.all_draws(), energy.all_draws(), strict=True)
    ]
    return interval_of(point, np.array(draws)) if np.all(np.isfinite([point, *draws])) else None


def _named(fit: Fitted, row: Floats) -> dict[str, float]:
    return dict(zip(fit.parameters, map(float, row), strict=True))
