import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.timing import HopTimer, QueuedSteps, RangeTimer, TimedGraph, median, percentile


def test_quantiles_by_hand() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert percentile([0.0, 10.0], 95) == pytest.approx(9.5)
    assert (percentile([7.0], 0), percentile([7.0], 100)) == (7.0, 7.0)


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(0, 100))
def test_quantiles_lie_within_the_samples_and_ignore_order(samples: list[float], q: float) -> None:
    value = percentile(samples, q)
    assert min(samples) <= value <= max(samples)
    assert percentile(random.Random(0).sample(samples, len(samples)), q) == value


def test_quantiles_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match=r"q=101 is outside 0\.\.100"):
        percentile([1.0], 101)
    with pytest.raises(ValueError, match="of 0 samples"):
        median([])
    with pytest.raises(ValueError, match="1 of 2 samples are not finite"):
        median([1.0, math.nan])
    assert median(np.array([1.0, 5.0, 9.0])) == 5.0


def test_hops_are_timed_between_synchronised_ends(clock) -> None:
    waits = []

    def synchronise() -> None:
        waits.append(clock.now_s)
        clock.sleep(0.5)  # what the device still had to do

    timer = HopTimer(synchronise, clock_ns=clock.ns)
    with timer.hop():
        clock.sleep(1.0)
    assert timer.last_hop_s == pytest.approx(1.5)
    assert len(waits) == 2
    with timer.hop():
        pass
    assert timer.take() == [pytest.approx(1.5), pytest.approx(0.5)]
    assert timer.take() == []
    with pytest.raises(ValueError, match="0 hops"):
        _ = timer.last_hop_s


def test_a_hop_that_raises_is_no_sample(clock) -> None:
    timer = HopTimer(clock_ns=clock.ns)
    with pytest.raises(KeyError), timer.hop():
        raise KeyError
    assert timer.take() == []


def test_ranges_add_up_by_name(clock) -> None:
    ranges = RangeTimer(clock_ns=clock.ns)
    for _ in range(3):
        with ranges("tau_cast"):
            clock.sleep(0.25)
        with ranges("tau_comp"):
            clock.sleep(1.0)
    assert ranges.take() == {"tau_cast": pytest.approx(0.75), "tau_comp": pytest.approx(3.0)}
    assert ranges.take() == {}


def test_ranges_nest(clock) -> None:
    ranges = RangeTimer("cpu", clock_ns=clock.ns)
    with ranges("hop"):
        clock.sleep(1.0)
        with ranges("linear"):
            clock.sleep(2.0)
    assert ranges.take() == {"linear": pytest.approx(2.0), "hop": pytest.approx(3.0)}


def test_cuda_ranges_are_event_pairs_read_at_the_end(monkeypatch, clock) -> None:
    torch = pytest.importorskip("torch")
    synchronised = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at_s = math.nan

        def record(self) -> None:
            self.at_s = clock.now_s

        def elapsed_time(self, end: "Event") -> float:
            assert synchronised
            return (end.at_s - self.at_s) * 1e3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: synchronised.append(True))
    ranges = RangeTimer("cuda")
    for _ in range(2):
        with ranges("linear"):
            clock.sleep(0.125)
    assert synchronised == []
    assert ranges.take() == {"linear": pytest.approx(0.25)}
    assert ranges.take() == {}


@pytest.mark.gpu
def test_cuda_ranges_on_a_gpu() -> None:
    import torch

    ranges = RangeTimer("cuda")
    x = torch.randn(2048, 2048, device="cuda")
    for _ in range(3):
        with ranges("linear"):
            x = x @ x.T / 2048
    taken = ranges.take()
    assert 0 < taken["linear"] < 1


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="device_type='tpu'"):
        RangeTimer("tpu")


class FakeEvent:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def record(self) -> None:
        self.log.append(f"record {self.name}")

    def synchronize(self) -> None:
        self.log.append(f"wait {self.name}")


def test_two_steps_are_queued_before_the_first_is_awaited() -> None:
    log: list[str] = []
    names = iter("ab")
    steps = QueuedSteps(lambda: log.append("work"), 0.9e-3, lambda: FakeEvent(log, next(names)))
    assert steps.units == 3  # 2 ms of 0.9 ms each
    for _ in range(3):
        steps.step()
    steps.finish()
    work = ["work"] * 3
    assert log == [*work, "record a", *work, "record b", "wait a", *work, "record a", "wait a", "wait b"]
    log.clear()
    steps.finish()
    assert log == []
    assert QueuedSteps(lambda: None, 1.0, lambda: None).units == 1
    with pytest.raises(ValueError, match="unit_s=0 is not above 0"):
        QueuedSteps(lambda: None, 0.0, lambda: None)


def test_a_graph_needs_a_call() -> None:
    with pytest.raises(ValueError, match="calls=0 is below 1"):
        TimedGraph(0, lambda index: None)


@pytest.mark.gpu
def test_a_graph_times_its_calls_and_can_be_replayed() -> None:
    import torch

    out = torch.zeros(1, device="cuda")
    x = torch.randn(2048, 2048, device="cuda")
    x.matmul(x)
    graph = TimedGraph(3, lambda index: (out.add_(1), x.matmul(x)))
    torch.cuda.synchronize()
    before = float(out)
    graph.replay()
    torch.cuda.synchronize()
    assert float(out) - before == 3
    assert 0 < graph.call_s() < 1
