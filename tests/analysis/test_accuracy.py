"""Accuracy by depth, between variants and along solutions, against counts by hand and simulated answers."""

from collections.abc import Callable

import numpy as np
import pytest

from analysis.accuracy import accuracy_report, compare_accuracy
from analysis.accuracy_fit import DepthCount, Fragility, compare_decay, fit_decay
from analysis.stats import mcnemar_exact, wilson_interval
from profiler.record import AgreementSample, QuerySample, Sample

DEPTHS = (2, 4, 8, 16, 32)


def counts(a: float, q: float, *, n: int = 400, seed: int | None = None) -> list[DepthCount]:
    shares = [a * q**d for d in DEPTHS]
    if seed is None:
        return [DepthCount(d, round(n * share), n) for d, share in zip(DEPTHS, shares, strict=True)]
    drawn = np.random.default_rng(seed).binomial(n, shares)
    return [DepthCount(d, int(c), n) for d, c in zip(DEPTHS, drawn, strict=True)]


def answers(kernel: str, right: Callable[[int, int], bool], *, batch: int | None = None) -> list[Sample]:
    return [
        QuerySample(
            kernel=kernel, batch_size=batch, problem_id=f"{d}-{i}", operations=d, correct=right(d, i), hops=9
        )
        for d in DEPTHS
        for i in range(20)
    ]


def drift(kernel: str, kl: Callable[[int, int], float], *, problems: int = 6) -> list[Sample]:
    return [
        AgreementSample(
            kernel=kernel,
            problem_id=str(p),
            hop=3 * step + hop,
            step=step,
            kl_nats=kl(p, step),
            top1_same=bool(hop),
            logits_rel_error=0.1,
        )
        for p in range(problems)
        for step in range(4)
        for hop in range(3)
    ]


