"""What the Sustainability Index decides: Pareto front, sensitivity to the weights, divergence over precisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from analysis.checks import at_least_zero
from analysis.fit_solver import Floats, interval_of
from analysis.paper import dsi_dp
from analysis.si import Weights, si_geometric, si_linear
from analysis.stats import Interval


@dataclass(frozen=True)
class Indices:
    """The three indices of a variant."""

    trust: float
    economy: float
    energy: float

    def __post_init__(self) -> None:
        """Refuse negative numbers and NaN."""
        at_least_zero(trust=self.trust, economy=self.economy, energy=self.energy)


def pareto_front(variants: Mapping[str, Indices]) -> tuple[str, ...]:
    """Return the variants that no other one beats or equals in every index and beats in one.

    Args:
        variants: indices by name; larger is better.

    Returns:
        Names in the order given; of equals, all.

    Raises:
        ValueError: no variant.
    """
    if not variants:
        raise ValueError("a Pareto front needs at least 1 variant, got 0")
    rows = {name: tuple(getattr(v, f.name) for f in fields(v)) for name, v in variants.items()}

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(
            all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine for other in rows.values()
        )

    return tuple(name for name, mine in rows.items() if not beaten(mine))


@dataclass(frozen=True)
class Sensitivity:
    """How much the choice of weights decides.

    Attributes:
        wins: share of all weights at which a variant has the largest index, by name; ties are shared.
        lowest: smallest index over all weights, by name.
        highest: largest.
        steps: grid of the weights: each is a multiple of 1 / steps.
    """

    wins: dict[str, float]
    lowest: dict[str, float]
    highest: dict[str, float]
    steps: int

    @property
    def is_robust(self) -> bool:
        """Whether one variant wins whatever the weights."""
        return any(math.isclose(share, 1.0) for share in self.wins.values())


def weight_sensitivity(
    variants: Mapping[str, Indices], *, steps: int = 20, is_geometric: bool = False
) -> Sensitivity:
    """Compare variants under every policy on a grid of the weights' simplex.

    Args:
        variants: indices by name.
        steps: grid, at least 2.
        is_geometric: whether the index is the geometric one of Remark 3.1 instead of Eq 6.

    Raises:
        ValueError: no variant, or fewer than 2 steps.
    """
    if not variants or steps < 2:
        raise ValueError(f"{len(variants)} variants and steps={steps}: needed are 1 and 2 or more")
    index = si_geometric if is_geometric else si_linear
    wins = dict.fromkeys(variants, 0.0)
    seen: dict[str, list[float]] = {name: [] for name in variants}
    grid = [
        Weights(a / steps, b / steps, (steps - a - b) / steps)
        for a in range(steps + 1)
        for b in range(steps + 1 - a)
    ]
    for weights in grid:
        values = {n: index(v.trust, v.economy, v.energy, weights).value for n, v in variants.items()}
        best = [n for n, value in values.items() if math.isclose(value, max(values.values()), rel_tol=1e-12)]
        for name, value in values.items():
            seen[name].append(value)
            wins[name] += (name in best) / len(best) / len(grid)
    return Sensitivity(
        wins, {n: min(s) for n, s in seen.items()}, {n: max(s) for n, s in seen.items()}, steps
    )


@dataclass(frozen=True)
class Slope:
    """The divergence of Prop 3.2 between two neighbouring precisions.

    Attributes:
        bits: the smaller width.
        bits_ref: the larger.
        si_per_bit: (SI_ref - SI) / (bits_ref - bits); above 0 the index falls with the precision.
        is_trap: True where the whole interval lies above 0, False where it lies below, None where it holds 0.
    """

    bits: float
    bits_ref: float
    si_per_bit: Interval
    is_trap: bool | None


def divergence(si: Mapping[float, tuple[float, Floats]]) -> tuple[Slope, ...]:
    """Return the finite differences of SI over neighbouring precisions, with intervals.

    Args:
        si: by bits: the index, and bootstrap draws of it [d], resampled alike for every precision where the items
            are the same, and at least 20.

    Returns:
        A slope per neighbouring pair, from the fewest bits on.

    Raises:
        ValueError: fewer than 2 precisions, fewer than 20 draws, or different numbers of them.
    """
    if len(si) < 2:
        raise ValueError(f"a slope needs 2 or more precisions, got {sorted(si)}")
    counts = {len(draws) for _, draws in si.values()}
    if len(counts) > 1 or min(counts) < 20:
        raise ValueError(f"every precision needs the same number of draws, 20 or more, got {sorted(counts)}")
    slopes = []
    widths = sorted(si)
    for bits, bits_ref in zip(widths, widths[1:], strict=False):
        (low, low_draws), (high, high_draws) = si[bits], si[bits_ref]
        draws = (np.asarray(high_draws) - np.asarray(low_draws)) / (bits_ref - bits)
        slope = interval_of(dsi_dp(low, bits, high, bits_ref), draws)
        decided = True if slope.low > 0 else False if slope.high < 0 else None
        slopes.append(Slope(bits, bits_ref, slope, decided))
    return tuple(slopes)
