"""Drift: how far a variant's logits are from the baseline's, step by step along recorded solutions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats import Interval, bootstrap_interval
from profiler.record import AgreementSample

_LEAST_PROBLEMS = 2


@dataclass(frozen=True)
class StepDrift:
    """Distance from the baseline's distributions at one step (line) of the recorded solutions.

    Attributes:
        step: from 0; None where the run did not tell steps apart.
        problems: problems that reach it.
        positions: token positions compared.
        kl_nats: mean Kullback-Leibler divergence; its interval is over problems, None with fewer than 2.
        top1_share: share of positions with the same first token; likewise.
    """

    step: int | None
    problems: int
    positions: int
    kl_nats_mean: float
    kl_nats_ci95: tuple[float, float] | None
    top1_share: float
    top1_share_ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Drift:
    """How a variant drifts along a solution.

    Attributes:
        steps: by step.
        slope_nats_per_step: mean over problems of the slope of KL over steps; None where no 2 problems have 2 steps.
    """

    steps: tuple[StepDrift, ...]
    slope_nats_per_step: Interval | None

    @property
    def grows(self) -> bool | None:
        """Whether the divergence rises along solutions beyond noise; None where it cannot be said."""
        return None if self.slope_nats_per_step is None else self.slope_nats_per_step.low > 0


def drift_of(agreements: Sequence[AgreementSample], *, seed: int = 0) -> Drift:
    """Say how a variant drifts along recorded solutions.

    Args:
        agreements: of one variant, all problems and positions.
        seed: of the bootstrap over problems.

    Raises:
        ValueError: no sample.
    """
    if not agreements:
        raise ValueError("a drift needs compared logits, got 0 positions")
    by_step: dict[int | None, dict[str, list[AgreementSample]]] = defaultdict(lambda: defaultdict(list))
    for sample in agreements:
        by_step[sample.step][sample.problem_id].append(sample)
    steps = []
    for step in sorted(by_step, key=lambda step: -1 if step is None else step):
        problems = list(by_step[step].values())
        # Positions of one problem belong together, so problems are drawn and not positions.
        kl = [float(np.mean([s.kl_nats for s in own])) for own in problems]
        top1 = [float(np.mean([s.top1_same for s in own])) for own in problems]
        steps.append(
            StepDrift(
                step=step,
                problems=len(problems),
                positions=sum(len(own) for own in problems),
                kl_nats_mean=float(np.mean(kl)),
                kl_nats_ci95=_ends(kl, seed),
                top1_share=float(np.mean(top1)),
                top1_share_ci95=_ends(top1, seed),
            )
        )
    return Drift(tuple(steps), _slope(agreements, seed))


def _ends(values: Sequence[float], seed: int) -> tuple[float, float] | None:
    if len(values) < _LEAST_PROBLEMS:
        return None
    found = bootstrap_interval(values, statistic=np.mean, seed=seed)
    return found.low, found.high


def _slope(agreements: Sequence[AgreementSample], seed: int) -> Interval | None:
    by_problem: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for sample in agreements:
        if sample.step is not None:
            by_problem[sample.problem_id].append((sample.step, sample.kl_nats))
    slopes = []
    for points in by_problem.values():
        steps, kl = np.array(points).T
        if np.ptp(steps) > 0:
            slopes.append(float(np.polyfit(steps, kl, 1)[0]))
    if len(slopes) < _LEAST_PROBLEMS:
        return None
    return bootstrap_interval(slopes, statistic=np.mean, seed=seed)
