"""Parameters come back from simulated noisy sweeps, within their intervals, and what is not there is named."""

import dataclasses

import numpy as np
import pytest
from fit_world import coverage

from analysis.fit_solver import linear_problem, solve
from analysis.fit_time import TIME_PARAMETERS, Cell, call_s, fit_time

TRUTH = np.array([4.0e-6, 4.5e-13, 2.6e-15, 0.3, 2.5e-12, 1.3e-9])
SHAPES = ((1024, 3072), (1024, 1024), (6144, 1024), (3072, 2048), (4096, 4096), (4096, 14336), (28672, 4096))
ROWS = (1, 8, 16, 32, 64, 128, 256)
NOISE = 0.02


def simulated(
    seed: int,
    *,
    noise: float = NOISE,
    se: float | None = None,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    ms: tuple[int, ...] = ROWS,
) -> list[Cell]:
    random = np.random.default_rng(seed)
    grid = [(m, n, k) for n, k in shapes for m in ms]
    m, n, k = np.array(grid, dtype=np.float64).T
    times = call_s(TRUTH[None], m, n, k)[0] * (1 + noise * random.standard_normal(len(grid)))
    return [Cell(*cell, float(t), noise if se is None else se) for cell, t in zip(grid, times, strict=True)]


def covered(draws: int, *, se: float | None = None) -> tuple[dict[str, float], dict[str, float]]:
    solutions = [fit_time(simulated(seed, se=se), seed=seed, n_draws=100).solution for seed in range(draws)]
    return coverage(dict(zip(TIME_PARAMETERS, TRUTH, strict=True)), solutions)


@pytest.mark.slow
@pytest.mark.parametrize(("se", "least"), [(NOISE, 0.93), (1e-4, 0.89)], ids=["repeats", "residuals alone"])
def test_three_hundred_simulated_sweeps_are_covered_at_95_percent(se: float, least: float) -> None:
    held, width = covered(300, se=se)
    assert min(held.values()) >= least, held
    # An interval that is right because it is huge would be no answer.
    assert max(width.values()) < 1.6, width


def test_thirty_simulated_sweeps_are_covered() -> None:
    held, width = covered(30)
    assert np.mean(list(held.values())) >= 0.93, held
    assert max(width.values()) < 2, width


def test_without_noise_the_parameters_come_back() -> None:
    solution = fit_time(simulated(0, noise=0.0), seed=0).solution
    assert solution.point == pytest.approx(TRUTH, rel=1e-5)
    assert np.abs(solution.residuals).max() < 1e-6


def test_call_time_by_hand() -> None:
    parameters = np.array([[10.0, 1.0, 0.5, 0.25, 0.1, 0.0]])
    # n k = 6: a pass takes 6, a row 3; at m = 1 memory is the longer, at m = 4 arithmetic (12).
    times = call_s(parameters, np.array([1.0, 4.0]), np.array([2.0, 2.0]), np.array([3.0, 3.0]))
    assert times[0] == pytest.approx([10 + 6 + 0.25 * 3 + 0.5, 10 + 12 + 0.25 * 6 + 4 * 0.5])
    # A depth of 4 per element of k makes the pass of this narrow matrix take 12.
    parameters[0, 5] = 4.0
    narrow = call_s(parameters, np.array([1.0]), np.array([2.0]), np.array([3.0]))
    assert narrow[0] == pytest.approx([10 + 12 + 0.25 * 3 + 0.5])


def test_depth_that_no_shape_shows_is_zero_and_no_trouble() -> None:
    wide = tuple(shape for shape in SHAPES if shape[0] > 2000)
    fit = fit_time(simulated(5, shapes=wide), seed=0, n_draws=50)
    assert fit.solution.interval("depth_s_per_k").point * 1024 < 4.5e-13 * 6144 * 1024
    assert fit.solution.condition < 300


