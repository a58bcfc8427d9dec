"""What the index decides, and the paper's printed examples of it."""

import numpy as np
import pytest

from analysis.paper import cor_tps, paper_numbers
from analysis.si import EnergyUnit, Weights, s_si_linear, s_si_log, si_geometric, si_linear, t_si
from analysis.si_policy import Indices, divergence, pareto_front, weight_sensitivity

VARIANTS = {
    "bf16": Indices(1.0, 0.6, 0.5),
    "nf4": Indices(0.9, 0.9, 0.9),
    "worse": Indices(0.9, 0.8, 0.9),
    "trusted": Indices(1.1, 0.1, 0.1),
}


def test_printed_examples() -> None:
    numbers = paper_numbers()
    accuracy = numbers["accuracy"]["mistral-7b/gsm8k/a100"]
    assert t_si(accuracy["nf4"], accuracy["fp16"]).value == pytest.approx(0.9138, abs=5e-5)
    energy = numbers["energy_j_per_query"]["example_in_section_3"]
    assert s_si_linear(energy["nf4"], energy["fp16"]).value == pytest.approx(0.4680, abs=5e-5)
    in_kwh = s_si_log(energy["nf4"], energy["fp16"], unit=EnergyUnit.KILOWATT_HOUR)
    assert in_kwh.value == pytest.approx(0.4680, abs=5e-4)
    tps = numbers["tps"]["qwen3-0.6b/mathqa/a100"]
    assert cor_tps(tps["fp16"], tps["int8"]) == pytest.approx(3.214, abs=5e-4)
    assert cor_tps(tps["fp16"], tps["nf4"]) == pytest.approx(1.010, abs=5e-4)
    weights = numbers["weights"]
    assert Weights() == Weights(weights["w_T"], weights["w_E"], weights["w_S"])


def test_pareto_front() -> None:
    assert pareto_front(VARIANTS) == ("bf16", "nf4", "trusted")
    assert pareto_front({"a": Indices(1, 1, 1), "b": Indices(1, 1, 1)}) == ("a", "b")
    with pytest.raises(ValueError, match="got 0"):
        pareto_front({})


@pytest.mark.parametrize("is_geometric", [False, True])
def test_every_winner_of_any_policy_is_on_the_front(is_geometric: bool) -> None:
    found = weight_sensitivity(VARIANTS, steps=10, is_geometric=is_geometric)
    front = pareto_front(VARIANTS)
    inside = {name for name, share in found.wins.items() if share > 0}
    # A dominated variant can only tie at the edge of the simplex, where a weight is 0.
    assert inside - set(front) <= {"worse"} and found.wins["worse"] < 0.1
    assert sum(found.wins.values()) == pytest.approx(1)
    index = si_geometric if is_geometric else si_linear
    balanced = index(0.9, 0.9, 0.9, Weights(0.3, 0.3, 0.4)).value
    assert found.lowest["nf4"] == pytest.approx(balanced) == pytest.approx(found.highest["nf4"])


def test_linear_sensitivity_is_spanned_by_the_corners() -> None:
    found = weight_sensitivity(VARIANTS, steps=4)
    assert (found.lowest["bf16"], found.highest["bf16"]) == pytest.approx((0.5, 1.0))
    assert not found.is_robust
    assert weight_sensitivity({"a": Indices(1, 1, 1), "b": Indices(0.5, 0.5, 0.5)}, steps=4).is_robust
    with pytest.raises(ValueError, match="steps=1"):
        weight_sensitivity(VARIANTS, steps=1)


def test_divergence_needs_an_interval_on_one_side() -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal((3, 400))
    found = divergence({4: (0.6, 0.6 + noise[0]), 8: (0.8, 0.8 + noise[1]), 16: (0.802, 0.802 + noise[2])})
    assert [(slope.bits, slope.bits_ref) for slope in found] == [(4, 8), (8, 16)]
    assert found[0].si_per_bit.point == pytest.approx(0.05) and found[0].is_trap is True
    assert found[1].si_per_bit.point == pytest.approx(0.00025) and found[1].is_trap is None
    gains = divergence({4: (0.9, 0.9 + noise[0]), 16: (0.5, 0.5 + noise[1])})
    assert gains[0].is_trap is False
    # Draws made of the same items cancel, and the interval shrinks.
    paired = divergence({4: (0.6, 0.6 + noise[0]), 8: (0.602, 0.602 + noise[0])})
    assert paired[0].is_trap is True


def test_divergence_refuses_what_is_no_slope() -> None:
    draws = np.zeros(20)
    with pytest.raises(ValueError, match="2 or more precisions"):
        divergence({4: (1.0, draws)})
    with pytest.raises(ValueError, match=r"got \[20, 21\]"):
        divergence({4: (1.0, draws), 8: (1.0, np.zeros(21))})
    with pytest.raises(ValueError, match="20 or more"):
        divergence({4: (1.0, draws[:5]), 8: (1.0, draws[:5])})
