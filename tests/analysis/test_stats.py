import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.stats import (
    Interval,
    bootstrap_difference,
    bootstrap_interval,
    bootstrap_ratio,
    discordant_pairs,
    drift_share,
    mcnemar_exact,
    paired_ratio,
    quantiles,
    wilson_interval,
)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_closed_form(counts: tuple[int, int]) -> None:
    correct, n = counts
    z = float(stats.norm.ppf(0.975))
    rate = correct / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    found = wilson_interval(correct, n)
    assert found.point == rate
    assert found.low == pytest.approx(middle - half, abs=1e-9)
    assert found.high == pytest.approx(middle + half, abs=1e-9)


def test_wilson_at_the_ends_and_errors() -> None:
    assert wilson_interval(0, 20).low == 0
    assert 0.83 < wilson_interval(20, 20).low < wilson_interval(20, 20).high == 1
    with pytest.raises(ValueError, match="n=0"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="correct=4 is not between 0 and n=3"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="confidence=95"):
        wilson_interval(1, 3, confidence=95)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(5, 5) == 1
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar_exact(1, 7) == mcnemar_exact(7, 1) == pytest.approx(2 * (1 + 8) / 2**8)
    with pytest.raises(ValueError, match="b=-1"):
        mcnemar_exact(-1, 2)


def test_discordant_pairs_need_the_same_items() -> None:
    first = {"a": True, "b": True, "c": False, "d": True}
    second = {"d": True, "c": True, "b": False, "a": False}
    assert discordant_pairs(first, second) == (2, 1)
    with pytest.raises(ValueError, match="2 of them"):
        discordant_pairs({"a": True, "b": True}, {"a": True, "x": True})
    with pytest.raises(ValueError, match="at least 1"):
        discordant_pairs({}, {})


