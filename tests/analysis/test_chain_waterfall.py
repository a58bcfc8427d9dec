"""Waterfalls of made-up hops whose parts are known."""

import pytest

from analysis.chain_waterfall import ChainWaterfall, chain_waterfall
from profiler.record import LinearsSample, RangeSample

HOPS = 30
WOBBLE = [0.97, 1.0, 1.03]


def places(seconds: float) -> dict[tuple[int, int, int], float]:
    return {(0, 0, hop): seconds * WOBBLE[hop % 3] for hop in range(HOPS)}


def ranges(linear_s: float, device_s: float | None) -> list[RangeSample]:
    return [
        RangeSample(kernel="k", repeat=0, batch_index=0, hop=hop, linear_s=linear_s, device_s=device_s)
        for hop in range(1, 17)
    ]


def alone(linear_s: float) -> list[LinearsSample]:
    return [
        LinearsSample(kernel="k", repeat=turn, batch_index=0, linear_s=linear_s * WOBBLE[turn % 3])
        for turn in range(15)
    ]


def build(hops: tuple[float, ...], linear: tuple[float, ...], device, *, has_host=False) -> ChainWaterfall:
    fall = chain_waterfall(
        [places(s) for s in hops],
        [ranges(*both) for both in zip(linear, device, strict=True)],
        has_host=has_host,
        seed=3,
    )
    assert fall is not None
    return fall


def test_parts_add_up_and_other_work_is_no_saving() -> None:
    # Linear layers 6, 2, 4 ms; the rest of the hop 3 ms, with codes 3.5.
    fall = build((0.0090, 0.0055, 0.0075), (0.006, 0.002, 0.004), (0.0090, 0.0055, 0.0075))
    parts = fall.parts
    assert parts.saving_s == pytest.approx(0.004)
    assert parts.exposed_cast_s == pytest.approx(0.002)
    assert parts.other_s == pytest.approx(0.0005)
    assert parts.host_s == 0
    assert parts.variant_s == pytest.approx(0.0075)
    assert fall.gap_share == pytest.approx(0.0, abs=1e-9)
    assert fall.adds_up is True
    for name, interval in fall.intervals.items():
        assert interval.low <= getattr(parts, f"{name}_s") <= interval.high
    low, high = fall.intervals["exposed_cast"].low, fall.intervals["exposed_cast"].high
    assert 0.0015 < low < high < 0.0025


def test_a_hop_that_the_linear_layers_do_not_explain_is_said() -> None:
    fall = build((0.009, 0.0055, 0.0100), (0.006, 0.002, 0.004), (0.009, 0.0055, 0.0075))
    assert fall.gap_share == pytest.approx(-0.25)
    assert fall.adds_up is False
    assert fall.as_json()["adds_up"] is False


def test_waiting_for_the_host_is_a_part_of_its_own() -> None:
    # The device needs 9, 5.5 and 7.5 ms; the hop takes 30, 32 and 34.
    fall = build((0.030, 0.032, 0.034), (0.006, 0.002, 0.004), (0.0090, 0.0055, 0.0075), has_host=True)
    assert fall.parts.host_s == pytest.approx(0.0265 - 0.021)
    assert fall.parts.saving_s == pytest.approx(0.004)
    assert fall.parts.variant_s == pytest.approx(0.034)
    assert fall.gap_share == 0 and fall.adds_up is True


def test_launching_a_cast_is_time_of_the_host_and_not_of_decoding() -> None:
    # Decoding takes the device 2 ms, and the host 15 ms to launch.
    fall = build((0.026, 0.025, 0.040), (0.006, 0.002, 0.004), (0.0090, 0.0050, 0.0070), has_host=True)
    parts = fall.parts
    assert (parts.saving_s, parts.exposed_cast_s) == (pytest.approx(0.004), pytest.approx(0.002))
    assert parts.other_s == pytest.approx(0) and parts.host_s == pytest.approx(0.016)
    assert parts.variant_s == pytest.approx(0.040)


def test_a_device_that_takes_longer_than_the_hop_it_waits_in_does_not_add_up() -> None:
    fall = build((0.026, 0.025, 0.010), (0.006, 0.002, 0.008), (0.0090, 0.0050, 0.0110), has_host=True)
    assert fall.gap_share == pytest.approx(0.1) and fall.adds_up is False


def test_without_times_of_the_whole_hop_nothing_is_checked() -> None:
    fall = build((0.009, 0.0055, 0.0075), (0.006, 0.002, 0.004), (None, None, None))
    assert (fall.gap_share, fall.adds_up) == (None, None)
    assert fall.parts.saving_s == pytest.approx(0.0035)
    assert fall.as_json()["exposed_cast_ms"] == pytest.approx(2.0)


def test_kernels_without_common_hops_have_no_waterfall_and_one_hop_has_no_interval() -> None:
    none = chain_waterfall([places(1.0), {}, places(1.0)], [[], [], []], has_host=False, seed=1)
    assert none is None
    one = chain_waterfall([{(0, 0, 0): s} for s in (0.9, 0.5, 0.7)], [[], [], []], has_host=False, seed=1)
    assert one is not None and one.intervals == {}
    assert one.as_json()["hops"] == 1


def test_captured_hops_are_explained_by_their_linears_alone() -> None:
    hops = [places(s) for s in (0.0090, 0.0055, 0.0075)]
    # What events among the kernels of a hop would say: 20 % more.
    misled = [ranges(linear, linear + 0.006) for linear in (0.006, 0.002, 0.0055)]
    fall = chain_waterfall(
        hops, misled, alone=[alone(s) for s in (0.0060, 0.0024, 0.0046)], has_host=False, seed=3
    )
    assert fall is not None
    parts = fall.parts
    assert parts.saving_s == pytest.approx(0.0036)
    assert parts.other_s == pytest.approx(0.0031 - 0.0030)
    assert (parts.host_s, parts.variant_s) == (0, pytest.approx(0.0075))
    # 9 - 6 + 4.6 ms of linears, and 0.1 that the null kernel takes longer beside them, against 7.5.
    assert fall.gap_share == pytest.approx(0.2 / 7.5)
    assert fall.adds_up is True
    for name, interval in fall.intervals.items():
        assert interval.low <= getattr(parts, f"{name}_s") <= interval.high
    off = chain_waterfall(
        hops, misled, alone=[alone(s) for s in (0.0060, 0.0024, 0.0055)], has_host=False, seed=3
    )
    assert off is not None and off.adds_up is False and off.gap_share == pytest.approx(1.1 / 7.5)


def test_one_kernel_without_its_linears_alone_leaves_the_ranges() -> None:
    timed = [ranges(*both) for both in ((0.006, 0.009), (0.002, 0.0055), (0.004, 0.0075))]
    fall = chain_waterfall(
        [places(s) for s in (0.0090, 0.0055, 0.0075)],
        timed,
        alone=[alone(0.001), [], alone(0.001)],
        has_host=False,
        seed=3,
    )
    assert fall is not None and fall.parts.saving_s == pytest.approx(0.004)
