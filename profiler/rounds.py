"""Interleaved rounds: warm up until times settle, then sample every variant once per round in random order.

Drift of the clocks then does not land on one variant. What a sample is (events around a CUDA graph, two
readings of the clock) is the sampler's business.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

CALL = "call"
"""Name under which a sampler gives the time of the whole call."""

Ranges = Callable[[str], AbstractContextManager[object]]
"""Opens a named range."""


def no_ranges(name: str) -> AbstractContextManager[object]:
    """Open no range."""
    return nullcontext()


class Sampler(Protocol):
    """Times one variant."""

    def sample(self) -> Mapping[str, float]:
        """Time of a call, s, under ``call``; other names are parts of it."""
        ...


@dataclass(frozen=True)
class Rules:
    """When sampling stops."""

    repeats: int
    """Rounds, each with one sample per variant."""
    limit_s: float | None = None
    """No round starts after this time, s, once ``least_rounds`` are done; None for no limit."""
    least_rounds: int = 3
    """Rounds that are made whatever the time."""
    settle_share: float = 0.1
    """Warm-up ends when two successive medians of three differ by less than this share, for every variant."""
    most_warm_rounds: int = 12
    """Rounds after which warm-up ends anyway."""
    warm_limit_s: float = 1.0
    """Time after which warm-up ends anyway, s."""


@dataclass
class Rounds:
    """Samples of interleaved rounds; a round is added whole, so an interruption leaves those before it."""

    taken: list[Mapping[str, Mapping[str, float]]] = field(default_factory=list)
    """Seconds per call by variant and range, one entry per round."""
    unsettled: tuple[str, ...] = ()
    """Variants whose times still moved when warm-up ended."""

    def times_s(self, name: str, range_name: str = CALL) -> list[float]:
        """Seconds per call of one variant, in the order of the rounds; empty where it was not timed."""
        return [by_name[name][range_name] for by_name in self.taken if range_name in by_name.get(name, {})]


def run_rounds(
    samplers: Mapping[str, Sampler],
    rules: Rules,
    into: Rounds,
    *,
    seed: int,
    ranges: Ranges = no_ranges,
    on_round: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Warm up, then take interleaved samples.

    Args:
        samplers: one per variant, by name.
        rules: when to stop.
        into: receives the samples, round by round.
        seed: of the order of variants within each round.
        ranges: opens a range with the variant's name around each sample.
        on_round: called after each round.
        clock: monotonic clock, s.
    """
    if not samplers:
        return
    order = random.Random(seed)
    into.unsettled = _warm_up(samplers, rules, order, clock, ranges)
    start = clock()
    for done in range(rules.repeats):
        if rules.limit_s is not None and done >= rules.least_rounds and clock() - start > rules.limit_s:
            return
        into.taken.append(_round(samplers, order, ranges))
        on_round()


def has_settled(times_s: Sequence[float], share: float) -> bool:
    """Whether the median of the last three times is within ``share`` of the three before."""
    if len(times_s) < 6:
        return False
    before, after = statistics.median(times_s[-6:-3]), statistics.median(times_s[-3:])
    return abs(after - before) <= share * before


def _warm_up(
    samplers: Mapping[str, Sampler],
    rules: Rules,
    order: random.Random,
    clock: Callable[[], float],
    ranges: Ranges,
) -> tuple[str, ...]:
    """Take rounds that are thrown away; return the variants that had not settled at the end."""
    start = clock()
    taken: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rules.most_warm_rounds):
        for name, by_range in _round(samplers, order, ranges).items():
            taken[name].append(by_range[CALL])
        moving = tuple(name for name, times in taken.items() if not has_settled(times, rules.settle_share))
        if not moving or clock() - start > rules.warm_limit_s:
            return moving
    return moving


def _round(
    samplers: Mapping[str, Sampler], order: random.Random, ranges: Ranges
) -> dict[str, Mapping[str, float]]:
    names = list(samplers)
    order.shuffle(names)
    taken = {}
    for name in names:
        with ranges(name):
            taken[name] = samplers[name].sample()
    return taken
