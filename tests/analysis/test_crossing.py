"""B* and N*: exact algebra, all regimes on data with known answers, and brute force."""

import math
from fractions import Fraction as F

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.crossing import (
    Regime,
    b_star_of,
    crossing,
    estimate_crossing,
    measured_crossing,
    regime_of,
)
from analysis.fit_time import call_s
from analysis.hop_cost import Cost, Line, above_zero_intervals, call_cost, hop_energy, hop_time, total
from analysis.scale import FamilyPoint, family_scale, n_star_device, n_star_host
from analysis.stats import Interval

rationals = st.fractions(min_value=0, max_value=20, max_denominator=12)


@settings(deadline=None)
@given(*[rationals] * 6, st.booleans(), st.fractions(min_value=0, max_value=50, max_denominator=6))
def test_hop_time_is_the_formula_exactly(
    fixed: F, weights: F, row: F, cast: F, cast_row: F, host: F, is_serial: bool, batch: F
) -> None:
    cost = hop_time(
        fixed=fixed,
        weights=weights,
        per_row=row,
        cast_pass=cast,
        cast_row=cast_row,
        host=host,
        is_serial=is_serial,
    )
    device = fixed + max(weights, batch * row) + cast + batch * cast_row
    assert cost.at(batch) == (host + device if is_serial else max(host, device))


@settings(deadline=None)
@given(*[rationals] * 4, st.lists(st.fractions(min_value=1, max_value=99, max_denominator=7), min_size=1))
def test_energy_is_the_formula_exactly(static: F, passes: F, rows: F, weights: F, batches: list[F]) -> None:
    time = hop_time(fixed=F(1), weights=weights, per_row=F(1, 3), host=F(4))
    cost = hop_energy(time, static_w=static, pass_j=passes, row_j=rows)
    for batch in batches:
        assert cost.at(batch) == static * time.at(batch) + passes + batch * rows


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(*[rationals] * 5), min_size=2, max_size=2), st.integers(min_value=2, max_value=60))
def test_losing_intervals_are_those_of_brute_force(
    parameters: list[tuple[F, F, F, F, F]], b_max: int
) -> None:
    native, variant = (
        hop_time(fixed=a, weights=b, per_row=c, cast_row=d, host=e) for a, b, c, d, e in parameters
    )
    found = crossing(native, variant, b_max=b_max)
    for step in range(8 * (b_max - 1) + 1):
        batch = 1 + F(step, 8)
        loses = variant.at(batch) > native.at(batch)
        inside = any(low < batch < high for low, high in found.loses)
        closed = any(low <= batch <= high for low, high in found.loses)
        assert inside <= loses <= closed


def line(fixed: int, row: int) -> Cost:
    return Cost.line(F(fixed), F(row))


@pytest.mark.parametrize(
    ("native", "variant", "regime", "loses", "b_star"),
    [
        ((10, 3), (8, 2), Regime.NEVER, (), ()),
        ((8, 2), (10, 3), Regime.ALWAYS, ((1, 64),), ()),
        ((4, 3), (10, 2), Regime.BELOW, ((1, 6),), (6,)),
        ((10, 2), (4, 3), Regime.ABOVE, ((6, 64),), (6,)),
        ((5, 5), (5, 5), Regime.NEVER, (), ()),
        ((0, 1), (100, 0), Regime.ALWAYS, ((1, 64),), ()),
    ],
)
def test_the_four_regimes(
    native: tuple[int, int],
    variant: tuple[int, int],
    regime: Regime,
    loses: tuple[tuple[int, int], ...],
    b_star: tuple[int, ...],
) -> None:
    found = crossing(line(*native), line(*variant), b_max=64)
    assert (found.regime, found.loses, found.b_star) == (regime, loses, b_star)
    assert ("no crossing" in found.sentence) == (not b_star)
    if b_star:
        delta = (variant[0] - native[0], variant[1] - native[1])
        assert (regime_of(*delta), b_star_of(*delta)) == (regime, b_star[0])


