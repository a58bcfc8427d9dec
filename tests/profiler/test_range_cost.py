"""Ranges on a made-up device, on which every event, kernel and gap takes a time that is known."""

from collections.abc import Callable

import pytest
import torch
from test_nvtx import Recorder

from profiler.nvtx import open_range, ranges_to
from profiler.range_cost import HELD, RANGE_COST, TWO_KERNELS, hold_device, measure_range_cost
from profiler.timing import RangeCost, RangeTimer

EVENT_S, GAP_S, SHORT_S = 3.0e-6, 1.1e-6, 0.9e-6


class Stream:
    """A device that the host is always ahead of."""

    def __init__(self, event_s: float = EVENT_S) -> None:
        self.now_s = 0.0
        self.event_s = event_s
        self.held_s: list[float] = []

    def kernel(self, kernel_s: float) -> None:
        self.now_s += GAP_S + kernel_s

    def hold(self, host_s: float) -> None:
        self.held_s.append(host_s)
        self.now_s += GAP_S + host_s


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    device = Stream()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at_s = -1.0

        def record(self) -> None:
            device.now_s += device.event_s
            self.at_s = device.now_s

        def elapsed_time(self, end: "Event") -> float:
            return (end.at_s - self.at_s) * 1e3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return device


def measured(stream: Stream, work: Callable[[], object] | None = None) -> RangeCost:
    return measure_range_cost(
        RangeTimer("cuda"),
        work or (lambda: stream.kernel(SHORT_S)),
        stream.hold,
        clock_s=lambda: stream.now_s,
    )


def test_one_and_two_kernels_tell_what_a_range_costs(stream: Stream) -> None:
    cost = measured(stream)
    # A range holds one of its two events; a kernel and its gap are the kernel's own.
    assert cost.in_range_s == pytest.approx(EVENT_S)
    assert cost.in_stream_s == pytest.approx(2 * EVENT_S)
    # Held as long as the host took to queue a round.
    assert min(stream.held_s) == max(stream.held_s) > 0


def test_ranges_and_hop_come_out_as_if_nothing_had_timed_them(stream: Stream) -> None:
    timer = RangeTimer("cuda", cost=measured(stream))
    timer.hold_ahead(3, lambda: stream.hold(0.25))
    start_s = stream.now_s
    for _ in range(7):
        stream.kernel(5e-6)
        with timer("tau_cast"):
            stream.kernel(10e-6)
        with timer("tau_comp"):
            stream.kernel(20e-6)
            stream.kernel(2e-6)
    hop_s = stream.now_s - start_s
    taken = timer.take_all()
    assert taken.seconds["tau_cast"] == pytest.approx(7 * (10e-6 + GAP_S))
    assert taken.seconds["tau_comp"] == pytest.approx(7 * (22e-6 + 2 * GAP_S))
    assert (taken.ranges, taken.at_zero) == (14, 0)
    # Held ahead of the 4th, 7th, 10th and 13th range.
    assert stream.held_s.count(0.25) == 4
    assert hop_s > 1
    assert hop_s - taken.added_s == pytest.approx(7 * (37e-6 + 4 * GAP_S), rel=1e-3)
    assert timer.take_all().added_s == 0


def test_holds_end_and_never_come_inside_a_range(stream: Stream) -> None:
    timer = RangeTimer("cuda")
    timer.hold_ahead(1, lambda: stream.hold(1.0))
    with timer("outer"):
        for _ in range(3):
            with timer("inner"):
                stream.kernel(1e-6)
    assert stream.held_s == []
    with timer("outer"):
        pass
    assert stream.held_s == [1.0]
    assert timer.take()["outer"] < 1
    timer.hold_ahead(1, None)
    for _ in range(3):
        with timer("outer"):
            pass
    assert stream.held_s == [1.0]
    with pytest.raises(ValueError, match="every=0 is below 1"):
        timer.hold_ahead(0, None)


def test_a_range_shorter_than_its_cost_counts_0_and_is_counted(stream: Stream) -> None:
    timer = RangeTimer("cuda", cost=RangeCost(5e-6, 9e-6))
    for _ in range(2):
        with timer("linear"):
            stream.kernel(0.1e-6)
    with timer("linear"):
        stream.kernel(6e-6)
    taken = timer.take_all()
    assert (taken.ranges, taken.at_zero) == (3, 2)
    assert taken.seconds["linear"] == pytest.approx(EVENT_S + GAP_S + 6e-6 - 5e-6)


def test_a_range_that_raises_is_no_sample_and_does_not_stay_open(stream: Stream) -> None:
    timer = RangeTimer("cuda")
    timer.hold_ahead(1, lambda: stream.hold(1.0))
    with pytest.raises(KeyError), timer("linear"):
        raise KeyError
    with timer("linear"):
        pass
    assert timer.take_all().ranges == 1
    assert stream.held_s == [1.0]


def test_a_cost_that_makes_no_sense_is_none(stream: Stream) -> None:
    # The second of two kernels takes longer than the first: 2 t1 - t2 is below 0.
    calls = iter(range(10**6))
    assert measured(stream, lambda: stream.kernel(50e-6 if next(calls) % 3 == 2 else 1e-6)) == RangeCost()
    # Events that cost nothing are no nonsense.
    stream.event_s = 0.0
    free = measured(stream)
    assert (free.in_range_s, free.in_stream_s) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))


def test_a_trace_shows_the_pairs_of_kernels_and_the_hold(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycles: list[int] = []
    monkeypatch.setattr(torch.cuda, "_sleep", cycles.append)
    recorder = Recorder()
    with ranges_to(recorder):
        timer = RangeTimer("cuda")
        measure_range_cost(timer, lambda: stream.kernel(SHORT_S), clock_s=lambda: stream.now_s)
        with open_range("hop"):
            hold_device(0.01)
            hold_device(100.0)
    pairs = f"{RANGE_COST}/{TWO_KERNELS}"
    assert recorder.paths.count(f"warm_up/{TWO_KERNELS}") * 5 == recorder.paths.count(pairs) * 2 > 0
    assert f"{RANGE_COST}/{HELD}" in recorder.paths
    assert recorder.paths[-2:] == [f"hop/{HELD}"] * 2
    # Half as long again at 2 GHz, and never more than 0.2 s.
    assert cycles[-2:] == [30_000_000, 400_000_000]


@pytest.mark.gpu
def test_the_cost_on_a_gpu_is_a_few_microseconds_and_comes_out_again() -> None:
    cell = torch.zeros(1, device="cuda")
    first, second = (measure_range_cost(RangeTimer("cuda"), lambda: cell.add_(1)) for _ in range(2))
    for cost in (first, second):
        assert 0.2e-6 < cost.in_range_s < 20e-6
        assert cost.in_range_s < cost.in_stream_s < 4 * cost.in_range_s
    assert first.in_range_s == pytest.approx(second.in_range_s, abs=1e-6)
    x = torch.randn(2048, 2048, device="cuda")
    out = torch.empty_like(x)
    timer = RangeTimer("cuda", cost=first)
    taken_s = {1: 0.0, 20: 0.0}
    for ranges in taken_s:
        # Long enough for a busy host to queue it all.
        torch.cuda._sleep(400_000_000)
        for _ in range(ranges):
            with timer(str(ranges)):
                for _ in range(20 // ranges):
                    torch.add(x, 1, out=out)
        taken = timer.take_all()
        assert (taken.ranges, taken.at_zero) == (ranges, 0)
        taken_s[ranges] = taken.seconds[str(ranges)]
    # Twenty kernels take the same in one range and in twenty.
    assert taken_s[20] == pytest.approx(taken_s[1], rel=0.1)