def test_the_same_seed_gives_the_same_draws_and_another_seed_others() -> None:
    cells = simulated(1)
    first, again, other = (fit_time(cells, seed=seed, n_draws=30).solution.draws for seed in (7, 7, 8))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("shapes", "ms", "held"),
    [
        (SHAPES, (1,), {"row_s_per_weight", "unhidden", "edge_s_per_element"}),
        (SHAPES, (1, 256), {"unhidden"}),
        (SHAPES[-1:], ROWS, {"launch_s", "edge_s_per_element", "depth_s_per_k"}),
    ],
)
def test_what_the_cells_cannot_show_is_held_and_named(
    shapes: tuple[tuple[int, int], ...], ms: tuple[int, ...], held: set[str]
) -> None:
    fit = fit_time(simulated(2, shapes=shapes, ms=ms), seed=0, n_draws=30)
    assert set(fit.not_identified) == held
    assert all("needed: " in sentence for sentence in fit.not_identified.values())
    assert all(fit.solution.interval(name).high == 0 for name in held)


def test_parameters_that_trade_are_warned_of() -> None:
    # Two sizes that differ by a per cent: launch and pass cannot be told apart.
    fit = fit_time(simulated(3, shapes=((4096, 4096), (4096, 4128)), ms=(1, 2, 4)), seed=0, n_draws=50)
    assert any("condition number" in warning and "needed" in warning for warning in fit.warnings)


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="2 observations cannot determine 2 parameters"):
        fit_time(simulated(0, shapes=SHAPES[:2], ms=(1,)), seed=0)
    with pytest.raises(ValueError, match="got 0"):
        fit_time([], seed=0)


def test_nan_is_refused() -> None:
    cells = simulated(0)
    cells[3] = dataclasses.replace(cells[3], time_s=float("nan"))
    with pytest.raises(ValueError, match=f"1 of {len(cells)} observations are not finite"):
        fit_time(cells, seed=0)


def test_bounds_hold_in_every_draw() -> None:
    columns = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0], [1.0, 4.0]])
    found = solve(
        linear_problem(("a", "b"), columns, np.array([4.0, 3.0, 2.2, 0.9]), np.full(4, 0.1)), seed=0
    )
    # The unbounded line falls; at least 0 leaves the slope at 0.
    assert found.point[1] == 0 and found.draws.min() >= 0
    assert found.interval("b").low == 0


def test_a_linear_fit_is_the_weighted_least_squares_solution() -> None:
    random = np.random.default_rng(5)
    columns = random.uniform(1, 3, (9, 2))
    observed = columns @ np.array([2.0, 5.0]) + random.normal(0, 0.1, 9)
    scale = random.uniform(1, 4, 9)
    found = solve(linear_problem(("a", "b"), columns, observed, np.zeros(9), scale), seed=0)
    wanted, *_ = np.linalg.lstsq(columns / scale[:, None], observed / scale, rcond=None)
    assert found.point == pytest.approx(wanted, rel=1e-9)


def test_draws_agree_with_full_refits() -> None:
    cells = simulated(4)
    solution = fit_time(cells, seed=0, n_draws=200).solution
    predicted = call_s(solution.point[None], *np.array([(c.m, c.n, c.k) for c in cells], dtype=float).T)[0]
    random = np.random.default_rng(0)
    points = []
    for _ in range(30):
        moved = predicted * (1 + NOISE * random.standard_normal(len(cells)))
        again = [dataclasses.replace(c, time_s=float(t)) for c, t in zip(cells, moved, strict=True)]
        points.append(fit_time(again, seed=0, n_draws=20).solution.point)
    ratio = solution.draws.std(axis=0) / np.std(points, axis=0)
    # The larger of residual and spread of the repeats moves each cell, so draws are a little wider than refits.
    assert ratio.min() > 0.7 and ratio.max() < 2, ratio


def test_a_column_that_nothing_depends_on_is_refused() -> None:
    with pytest.raises(ValueError, match="no observation depends on b"):
        linear_problem(("a", "b"), np.array([[1.0, 0.0]] * 4), np.ones(4), np.zeros(4))


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="n_draws=19"):
        fit_time(simulated(0), seed=0, n_draws=19)
