"""The paper's alpha and phi in joules, from fitted casts and energy.

alpha = (N / 8) (e_B + (P0 + Pa) / bandwidth)                 J per bit of width: moving N weights once
phi   = pass + B * row,   pass = (P0 + Pa) (launch + pass_s N) + e_cast N,   row = (P0 + Pa) (row_s N + edge_s (n + k))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_crossing import Layer
from analysis.fit_energy import alpha_j_per_bit, busy_w, phi_j
from analysis.fit_file import FitsFile
from analysis.fit_solver import Floats, interval_of
from analysis.stats import Interval


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
    weights = sum(layer.count * layer.n * layer.k for layer in layers)

    def alpha(row: Floats) -> float:
        return alpha_j_per_bit(_named(energy.parameters, row), weights, bandwidth)

    return interval_of(alpha(energy.point()), np.array([alpha(row) for row in energy.all_draws()]))


def cast_joules(fits: FitsFile, kernel: str, layers: Sequence[Layer]) -> CastJoules | None:
    """Return phi of a kernel per pass and per row; None where casting or energy was not measured.

    Raises:
        ValueError: the fits lack the kernel.
    """
    found = fits.kernels.get(kernel)
    if found is None:
        raise ValueError(f"the fits of {fits.machine} lack {kernel}; they have {', '.join(fits.kernels)}")
    cast, energy = found.cast, fits.energy
    if cast is None or energy is None:
        return None
    count = sum(layer.count for layer in layers)
    weights = sum(layer.count * layer.n * layer.k for layer in layers)
    edge = sum(layer.count * (layer.n + layer.k) for layer in layers)

    def of_pass(row: Floats, named: Mapping[str, float]) -> float:
        return phi_j(named, kernel, weights, max(0.0, float(row[0] * count + row[1] * weights)))

    def of_row(row: Floats, named: Mapping[str, float]) -> float:
        return busy_w(named) * float(row[2] * weights + row[3] * edge)

    def interval(of: Callable[[Floats, Mapping[str, float]], float]) -> Interval:
        pairs = zip(cast.all_draws(), energy.all_draws(), strict=True)
        draws = [of(row, _named(energy.parameters, joules)) for row, joules in pairs]
        return interval_of(of(cast.point(), _named(energy.parameters, energy.point())), np.array(draws))

    return CastJoules(interval(of_pass), interval(of_row))


def _named(names: Mapping[str, object], row: Floats) -> dict[str, float]:
    return dict(zip(names, map(float, row), strict=True))
