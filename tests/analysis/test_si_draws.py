"""Draws of the Sustainability Index: what noise of answers, hops and energy windows makes of it."""

import numpy as np
import pytest

from analysis import si_draws
from analysis.si_draws import VariantSamples, draw_index
from analysis.stats import paired_ratio
from profiler.record import VariantResult


def row(kernel: str) -> VariantResult:
    return VariantResult(
        kernel=kernel,
        implementation="torch",
        mode="generate",
        batch_size=1,
        problems=4,
        hops=8,
        tokens=8,
        tps=100.0,
        peak_memory_bytes=1000,
        t_si=1.0,
        e_si=1.0,
        s_si=1.0,
    )


def drawn(own_j, native_j) -> np.ndarray:
    own, native = (VariantSamples(joules=dict(enumerate(j))) for j in (own_j, native_j))
    found = draw_index(row("fused_nf4"), row("bf16"), own, native)
    assert set(found.fixed) == {"trust", "throughput"} | (set() if len(own_j) > 1 else {"energy"})
    return found.draws


def test_few_windows_leave_the_index_as_uncertain_as_their_ratio_is() -> None:
    own, native = (5.0, 5.2, 5.1), (10.0, 10.1, 10.6)
    # Trust and efficiency do not move, so that the index is what the weights make of S alone.
    draws = drawn(own, native)
    ratio = paired_ratio(native, own)
    low, high = np.quantile(draws, [0.025, 0.975])
    ends = [0.34 + 0.33 + 0.33 * end for end in (ratio.low, ratio.high)]
    assert (low, high) == (pytest.approx(ends[0], abs=0.05), pytest.approx(ends[1], abs=0.05))
    assert float(np.median(draws)) == pytest.approx(0.67 + 0.33 * ratio.point, abs=0.01)


def test_a_single_window_has_no_noise_and_is_named() -> None:
    assert np.ptp(drawn((5.0,), (10.0,))) == 0


def test_many_hops_are_as_uncertain_as_their_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    # Hops that a host holds up now and then, of batches of which sequences end.
    seconds = random.lognormal(0, 0.6, 3000)
    hops = [(int(tokens), float(s)) for tokens, s in zip(random.integers(1, 65, 3000), seconds, strict=True)]
    normal = si_draws._around_one(hops, 1)
    monkeypatch.setattr(si_draws, "_MANY", len(hops) + 1)
    drawn_hops = si_draws._around_one(hops, 2)
    assert normal is not None and drawn_hops is not None
    assert normal.shape == drawn_hops.shape == (si_draws.DRAWS,)
    # 400 draws know a spread to 3.5 %.
    assert normal.std() == pytest.approx(drawn_hops.std(), rel=0.15)
    assert float(normal.mean()) == pytest.approx(1, abs=4 * float(normal.std()) / 20)
