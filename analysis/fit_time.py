"""The time of one kernel call from micro-benchmarks: what a pass costs, what a row costs, how much is hidden.

    t(m; n, k) = launch + max(W, m x) + unhidden * min(W, m x) + m * edge * (n + k)

with W = max(pass * n k, depth * k) (one pass over the weights: memory and, in a kernel that decodes, casting; a narrow
matrix does not fill the machine and takes as long as its depth) and x = row * n k (arithmetic of one row).
``unhidden`` is 0 where arithmetic hides wholly behind memory or the reverse, and 1 where the two add up. This is
D + max(W, B x) + A + B r of the theory with A = unhidden * W and r = unhidden * x + edge (n + k) where arithmetic is
the longer and the shorter part in turn, so it stays piecewise linear in m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_solver import CONDITION_LIMIT, Floats, Problem, Solution, solve

TIME_PARAMETERS = (
    "launch_s",
    "pass_s_per_weight",
    "row_s_per_weight",
    "unhidden",
    "edge_s_per_element",
    "depth_s_per_k",
)
_WIDE_INTERVAL = 1.0
_MISSING = {
    "launch_s": "a shape of fewer than 4 million weights at m = 1",
    "pass_s_per_weight": "m = 1 at a shape of more than 50 million weights",
    "row_s_per_weight": "m = 256 or more at a shape of more than 50 million weights",
    "unhidden": "three or more values of m between 16 and 128 at a large shape",
    "depth_s_per_k": "shapes of n below 2,000 with k from 1,000 to 4,000, m = 1",
    "edge_s_per_element": "shapes with the same n k and another n + k, such as 6144x1024 beside 2560x2458, at m = 64",
}


@dataclass(frozen=True)
class Cell:
    """One measured call.

    Attributes:
        m: rows of x.
        n: out-features.
        k: in-features.
        time_s: median time, s.
        relative_se: standard error of the median over the median.
    """

    m: int
    n: int
    k: int
    time_s: float
    relative_se: float

    @property
    def weights(self) -> int:
        """Weights of the matrix, n k."""
        return self.n * self.k


@dataclass(frozen=True)
class TimeFit:
    """The fitted time of a kernel.

    Attributes:
        solution: parameters, in the order of ``TIME_PARAMETERS``, draws and residuals.
        cells: what was fitted, in the order of the residuals.
        not_identified: by parameter, the sentence that says why it was held at 0.
        warnings: what the data determine badly, and which run would help.
    """

    solution: Solution
    cells: tuple[Cell, ...]
    not_identified: dict[str, str]
    warnings: tuple[str, ...]


def call_s(parameters: Floats, m: Floats, n: Floats, k: Floats) -> Floats:
    """Return the time of calls, s.

    Args:
        parameters: [d, 6] in the order of ``TIME_PARAMETERS``.
        m: rows of x, [c].
        n: out-features, [c].
        k: in-features, [c].

    Returns:
        Times [d, c].
    """
    launch, weight_pass, row, unhidden, edge, depth = (parameters[:, i, None] for i in range(6))
    memory, arithmetic = np.maximum(weight_pass * (n * k), depth * k), row * (m * n * k)
    shorter, longer = np.minimum(memory, arithmetic), np.maximum(memory, arithmetic)
    total: Floats = launch + longer + unhidden * shorter + edge * (m * (n + k))
    return total


def fit_time(cells: Sequence[Cell], *, seed: int, n_draws: int = 200) -> TimeFit:
    """Fit the time of one kernel.

    Args:
        cells: its timed calls; other shapes and other m identify other parameters.
        seed: of the bootstrap.
        n_draws: bootstrap draws.

    Returns:
        The fit. A parameter that the cells cannot show at all is 0, with a sentence in ``not_identified``.

    Raises:
        ValueError: too few cells for the parameters that they can show.
    """
    if not cells:
        raise ValueError("a fit needs timed cells, got 0")
    held = _not_identified(cells)
    free = np.array([name not in held for name in TIME_PARAMETERS])
    names = tuple(name for name in TIME_PARAMETERS if name not in held)
    m, n, k, time_s, se = (
        np.array([getattr(c, field) for c in cells], dtype=np.float64)
        for field in ("m", "n", "k", "time_s", "relative_se")
    )

    def whole(p: Floats) -> Floats:
        every = np.zeros((len(p), len(TIME_PARAMETERS)))
        every[:, free] = p
        return every

    def jacobian(p: Floats) -> Floats:
        full = whole(p)
        weight_pass, row, unhidden, depth = (full[:, i, None] for i in (1, 2, 3, 5))
        wide = weight_pass * (n * k) >= depth * k
        memory, arithmetic = np.maximum(weight_pass * (n * k), depth * k), row * (m * n * k)
        bound = memory >= arithmetic
        of_memory = np.where(bound, 1.0, unhidden)
        shape = memory.shape
        columns = np.stack(
            [
                np.ones(shape),
                np.where(wide, n * k * of_memory, 0.0),
                m * n * k * np.where(bound, unhidden, 1.0),
                np.minimum(memory, arithmetic),
                np.broadcast_to(m * (n + k), shape),
                np.where(wide, 0.0, k * of_memory),
            ],
            axis=-1,
        )
        return np.asarray(columns[:, :, free], dtype=np.float64)

    upper = np.array([np.inf, np.inf, np.inf, 1.0, np.inf, np.inf])[free]
    problem = Problem(
        names,
        lambda p: call_s(whole(p), m, n, k),
        jacobian,
        time_s,
        se,
        _starts(m, n, k, time_s)[:, free],
        upper,
    )
    found = solve(problem, seed=seed, n_draws=n_draws)
    every = Solution(
        TIME_PARAMETERS,
        whole(found.point[None])[0],
        whole(found.draws),
        found.residuals,
        found.condition,
        found.valley,
    )
    return TimeFit(every, tuple(cells), held, _warnings(found))


def _not_identified(cells: Sequence[Cell]) -> dict[str, str]:
    sizes, rows = {c.weights for c in cells}, {c.m for c in cells}
    held = {}
    if len(sizes) < 2:
        held["launch_s"] = f"one size of weight cannot tell launch from pass; needed: {_MISSING['launch_s']}"
    if len({c.n for c in cells}) < 3:
        held["depth_s_per_k"] = f"fewer than 3 values of n; needed: {_MISSING['depth_s_per_k']}"
    if len(rows) < 2:
        held["row_s_per_weight"] = f"only m = {min(rows)}; needed: {_MISSING['row_s_per_weight']}"
    if len(rows) < 3:
        held["unhidden"] = f"{len(rows)} values of m; needed: {_MISSING['unhidden']}"
    if len(rows) < 2 or len({(c.weights, c.n + c.k) for c in cells}) < 3:
        held["edge_s_per_element"] = (
            f"too few shapes or values of m; needed: {_MISSING['edge_s_per_element']}"
        )
    return held


def _starts(m: Floats, n: Floats, k: Floats, time_s: Floats) -> Floats:
    launch = 0.5 * float(time_s.min())
    weight_pass = float(np.min(time_s / (n * k)))
    row = float(np.min(time_s / (m * n * k)))
    edge = 1e-3 * float(np.min(time_s / (m * (n + k))))
    # Matrices are narrow below n = depth / pass; a start between any two sizes finds the right side of that kink.
    sizes = np.unique(n)
    narrow = [0.5 * sizes[0], *np.sqrt(sizes[:-1] * sizes[1:])]
    return np.array(
        [
            [launch, weight_pass, share * row, hidden, edge, weight_pass * size]
            for share, hidden in ((1.0, 0.1), (0.5, 0.6))
            for size in narrow
        ]
    )


def _warnings(found: Solution) -> tuple[str, ...]:
    warnings = []
    if found.condition > CONDITION_LIMIT:
        pair = " and ".join(found.valley)
        needed = "; ".join(_MISSING[name] for name in found.valley)
        warnings.append(f"condition number {found.condition:.3g}: {pair} trade; needed: {needed}")
    for column, name in enumerate(found.names):
        interval, point = found.interval(name), found.point[column]
        if point > 0 and interval.high - interval.low > 2 * _WIDE_INTERVAL * point:
            warnings.append(
                f"{name} = {interval} is not determined to within its own size; needed: {_MISSING[name]}"
            )
    return tuple(warnings)
