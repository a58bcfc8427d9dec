"""Host time: seconds per launch and per synchronisation, from chains of launches that do nothing else.

    launched one by one:  time = launches * h + syncs * s
    from one CUDA graph:  time = g + launches * d

with d the time of a kernel that does nothing inside a graph, and g that of launching a graph and waiting for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_solver import Solution, linear_problem, solve

HOST_PARAMETERS = ("launch_s", "sync_s", "graph_s", "node_s")
EAGER, GRAPH = "eager", "graph"


@dataclass(frozen=True)
class LaunchChain:
    """A timed chain of empty kernels.

    Attributes:
        launches: kernels launched.
        syncs: synchronisations of the host within the chain.
        time_s: median time of the chain, s.
        relative_se: standard error over the time.
        engine: ``eager``, one launch at a time; ``graph``, all of them from one CUDA graph.
    """

    launches: int
    syncs: int
    time_s: float
    relative_se: float
    engine: str = EAGER


def fit_host(chains: Sequence[LaunchChain], *, seed: int, n_draws: int = 200) -> Solution:
    """Fit h and s, and where graphs were timed g and d.

    Args:
        chains: with different numbers of launches, and some with synchronisations.
        seed: of the bootstrap.
        n_draws: bootstrap draws.

    Returns:
        ``launch_s`` and ``sync_s``; where graphs were timed ``graph_s`` and ``node_s``.

    Raises:
        ValueError: fewer than 3 chains, none without and with synchronisations, graphs of one length, another engine,
            or a time not above 0.
    """
    for chain in chains:
        if chain.engine not in (EAGER, GRAPH):
            raise ValueError(f"engine={chain.engine!r} of a chain is neither {EAGER!r} nor {GRAPH!r}")
    eager = [c for c in chains if c.engine == EAGER]
    graphs = [c for c in chains if c.engine == GRAPH]
    if len({c.syncs / c.launches for c in eager if c.launches}) < 2:
        raise ValueError(
            f"{len(eager)} chains with one ratio of syncs to launches cannot tell the two apart; "
            "needed: chains with and without synchronisation"
        )
    if graphs and len({c.launches for c in graphs}) < 2:
        raise ValueError(f"{len(graphs)} graphs of {graphs[0].launches} launches cannot tell g from d")
    ordered = (*eager, *graphs)
    columns = np.array([_row(chain) for chain in ordered], dtype=np.float64).reshape(
        len(chains), len(HOST_PARAMETERS)
    )
    count = len(HOST_PARAMETERS) if graphs else 2
    time_s, se = (np.array([getattr(c, f) for c in ordered]) for f in ("time_s", "relative_se"))
    problem = linear_problem(HOST_PARAMETERS[:count], columns[:, :count], time_s, se)
    return solve(problem, seed=seed, n_draws=n_draws)


def _row(chain: LaunchChain) -> list[int]:
    if chain.engine == EAGER:
        return [chain.launches, chain.syncs, 0, 0]
    return [0, 0, 1, chain.launches]
