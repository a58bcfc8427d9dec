"""Times of calls by formula and measured deviations, against what was measured and by hand."""

import math

import numpy as np
import pytest

from analysis.call_time import NO_DEVIATIONS, Deviations, call_time
from analysis.fit_file import Fitted, Parameter, Residual
from analysis.fit_time import TIME_PARAMETERS
from analysis.hop_cost import call_cost

PARAMETERS = [2e-6, 0.5e-12, 2e-15, 0.2, 1e-12, 0.0]


def fit_of(observed: dict[tuple[int, int, int], float]) -> Fitted:
    """A fit with these times in place of the formula's, by (m, n, k)."""
    residuals = []
    for (m, n, k), time_s in observed.items():
        formula = float(call_cost(PARAMETERS, n, k).at(m))
        residuals.append(Residual(m=m, n=n, k=k, observed=time_s, residual_share=1 - time_s / formula))
    points = {
        name: Parameter(point=value, ci95=(value, value))
        for name, value in zip(TIME_PARAMETERS, PARAMETERS, strict=True)
    }
    return Fitted(
        parameters=points,
        draws=[PARAMETERS],
        condition=None,
        residual_share_p50=0,
        residual_share_p90=0,
        residuals=residuals,
    )


SHAPES = ((1024, 3072), (4096, 4096), (28672, 4096))


def test_measured_calls_come_out_as_measured() -> None:
    generator = np.random.default_rng(0)
    observed = {
        (m, n, k): float(call_cost(PARAMETERS, n, k).at(m)) * generator.uniform(0.7, 1.4)
        for m in (1, 8, 64)
        for n, k in SHAPES
    }
    deviations = Deviations.of(fit_of(observed).residuals)
    for (m, n, k), time_s in observed.items():
        assert float(call_time(PARAMETERS, deviations, n, k).at(m)) == pytest.approx(time_s, rel=1e-9)


def test_between_measured_rows_the_deviation_is_a_line_and_stays_beyond() -> None:
    n, k = SHAPES[0]
    formula = call_cost(PARAMETERS, n, k)
    observed = {(m, n, k): float(formula.at(m)) + extra for m, extra in ((8, 1e-6), (16, 3e-6), (64, -1e-6))}
    found = call_time(PARAMETERS, Deviations.of(fit_of(observed).residuals), n, k)
    wanted = {0: 1e-6, 1: 1e-6, 8: 1e-6, 12: 2e-6, 16: 3e-6, 40: 1e-6, 64: -1e-6, 512: -1e-6}
    for m, extra in wanted.items():
        assert float(found.at(m)) - float(formula.at(m)) == pytest.approx(extra, abs=1e-12)


def test_near_shapes_take_part_of_it_and_far_ones_none() -> None:
    n, k = 4096, 4096
    slow = {(1, n, k): 1.5 * float(call_cost(PARAMETERS, n, k).at(1))}
    deviations = Deviations.of(fit_of(slow).residuals)
    # One octave away: weight 1 against a pull of 1, so half of the logarithm.
    assert deviations.factors(2 * n, k) == pytest.approx({1: math.sqrt(1.5)})
    assert deviations.factors(n, k // 2) == pytest.approx({1: math.sqrt(1.5)})
    assert deviations.factors(64 * n, k)[1] == pytest.approx(1.5 ** (1 / 37))
    shares = [deviations.factors(n * octaves, k)[1] for octaves in (1, 2, 4, 8)]
    assert shares == sorted(shares, reverse=True)


def test_opposite_neighbours_cancel() -> None:
    n, k = 4096, 4096
    formula = {size: float(call_cost(PARAMETERS, size, k).at(4)) for size in (n // 2, 2 * n)}
    deviations = Deviations.of(
        fit_of({(4, n // 2, k): 2 * formula[n // 2], (4, 2 * n, k): formula[2 * n] / 2}).residuals
    )
    assert deviations.factors(n, k) == pytest.approx({4: 1.0})


def test_without_deviations_the_formula_stays() -> None:
    n, k = SHAPES[1]
    for m in (0, 1, 40, 300):
        assert call_time(PARAMETERS, NO_DEVIATIONS, n, k).at(m) == call_cost(PARAMETERS, n, k).at(m)
