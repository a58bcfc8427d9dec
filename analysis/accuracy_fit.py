"""Accuracy over depth: P(correct | d operations) = a q^d by maximum likelihood, and what a variant changes of it.

q is what survives an operation, so q < 1 compounds; a is what is lost once, whatever the depth. Between two variants on
the same problems, a common q with two a's is a constant loss, and two q's are compounding fragility.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy import optimize, stats

from analysis.fit_solver import Floats
from analysis.stats import Interval

_CONFIDENCE = 0.95
_SIGNIFICANT = 0.05
# The logarithms of the least and of the largest share.
_LOWEST, _HIGHEST = -12.0, -1e-9
_SETTLED = 1e-6


@dataclass(frozen=True)
class DepthCount:
    """Answers to problems of one depth.

    Attributes:
        depth: arithmetic operations.
        correct: answered correctly.
        n: asked.
    """

    depth: int
    correct: int
    n: int

    def __post_init__(self) -> None:
        """Refuse what are no counts."""
        if self.depth < 0:
            raise ValueError(f"depth={self.depth} is below 0")
        if self.n < 1 or not 0 <= self.correct <= self.n:
            raise ValueError(f"correct={self.correct} of n={self.n} at depth={self.depth} are no counts")


@dataclass(frozen=True)
class Decay:
    """The fitted a q^d.

    Attributes:
        a: accuracy at depth 0, by extrapolation.
        q: share of the accuracy that an operation leaves, at most 1.
        log_likelihood: of the fit.
        p_flat: p-value of q = 1, accuracy the same at every depth, by the likelihood ratio; half of a chi-square's
            tail, since q cannot exceed 1.
    """

    a: Interval
    q: Interval
    log_likelihood: float
    p_flat: float

    @property
    def compounds(self) -> bool:
        """Whether accuracy falls with depth beyond noise."""
        return self.p_flat < _SIGNIFICANT

    def at(self, depth: float) -> float:
        """Return the fitted accuracy at a depth."""
        return float(self.a.point * self.q.point**depth)


class Fragility(str, Enum):
    """How a variant's accuracy over depth differs from the baseline's."""

    COMPOUNDING = "compounding"
    CONSTANT_LOSS = "constant loss"
    CONSTANT_GAIN = "constant gain"
    LESS_COMPOUNDING = "compounds less"
    NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class DecayComparison:
    """Nested models of two variants, by their likelihoods.

    Attributes:
        answer: what the likelihoods say at 5 %.
        loss_ratio: a of the variant over that of the baseline, with a common q.
        decay_ratio: q of the variant over that of the baseline, each with its own a.
        p_constant: p-value of one a and q for both, against a constant loss.
        p_compounding: p-value of a constant loss, against a q of its own.
    """

    answer: Fragility
    loss_ratio: float
    decay_ratio: float
    p_constant: float
    p_compounding: float

    @property
    def sentence(self) -> str:
        """The answer in words, with the numbers that it rests on."""
        return (
            f"{self.answer.value}: a ratio {self.loss_ratio:.3g} with one q (p = {self.p_constant:.2g}), "
            f"q ratio {self.decay_ratio:.4g} (p = {self.p_compounding:.2g})"
        )


def fit_decay(counts: Sequence[DepthCount]) -> Decay:
    """Fit a q^d to answers by depth.

    Args:
        counts: at least 2 depths.

    Returns:
        Estimates with profile-likelihood intervals.

    Raises:
        ValueError: fewer than 2 depths, or one given twice.
    """
    data = _Data.of(counts)
    ones, depth = np.ones((len(data.depth), 1)), data.depth[:, None]
    best, top = _maximum(np.hstack([ones, depth]), data)
    flat = _maximum(ones, data)[1]

    def over_q(log_q: float) -> float:
        return _maximum(ones, data, log_q * data.depth)[1]

    def over_a(log_a: float) -> float:
        return _maximum(depth, data, np.full(len(data.depth), log_a))[1]

    ratio = max(0.0, 2 * (top - flat))
    p_flat = 0.5 * float(stats.chi2.sf(ratio, 1)) if ratio > _SETTLED else 1.0
    return Decay(_profile(over_a, float(best[0]), top), _profile(over_q, float(best[1]), top), top, p_flat)


def compare_decay(baseline: Sequence[DepthCount], variant: Sequence[DepthCount]) -> DecayComparison:
    """Ask whether a variant loses accuracy once, or with every operation.

    Args:
        baseline: its answers by depth.
        variant: the variant's, over the same depths.

    Raises:
        ValueError: fewer than 2 depths, one given twice, or other depths than the baseline's.
    """
    first, second = _Data.of(baseline), _Data.of(variant)
    if not np.array_equal(first.depth, second.depth):
        raise ValueError(
            f"a comparison needs the same depths, got {first.depth.astype(int).tolist()} and "
            f"{second.depth.astype(int).tolist()}"
        )
    both, count = first.joined(second), len(first.depth)
    is_first = np.repeat([1.0, 0.0], count)
    own_a, depth = np.stack([is_first, 1 - is_first], axis=1), both.depth[:, None]
    same = _maximum(np.hstack([np.ones((2 * count, 1)), depth]), both)[1]
    constant, constant_top = _maximum(np.hstack([own_a, depth]), both)
    own, own_top = _maximum(np.hstack([own_a, own_a * depth]), both)
    p_constant = float(stats.chi2.sf(max(0.0, 2 * (constant_top - same)), 1))
    p_compounding = float(stats.chi2.sf(max(0.0, 2 * (own_top - constant_top)), 1))
    loss = math.exp(constant[1] - constant[0])
    decay = math.exp(own[3] - own[2])
    if p_compounding < _SIGNIFICANT:
        answer = Fragility.COMPOUNDING if decay < 1 else Fragility.LESS_COMPOUNDING
    elif p_constant < _SIGNIFICANT:
        answer = Fragility.CONSTANT_LOSS if loss < 1 else Fragility.CONSTANT_GAIN
    else:
        answer = Fragility.NO_DIFFERENCE
    return DecayComparison(answer, loss, decay, p_constant, p_compounding)


@dataclass(frozen=True)
class _Data:
    depth: Floats
    correct: Floats
    n: Floats

    @classmethod
    def of(cls, counts: Sequence[DepthCount]) -> _Data:
        ordered = sorted(counts, key=lambda c: c.depth)
        depths = [c.depth for c in ordered]
        if len(depths) < 2:
            raise ValueError(f"a decay over depth needs at least 2 depths, got {depths}")
        if len(set(depths)) < len(depths):
            raise ValueError(f"a depth is given twice: {depths}")
        return cls(
            *(
                np.array([getattr(c, name) for c in ordered], dtype=np.float64)
                for name in ("depth", "correct", "n")
            )
        )

    def joined(self, other: _Data) -> _Data:
        """Return the answers of both, this one's first."""
        return _Data(
            *(np.concatenate([getattr(self, f), getattr(other, f)]) for f in ("depth", "correct", "n"))
        )


