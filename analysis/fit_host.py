"""Host time: seconds per launch and per synchronisation, from chains of launches that do nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_solver import Solution, linear_problem, solve

HOST_PARAMETERS = ("launch_s", "sync_s")


@dataclass(frozen=True)
class LaunchChain:
    """A timed chain of empty kernels.

    Attributes:
        launches: kernels launched one by one.
        syncs: synchronisations of the host within the chain.
        time_s: median time of the chain, s.
        relative_se: standard error over the time.
    """

    launches: int
    syncs: int
    time_s: float
    relative_se: float


def fit_host(chains: Sequence[LaunchChain], *, seed: int, n_draws: int = 200) -> Solution:
    """Fit h and s: time = launches * h + syncs * s.

    Args:
        chains: with different numbers of launches, and some with synchronisations.
        seed: of the bootstrap.
        n_draws: bootstrap draws.

    Raises:
        ValueError: fewer than 3 chains, none without and with synchronisations, or a time not above 0.
    """
    columns = np.array([[c.launches, c.syncs] for c in chains], dtype=np.float64).reshape(len(chains), 2)
    if len({c.syncs / c.launches for c in chains if c.launches}) < 2:
        raise ValueError(
            f"{len(chains)} chains with one ratio of syncs to launches cannot tell the two apart; "
            "needed: chains with and without synchronisation"
        )
    time_s, se = (np.array([getattr(c, f) for c in chains]) for f in ("time_s", "relative_se"))
    return solve(linear_problem(HOST_PARAMETERS, columns, time_s, se), seed=seed, n_draws=n_draws)
