"""Intervals and paired tests: what two samples, or two variants on the same items, really say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

# Resamples are drawn in batches of at most this many numbers, so that long sample lists fit in memory.
_BATCH_ELEMENTS = 4_000_000
# Of a series, for neighbours that are alike for a short and for a long while.
_BLOCKS = (5, 10)
_MANY = 50_000


class Statistic(Protocol):
    """A statistic along one axis, such as ``numpy.median`` or ``numpy.mean``."""

    def __call__(self, samples: Floats, /, *, axis: int) -> Floats:
        """Reduce ``axis`` of ``samples``."""
        ...


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, all in the unit of what is estimated.

    Attributes:
        point: the estimate.
        low: lower bound.
        high: upper bound.
        confidence: the interval's level, for example 0.95.
    """

    point: float
    low: float
    high: float
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what is no interval."""
        if not all(math.isfinite(value) for value in (self.point, self.low, self.high)):
            raise ValueError(f"an interval needs finite numbers, got {self.point} [{self.low}, {self.high}]")
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        _check_confidence(self.confidence)

    def scaled(self, factor: float) -> "Interval":
        """Return the interval in another unit: ``factor`` times itself, the ends in order."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.point * factor, low, high, self.confidence)

    def __str__(self) -> str:
        """Three significant digits: ``1.8 [1.7, 1.9]``."""
        return f"{self.point:.3g} [{self.low:.3g}, {self.high:.3g}]"