def test_quantiles_are_named() -> None:
    found = quantiles(range(101), (0.05, 0.5, 0.999))
    assert found == {"p5": 5.0, "p50": 50.0, "p99.9": pytest.approx(99.9)}
    with pytest.raises(ValueError, match="probability 50"):
        quantiles([1.0], (50,))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "holds 0 numbers"),
        ([1.0], "holds 1 numbers, needed are at least 2"),
        ([1.0, math.nan, math.inf], "2 of 3 numbers"),
        ([[1.0, 2.0]], "2 dimensions"),
    ],
)
def test_samples_that_say_nothing_are_refused(samples: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(samples, seed=0)
    with pytest.raises(ValueError, match=message):
        bootstrap_ratio([1.0, 2.0], samples, seed=0)


def test_bootstrap_errors() -> None:
    with pytest.raises(ValueError, match="smallest of samples_b is 0"):
        bootstrap_ratio([1, 2], [0, 1], seed=0)
    with pytest.raises(ValueError, match="same length, got 2 and 3"):
        bootstrap_ratio([1, 2], [1, 2, 3], seed=0, paired=True)
    with pytest.raises(ValueError, match="n_boot=10"):
        bootstrap_ratio([1, 2], [1, 2], seed=0, n_boot=10)


def test_ratio_of_medians_matches_theory_and_is_reproducible() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(1.8, 0.1, 501), rng.normal(1.0, 0.05, 377)
    found = bootstrap_ratio(a, b, seed=7)
    assert found == bootstrap_ratio(a, b, seed=7)
    assert found.point == np.median(a) / np.median(b)
    # The median of n normal values scatters by 1.253 sigma / sqrt(n); relative errors add in squares.
    half = 1.96 * 1.253 * found.point * math.hypot(0.1 / 1.8 / math.sqrt(501), 0.05 / math.sqrt(377))
    assert found.high - found.low == pytest.approx(2 * half, rel=0.35)
    assert found.low < 1.8 < found.high


def test_unpaired_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for seed in range(100):
        found = bootstrap_ratio(
            rng.gamma(9, 0.2, 60), rng.gamma(9, 0.1, 45), statistic=np.mean, seed=seed, n_boot=300
        )
        hits += found.low <= 2 <= found.high
    assert 86 <= hits <= 100


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(5)
    shared = rng.uniform(1, 10, 200)
    a, b = 1.1 * shared * rng.normal(1, 0.001, 200), shared
    paired = bootstrap_ratio(a, b, seed=1, paired=True, statistic=np.mean)
    unpaired = bootstrap_ratio(a, b, seed=1, statistic=np.mean)
    assert paired.low == pytest.approx(1.1, rel=1e-3)
    assert unpaired.high - unpaired.low > 50 * (paired.high - paired.low)
    difference = bootstrap_difference(a, b, seed=1, paired=True, statistic=np.mean)
    assert difference.low < 0.1 * shared.mean() < difference.high


def test_long_samples_are_resampled_in_batches() -> None:
    found = bootstrap_interval(np.arange(60_001), seed=0, n_boot=200, statistic=np.mean)
    assert found.point == 30_000
    assert found.low < 30_000 < found.high


def test_the_median_of_many_samples_has_the_interval_that_resampling_gives() -> None:
    values = np.random.default_rng(3).gamma(5.0, 1e-4, 50_001)
    exact = bootstrap_interval(values, seed=0)
    resampled = bootstrap_interval(values[:50_000], seed=0, n_boot=400)
    assert exact.point == np.median(values)
    for own, other in ((exact.low, resampled.low), (exact.high, resampled.high)):
        assert own - exact.point == pytest.approx(other - resampled.point, rel=0.25)


def test_the_drift_of_neighbours_widens_a_mean_and_a_trend_does_not() -> None:
    rng = np.random.default_rng(7)
    noise = rng.normal(0, 0.1, 300)
    steps = list(range(300))
    steady = drift_share(steps, list(10 + noise))
    assert steady is not None and 0 < steady < 0.005
    trend = drift_share(steps, list(10 + noise + 0.01 * np.arange(300)))
    assert trend == pytest.approx(steady, rel=0.3)
    slow = np.where((np.arange(300) // 30) % 3 == 0, 5.0, 0.0)
    slowed = drift_share(steps, list(10 + noise + slow))
    # Ten blocks at 10 and 15 in the ratio 6 : 4 deviate by 2.58 and 2.74 with the trend's freedom.
    assert slowed == pytest.approx(2.306 * 2.74 / math.sqrt(10) / 12, rel=0.1)
    assert drift_share(steps[:19], [1.0] * 19) is None and drift_share([0] * 20, [1.0] * 20) == 0
    with pytest.raises(ValueError, match="2 steps do not go with 1 values"):
        drift_share([1, 2], [1.0])
    with pytest.raises(ValueError, match="not above 0"):
        drift_share(steps, [0.0] * 300)


def test_the_share_of_drift_holds_the_mean_of_another_window() -> None:
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(300):
        # Blocks of 60 hops are alike: longer than the 30 of the estimate.
        levels = np.repeat(rng.normal(10, 1, 5), 60) + rng.normal(0, 0.3, 300)
        share = drift_share(list(range(300)), list(levels))
        assert share is not None
        held += abs(levels.mean() - 10) <= share * levels.mean()
    assert held / 300 > 0.8


def test_interval_refuses_nonsense_and_changes_units() -> None:
    assert Interval(2, 1, 3).scaled(-1e3) == Interval(-2000, -3000, -1000)
    assert str(Interval(1.8, 1.7049, 1.9)) == "1.8 [1.7, 1.9]"
    with pytest.raises(ValueError, match="low=2 is above high=1"):
        Interval(1.5, 2, 1)
    with pytest.raises(ValueError, match="finite"):
        Interval(math.nan, 0, 1)
    with pytest.raises(ValueError, match="confidence=1"):
        Interval(1, 0, 2, 1)


def test_a_ratio_of_two_or_three_pairs_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    for pairs in (2, 3, 5):
        hits = 0
        for _ in range(600):
            shared = rng.lognormal(0, 0.3, pairs)
            a, b = 1.2 * shared * rng.lognormal(0, 0.05, pairs), shared * rng.lognormal(0, 0.05, pairs)
            found = paired_ratio(a, b)
            hits += found.low <= 1.2 <= found.high
            assert found.low < found.point < found.high
        assert 0.925 * 600 <= hits <= 0.98 * 600, (pairs, hits)


def test_paired_ratio_by_hand_and_what_it_refuses() -> None:
    found = paired_ratio([2.0, 8.0], [1.0, 2.0])
    # Logs 0.6931 and 1.3863: mean 1.0397, standard error 0.34657, and Student's 12.706 with one degree of freedom.
    assert found.point == pytest.approx(math.sqrt(8.0))
    assert math.log(found.high) == pytest.approx(1.0397 + 12.706 * 0.34657, rel=1e-3)
    assert math.log(found.low) == pytest.approx(1.0397 - 12.706 * 0.34657, rel=1e-3)
    with pytest.raises(ValueError, match="same length, got 2 and 3"):
        paired_ratio([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="the least is 0"):
        paired_ratio([1, 2], [0, 1])
    with pytest.raises(ValueError, match="holds 1 numbers, needed are at least 2"):
        paired_ratio([1], [1])
