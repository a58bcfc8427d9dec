"""Bounded least squares with intervals: the point, its draws, and what the data do not determine.

Residuals are relative to the prediction, because a prediction is judged in per cent, or to a scale that the caller
gives. The intervals come from a wild bootstrap over the observations: each is moved by its own leverage-corrected
residual, or by the spread of its repeats and its leverage's share of the common misfit where that is larger. Repeats
alone would say how steady the clock is, not how well the model describes the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import least_squares

from analysis.stats import Interval

Floats = NDArray[np.float64]
N_DRAWS = 200
_CONFIDENCE = 0.95
# Above this condition number two parameters trade against each other along a valley that noise can walk.
CONDITION_LIMIT = 300.0
_STEPS = 25
_LEVERAGE_LIMIT = 0.95
# A parameter that moves no prediction by this share is 0.
_NOTHING = 1e-9
_SETTLED = 1e-10


@dataclass(frozen=True)
class Problem:
    """Observations and a model that is to describe them.

    Attributes:
        names: of the P parameters.
        predict: parameters [d, p] to predictions [d, n].
        jacobian: parameters [d, p] to derivatives [d, n, p].
        observed: [n]; above 0 where no scale is given.
        relative_se: standard error of each observation, over its scale, [n].
        starts: one or more starting points [s, p].
        upper: upper bounds [p]; every parameter is at least 0.
        scale: what residuals are divided by, [n]; None for the prediction itself.
    """

    names: tuple[str, ...]
    predict: Callable[[Floats], Floats]
    jacobian: Callable[[Floats], Floats]
    observed: Floats
    relative_se: Floats
    starts: Floats
    upper: Floats
    scale: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        count = len(self.observed)
        if count <= len(self.names):
            raise ValueError(
                f"{count} observations cannot determine {len(self.names)} parameters and an error"
            )
        if not np.all(np.isfinite(self.observed)):
            raise ValueError(f"{np.sum(~np.isfinite(self.observed))} of {count} observations are not finite")
        if self.scale is None and not np.all(self.observed > 0):
            raise ValueError(f"observations must be above 0, got {self.observed.min():g}")


@dataclass(frozen=True)
class Solution:
    """A fit.

    Attributes:
        names: of the parameters.
        point: [p].
        draws: [d, p], bootstrap draws of all parameters together.
        residuals: (predicted - observed) / scale, [n].
        condition: condition number of the Jacobian with columns of length 1.
        valley: the parameter with the largest part in the least determined direction, and its partner.
    """

    names: tuple[str, ...]
    point: Floats
    draws: Floats
    residuals: Floats
    condition: float
    valley: tuple[str, ...]

    def interval(self, name: str) -> Interval:
        """Return a parameter with its percentile interval at 95 %, widened to hold the point."""
        column = self.names.index(name)
        return interval_of(float(self.point[column]), self.draws[:, column])


def interval_of(point: float, draws: Floats) -> Interval:
    """Return a point with the 95 % percentile interval of its draws, widened to hold the point."""
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(point, min(float(low), point), max(float(high), point), _CONFIDENCE)


def linear_problem(
    names: Sequence[str], columns: Floats, observed: Floats, relative_se: Floats, scale: Floats | None = None
) -> Problem:
    """Return the problem ``observed = columns @ parameters`` with parameters of at least 0.

    Args:
        names: of the P parameters.
        columns: [n, p]; a column is not all zero.
        observed: [n]; above 0 where no scale is given.
        relative_se: standard error over the scale, [n].
        scale: what residuals are divided by, [n]; None for the prediction.

    Raises:
        ValueError: a column of zeros, or fewer observations than parameters and one.
    """
    empty = [name for name, column in zip(names, columns.T, strict=True) if not np.any(column)]
    if empty:
        raise ValueError(f"no observation depends on {', '.join(empty)}")
    start = np.array([float(np.median(np.abs(observed))) / len(names) / float(c.max()) for c in columns.T])
    return Problem(
        tuple(names),
        lambda p: p @ columns.T,
        lambda p: np.broadcast_to(columns, (len(p), *columns.shape)),
        observed,
        relative_se,
        start[None],
        np.full(len(names), np.inf),
        scale,
    )


def solve(problem: Problem, *, seed: int, n_draws: int = N_DRAWS) -> Solution:
    """Fit a problem and draw its parameters.

    Args:
        problem: what to fit.
        seed: the same seed gives the same draws.
        n_draws: bootstrap draws, at least 20.

    Raises:
        ValueError: fewer than 20 draws.
    """
    if n_draws < 20:
        raise ValueError(f"n_draws={n_draws} is less than 20, too few for an interval")
    scale = problem.observed if problem.scale is None else problem.scale
    point = _point(problem, scale, problem.starts)
    if problem.scale is None:
        # Dividing by the observation would favour those that noise made small.
        scale = problem.predict(point[None])[0]
        point = _point(problem, scale, point[None])
    predicted = problem.predict(point[None])[0]
    residuals = (predicted - problem.observed) / scale
    jacobian = problem.jacobian(point[None])[0] / scale[:, None]
    used = point > 0
    freedom = len(residuals) - int(np.sum(used))
    spread = _spread(residuals, _leverage(jacobian[:, used]), problem.relative_se, freedom)
    noise = np.random.default_rng(seed).standard_normal((n_draws, len(spread)))
    # Residuals are few and only estimate the noise, as Student's distribution knows and the normal one does not.
    noise *= stats.t.ppf(0.5 + _CONFIDENCE / 2, freedom) / stats.norm.ppf(0.5 + _CONFIDENCE / 2)
    # Around the prediction and not the observation: residuals are then the noise of the draw.
    moved = predicted + scale * spread * noise
    condition, valley = _condition(jacobian, problem.names)
    draws = _descend(problem, np.repeat(point[None], n_draws, axis=0), moved, scale)
    return Solution(problem.names, point, draws, residuals, condition, valley)


def _point(problem: Problem, scale: Floats, starts: Floats) -> Floats:
    def error(p: Floats) -> Floats:
        gap: Floats = (problem.predict(p[None])[0] - problem.observed) / scale
        return gap

    def slope(p: Floats) -> Floats:
        rates: Floats = problem.jacobian(p[None])[0] / scale[:, None]
        return rates

    # Every start goes down at once; where max() has kinks some end in a side valley, and the lowest is polished.
    tried = _descend(problem, starts, np.repeat(problem.observed[None], len(starts), axis=0), scale)
    costs = np.sum(((problem.predict(tried) - problem.observed) / scale) ** 2, axis=1)
    best = tried[int(np.argmin(costs))]
    x_scale = np.where(best > 0, best, np.where(starts[0] > 0, starts[0], 1e-30))
    # Strictly inside the box, as the solver asks; it may end on an edge.
    inside = np.clip(best, 1e-9 * x_scale, problem.upper - 1e-9 * np.minimum(problem.upper, 1.0))
    bounds = (np.zeros_like(best), problem.upper)
    polished = least_squares(error, inside, slope, bounds=bounds, x_scale=x_scale, xtol=1e-12, ftol=1e-12)
    # On a kink the solver's trust region can end above where it began.
    best = polished.x if 2 * polished.cost < costs.min() else best
    # A projected descent from the solver's end puts what is at a bound exactly there.
    point: Floats = _descend(problem, best[None], problem.observed[None], scale)[0]
    part = np.abs(problem.jacobian(point[None])[0] / scale[:, None]).max(axis=0) * point
    kept: Floats = np.where(part < _NOTHING, 0.0, point)
    return kept


def _descend(problem: Problem, starts: Floats, observed: Floats, scale: Floats) -> Floats:
    """Levenberg-Marquardt with projection on the box, all rows at once: starts [d, p], observed [d, n]."""
    count, size = starts.shape
    p = starts
    damping = np.full(count, 1e-4)
    error = (problem.predict(p) - observed) / scale
    cost = np.sum(error**2, axis=1)
    for _ in range(_STEPS):
        jac = problem.jacobian(p) / scale[:, None]
        length = np.sqrt(np.sum(jac**2, axis=1)) + 1e-300
        jac = jac / length[:, None, :]
        gradient = np.einsum("dnp,dn->dp", jac, error)
        fixed = ((p <= 0) & (gradient > 0)) | ((p >= problem.upper) & (gradient < 0))
        jac = np.where(fixed[:, None, :], 0.0, jac)
        normal = np.einsum("dnp,dnq->dpq", jac, jac)
        normal += damping[:, None, None] * np.eye(size) + fixed[:, :, None] * np.eye(size)
        step = np.linalg.solve(normal, np.where(fixed, 0.0, gradient)[:, :, None])[:, :, 0] / length
        tried = np.clip(p - step, 0.0, problem.upper)
        new_error = (problem.predict(tried) - observed) / scale
        new_cost = np.sum(new_error**2, axis=1)
        better = new_cost <= cost
        settled = np.all(np.abs(new_cost - cost) <= _SETTLED * cost)
        p = np.where(better[:, None], tried, p)
        error = np.where(better[:, None], new_error, error)
        cost = np.where(better, new_cost, cost)
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-12, 1e3)
        if settled:
            break
    return p


def _spread(residuals: Floats, leverage: Floats, relative_se: Floats, freedom: int) -> Floats:
    """How far each observation moves in a draw.

    The fit runs through one that alone determines a parameter, whose own residual then says nothing of its error. As
    far as its leverage goes it has the misfit of all, which is what their repeats do not explain.
    """
    unexplained = np.sum(residuals**2 - (1 - leverage) * relative_se**2)
    misfit = max(0.0, float(unexplained)) / freedom
    spread: Floats = np.maximum(
        np.abs(residuals) / (1 - leverage), np.sqrt(relative_se**2 + leverage * misfit)
    )
    return spread


def _leverage(jacobian: Floats) -> Floats:
    if not jacobian.shape[1]:
        return np.zeros(len(jacobian))
    orthogonal, _ = np.linalg.qr(jacobian / (np.linalg.norm(jacobian, axis=0) + 1e-300))
    leverage: Floats = np.minimum(np.sum(orthogonal**2, axis=1), _LEVERAGE_LIMIT)
    return leverage


def _condition(jacobian: Floats, names: Sequence[str]) -> tuple[float, tuple[str, ...]]:
    # A parameter at 0 that no cell is near enough to show has no column, and no partner to trade with.
    length = np.linalg.norm(jacobian, axis=0)
    seen = np.flatnonzero(length > 0)
    _, singular, right = np.linalg.svd(jacobian[:, seen] / length[seen], full_matrices=False)
    order = seen[np.argsort(-np.abs(right[-1]))[:2]]
    condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf")
    return condition, tuple(names[i] for i in order)