def test_a_variant_may_lose_in_a_middle_band() -> None:
    native = hop_time(fixed=F(0), weights=F(16), per_row=F(1))
    variant = hop_time(fixed=F(0), weights=F(4), per_row=F(0), cast_row=F(9, 10))
    # 4 + 0.9 B against max(16, B): loses between 40/3 and 40.
    found = crossing(native, variant, b_max=100)
    assert (found.regime, found.loses) == (Regime.BAND, ((F(40, 3), F(40)),))
    assert found.b_star == (F(40, 3), F(40))


def test_time_and_energy_cross_at_different_batches_and_hli_makes_them_equal() -> None:
    native = hop_time(fixed=F(1), weights=F(8), per_row=F(0), cast_row=F(1))
    variant = hop_time(fixed=F(1), weights=F(2), per_row=F(0), cast_row=F(2))
    in_time = crossing(native, variant, b_max=64).b_star
    joules = [
        hop_energy(time, static_w=F(2), pass_j=p, row_j=F(1))
        for time, p in ((native, F(40)), (variant, F(10)))
    ]
    in_energy = crossing(*joules, b_max=64).b_star
    hli = crossing(native.times(F(700)), variant.times(F(700)), b_max=64).b_star
    assert (in_time, in_energy, hli) == ((6,), (21,), (6,))


def test_b_star_and_energy_as_printed_by_sympy() -> None:
    hops, gamma, alpha, phi, batch, p, native = sympy.symbols("K gamma alpha phi B p pi", positive=True)

    def energy(bits: sympy.Expr, cast: sympy.Expr) -> sympy.Expr:
        return hops * (gamma + alpha * bits / batch + cast)

    difference = sympy.simplify(energy(p, phi) - energy(native, sympy.Integer(0)))
    assert sympy.simplify(difference - hops * (phi - alpha * (native - p) / batch)) == 0
    (root,) = sympy.solve(difference, batch)
    assert sympy.simplify(root - alpha * (native - p) / phi) == 0
    below = difference.subs(batch, root / 2)
    # Cheaper below B*, whatever Thm 4.3 says.
    assert sympy.simplify(below + hops * phi) == 0
    assert sympy.limit(root, phi, 0, "+").subs({alpha: 1, native: 16, p: 4}) == sympy.oo


def test_confidence_counts_draws() -> None:
    native = line(10, 2)
    draws = [(native, line(4, 3 if i < 15 else 1)) for i in range(20)]
    found = estimate_crossing((native, line(4, 3)), draws, b_max=64, batches=(1, 4, 8, 128))
    assert found.confidence == 0.75 and found.regimes == {Regime.ABOVE: 0.75, Regime.NEVER: 0.25}
    assert found.sentence == "inconclusive in [1, 64]: above 75 %, never 25 % of the draws"
    agreed = estimate_crossing((native, line(4, 3)), [draws[0]] * 20, b_max=64)
    assert agreed.sentence == agreed.point.sentence
    assert found.b_star == Interval(6, 6, 6)
    assert found.loses_share == {1: 0, 4: 0, 8: 0.75}
    with pytest.raises(ValueError, match="19 draws are too few"):
        estimate_crossing((native, native), draws[:19], b_max=64)


