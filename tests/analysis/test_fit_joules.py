"""alpha and phi in joules, by hand from made-up parameters."""

from __future__ import annotations

import pytest
from prediction_world import fits, fitted

from analysis.fit_cast import CAST_PARAMETERS
from analysis.fit_crossing import Layer
from analysis.fit_joules import alpha_of_model, cast_joules, phi_of_hop
from analysis.kernel_kinds import CAST_PREFIX

LAYERS = [Layer(100, 50, 3), Layer(20, 10, 2)]
WEIGHTS, EDGE, CALLS = 3 * 5000 + 2 * 200, 3 * 150 + 2 * 30, 5
DRAWS = 40
STATIC_W, ACTIVE_W, J_PER_BYTE, CAST_J = 100.0, 50.0, 5e-11, 2e-11
CAST = (1e-6, 2e-13, 3e-15, 4e-13)


def known(**changed: object):
    names = ("static_w", "j_per_byte", "j_per_flop", "active_w", f"{CAST_PREFIX}fused_nf4")
    energy = fitted(names, (STATIC_W, J_PER_BYTE, 4e-13, ACTIVE_W, CAST_J), 0.01, DRAWS)
    base = fits(n_draws=DRAWS)
    cast = fitted(CAST_PARAMETERS, CAST, 0.01, DRAWS)
    kernels = base.kernels | {"fused_nf4": base.kernels["fused_nf4"].model_copy(update={"cast": cast})}
    return base.model_copy(update={"energy": energy, "kernels": kernels, "read_bytes_per_s": 4e12} | changed)


def test_alpha_is_traffic_and_the_power_of_the_time_that_it_takes() -> None:
    alpha = alpha_of_model(known(), LAYERS)
    assert alpha is not None
    assert alpha.point == pytest.approx(WEIGHTS / 8 * (J_PER_BYTE + (STATIC_W + ACTIVE_W) / 4e12))
    assert alpha.low < alpha.point < alpha.high < 1.1 * alpha.low
    assert alpha_of_model(known(read_bytes_per_s=None), LAYERS) is None
    assert alpha_of_model(known(energy=None), LAYERS) is None


def test_phi_has_a_part_per_pass_and_a_part_per_row() -> None:
    found = cast_joules(known(), "fused_nf4", LAYERS)
    assert found is not None
    launch, per_pass, per_row, per_element = CAST
    power = STATIC_W + ACTIVE_W
    assert found.pass_j.point == pytest.approx(
        power * (CALLS * launch + WEIGHTS * per_pass) + WEIGHTS * CAST_J
    )
    assert found.row_j.point == pytest.approx(power * (WEIGHTS * per_row + EDGE * per_element))
    for interval in (found.pass_j, found.row_j):
        assert interval.low < interval.point < interval.high < 1.1 * interval.low
    # At B = 1 the two are phi as the report has it.
    whole = phi_of_hop(known(), "fused_nf4", LAYERS)
    assert whole is not None and whole.point == pytest.approx(found.pass_j.point + found.row_j.point)


def test_what_was_not_measured_has_no_joules() -> None:
    assert cast_joules(known(energy=None), "fused_nf4", LAYERS) is None
    assert cast_joules(known(), "bf16", LAYERS) is None
    with pytest.raises(ValueError, match="lack nosuch; they have"):
        cast_joules(known(), "nosuch", LAYERS)
