"""The table of the paper's protocol: its figures by HLI beside those by the counter."""

import pytest
from published_chain_runs import cells, row, run, with_energy

from benchmarks.paper_tables import paper_table
from benchmarks.published import NotPublished


def protocol(number: int, *, counter_j: float | None = 100.0, **changed):
    figures = {
        "tps": 32.0,
        "cor_tps": 0.25,
        "hli_j_per_query": 550.0,
        "counter_j_per_query": counter_j,
        "s_si_hli": 0.8,
        "s_si_counter": None if counter_j is None else 0.81,
    }
    make = row if counter_j is None else lambda *a, **k: with_energy(*a, counter_j, **k)
    rows = [make(kernel, 1, problems=6, hops=378) for kernel in ("bf16", "bnb_nf4")]
    derived = {"paper": {"bf16": figures | {"cor_tps": 0.0}, "bnb_nf4": figures}}
    return run(number, rows, engine="eager", context=None, hops=None, derived=derived, **changed)


def test_both_energies_stand_side_by_side_with_what_hli_overstates() -> None:
    text = paper_table([protocol(1)])
    assert cells(text, "mistral-7b `bnb_nf4`") == [
        "5.0 [5.0, 5.0]", "32.0", "0.25", "550", "100 [99, 101]", "5.5", "0.80", "0.81"
    ]  # fmt: skip
    assert "random weights, 6 queries of 63 hops, HLI an estimate: TDP times time" in text


def test_without_a_counter_only_the_estimate_is_there() -> None:
    text = paper_table([protocol(1, counter_j=None)])
    assert cells(text, "mistral-7b `bf16`")[3:] == ["550", "–", "–", "0.80", "–"]


def test_other_runs_are_no_protocol() -> None:
    with pytest.raises(NotPublished, match="no chain run with --protocol paper"):
        paper_table([run(1, [row("bf16", 1)])])
    later = paper_table([protocol(1), protocol(2, counter_j=200.0)])
    assert cells(later, "mistral-7b `bf16`")[4] == "200 [198, 202]"
