"""Host time: seconds per launch and per synchronisation, from chains of launches that do nothing else.

    launched one by one:  time = launches * h + syncs * s
    from one CUDA graph:  time = g + launches * d,   or   g + launches * f

with d the time of a kernel that does nothing inside a graph, f that of a kernel of the fused engine on one row, which
starts before the one ahead of it has ended where the GPU lets it, and g that of launching a graph and waiting for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_solver import Solution, linear_problem, solve

HOST_PARAMETERS = ("launch_s", "sync_s", "graph_s", "node_s", "fused_node_s")
EAGER, GRAPH, FUSED = "eager", "graph", "fused"


@dataclass(frozen=True)
class LaunchChain:
    """A timed chain of empty kernels.

    Attributes:
        launches: kernels launched.
        syncs: synchronisations of the host within the chain.
        time_s: median time of the chain, s.
        relative_se: standard error over the time.
        engine: ``eager``, one launch at a time; ``graph`` or ``fused``, all of them from one CUDA graph.
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
        ``launch_s`` and ``sync_s``; where graphs were timed ``graph_s`` and ``node_s``; where they were with the fused
        engine's kernel too, ``fused_node_s``.

    Raises:
        ValueError: fewer than 3 chains, none without and with synchronisations, graphs of one length, the fused
            engine's without empty ones, an engine that is none of these, or a time not above 0.
    """
    for chain in chains:
        if chain.engine not in (EAGER, GRAPH, FUSED):
            raise ValueError(f"engine={chain.engine!r} of a chain is none of {EAGER}, {GRAPH}, {FUSED}")
    eager = [c for c in chains if c.engine == EAGER]
    graphs = [c for c in chains if c.engine == GRAPH]
    fused = [c for c in chains if c.engine == FUSED]
    if len({c.syncs / c.launches for c in eager if c.launches}) < 2:
        raise ValueError(
            f"{len(eager)} chains with one ratio of syncs to launches cannot tell the two apart; "
            "needed: chains with and without synchronisation"
        )
    if graphs and len({c.launches for c in graphs}) < 2:
        raise ValueError(f"{len(graphs)} graphs of {graphs[0].launches} launches cannot tell g from d")
    if fused and not graphs:
        raise ValueError(
            f"{len(fused)} graphs of the fused engine's kernel and 0 of an empty one: g is not known"
        )
    ordered = (*eager, *graphs, *fused)
    columns = np.array([_row(chain) for chain in ordered], dtype=np.float64).reshape(
        len(chains), len(HOST_PARAMETERS)
    )
    shown = np.array([True, True, bool(graphs), bool(graphs), bool(fused)])
    names = tuple(name for name, is_shown in zip(HOST_PARAMETERS, shown, strict=True) if is_shown)
    time_s, se = (np.array([getattr(c, f) for c in ordered]) for f in ("time_s", "relative_se"))
    return solve(linear_problem(names, columns[:, shown], time_s, se), seed=seed, n_draws=n_draws)


def _row(chain: LaunchChain) -> list[int]:
    if chain.engine == EAGER:
        return [chain.launches, chain.syncs, 0, 0, 0]
    return [0, 0, 1, chain.launches * (chain.engine == GRAPH), chain.launches * (chain.engine == FUSED)]