def _maximum(design: Floats, data: _Data, offset: Floats | float = 0.0) -> tuple[Floats, float]:
    """Maximize the likelihood of log P = offset + design @ theta over theta in [-12, 0].

    log(1 - e^x) is concave, so the likelihood is concave in theta and one start finds its top.

    Returns:
        theta [p] and the log-likelihood.
    """
    wrong = data.n - data.correct

    def cost(theta: Floats) -> tuple[float, Floats]:
        log_share = np.minimum(offset + design @ theta, _HIGHEST)
        share = np.exp(log_share)
        height = float(np.sum(data.correct * log_share + wrong * np.log1p(-share)))
        slope: Floats = design.T @ (data.correct - wrong * share / (1 - share))
        return -height, -slope

    size = design.shape[1]
    found = optimize.minimize(
        cost,
        np.full(size, -0.05),
        jac=True,
        method="L-BFGS-B",
        bounds=[(_LOWEST, 0.0)] * size,
        options={"ftol": 1e-15, "gtol": 1e-8},
    )
    corner = np.zeros(size)
    at_corner = -cost(corner)[0]
    if at_corner >= -float(found.fun):
        return corner, at_corner
    return np.asarray(found.x, dtype=np.float64), -float(found.fun)


def _profile(height: Callable[[float], float], point: float, top: float) -> Interval:
    """Where the profile lies within half a chi-square's quantile of its top, exponentiated."""
    drop = float(stats.chi2.ppf(_CONFIDENCE, 1)) / 2

    def above(value: float) -> float:
        return height(value) - top + drop

    low = (
        _LOWEST
        if above(_LOWEST) > 0 or point <= _LOWEST
        else float(optimize.brentq(above, _LOWEST, point, xtol=1e-6))
    )
    high = 0.0 if point == 0.0 or above(0.0) > 0 else float(optimize.brentq(above, point, 0.0, xtol=1e-6))
    return Interval(
        math.exp(point), min(math.exp(low), math.exp(point)), max(math.exp(high), math.exp(point))
    )
