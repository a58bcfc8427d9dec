"""B*: at which batch sizes a variant loses, by the model and as measured, with how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from analysis.fit_solver import interval_of
from analysis.hop_cost import Cost, Number, above_zero_intervals
from analysis.stats import Interval
from analysis.verdict import Verdict, decide

Bands = tuple[tuple[Number, Number], ...]

# A regime is said only where this share of the draws agrees.
_SURE = 0.95


class Regime(str, Enum):
    """For which batch sizes a variant loses."""

    NEVER = "never"
    ALWAYS = "always"
    BELOW = "below"
    ABOVE = "above"
    BAND = "band"


def regime_of(delta_fixed: Number, delta_row: Number) -> Regime:
    """Return the regime of one linear piece, where the difference is ``delta_fixed + delta_row * B``.

    Args:
        delta_fixed: what the batch shares, variant less native.
        delta_row: what every row pays, variant less native.

    Returns:
        ``below``: the variant loses for B < B* = -delta_fixed / delta_row; ``above``: for B > B*.
    """
    if delta_fixed <= 0 and delta_row <= 0:
        return Regime.NEVER
    if delta_fixed >= 0 and delta_row >= 0:
        return Regime.ALWAYS
    return Regime.BELOW if delta_fixed > 0 else Regime.ABOVE


def b_star_of(delta_fixed: Number, delta_row: Number) -> Number | None:
    """Return B* = -delta_fixed / delta_row of one linear piece, or None where it does not cross."""
    crosses = regime_of(delta_fixed, delta_row) in (Regime.BELOW, Regime.ABOVE)
    return -delta_fixed / delta_row if crosses else None


@dataclass(frozen=True)
class Crossing:
    """Where a variant loses within [1, b_max].

    Attributes:
        regime: ``band`` where the batch sizes that lose begin above 1 and end below b_max, or are several bands.
        loses: intervals of B in which the variant costs more; empty for ``never``.
        b_star: the crossings within (1, b_max), rising; empty where there is none.
        b_max: the largest batch looked at.
    """

    regime: Regime
    loses: Bands
    b_star: tuple[Number, ...]
    b_max: Number

    @property
    def sentence(self) -> str:
        """The answer in words."""
        if self.regime is Regime.NEVER:
            return f"never loses in [1, {self.b_max:g}]: no crossing"
        if self.regime is Regime.ALWAYS:
            return f"always loses in [1, {self.b_max:g}]: no crossing"
        bands = " and ".join(f"{float(low):.3g} < B < {float(high):.3g}" for low, high in self.loses)
        return f"loses for {bands} (looked at [1, {self.b_max:g}])"


def crossing(native: Cost, variant: Cost, *, b_max: Number) -> Crossing:
    """Compare two costs of a hop, times or energies, over all batch sizes.

    Args:
        native: of the reference.
        variant: of the low-bit kernel, in the same unit.
        b_max: largest batch to look at, above 1.

    Returns:
        Every interval in which the variant loses; equal costs are no loss.
    """
    loses = above_zero_intervals(variant.minus(native), 1, b_max)
    ends = tuple(edge for band in loses for edge in band if 1 < edge < b_max)
    if not loses:
        regime = Regime.NEVER
    elif len(loses) > 1:
        regime = Regime.BAND
    else:
        touches = (loses[0][0] == 1, loses[0][1] == b_max)
        regime = {
            (True, True): Regime.ALWAYS,
            (True, False): Regime.BELOW,
            (False, True): Regime.ABOVE,
            (False, False): Regime.BAND,
        }[touches]
    return Crossing(regime, loses, ends, b_max)


@dataclass(frozen=True)
class CrossingEstimate:
    """A crossing with what the bootstrap draws say about it.

    Attributes:
        point: by the estimates.
        confidence: share of draws with the same regime.
        regimes: share of draws by regime.
        b_star: interval of the first crossing over the draws that have the point's regime and cross; None where the
            point does not cross.
        loses_share: by batch size, the share of draws in which the variant loses.
    """

    point: Crossing
    confidence: float
    regimes: dict[Regime, float]
    b_star: Interval | None
    loses_share: dict[int, float]

    @property
    def sentence(self) -> str:
        """The answer in words; inconclusive where fewer than 95 % of the draws agree on the regime."""
        if self.confidence >= _SURE:
            return self.point.sentence
        shares = sorted(self.regimes.items(), key=lambda item: -item[1])
        named = ", ".join(f"{regime.value} {100 * share:.0f} %" for regime, share in shares)
        return f"inconclusive in [1, {self.point.b_max:g}]: {named} of the draws"


def estimate_crossing(
    point: tuple[Cost, Cost],
    draws: Sequence[tuple[Cost, Cost]],
    *,
    b_max: Number,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
) -> CrossingEstimate:
    """Find a crossing and its confidence.

    Args:
        point: costs of native and variant by the estimates.
        draws: the same by bootstrap draws, at least 20.
        b_max: largest batch to look at.
        batches: at which the share of losing draws is counted; those above ``b_max`` are left out.

    Raises:
        ValueError: fewer than 20 draws.
    """
    if len(draws) < 20:
        raise ValueError(f"{len(draws)} draws are too few for a confidence, needed are 20")
    best = crossing(*point, b_max=b_max)
    found = [crossing(*draw, b_max=b_max) for draw in draws]
    counts = Counter(one.regime for one in found)
    stars = [float(one.b_star[0]) for one in found if one.regime is best.regime and one.b_star]
    star = None
    if best.b_star and stars:
        star = interval_of(float(best.b_star[0]), np.array(stars))
    shares = {}
    for batch in (b for b in batches if b <= b_max):
        loses = sum(variant.at(batch) > native.at(batch) for native, variant in draws)
        shares[batch] = loses / len(draws)
    regimes = {regime: count / len(draws) for regime, count in counts.items()}
    return CrossingEstimate(best, counts[best.regime] / len(draws), regimes, star, shares)


@dataclass(frozen=True)
class MeasuredCrossing:
    """What a batch sweep shows.

    Attributes:
        loses: batches at which the whole interval of variant / native lies above 1.
        wins: batches at which it lies below.
        unclear: batches at which it holds 1.
        brackets: neighbours in ``loses`` and ``wins`` between which the verdict changes, with ``loses`` or ``wins``
            for what the variant does above.
    """

    loses: tuple[int, ...]
    wins: tuple[int, ...]
    unclear: tuple[int, ...]
    brackets: tuple[tuple[int, int, str], ...]


def measured_crossing(ratios: dict[int, Interval]) -> MeasuredCrossing:
    """Read the crossing off a batch sweep.

    Args:
        ratios: cost of the variant over the native one, by batch size.

    Returns:
        Brackets; no curve is drawn through the measurements, so a bracket is as narrow as the sweep's steps.

    Raises:
        ValueError: no batch, or one below 1.
    """
    if not ratios or min(ratios) < 1:
        raise ValueError(f"a batch sweep needs batch sizes of at least 1, got {sorted(ratios)}")
    return crossing_of_verdicts({batch: decide(ratio) for batch, ratio in ratios.items()})


def crossing_of_verdicts(found: dict[int, Verdict]) -> MeasuredCrossing:
    """Read the crossing off verdicts that are known already, by batch size."""
    verdicts = dict(sorted(found.items()))
    named = _by(verdicts, lambda v: v is not Verdict.INCONCLUSIVE)
    brackets = []
    for low, high in zip(named, named[1:], strict=False):
        if verdicts[low] is not verdicts[high]:
            brackets.append((low, high, "loses" if verdicts[high] is Verdict.TRAPPED else "wins"))
    return MeasuredCrossing(
        loses=_by(verdicts, lambda v: v is Verdict.TRAPPED),
        wins=_by(verdicts, lambda v: v is Verdict.NOT_TRAPPED),
        unclear=_by(verdicts, lambda v: v is Verdict.INCONCLUSIVE),
        brackets=tuple(brackets),
    )


def _by(verdicts: dict[int, Verdict], wanted: Callable[[Verdict], bool]) -> tuple[int, ...]:
    return tuple(batch for batch, verdict in verdicts.items() if wanted(verdict))
