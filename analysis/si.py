"""The paper's Sustainability Index as printed: trust, economy, energy, and their sum.

Equation numbers are those of "The Quantization Trap" (arXiv 2602.13595). The paper places every index in
[0, 1], but its own formulas leave that range; a value outside is returned as it is, with a flag.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import SupportsFloat

from analysis.checks import above_zero, at_least_zero

J_PER_KWH = 3.6e6
_SUM_TOLERANCE = 1e-9


class EnergyUnit(Enum):
    """The unit in which Eq 5 takes the energy: its logarithm depends on it, and the paper states none."""

    JOULE = "J"
    KILOWATT_HOUR = "kWh"


@dataclass(frozen=True)
class IndexValue:
    """An index with what has to be said about it.

    Attributes:
        value: as the formula gives it, never clipped beyond what the formula clips.
        equation: where the formula is printed (``Eq 2``).
        flags: one sentence each, empty where nothing is odd.
    """

    value: float
    equation: str
    flags: tuple[str, ...] = ()

    def __float__(self) -> float:
        """Return the value."""
        return self.value


@dataclass(frozen=True)
class Weights:
    """Policy weights of Eq 6; the default is the paper's balanced configuration."""

    trust: float = 0.34
    economy: float = 0.33
    energy: float = 0.33

    def __post_init__(self) -> None:
        """Refuse weights that are no policy."""
        parts = (self.trust, self.economy, self.energy)
        if not all(weight >= 0 for weight in parts):
            raise ValueError(f"weights must be at least 0, got {parts}")
        if not math.isclose(math.fsum(parts), 1.0, abs_tol=_SUM_TOLERANCE):
            raise ValueError(f"weights {parts} sum to {math.fsum(parts):g}, not to 1")


def t_si(metric: float, metric_ref: float) -> IndexValue:
    """Return the trust index, metric / metric_ref (Eq 2).

    Args:
        metric: the variant's task metric, here its accuracy from 0 to 1.
        metric_ref: the reference's.

    Returns:
        The ratio; flagged above 1, where quantization raised the accuracy.

    Raises:
        ValueError: a negative metric, a reference of 0, or NaN.
    """
    at_least_zero(metric=metric)
    above_zero(metric_ref=metric_ref)
    return _index("T_SI", metric / metric_ref, "Eq 2")


def e_si(
    *, tps: float, tps_ref: float, peak_vram_bytes: float, peak_vram_ref_bytes: float, alpha: float = 0.5
) -> IndexValue:
    """Return the economic index, the weighted harmonic mean 1 / (alpha/eta + (1 - alpha)/rho) (Eq 3).

    Args:
        tps: the variant's tokens per second.
        tps_ref: the reference's; eta = tps / tps_ref.
        peak_vram_bytes: the variant's peak memory, in the same unit as the reference's.
        peak_vram_ref_bytes: the reference's; rho = peak_vram_ref_bytes / peak_vram_bytes.
        alpha: weight of throughput against memory, from 0 to 1.

    Returns:
        The index; above 1 (flagged) for a variant that is faster and smaller.

    Raises:
        ValueError: a quantity not above 0, or alpha outside [0, 1].
    """
    above_zero(
        tps=tps, tps_ref=tps_ref, peak_vram_bytes=peak_vram_bytes, peak_vram_ref_bytes=peak_vram_ref_bytes
    )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} is not between 0 and 1")
    eta, rho = tps / tps_ref, peak_vram_ref_bytes / peak_vram_bytes
    return _index("E_SI", 1 / (alpha / eta + (1 - alpha) / rho), "Eq 3")


def energy_per_query(power_w: Sequence[float], interval_s: float, queries: int) -> float:
    """Return the energy per query in J, the sum of power times interval over the number of queries (Eq 4).

    Args:
        power_w: power samples, W, one per interval.
        interval_s: their spacing, s.
        queries: queries answered in that time.

    Returns:
        J per query.

    Raises:
        ValueError: no samples, a negative or NaN sample, an interval not above 0, or fewer than 1 query.
    """
    if not power_w:
        raise ValueError("the energy integral needs at least 1 power sample, got 0")
    for watt in power_w:
        at_least_zero(power_w=watt)
    above_zero(interval_s=interval_s)
    if queries < 1:
        raise ValueError(f"queries={queries} is less than 1")
    return math.fsum(power_w) * interval_s / queries


