import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.paper import (
    CONTRADICTIONS,
    b_star,
    cor_direct,
    cor_of_batch,
    cor_tps,
    dsi_dp,
    energy_model,
    energy_shared_cast,
    hli_energy_j,
    n_star,
    paper_numbers,
)
from analysis.si import s_si_linear

PAPER = paper_numbers()
positive = st.floats(1e-3, 1e3)


def test_cor_of_the_papers_throughputs() -> None:
    tps = PAPER["tps"]["qwen3-0.6b/mathqa/a100"]
    assert round(cor_tps(tps["fp16"], tps["int8"]), 3) == tps["derived_cor_int8"]
    assert round(cor_tps(tps["fp16"], tps["nf4"]), 3) == tps["derived_cor_nf4"]


@pytest.mark.parametrize(
    "key",
    [
        "awq/mistral-7b/gsm8k/a100-80",
        "qwen2.5-32b/rtx-pro-6000/gsm8k/B16",
        "qwen2.5-32b/rtx-pro-6000/mathqa/B8",
    ],
)
def test_printed_cor_is_a_slow_down_and_not_a_ratio_of_times(key: str) -> None:
    printed = PAPER["cor"][key]
    assert cor_tps(1.0, 1 / (1 + printed)) == pytest.approx(printed)
    if printed < 0:
        with pytest.raises(ValueError, match="cast_s"):
            cor_direct(printed, 1.0)


def test_hli_makes_energy_repeat_time() -> None:
    assert hli_energy_j(400, 10, 8) == 500
    # TDP cancels: the energy index is the throughput ratio, whatever the card draws.
    for tdp_w in (72, 400, 700):
        ratio = s_si_linear(hli_energy_j(tdp_w, 3.45), hli_energy_j(tdp_w, 1.0)).value
        assert ratio == pytest.approx(1 / 3.45)


def test_printed_energy_index_of_int8_does_not_follow_from_its_cor() -> None:
    cor = PAPER["cor"]["mistral-7b/gsm8k/h100"]["int8"]
    assert round(1 / (1 + cor), 2) == 0.29 != PAPER["s_si"]["mistral-7b/h100/int8"]


@given(positive, st.sampled_from([4.0, 8.0]), positive, st.integers(1, 500), positive)
def test_low_bit_is_cheaper_below_b_star_by_eq_19(
    alpha: float, bits: float, phi: float, hops: int, gamma: float
) -> None:
    threshold = b_star(alpha, 16, bits, phi)

    def excess(batch_size: float) -> float:
        # gamma is left out of the difference, where it cancels and would only add rounding.
        low = energy_model(
            hops=hops, gamma_j=0, alpha_j_per_bit=alpha, bits=bits, batch_size=batch_size, phi_j=phi
        )
        native = energy_model(
            hops=hops, gamma_j=0, alpha_j_per_bit=alpha, bits=16, batch_size=batch_size, phi_j=0
        )
        return low - native

    assert excess(threshold * 0.9) < 0 < excess(threshold * 1.1)
    assert energy_model(
        hops=hops, gamma_j=gamma, alpha_j_per_bit=alpha, bits=bits, batch_size=1, phi_j=phi
    ) == pytest.approx(hops * (gamma + alpha * bits + phi))


def test_printed_falcon_threshold_fixes_phi_and_reverses_the_claim() -> None:
    batch = PAPER["batch_threshold"]["falcon3-3b"]
    phi = 1.0 * (16 - 4) / batch
    assert b_star(1.0, 16, 4, phi) == pytest.approx(batch)
    at_one = [
        energy_model(hops=1, gamma_j=0, alpha_j_per_bit=1.0, bits=bits, batch_size=1, phi_j=cast)
        for bits, cast in ((4, phi), (16, 0))
    ]
    assert at_one[0] < at_one[1]


def test_native_hardware_sends_b_star_to_infinity() -> None:
    assert b_star(1.0, 16, 4, 1e-9) > 1e9
    assert b_star(1.0, 16, 4, 0) == math.inf


def test_hops_cancel_from_every_comparison() -> None:
    ratios = {
        round(
            energy_model(hops=hops, gamma_j=2, alpha_j_per_bit=0.3, bits=4, batch_size=3, phi_j=1)
            / energy_model(hops=hops, gamma_j=2, alpha_j_per_bit=0.3, bits=16, batch_size=3, phi_j=0),
            12,
        )
        for hops in (1, 17, 900)
    }
    assert len(ratios) == 1


def test_shared_casting_amortizes_over_the_batch() -> None:
    assert cor_of_batch(3.0, 1.0, 1) == cor_direct(3.0, 1.0) == 3
    assert cor_of_batch(3.0, 1.0, 64) == pytest.approx(3 / 64)
    assert energy_shared_cast(10, 2, 8, 4) == pytest.approx(40)


def test_critical_scale_grows_with_the_batch() -> None:
    assert n_star(1.2, 1e9, 1, 0.1, 16, 4) == pytest.approx(1e9)
    assert n_star(1.2, 1e9, 8, 0.1, 16, 4) == pytest.approx(8e9)
    assert n_star(0, 1e9, 8, 0.1, 16, 4) == 0


def test_slope_of_the_index() -> None:
    assert dsi_dp(0.689, 4, 1.0, 16) == pytest.approx(0.311 / 12)
    assert dsi_dp(1.2, 4, 1.0, 16) < 0
    with pytest.raises(ValueError, match="native_bits=4 is not above bits=16"):
        dsi_dp(1.0, 16, 0.7, 4)
    with pytest.raises(ValueError, match="finite"):
        dsi_dp(math.nan, 4, 1.0, 16)


def test_bad_inputs_name_their_numbers() -> None:
    with pytest.raises(ValueError, match="comp_s=0"):
        cor_direct(1.0, 0)
    with pytest.raises(ValueError, match="tps=nan"):
        cor_tps(1.0, math.nan)
    with pytest.raises(ValueError, match="queries=0"):
        hli_energy_j(400, 1, 0)
    with pytest.raises(ValueError, match="phi_j=-1"):
        b_star(1.0, 16, 4, -1)
    with pytest.raises(ValueError, match="batch_size=0"):
        energy_shared_cast(1, 1, 1, 0)


def test_contradictions_have_distinct_keys_and_whole_sentences() -> None:
    assert len({item.key for item in CONTRADICTIONS}) == len(CONTRADICTIONS)
    assert all(item.statement.endswith(".") and item.where for item in CONTRADICTIONS)
