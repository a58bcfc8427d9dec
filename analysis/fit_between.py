"""The time between the linears of a hop, from hops of a few layers less their linears alone.

    time = once_s + layers * layer_s + traffic * B * (bytes of a row) / (read bandwidth)

The bytes of a row are those of ``ModelShape.row_bytes``, and ``traffic`` is what they take over their time at the read
bandwidth. What the hops differ from this formula, by their widths and batch sizes, predictions carry to other models
(``analysis.call_time``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.checks import above_zero
from analysis.fit_solver import CONDITION_LIMIT, Solution, linear_problem, solve

BETWEEN_PARAMETERS = ("once_s", "layer_s", "traffic")
_MISSING = {
    "once_s": "hops of few and of many layers",
    "layer_s": "hops of few and of many layers",
    "traffic": "hops of small and of large batches",
}
# Where a tenth of the hops is further off than this, the model is named as too simple for the engine.
_MISFIT = 0.25


@dataclass(frozen=True)
class HopBetween:
    """What lies between the linears of a timed hop.

    Attributes:
        layers: decoder layers.
        batch_size: B.
        row_bytes: what a row reads and writes between the linears.
        hidden: width of the residual stream.
        intermediate: width inside the feed-forward block.
        time_s: median time on the device, s.
        relative_se: standard error over the time.
    """

    layers: int
    batch_size: int
    row_bytes: int
    hidden: int
    intermediate: int
    time_s: float
    relative_se: float


@dataclass(frozen=True)
class BetweenFit:
    """The fit of one engine.

    Attributes:
        solution: ``once_s`` and ``layer_s`` in s, ``traffic`` without a unit.
        warnings: what the hops determine badly, and which would help.
    """

    solution: Solution
    warnings: tuple[str, ...]


def fit_between(
    hops: Sequence[HopBetween], bytes_per_s: float, *, seed: int, n_draws: int = 200
) -> BetweenFit:
    """Fit what an engine takes between the linears of a hop.

    Args:
        hops: with different numbers of layers and batch sizes.
        bytes_per_s: read bandwidth of the machine.
        seed: of the bootstrap.
        n_draws: bootstrap draws.

    Raises:
        ValueError: fewer than 4 hops, hops of one number of layers or of one batch size, or a time or bandwidth not
            above 0.
    """
    above_zero(bytes_per_s=bytes_per_s)
    layers, batches = ({getattr(hop, name) for hop in hops} for name in ("layers", "batch_size"))
    if len(layers) < 2:
        raise ValueError(
            f"{len(hops)} hops of {_named(layers)} layers cannot tell a hop from its layers; needed: "
            f"{_MISSING['layer_s']}"
        )
    if len(batches) < 2:
        raise ValueError(
            f"{len(hops)} hops of B = {_named(batches)} cannot tell layers from their traffic; needed: "
            f"{_MISSING['traffic']}"
        )
    columns = np.array([[1.0, hop.layers, hop.batch_size * hop.row_bytes / bytes_per_s] for hop in hops])
    time_s, se = (np.array([getattr(hop, name) for hop in hops]) for name in ("time_s", "relative_se"))
    found = solve(linear_problem(BETWEEN_PARAMETERS, columns, time_s, se), seed=seed, n_draws=n_draws)
    warnings = []
    if found.condition > CONDITION_LIMIT:
        needed = "; ".join(dict.fromkeys(_MISSING[name] for name in found.valley))
        warnings.append(
            f"condition number {found.condition:.3g}: {' and '.join(found.valley)} trade; needed: {needed}"
        )
    worst = float(np.quantile(np.abs(found.residuals), 0.9))
    if worst > _MISFIT:
        warnings.append(
            f"a tenth of the hops is more than {100 * worst:.0f} % off: the model is too simple for them"
        )
    return BetweenFit(found, tuple(warnings))


def _named(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values))) or "no"