def caes(energy: float, carbon_intensity: float) -> float:
    """Return the carbon-adjusted energy score chi = E_q * gamma.

    Args:
        energy: energy per query; kWh where ``carbon_intensity`` is per kWh. The paper states kgCO2e/kWh for
            gamma and gives its energies in J, so Eq 5 lets the caller choose.
        carbon_intensity: gamma, kgCO2e per unit of energy.

    Raises:
        ValueError: a negative number or NaN.
    """
    at_least_zero(energy=energy, carbon_intensity=carbon_intensity)
    return energy * carbon_intensity


def s_si_log(
    energy_j: float, energy_ref_j: float, *, unit: EnergyUnit, carbon_intensity: float = 1.0
) -> IndexValue:
    """Return the energy index min(1, log(1 + chi_ref) / log(1 + chi)) (Eq 5).

    Args:
        energy_j: the variant's energy per query, J.
        energy_ref_j: the reference's, J.
        unit: the unit that the energies are converted to before the logarithm. The value depends on it:
            the paper's example (519.79 J and 1110.56 J) gives 0.892 in J and 0.468 in kWh, at gamma = 1.
        carbon_intensity: gamma, which does not cancel here, unlike in the linear form.

    Returns:
        The index, flagged where min(1, .) cut off a saving.

    Raises:
        ValueError: an energy or the carbon intensity is not above 0.
    """
    above_zero(energy_j=energy_j, energy_ref_j=energy_ref_j, carbon_intensity=carbon_intensity)
    scale = 1.0 if unit is EnergyUnit.JOULE else 1 / J_PER_KWH
    ratio = math.log1p(caes(energy_ref_j * scale, carbon_intensity)) / math.log1p(
        caes(energy_j * scale, carbon_intensity)
    )
    if ratio > 1:
        flag = f"S_SI would be {ratio:.3f}; Eq 5 cuts it off at 1 and gives no credit for the saving"
        return IndexValue(1.0, "Eq 5", (flag,))
    return _index("S_SI", ratio, "Eq 5")


def s_si_linear(energy_j: float, energy_ref_j: float) -> IndexValue:
    """Return the energy index on one grid, energy_ref / energy, without logarithm or cut (after Eq 5).

    Args:
        energy_j: the variant's energy per query, in the same unit as the reference's.
        energy_ref_j: the reference's.

    Returns:
        The ratio; flagged above 1, where the variant saves energy.

    Raises:
        ValueError: an energy is not above 0.
    """
    above_zero(energy_j=energy_j, energy_ref_j=energy_ref_j)
    return _index("S_SI", energy_ref_j / energy_j, "section 3.1, linear form")


def si_linear(
    trust: SupportsFloat, economy: SupportsFloat, energy: SupportsFloat, weights: Weights | None = None
) -> IndexValue:
    """Return the Sustainability Index, the weighted sum of the three indices (Eq 6).

    Args:
        trust: T_SI.
        economy: E_SI.
        energy: S_SI.
        weights: the paper's (0.34, 0.33, 0.33) where None.

    Returns:
        The sum, with the flags of the indices that went in.

    Raises:
        ValueError: an index is negative or NaN.
    """
    chosen, (t, e, s) = _policy_inputs(trust, economy, energy, weights)
    value = chosen.trust * t + chosen.economy * e + chosen.energy * s
    return _index("SI", value, "Eq 6", _flags_of(trust, economy, energy))


def si_geometric(
    trust: SupportsFloat, economy: SupportsFloat, energy: SupportsFloat, weights: Weights | None = None
) -> IndexValue:
    """Return the bottleneck-intolerant index, the weighted geometric mean (Remark 3.1); arguments as Eq 6."""
    chosen, (t, e, s) = _policy_inputs(trust, economy, energy, weights)
    value = t**chosen.trust * e**chosen.economy * s**chosen.energy
    return _index("SI", value, "Remark 3.1", _flags_of(trust, economy, energy))


def _policy_inputs(
    trust: SupportsFloat, economy: SupportsFloat, energy: SupportsFloat, weights: Weights | None
) -> tuple[Weights, tuple[float, float, float]]:
    values = (float(trust), float(economy), float(energy))
    at_least_zero(trust=values[0], economy=values[1], energy=values[2])
    return weights or Weights(), values


def _flags_of(*indices: SupportsFloat) -> tuple[str, ...]:
    return tuple(flag for index in indices if isinstance(index, IndexValue) for flag in index.flags)


def _index(name: str, value: float, equation: str, flags: tuple[str, ...] = ()) -> IndexValue:
    if not 0 <= value <= 1:
        flags = (*flags, f"{name}={value:.3f} is outside [0, 1], where the paper places it")
    return IndexValue(value, equation, flags)
