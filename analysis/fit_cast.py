"""phi: what casting costs, per pass over the weights and per row, from ablations alone.

    cast(m; n, k) = launch + pass * n k + row * m n k + edge * m (n + k)

The observations are the sweep's tau_cast: fused minus null, or the cast kernel alone, or the quantization of x. The
first two terms are paid once per pass whatever the batch, the others by every row: which of the two dominates decides
whether a larger batch helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_solver import CONDITION_LIMIT, Solution, linear_problem, solve

CAST_PARAMETERS = ("launch_s", "pass_s_per_weight", "row_s_per_weight", "edge_s_per_element")


@dataclass(frozen=True)
class CastCell:
    """The measured cast of one call.

    Attributes:
        m: rows of x.
        n: out-features.
        k: in-features.
        cast_s: its time, s; noise can make a difference negative.
        se_s: its standard error, s.
        comp_s: time of the call without it, s.
    """

    m: int
    n: int
    k: int
    cast_s: float
    se_s: float
    comp_s: float


@dataclass(frozen=True)
class CastFit:
    """The fitted cast of a kernel.

    Attributes:
        solution: parameters in the order of ``CAST_PARAMETERS``; residuals are shares of the call without cast.
        not_identified: by parameter, the sentence that says why it was held at 0.
        warnings: what the data determine badly.
    """

    solution: Solution
    not_identified: dict[str, str]
    warnings: tuple[str, ...]


def fit_cast(cells: Sequence[CastCell], *, seed: int, n_draws: int = 200) -> CastFit:
    """Fit the cast of one kernel.

    Args:
        cells: its casts over shapes and m.
        seed: of the bootstrap.
        n_draws: bootstrap draws.

    Raises:
        ValueError: too few cells for the parameters that they can show.
    """
    if not cells:
        raise ValueError("a fit of the cast needs cells, got 0")
    m, n, k, cast_s, se_s, comp_s = (
        np.array([getattr(c, field) for c in cells], dtype=np.float64)
        for field in ("m", "n", "k", "cast_s", "se_s", "comp_s")
    )
    held = {}
    if len(set(n * k)) < 2:
        held["launch_s"] = "one size of weight; needed: m = 1 at shapes of 3 to 100 million weights"
    if len(set(m)) < 2:
        held |= dict.fromkeys(CAST_PARAMETERS[2:], f"only m = {m[0]:g}; needed: m = 1 and m = 64 or more")
    elif len({*zip(n * k, n + k, strict=True)}) < 3:
        held["edge_s_per_element"] = "too few shapes; needed: the same n k with another n + k"
    columns = np.stack([np.ones(len(m)), n * k, m * n * k, m * (n + k)], axis=1)
    free = np.array([name not in held for name in CAST_PARAMETERS])
    names = tuple(name for name in CAST_PARAMETERS if name not in held)
    found = solve(
        linear_problem(names, columns[:, free], cast_s, se_s / comp_s, comp_s), seed=seed, n_draws=n_draws
    )
    point, draws = np.zeros(len(free)), np.zeros((len(found.draws), len(free)))
    point[free], draws[:, free] = found.point, found.draws
    whole = Solution(CAST_PARAMETERS, point, draws, found.residuals, found.condition, found.valley)
    return CastFit(whole, held, tuple(_warnings(cells, found)))


def _warnings(cells: Sequence[CastCell], found: Solution) -> list[str]:
    warnings = []
    negative = sum(c.cast_s + 1.96 * c.se_s < 0 for c in cells)
    if negative:
        warnings.append(
            f"{negative} of {len(cells)} casts are below 0 beyond their interval: there the difference shows "
            "scheduling and not the cast"
        )
    if found.condition > CONDITION_LIMIT:
        warnings.append(f"condition number {found.condition:.3g}: {' and '.join(found.valley)} trade")
    return warnings
