"""Printed numbers that docs/paper.md speaks of, recomputed."""

from fractions import Fraction

import pytest

from analysis.model_shape import HopEngine
from analysis.paper import b_star, cor_tps, hli_energy_j, paper_numbers
from analysis.predict_hop import launches
from analysis.si import s_si_linear, t_si
from analysis.stats import wilson_interval
from profiler.cli_predict_inputs import model_shape

PAPER = paper_numbers()
GSM8K_TEST = 1319


def test_printed_accuracies_are_counts_of_the_whole_test_split() -> None:
    printed = PAPER["accuracy"]["mistral-7b/gsm8k/a100"]
    for name, correct in printed["derived_correct_of_1319"].items():
        assert round(correct / GSM8K_TEST, 4) == printed[name]
    assert round(1 - t_si(printed["nf4"], printed["fp16"]).value, 3) == 0.086
    best, worst = (
        wilson_interval(printed["derived_correct_of_1319"][name], GSM8K_TEST) for name in ("fp16", "nf4")
    )
    assert worst.high > best.low


def test_printed_relative_loss_on_mathqa() -> None:
    printed = PAPER["accuracy"]["qwen3-0.6b/mathqa"]
    assert round(1 - printed["nf4"] / printed["fp16"], 2) == 0.13


def test_printed_joules_on_the_a100_give_the_example_of_section_3() -> None:
    joules = PAPER["energy_j_per_query"]["mistral-7b/gsm8k/a100"]
    example = PAPER["energy_j_per_query"]["example_in_section_3"]
    assert round(s_si_linear(joules["nf4"], joules["fp16"]).value, 3) == example["printed_s_si"] == 0.468
    assert round(s_si_linear(joules["int8"], joules["fp16"]).value, 3) == 0.340
    # Under HLI joules are time, so their ratio is that of the throughputs.
    cors = [cor_tps(1 / joules["fp16"], 1 / joules[name]) for name in ("int8", "nf4")]
    assert [round(cor, 2) for cor in cors] == [1.94, 1.14]


def test_four_times_the_joules_is_an_increase_of_three_hundred_percent() -> None:
    joules = PAPER["energy_j_per_query"]["qwen3-0.6b/mathqa/h100"]
    ratio = joules["int8"] / joules["fp16"]
    assert round(ratio, 2) == 4.01 and round(100 * (ratio - 1)) == 301 and round(ratio, 1) != 4.2
    cor = PAPER["cor"]["qwen3-0.6b/gsm8k/a100"]["int8"]
    increase = hli_energy_j(400, 1 + cor) / hli_energy_j(400, 1.0) - 1
    assert round(100 * increase) == 274 != 400


def test_printed_throughput_is_not_that_of_eager_hops_at_batch_1() -> None:
    hop_s = 1 / PAPER["tps"]["qwen3-0.6b/mathqa/a100"]["fp16"]
    count = launches(model_shape("qwen3-0.6b"), "bf16", HopEngine.EAGER)
    assert (count, round(1e3 * hop_s, 2), round(1e6 * hop_s / count, 1)) == (1621, 1.64, 1.0)


def test_bandwidth_benefit_of_nf4_with_and_without_scales() -> None:
    assert 1 - Fraction(4, 16) == Fraction(3, 4)
    with_scales = 4 + Fraction(32, 64)
    assert round(float(1 - with_scales / 16), 3) == 0.719


@pytest.mark.parametrize("weights", [0.6e9, 3e9, 7e9])
def test_b_star_as_printed_does_not_depend_on_the_size(weights: float) -> None:
    per_weight = {"alpha": 2e-11, "phi": 3e-12}
    star = b_star(per_weight["alpha"] * weights, 16, 4, per_weight["phi"] * weights)
    assert star == pytest.approx(b_star(per_weight["alpha"], 16, 4, per_weight["phi"]))


def test_the_gradient_of_eq_20_is_negative_above_b_star_and_not_below() -> None:
    alpha, phi, native, bits = Fraction(3), Fraction(2), 16, 4
    star = alpha * (native - bits) / phi
    slope_of_phi = -phi / (native - bits)
    for batch, sign in ((star / 2, 1), (star * 2, -1)):
        gradient = alpha / batch + slope_of_phi
        assert (gradient > 0) is (sign > 0)
