"""What timing a range costs the device, measured in place, and the hold under which it and hops are timed."""

from __future__ import annotations

import time
from collections.abc import Callable

from profiler.nvtx import open_range
from profiler.timing import RangeCost, RangeTimer, median

HELD = "held"
"""NVTX range around what only keeps the device busy."""
RANGE_COST, TWO_KERNELS = "range_cost", "two_kernels"
"""NVTX ranges around the measurement and its pairs of kernels, in which a trace shows the gap of two kernels."""

_RANGES = 48
_ROUNDS = 5
_CYCLES_PER_S = 2e9
_MOST_HELD_S = 0.2
# The host takes this much longer at times than the time before.
_RESERVE = 1.5


def hold_device(host_s: float) -> None:
    """Keep the CUDA device busy with nothing until the host has queued what comes next.

    Args:
        host_s: how long the host takes for that, s; half as much again is held, and never more than 0.2 s.
    """
    import torch

    with open_range(HELD):
        torch.cuda._sleep(int(min(_RESERVE * host_s, _MOST_HELD_S) * _CYCLES_PER_S))


def measure_range_cost(
    timer: RangeTimer,
    work: Callable[[], object],
    hold: Callable[[float], object] = hold_device,
    *,
    clock_s: Callable[[], float] = time.perf_counter,
) -> RangeCost:
    """Measure what a range of ``timer`` costs the device, while the host runs ahead as it does in a held hop.

    With one short kernel a range takes t1, with two t2, so a kernel and the gap ahead of it take t2 - t1, and the
    range takes 2 t1 - t2 beyond its kernels. The gap between two kernels is there without ranges, too, and stays in
    their time. The same kernels in a row, with and without a range around each, say what a range adds to the work
    around it.

    Args:
        timer: of a CUDA device, without a cost and with nothing to take.
        work: queues one kernel that does next to nothing.
        hold: keeps the device busy until the host has queued what comes next; given how long that takes, s.
        clock_s: the host's clock, s.

    Returns:
        Medians; 0 both where they make no sense: below 0, longer than the range, or more in the range than around it.
    """

    def by_kernels() -> None:
        for index in range(_RANGES):
            with timer(f"1.{index}"):
                work()
            with open_range(TWO_KERNELS), timer(f"2.{index}"):
                work()
                work()

    def in_a_row() -> None:
        with timer("plain"):
            for _ in range(_RANGES):
                work()
        with timer("ranged"):
            for _ in range(_RANGES):
                with timer("inner"):
                    work()

    cost_s, delay_s, one_s = [], [], []
    with open_range("warm_up"):
        # The first time loads the kernel; the second tells how long the host takes.
        for _ in range(2):
            start_s = clock_s()
            by_kernels()
            in_a_row()
            host_s = clock_s() - start_s
            timer.take()
    with open_range(RANGE_COST):
        for _ in range(_ROUNDS):
            hold(host_s)
            by_kernels()
            taken = timer.take()
            one, two = (median([taken[f"{n}.{index}"] for index in range(_RANGES)]) for n in (1, 2))
            hold(host_s)
            in_a_row()
            taken = timer.take()
            one_s.append(one)
            cost_s.append(2 * one - two)
            delay_s.append((taken["ranged"] - taken["plain"]) / _RANGES)
    cost = RangeCost(median(cost_s), median(delay_s))
    makes_sense = 0 <= cost.in_range_s <= min(median(one_s), cost.in_stream_s)
    return cost if makes_sense else RangeCost()
