"""Stored predictions on pages: errors, B* beside the measured, time stamps, and histories that cannot be shown."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from published_chain_runs import WHEN, cells, heading, row, run, with_energy

from analysis.predict_check import check_prediction
from analysis.predict_file import PredictedCell, PredictedCrossing, PredictedMemory, Prediction
from analysis.predict_history import HeldOut
from benchmarks.prediction_tables import prediction_page, prediction_summary
from benchmarks.published import Chains, NotPublished

FILE = Path("results/h200/predictions/p.json")
MEMORY = PredictedMemory(
    weight_bytes=1, layout_bytes=0, kv_bytes=1, total_bytes=2, fits=True, largest_batch=9
)
HOP_MS = {("bf16", 1): 5.0, ("bf16", 64): 8.0, ("fused_nf4", 1): 2.0, ("fused_nf4", 64): 9.0}
LONG = {"energy_windows": 1, "hops": 64}


def cell(kernel: str, batch: int, hop_ms: float) -> PredictedCell:
    return PredictedCell(
        model="mistral-7b",
        kernel=kernel,
        batch_size=batch,
        hop_s=hop_ms / 1e3,
        hop_s_ci95=(0.85e-3 * hop_ms, 1.15e-3 * hop_ms),
        tps=1.0,
        tps_ci95=(1.0, 1.0),
        time_ratio=1.0,
        time_ratio_ci95=(1.0, 1.0),
        verdict_time="inconclusive",
        energy_j_per_token=2.0,
        energy_j_per_token_ci95=(1.9, 2.1),
        energy_j_per_query=128.0,
        energy_ratio_ci95=None,
        verdict_energy="inconclusive",
        memory=MEMORY,
    )


def crossing(**changed: Any) -> PredictedCrossing:
    fields: dict[str, Any] = {
        "model": "mistral-7b",
        "kernel": "fused_nf4",
        "quantity": "time",
        "answer": "loses for 40 < B < 256 (looked at [1, 256])",
        "regime": "above",
        "confidence": 1.0,
        "loses": [(40.0, 256.0)],
        "b_star": [40.0],
        "b_star_ci95": (35.0, 46.0),
    }
    return PredictedCrossing(**(fields | changed))


def prediction(crossings: Sequence[PredictedCrossing] = (), **changed: Any) -> Prediction:
    fields: dict[str, Any] = {
        "created_utc": WHEN,
        "git_commit": "0123456789abcdef",
        "command": ["qt-profile", "predict"],
        "machine": "NVIDIA H200",
        "arch": "h200",
        "source": "from fits",
        "is_transferred": False,
        "fits": "NVIDIA H200, 2026-01-30",
        "fit_runs": ["a"],
        "engine": "fused",
        "context": 512,
        "hops": 64,
        "calibration_runs": [],
        "calibration_residual_share_p50": None,
        "cells": [cell(kernel, batch, 1.1 * ms) for (kernel, batch), ms in HOP_MS.items()],
        "crossings": list(crossings),
        "scales": [],
        "warnings": [],
    }
    return Prediction(**(fields | changed))


def measured(number: int = 5, **changed: Any) -> Chains:
    rows = [row(kernel, batch, ms) for (kernel, batch), ms in HOP_MS.items()]
    return [run(number, rows, **changed)]


def history(made: Prediction, chains: Chains) -> list[HeldOut]:
    return check_prediction(made, [record for _, record in chains]).held_out


def page(made: Prediction, chains: Chains) -> str:
    return prediction_page([(FILE, made)], history(made, chains), chains)


def test_errors_and_both_time_stamps() -> None:
    chains = [*measured(5), run(9, [with_energy("fused_nf4", 1, 64.0, hop_ms=2.2)], **LONG)]
    made = prediction()
    text = prediction_page([(FILE, made)], history(made, chains), chains)
    assert cells(text, "hop time") == ["5", "10.0%", "10.0%", "100%"]
    # 2 queries of 64 J and 128 tokens in all are 1 J per token, where 2 were predicted.
    assert cells(text, "energy per token") == ["1", "100.0%", "100.0%", "0%"]
    assert (
        "Predicted 2026-01-31 12:00:00 UTC (`results/h200/predictions/p.json`, commit 0123456789; engine `fused`, "
        "512 cached tokens, fits of NVIDIA H200, 2026-01-30, of this machine, not calibrated). Measured later by "
        "2 chain runs in `results/h200`, which started 2026-01-31 12:05:00 to 2026-01-31 12:09:00 UTC, on NVIDIA H200."
    ) in text


def test_a_prediction_that_holds_the_power_cap_is_shown_without_it_too() -> None:
    label = "the same hop times, had the power cap held none of them down"
    held = {("bf16", 64): 0.1, ("fused_nf4", 64): 0.25}
    made = prediction(
        cells=[
            cell(*key, 1.1 * ms).model_copy(update={"held_down_share": held.get(key, 0.0)})
            for key, ms in HOP_MS.items()
        ]
    )
    text = page(made, measured())
    # 1.1 / 1.25 and three times 1.1, of which one is over 1.1.
    assert cells(text, "hop time") == ["4", "10.0%", "10.0%", "100%"]
    assert cells(text, label) == ["4", "10.0%", "11.4%", "–"]
    assert label not in page(prediction(), measured())


def test_the_summary_has_a_row_for_each_prediction() -> None:
    chains = [*measured(5), run(9, [with_energy("fused_nf4", 1, 64.0, hop_ms=2.2)], **LONG)]
    made = prediction()
    text = prediction_summary([(FILE, made)], history(made, chains), chains)
    assert heading(text)[2:] == [
        f"{name}: cells, median and 90th percentile of the absolute error"
        for name in ("hop time", "energy per token")
    ]
    label = "`p.json`, 2026-01-31 12:00:00"
    assert cells(text, label) == ["2026-01-31 12:05:00", "not known", "5, 10.0%, 10.0%", "1, 100.0%, 100.0%"]
    ends = "NVIDIA H200; engine `fused`, fits of micro-benchmarks; predictions in `results/h200/predictions`."
    assert text.endswith(ends)
    same = prediction(fit_cards=["GPU-1"])
    assert cells(prediction_summary([(FILE, same)], history(same, chains), chains), label)[1] == "yes"
    # Without a run that measured energy there is no column of it.
    times = prediction_summary([(FILE, made)], history(made, measured()), measured())
    assert len(heading(times)) == 3


def test_the_page_has_errors_by_kernel_too() -> None:
    text = page(prediction(), measured())
    assert cells(text, "`bf16`, hop time") == ["2", "10.0%", "10.0%", "100%"]
    assert cells(text, "`fused_nf4`, hop time") == ["2", "10.0%", "10.0%", "100%"]
    calibrated = page(
        prediction(calibration_runs=["a", "b"], is_transferred=True, git_commit=None), measured()
    )
    assert "carried over, calibrated by 2 native runs" in calibrated and "commit" not in calibrated


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({}, "40 [35, 46], loses above"),
        ({"confidence": 0.72, "answer": "inconclusive: above 72 %"}, "40 [35, 46]; inconclusive: above 72 %"),
        ({"b_star": [], "confidence": 0.4, "answer": "inconclusive"}, "inconclusive"),
        ({"b_star_ci95": None}, "40, loses above"),
        ({"b_star": [3.0, 40.0], "regime": "band"}, "3, 40 [35, 46]"),
        ({"b_star": [], "regime": "never"}, "none: never loses"),
        ({"b_star": [], "regime": "always"}, "none: always loses"),
        ({"b_star": [], "regime": "band", "answer": "in words"}, "in words"),
    ],
)
def test_b_star_predicted_beside_measured(changed: dict[str, Any], shown: str) -> None:
    text = page(prediction([crossing(**changed)]), measured())
    assert cells(text, "mistral-7b `fused_nf4`, time") == [shown, "between 1 and 64, loses above"]


@pytest.mark.parametrize(
    ("hop_ms", "shown"),
    [
        ({1: 2.0, 64: 3.0}, "none: wins at B = 1, 64"),
        ({1: 9.0, 64: 9.0}, "none: loses at B = 1, 64"),
        # Within the two intervals of 0.2 %, so not told apart.
        ({1: 5.0, 64: 9.0}, "none: loses at B = 64; not told apart at B = 1"),
        ({1: 5.01, 64: 8.01}, "not told apart at B = 1, 64"),
    ],
)
def test_b_star_is_measured_by_intervals(hop_ms: dict[int, float], shown: str) -> None:
    rows = [row("bf16", 1, 5.0), row("bf16", 64, 8.0), *(row("fused_nf4", b, ms) for b, ms in hop_ms.items())]
    text = page(prediction([crossing()]), [run(5, rows)])
    assert cells(text, "mistral-7b `fused_nf4`, time")[1] == shown


def test_replayed_hops_decide_where_there_are_any() -> None:
    rows = [
        row(kernel, batch, 5.0, **({"cor_tps": 0.2, "cor_tps_ci95": (0.1, 0.3)} if kernel != "bf16" else {}))
        for kernel in ("bf16", "fused_nf4")
        for batch in (1, 64)
    ]
    star = [crossing()]
    assert cells(page(prediction(star), [run(5, rows)]), "mistral-7b `fused_nf4`, time")[1] == (
        "none: loses at B = 1, 64"
    )
    # Against another baseline they say nothing of bf16.
    other = page(prediction(star), [run(5, rows, baseline="fused_nf4")])
    assert cells(other, "mistral-7b `fused_nf4`, time")[1] == "not told apart at B = 1, 64"


def test_b_star_of_energy_and_of_too_few_batch_sizes() -> None:
    joules = {("bf16", 1): 100.0, ("fused_nf4", 1): 50.0, ("bf16", 64): 10.0, ("fused_nf4", 64): 12.0}
    rows = [with_energy(kernel, batch, j, hop_ms=5.0) for (kernel, batch), j in joules.items()]
    both = prediction([crossing(), crossing(quantity="energy"), crossing(kernel="fused_fp4")])
    text = page(both, [run(5, rows, **LONG)])
    assert cells(text, "mistral-7b `fused_nf4`, energy")[1] == "between 1 and 64, loses above"
    assert "fused_fp4" not in text
    one_size = page(both, [run(5, rows[:2], **LONG)])
    assert "B\\*" not in one_size
    unfilled = page(both, [run(5, rows)])
    assert "`fused_nf4`, energy |" not in unfilled.split("B\\*")[1]


def test_without_a_checked_prediction_there_is_no_block() -> None:
    for make in (prediction_summary, prediction_page):
        with pytest.raises(NotPublished, match="0 stored predictions, 0 of them checked"):
            make([], [], [])
        with pytest.raises(NotPublished, match="1 stored predictions, 0 of them checked"):
            make([(FILE, prediction())], [], measured())


def test_of_several_predictions_each_has_its_own_errors() -> None:
    chains = measured(5)
    first = prediction()
    second = prediction(created_utc=WHEN + timedelta(seconds=30), cells=[cell("bf16", 1, 6.0)])
    made = [(FILE, first), (FILE.with_name("q.json"), second)]
    text = prediction_summary(made, [*history(first, chains), *history(second, chains)], chains)
    shares = [(line.split("|")[1].strip(), line.split("|")[4].strip()) for line in text.splitlines()[2:4]]
    assert shares == [
        ("`q.json`, 2026-01-31 12:00:30", "1, 20.0%, 20.0%"),
        ("`p.json`, 2026-01-31 12:00:00", "4, 10.0%, 10.0%"),
    ], "the newest first"


def test_a_history_that_names_what_is_not_there_is_refused() -> None:
    chains, made = measured(), prediction()
    entries = history(made, chains)
    with pytest.raises(
        ValueError, match="names 20260131T120500Z-chain-mistral-7b, which is not among 0 chain runs"
    ):
        prediction_page([(FILE, made)], entries, [])
    with pytest.raises(ValueError, match="names 20260131T120000Z-h200, which is not among 0 predictions"):
        prediction_page([], entries, chains)
    early = [entry.model_copy(update={"measured_utc": WHEN}) for entry in entries]
    with pytest.raises(ValueError, match="12:00:00 is not later than the prediction of 2026-01-31 12:00:00"):
        prediction_page([(FILE, made)], early, chains)