def test_measured_crossing_brackets() -> None:
    ratios = {
        1: Interval(0.5, 0.4, 0.6),
        8: Interval(0.9, 0.8, 0.95),
        32: Interval(1.0, 0.9, 1.1),
        64: Interval(1.2, 1.1, 1.3),
        128: Interval(0.9, 0.8, 0.99),
    }
    found = measured_crossing(ratios)
    assert (found.loses, found.wins, found.unclear) == ((64,), (1, 8, 128), (32,))
    assert found.brackets == ((8, 64, "loses"), (64, 128, "wins"))
    with pytest.raises(ValueError, match="got"):
        measured_crossing({})


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.floats(min_value=0.01, max_value=10)] * 6),
    st.integers(min_value=1, max_value=300),
    st.integers(min_value=1, max_value=40),
    st.integers(min_value=1, max_value=40),
)
def test_a_call_as_pieces_is_the_fitted_formula(
    parameters: tuple[float, ...], m: int, n: int, k: int
) -> None:
    import numpy as np

    hidden = (*parameters[:3], parameters[3] / 10, *parameters[4:])
    wanted = call_s(np.array([hidden]), np.array([float(m)]), np.array([float(n)]), np.array([float(k)]))
    assert float(call_cost(hidden, n, k).at(m)) == pytest.approx(wanted[0, 0], rel=1e-9)
    twice = total([call_cost(hidden, n, k)] * 2)
    assert float(twice.at(m)) == pytest.approx(2 * wanted[0, 0], rel=1e-9)


def test_bad_costs_are_refused() -> None:
    with pytest.raises(ValueError, match="start at 0"):
        Cost((Line(1, 0, 0),))
    with pytest.raises(ValueError, match="batch=-1"):
        line(1, 1).at(-1)
    with pytest.raises(ValueError, match=r"\[1, 1\] is no interval"):
        above_zero_intervals(line(1, 1), 1, 1)


@settings(deadline=None)
@given(
    st.fractions(min_value=-5, max_value=20, max_denominator=8),
    *[st.fractions(min_value=0, max_value=3, max_denominator=8)] * 2,
    st.integers(min_value=1, max_value=8),
    st.fractions(min_value=0, max_value=3, max_denominator=8),
    st.fractions(min_value=0, max_value=F(1, 2), max_denominator=8),
)
def test_n_star_is_that_of_brute_force(
    delta: F, saved: F, cast: F, batch: int, row: F, row_weight: F
) -> None:
    found = n_star_device(
        delta_fixed_s=delta,
        saved_s_per_weight=saved,
        cast_s_per_weight=cast,
        batch_size=batch,
        row_s=row,
        row_s_per_weight=row_weight,
    )

    def gap(weights: F) -> F:
        return delta - saved * weights + cast * weights + batch * (row + row_weight * weights)

    sizes = [F(step, 4) for step in range(1, 400)]
    if found == math.inf:
        # Larger models never leave the trap: from some size on, all of them lose.
        assert gap(F(10**9)) > 0
    else:
        assert all((gap(size) < 0) == (size > found) or gap(size) == 0 for size in sizes)


def test_unfused_kernels_never_leave_the_trap() -> None:
    # 0.53 packed bytes read, 2 written, 2 read again, against 2: nothing is saved.
    assert n_star_device(delta_fixed_s=1e-6, saved_s_per_weight=0, cast_s_per_weight=2.5e-12) == math.inf


def test_host_bound_n_star() -> None:
    # 10 ms of launches at 4 TB/s are 20 G weights of 2 bytes.
    assert n_star_host(bytes_per_s=4e12, host_s=10e-3, native_bytes_per_weight=2) == pytest.approx(20e9)
    native = [(w, w * 2 / 4e12) for w in (1e9, 19e9, 21e9)]
    assert [w < 20e9 for w, _ in native] == [time < 10e-3 for _, time in native]
    with pytest.raises(ValueError, match="bytes_per_s=0"):
        n_star_host(bytes_per_s=0, host_s=1, native_bytes_per_weight=2)


def test_a_family_leaves_the_trap_between_two_sizes() -> None:
    found = family_scale([FamilyPoint(8e9, 4.0, 3.0), FamilyPoint(1e9, 1.0, 2.0), FamilyPoint(4e9, 2.0, 2.5)])
    assert (found.trapped, found.free) == ((1e9, 4e9), (8e9,))
    assert found.brackets == ((4e9, 8e9, pytest.approx(4e9 + 4e9 / 3)),)
    with pytest.raises(ValueError, match="2 or more models"):
        family_scale([FamilyPoint(1, 1, 1)])
