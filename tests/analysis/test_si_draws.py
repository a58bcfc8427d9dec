"""Draws of the Sustainability Index: what noise of answers, hops and energy windows makes of it."""

import numpy as np
import pytest

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