def wilson_interval(correct: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return an accuracy with its Wilson score interval.

    Args:
        correct: items answered correctly.
        n: items asked.
        confidence: level of the interval.

    Returns:
        The accuracy, from 0 to 1.

    Raises:
        ValueError: n below 1, or correct outside 0 to n.
    """
    _check_confidence(confidence)
    if n < 1:
        raise ValueError(f"an accuracy needs at least 1 item, got n={n}")
    if not 0 <= correct <= n:
        raise ValueError(f"correct={correct} is not between 0 and n={n}")
    bounds = stats.binomtest(correct, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(correct / n, float(bounds.low), float(bounds.high), confidence)


def mcnemar_exact(b: int, c: int) -> float:
    """Return the two-sided p-value of McNemar's exact test for two variants on the same items.

    Args:
        b: items that only the first variant answers correctly.
        c: items that only the second answers correctly.

    Returns:
        The probability of a split at least as uneven if both are equally good; 1 where no item differs.

    Raises:
        ValueError: a negative count.
    """
    if b < 0 or c < 0:
        raise ValueError(f"counts cannot be negative, got b={b} and c={c}")
    return 1.0 if b + c == 0 else float(stats.binomtest(b, b + c, 0.5).pvalue)


def discordant_pairs(first: Mapping[str, bool], second: Mapping[str, bool]) -> tuple[int, int]:
    """Count the items that only one of two variants answers correctly, for ``mcnemar_exact``.

    Args:
        first: correctness by problem id.
        second: the same for the other variant.

    Returns:
        Items only the first has right, items only the second has right.

    Raises:
        ValueError: no items, or the two did not answer the same ones.
    """
    if first.keys() != second.keys():
        one_sided = len(first.keys() ^ second.keys())
        raise ValueError(f"a paired test needs the same items: {one_sided} of them have only one answer")
    if not first:
        raise ValueError("a paired test needs at least 1 item, got 0")
    only_first = sum(first[key] and not second[key] for key in first)
    only_second = sum(second[key] and not first[key] for key in first)
    return only_first, only_second


def quantiles(
    samples: ArrayLike, probabilities: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)
) -> dict[str, float]:
    """Return quantiles by name: ``{"p5": ..., "p50": ...}``, linearly interpolated, in the samples' unit.

    Raises:
        ValueError: no samples, NaN or infinity among them, or a probability outside 0 to 1.
    """
    values = _samples(samples, "samples", at_least=1)
    for probability in probabilities:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability {probability} is not between 0 and 1")
    found = np.quantile(values, list(probabilities))
    return {f"p{100 * p:.6g}": float(value) for p, value in zip(probabilities, found, strict=True)}


def bootstrap_interval(
    samples: ArrayLike,
    *,
    statistic: Statistic = np.median,
    seed: int,
    n_boot: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return a statistic of one sample with its percentile bootstrap interval, in the samples' unit.

    The median of many samples has the interval of its order statistics, which is as wide and needs no resampling.

    Args:
        samples: at least 2 measurements.
        statistic: reduces an axis, ``numpy.median`` by default.
        seed: the same seed gives the same interval.
        n_boot: resamples.
        confidence: level of the interval.

    Raises:
        ValueError: fewer than 2 samples, NaN or infinity among them, or n_boot below 100.
    """
    values = _samples(samples, "samples", at_least=2)
    if statistic is np.median and values.size > _MANY:
        _check_confidence(confidence)
        point = float(np.median(values))
        ends = stats.quantile_test(values, q=point, p=0.5).confidence_interval(confidence)
        return Interval(point, float(ends.low), float(ends.high), confidence)
    return _bootstrap([values], lambda parts: parts[0], statistic, True, seed, n_boot, confidence)


def bootstrap_ratio(
    samples_a: ArrayLike,
    samples_b: ArrayLike,
    *,
    statistic: Statistic = np.median,
    paired: bool = False,
    seed: int,
    n_boot: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return ``statistic(a) / statistic(b)`` with its percentile bootstrap interval.

    Args:
        samples_a: at least 2 measurements, all above 0 (times or energies).
        samples_b: the same for the reference.
        statistic: reduces an axis, ``numpy.median`` by default.
        paired: element i of both was measured on the same item (hop, query), so both are resampled together.
        seed: the same seed gives the same interval.
        n_boot: resamples.
        confidence: level of the interval.

    Raises:
        ValueError: fewer than 2 samples, NaN, infinity or a value of 0 or less among them, paired samples of
            different lengths, or n_boot below 100.
    """
    parts = [_samples(samples_a, "samples_a", at_least=2), _samples(samples_b, "samples_b", at_least=2)]
    for name, values in zip(("samples_a", "samples_b"), parts, strict=True):
        if values.min() <= 0:
            raise ValueError(f"a ratio needs samples above 0, but the smallest of {name} is {values.min():g}")
    return _bootstrap(parts, lambda both: both[0] / both[1], statistic, paired, seed, n_boot, confidence)


def bootstrap_difference(
    samples_a: ArrayLike,
    samples_b: ArrayLike,
    *,
    statistic: Statistic = np.median,
    paired: bool = False,
    seed: int,
    n_boot: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return ``statistic(a) - statistic(b)`` with its percentile bootstrap interval, in the samples' unit.

    Arguments and errors are those of ``bootstrap_ratio``; samples may be 0 or negative.
    """
    parts = [_samples(samples_a, "samples_a", at_least=2), _samples(samples_b, "samples_b", at_least=2)]
    return _bootstrap(parts, lambda both: both[0] - both[1], statistic, paired, seed, n_boot, confidence)


def paired_ratio(numerators: ArrayLike, denominators: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Ratio of two quantities that were measured side by side a few times, such as joules of energy windows.

    The geometric mean of the pairs' ratios, with Student's interval of their logarithms. Resampling 2 or 3 pairs gives
    nothing beyond them, and the truth lies between them only every second or in 3 of 4 cases.

    Args:
        numerators: at least 2 positive numbers.
        denominators: as many positive numbers, measured beside them.
        confidence: coverage.

    Raises:
        ValueError: lists of different lengths, fewer than two pairs, or a number that is not positive and finite.
    """
    _check_confidence(confidence)
    pair = _samples(numerators, "numerators", at_least=2), _samples(denominators, "denominators", at_least=2)
    sizes = [part.size for part in pair]
    if len(set(sizes)) > 1:
        raise ValueError(f"paired samples need the same length, got {sizes[0]} and {sizes[1]}")
    least = min(float(part.min()) for part in pair)
    if least <= 0:
        raise ValueError(f"a ratio of positive numbers was asked for, and the least is {least:g}")
    logs = np.log(pair[0] / pair[1])
    mean, half = float(logs.mean()), float(np.std(logs, ddof=1)) / math.sqrt(logs.size)
    half *= float(stats.t.ppf((1 + confidence) / 2, logs.size - 1))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), confidence)


class _Combine(Protocol):
    def __call__(self, parts: list[Floats], /) -> Floats: ...


def _bootstrap(
    parts: list[Floats],
    combine: _Combine,
    statistic: Statistic,
    paired: bool,
    seed: int,
    n_boot: int,
    confidence: float,
) -> Interval:
    _check_confidence(confidence)
    if n_boot < 100:
        raise ValueError(f"n_boot={n_boot} is less than 100, too few for an interval")
    sizes = [part.size for part in parts]
    if paired and len(set(sizes)) > 1:
        raise ValueError(f"paired samples need the same length, got {sizes[0]} and {sizes[1]}")

    def estimate(*resampled: Floats, axis: int = -1) -> Floats:
        return combine([statistic(part, axis=axis) for part in resampled])

    # Percentile intervals: the bias-corrected ones need a jackknife, which breaks down for a median.
    found = stats.bootstrap(
        parts,
        estimate,
        paired=paired,
        vectorized=True,
        n_resamples=n_boot,
        batch=max(1, _BATCH_ELEMENTS // max(sizes)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(estimate(*parts)), float(found.low), float(found.high), confidence)


def _samples(samples: ArrayLike, name: str, *, at_least: int) -> Floats:
    values = cast(Floats, np.asarray(samples, dtype=np.float64))
    if values.ndim != 1:
        raise ValueError(f"{name} must be one list of numbers, got {values.ndim} dimensions")
    if values.size < at_least:
        raise ValueError(f"{name} holds {values.size} numbers, needed are at least {at_least}")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ValueError(f"{bad} of {values.size} numbers in {name} are NaN or infinite")
    return values


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not between 0 and 1")


def drift_share(steps: Sequence[float], values: Sequence[float]) -> float | None:
    """Return how far the mean of a series may be off, half a 95 % interval over the mean.

    Neighbours are alike: a host is slow for seconds. The series is cut into blocks of neighbours, whose means, without
    the trend over the steps, give Student's interval; of few long and of many short blocks the wider one counts.

    Args:
        steps: what the trend is over, such as the place of a hop in its sequence.
        values: in the order of measurement, with a mean above 0.

    Returns:
        None with fewer than two values per short block.

    Raises:
        ValueError: lists of different lengths, or a mean of 0 or below.
    """
    if len(steps) != len(values):
        raise ValueError(f"{len(steps)} steps do not go with {len(values)} values")
    if len(values) < 2 * max(_BLOCKS):
        return None
    at, taken = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    mean = float(taken.mean())
    if not mean > 0:
        raise ValueError(f"the mean of the values is {mean:g}, not above 0")
    centred = at - at.mean()
    slope = float(centred @ taken) / float(centred @ centred) if np.any(centred) else 0.0
    halves = []
    for count in _BLOCKS:
        blocks = [float(block.mean()) for block in np.array_split(taken - slope * centred, count)]
        # The trend was fitted to them as well.
        error = float(np.std(blocks, ddof=2)) / math.sqrt(count)
        halves.append(float(stats.t.ppf(0.975, count - 2)) * error)
    return max(halves) / mean
