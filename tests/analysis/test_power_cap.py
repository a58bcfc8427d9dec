"""Hops that would draw more than the card may: how much longer they take, and where that is said."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from prediction_world import MODEL, machine
from test_predict import SETTING, memory

from analysis.hop_cost import Cost, Line
from analysis.power_cap import HELD_SHARE, POWER_OF_CLOCKS, capped, held_w
from analysis.predict import Predicted, Request, predict, why_longer

STATIC_W, CAP_W = 100.0, 600.0
HELD_W = HELD_SHARE * CAP_W


def test_nothing_changes_below_the_cap() -> None:
    time = Cost.line(1e-3, 1e-5)
    energy = time.times(HELD_W - 1)
    assert capped(time, energy, cap_w=CAP_W, static_w=STATIC_W, most=256) == (time, energy)
    # A card that idles above its cap has no clocks to lower.
    more = time.times(2 * HELD_W)
    assert capped(time, more, cap_w=CAP_W, static_w=HELD_W, most=256) == (time, more)


@pytest.mark.parametrize("power_w", [HELD_W + 1, 700.0, 1000.0])
def test_a_hop_above_the_cap_takes_as_long_as_its_clocks_fall_and_draws_what_it_may(power_w: float) -> None:
    time = Cost.line(2e-3, 1e-5)
    times, energies = capped(time, time.times(power_w), cap_w=CAP_W, static_w=STATIC_W, most=256)
    clocks = ((HELD_W - STATIC_W) / (power_w - STATIC_W)) ** (1 / POWER_OF_CLOCKS)
    for batch in (1, 2, 37, 200, 256):
        longer_s = float(time.at(batch)) / clocks
        assert float(times.at(batch)) == pytest.approx(longer_s, rel=1e-9)
        assert float(energies.at(batch)) == pytest.approx(held_w(CAP_W) * longer_s, rel=1e-9)
    # It costs fewer joules than at full clocks, and more than the cap alone would save.
    assert HELD_W / power_w < float(energies.at(8)) / (power_w * float(time.at(8))) < 1


def test_power_that_rises_and_falls_with_the_batch_is_held_only_where_it_is_too_high() -> None:
    time = Cost((Line(0, 1e-3, 0.0), Line(64, 1e-3 - 64e-5, 1e-5)))
    # Power rises to B = 64, up to 1.3 times what is held, and falls where the time grows.
    energy = Cost((Line(0, 0.3 * HELD_W * 1e-3, HELD_W * 1e-3 / 64), Line(64, HELD_W * 1.3e-3, 0.0)))
    times, energies = capped(time, energy, cap_w=CAP_W, static_w=STATIC_W, most=256)
    first, last = 64 * 0.7, 64 + 30
    for batch in range(1, 257):
        own_s, own_j = float(time.at(batch)), float(energy.at(batch))
        found_s, found_j = float(times.at(batch)), float(energies.at(batch))
        if first < batch < last:
            share = (own_j / own_s - STATIC_W) / (HELD_W - STATIC_W)
            assert found_s == pytest.approx(own_s * math.sqrt(share), rel=2e-4), batch
            assert found_j / found_s == pytest.approx(HELD_W), batch
        else:
            assert (found_s, found_j) == (pytest.approx(own_s), pytest.approx(own_j)), batch
    # One function still: pieces meet.
    for cost in (times, energies):
        for before, after in zip(cost.pieces, cost.pieces[1:], strict=False):
            assert before.at(after.start) == pytest.approx(after.at(after.start), rel=1e-9)


def test_lines_between_few_knots_are_close_to_the_curve() -> None:
    time = Cost.line(1e-3, 1e-6)
    energy = Cost.line(0.5 * HELD_W * 1e-3, HELD_W * 4e-6)
    times, _ = capped(time, energy, cap_w=CAP_W, static_w=STATIC_W, most=4096)
    for batch in (170, 333, 1001, 2048, 4000):
        own_s, own_j = float(time.at(batch)), float(energy.at(batch))
        share = (own_j / own_s - STATIC_W) / (HELD_W - STATIC_W)
        assert share > 1 and float(times.at(batch)) == pytest.approx(own_s * math.sqrt(share), rel=2e-3)
    assert float(times.at(5000)) > float(times.at(4096))


def held_down(cap_w: float | None, **changed: object) -> Predicted:
    request = Request((MODEL,), ("fused_nf4",), (1, 64, 200), SETTING, hops=200, n_draws=30)
    memories = {(MODEL.key, name): memory() for name in request.all_kernels}
    return predict(replace(machine(), tdp_w=cap_w), replace(request, **changed), memories)  # type: ignore[arg-type]


def test_predicted_cells_hold_what_the_cap_makes_of_them_and_say_it() -> None:
    free, bound = held_down(None), held_down(300.0)
    powers = [cell.power_w for cell in free.cells]
    assert min(powers) < 295 < max(powers)  # type: ignore[type-var]
    for before, after in zip(free.cells, bound.cells, strict=True):
        assert before.held_down_share == 0
        assert before.power_w == pytest.approx(before.energy_j_per_token * before.tps)
        if before.power_w <= HELD_SHARE * 300:  # type: ignore[operator]
            assert (after.hop_s, after.energy_j_per_token) == (before.hop_s, before.energy_j_per_token)
            assert after.held_down_share == 0
            continue
        clocks = ((HELD_SHARE * 300 - 150) / (before.power_w - 150)) ** 0.5  # type: ignore[operator]
        assert after.hop_s == pytest.approx(before.hop_s / clocks, rel=1e-4)
        assert after.held_down_share == pytest.approx(1 / clocks - 1, abs=1e-4)
        assert after.power_w == pytest.approx(HELD_SHARE * 300, rel=1e-4)
        assert after.hop_s_ci95[0] < after.hop_s < after.hop_s_ci95[1]
    assert why_longer(free.cells, None) is None and why_longer(free.cells, 9999.0) is None
    over = [cell for cell in bound.cells if cell.held_down_share]
    most = max(over, key=lambda cell: cell.held_down_share)
    sentence = why_longer(bound.cells, 300.0)
    assert sentence is not None and 0 < len(over) < len(bound.cells)
    assert sentence.startswith(f"{len(over)} of {len(bound.cells)} hops would draw more than the 300 W")
    assert f"{most.kernel} at B = {most.batch_size}, {100 * most.held_down_share:.1f} % longer" in sentence


def test_a_machine_without_energy_has_no_power_to_cap() -> None:
    bare = replace(machine(), energy=None, tdp_w=1.0)
    request = Request((MODEL,), ("fused_nf4",), (1, 64), SETTING, n_draws=30)
    cells = predict(bare, request, {(MODEL.key, n): memory() for n in request.all_kernels}).cells
    assert all(cell.held_down_share == 0 and cell.power_w is None for cell in cells)


def test_exact_numbers_stay_exact_where_nothing_is_held_down() -> None:
    time = Cost.line(Fraction(1, 1000), Fraction(1, 100000))
    assert capped(time, time.times(10), cap_w=600, static_w=1, most=64)[0].at(3) == Fraction(103, 100000)