@pytest.mark.parametrize(("a", "q"), [(0.95, 0.97), (0.8, 0.99), (1.0, 0.95)])
def test_a_and_q_come_back(a: float, q: float) -> None:
    found = fit_decay(counts(a, q, n=4000))
    assert (found.a.point, found.q.point) == (pytest.approx(a, rel=0.01), pytest.approx(q, rel=0.002))
    assert found.compounds and found.at(10) == pytest.approx(a * q**10, rel=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(30):
        found = fit_decay(counts(0.9, 0.97, seed=seed))
        inside += found.q.low <= 0.97 <= found.q.high and found.a.low <= 0.9 <= found.a.high
    # Both at once, each at 95 %: 27 of 30 or more expected, 21 is 3.5 standard deviations below.
    assert inside >= 21


def test_depth_without_an_effect_is_not_called_compounding() -> None:
    false = sum(fit_decay(counts(0.85, 1.0, seed=seed)).compounds for seed in range(30))
    assert false <= 6
    flat = fit_decay(counts(0.85, 1.0))
    assert flat.q.point == pytest.approx(1, abs=1e-3) and flat.q.high == 1 and flat.p_flat > 0.4


def test_all_right_and_all_wrong_have_fits_too() -> None:
    right = fit_decay([DepthCount(d, 50, 50) for d in DEPTHS])
    assert (right.a.point, right.q.point) == (1, 1) and right.a.low < 1 and not right.compounds
    wrong = fit_decay([DepthCount(d, 0, 50) for d in DEPTHS])
    assert wrong.at(2) < 0.01


def test_two_variants_lose_once_or_with_every_operation() -> None:
    base = counts(0.98, 0.99, n=2000, seed=1)
    once = compare_decay(base, counts(0.85, 0.99, n=2000, seed=2))
    assert once.answer is Fragility.CONSTANT_LOSS and once.loss_ratio == pytest.approx(0.85 / 0.98, rel=0.03)
    every = compare_decay(base, counts(0.98, 0.96, n=2000, seed=3))
    assert every.answer is Fragility.COMPOUNDING and every.decay_ratio == pytest.approx(0.96 / 0.99, rel=0.01)
    assert "compounding" in every.sentence and "p = " in every.sentence
    same = compare_decay(base, base)
    assert same.answer is Fragility.NO_DIFFERENCE and (same.p_constant, same.p_compounding) == (
        pytest.approx(1, abs=0.01),
        pytest.approx(1, abs=0.01),
    )
    assert compare_decay(counts(0.85, 0.99, n=2000), base).answer is Fragility.CONSTANT_GAIN
    assert compare_decay(counts(0.98, 0.96, n=2000), base).answer is Fragility.LESS_COMPOUNDING


def test_equal_variants_rarely_differ() -> None:
    found = [compare_decay(counts(0.9, 0.98, seed=i), counts(0.9, 0.98, seed=500 + i)) for i in range(40)]
    assert sum(f.answer is not Fragility.NO_DIFFERENCE for f in found) <= 9


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: fit_decay([DepthCount(3, 1, 2)]), r"at least 2 depths, got \[3\]"),
        (lambda: fit_decay([DepthCount(3, 1, 2)] * 2), "given twice"),
        (lambda: compare_decay(counts(0.9, 0.9), counts(0.9, 0.9)[:3]), "needs the same depths"),
        (lambda: DepthCount(1, 3, 2), "correct=3 of n=2"),
        (lambda: DepthCount(-1, 1, 2), "depth=-1"),
        (lambda: accuracy_report([], baseline="bf16"), "hold 0 of them"),
    ],
)
def test_bad_counts_are_refused(bad: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bad()


def test_a_report_counts_pairs_and_depths() -> None:
    base = answers("bf16", lambda d, i: i >= d // 16)
    variant = answers("fused_nf4", lambda d, i: i >= d // 4)
    found = accuracy_report([*variant, *base], baseline="bf16")
    native, quantized = found.variants
    assert (native.kernel, native.against, native.fragility) == ("bf16", None, None)
    assert native.accuracy == wilson_interval(97, 100) and quantized.accuracy == wilson_interval(85, 100)
    assert [d.count.correct for d in quantized.by_depth] == [20, 19, 18, 16, 12]
    assert quantized.against is not None
    assert (quantized.against.only_first, quantized.against.only_second) == (12, 0)
    assert quantized.against.p_value == mcnemar_exact(12, 0)
    deepest = quantized.by_depth[-1]
    assert deepest.against is not None and deepest.against.only_first == 6
    assert deepest.accuracy == wilson_interval(12, 20)
    assert quantized.fragility is not None and quantized.fragility.answer is Fragility.COMPOUNDING
    assert found.notes == ()


def test_what_cannot_be_paired_is_said() -> None:
    base = answers("bf16", lambda d, i: True)
    found = accuracy_report([*base[:50], *answers("fused_nf4", lambda d, i: True)], baseline="bf16")
    assert found.variants[1].against is None
    assert found.notes == ("fused_nf4: 50 problems were answered by only one of it and bf16",)
    alone = accuracy_report(answers("fused_nf4", lambda d, i: i > 3), baseline="bf16")
    assert alone.notes == ("fused_nf4: no answers of bf16 to compare with",)
    shallow = [s for s in base if isinstance(s, QuerySample) and s.operations == 2]
    assert accuracy_report(shallow, baseline="bf16").variants[0].decay is None


def test_drift_is_averaged_over_problems_and_its_growth_is_seen() -> None:
    rising = drift("fused_nf4", lambda p, step: 0.01 * (1 + step) * (1 + 0.1 * p))
    found = accuracy_report(rising, baseline="bf16").variants[0].drift
    assert found is not None and found.grows is True
    second = found.steps[1]
    assert (second.step, second.problems, second.positions) == (1, 6, 18)
    assert second.kl_nats_mean == pytest.approx(0.02 * 1.25)
    assert second.kl_nats_ci95 is not None and second.kl_nats_ci95[0] < 0.025 < second.kl_nats_ci95[1]
    assert second.top1_share == pytest.approx(2 / 3)
    level = accuracy_report(drift("x", lambda p, s: 0.01 + 0.001 * ((p + s) % 2)), baseline="bf16")
    assert level.variants[0].drift is not None and level.variants[0].drift.grows is False
    one = accuracy_report(drift("x", lambda p, s: 0.1, problems=1), baseline="bf16").variants[0].drift
    assert one is not None and (one.grows, one.steps[0].kl_nats_ci95) == (None, None)


def test_two_runs_are_compared_on_common_problems() -> None:
    first = answers("fused_nf4", lambda d, i: i > 2, batch=8)
    second = answers("fused_nf4", lambda d, i: i > 4, batch=8)[:60]
    found = compare_accuracy([*first, *answers("bf16", lambda d, i: True)], second)
    assert set(found) == {("fused_nf4", 8)}
    test = found["fused_nf4", 8]
    assert (test.problems, test.only_first, test.only_second) == (60, 6, 0)
    assert test.p_value == mcnemar_exact(6, 0)
