"""Stored predictions, runs that check them, the history of errors, and the command around them."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prediction_world import MODEL, WHEN, chain
from typer.testing import CliRunner

from analysis.fit_crossing import measured_by_chain
from analysis.predict_check import check_prediction
from analysis.predict_file import (
    PredictedCell,
    PredictedCrossing,
    PredictedMemory,
    Prediction,
    read_prediction,
    write_prediction,
)
from analysis.predict_history import HISTORY, append_history, read_history, summarise_errors
from profiler.cli import app
from profiler.cli_predict_inputs import known_history
from profiler.record import RunRecord, VariantResult, write_run

MEMORY = PredictedMemory(
    weight_bytes=1, layout_bytes=0, kv_bytes=1, total_bytes=2, fits=True, largest_batch=9
)
HOPS = {("bf16", 1): 2e-3, ("bf16", 32): 3e-3, ("fused_nf4", 1): 1e-3, ("fused_nf4", 32): 4e-3}


def cell(kernel: str, batch: int, hop_s: float, **changed: Any) -> PredictedCell:
    fields: dict[str, Any] = {
        "model": MODEL.key,
        "kernel": kernel,
        "batch_size": batch,
        "hop_s": hop_s,
        "hop_s_ci95": (0.95 * hop_s, 1.05 * hop_s),
        "tps": batch / hop_s,
        "tps_ci95": (0.0, 1e9),
        "time_ratio": 1.0,
        "time_ratio_ci95": (1.0, 1.0),
        "verdict_time": "inconclusive",
        "energy_j_per_token": 0.5,
        "energy_j_per_token_ci95": (0.4, 0.6),
        "energy_j_per_query": 50.0,
        "energy_ratio_ci95": None,
        "verdict_energy": "inconclusive",
        "memory": MEMORY,
    }
    return PredictedCell(**(fields | changed))


def prediction(
    *, star: Sequence[float] = (9.0,), loses: Sequence[tuple[float, float]] = (), **changed: Any
) -> Prediction:
    crossing = PredictedCrossing(
        model=MODEL.key,
        kernel="fused_nf4",
        quantity="time",
        answer="",
        regime="above",
        confidence=1.0,
        loses=list(loses),
        b_star=list(star),
        b_star_ci95=None,
    )
    fields: dict[str, Any] = {
        "created_utc": WHEN,
        "git_commit": "abc",
        "command": ["qt-profile", "predict"],
        "machine": "NVIDIA H200",
        "arch": "h200",
        "source": "from fits",
        "is_transferred": False,
        "fits": "NVIDIA H200, 1",
        "fit_runs": ["a"],
        "engine": "graph",
        "context": 640,
        "hops": 100,
        "calibration_runs": [],
        "calibration_residual_share_p50": None,
        "cells": [cell(kernel, batch, 1.1 * hop_s) for (kernel, batch), hop_s in HOPS.items()],
        "crossings": [crossing],
        "scales": [],
        "warnings": [],
    }
    return Prediction(**(fields | changed))


def test_errors_are_those_of_the_prediction_over_the_measurement() -> None:
    run = chain(HOPS, energy_j_per_token={("bf16", 1): 0.4, ("fused_nf4", 1): 1.0})
    found = check_prediction(prediction(), [run])
    times = [e for e in found.held_out if e.quantity == "hop_s"]
    assert len(times) == 4 and all(e.error_share == pytest.approx(0.1) for e in times)
    assert not any(e.is_inside_ci95 for e in times)
    energies = [e for e in found.held_out if e.quantity == "energy_j_per_token"]
    assert [e.error_share for e in energies] == pytest.approx([0.25, -0.5])
    assert [e.is_inside_ci95 for e in energies] == [True, False]
    hop, energy = summarise_errors(found.held_out)
    assert (hop.cells, hop.error_share_p50, hop.inside_share) == (4, pytest.approx(0.1), 0.0)
    assert (energy.cells, energy.error_share_p90) == (2, pytest.approx(0.475))
    assert found.skipped == []


@pytest.mark.parametrize(
    ("cards", "is_same"), [(["GPU-1"], True), (["GPU-0", "GPU-1"], True), (["GPU-2"], False), ([], None)]
)
def test_runs_on_another_card_than_the_fits_are_said(
    cards: list[str], is_same: bool | None, tmp_path: Path
) -> None:
    stored = prediction(fit_cards=cards)
    assert check_prediction(stored, [chain(HOPS)]).is_same_card is is_same
    write_prediction(tmp_path / "p.json", stored)
    write_run(tmp_path, chain(HOPS), [])
    words = ["predict", "--check", str(tmp_path / "p.json"), str(tmp_path), "--fits", str(tmp_path / "fits")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert ("another card than the fits" in " ".join(shown.output.split())) is (is_same is False)


def test_a_run_that_checks_nothing_has_no_say_in_the_card() -> None:
    stranger = chain(HOPS, model="other", number=1)
    state = stranger.environment.gpus[0].model_copy(update={"uuid": "GPU-7"})
    environment = stranger.environment.model_copy(update={"gpus": [state]})
    elsewhere = stranger.model_copy(update={"environment": environment})
    found = check_prediction(prediction(fit_cards=["GPU-1"]), [chain(HOPS), elsewhere])
    assert found.is_same_card is True and "were not predicted" in found.skipped[0]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (chain(HOPS, later_s=-1), "before the prediction of .* it is not held out"),
        (chain(HOPS, later_s=0), "before the prediction"),
        (chain(HOPS, gpu="NVIDIA L4", arch="l4"), "ran on NVIDIA L4, the prediction is for NVIDIA H200"),
        (chain(HOPS, engine="eager"), "ran with engine=eager, the prediction is for graph"),
        (
            chain(HOPS, context=100, hops=64),
            "read 132 cached tokens per hop on average, the prediction is for 640",
        ),
        (chain(HOPS, model="other"), "4 rows were not predicted"),
    ],
)
def test_runs_that_check_nothing_are_named(run: RunRecord, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_prediction(prediction(), [run])
    strange = [chain({("null_fp4", 1): 1e-3, ("unfused_fp4", 8): 1e-3}, number=n) for n in (2, 3)]
    (sentence,) = check_prediction(prediction(), [chain(HOPS), *strange]).skipped
    assert sentence.startswith("2 runs (2026") and sentence.endswith("): 2 rows were not predicted")
    both = check_prediction(prediction(), [run, chain(HOPS, number=1, context=560, hops=100)])
    assert len(both.skipped) == 1 and {e.run_id for e in both.held_out} == {"20260131T120101Z-chain-made-up"}


def test_joules_of_short_windows_or_of_prompts_check_nothing() -> None:
    def joules(run: RunRecord) -> int:
        return sum(e.quantity == "energy_j_per_token" for e in check_prediction(prediction(), [run]).held_out)

    run = chain(HOPS, energy_j_per_token={("bf16", 1): 0.4, ("fused_nf4", 32): 0.7})
    assert joules(run) == 2
    assert joules(run.model_copy(update={"arguments": run.arguments | {"energy_windows": 0}})) == 0

    def with_prompts(prefill_s: float) -> RunRecord:
        rows = [row.model_copy(update={"prefill_s": prefill_s, "decode_s": 1.0}) for row in run.results]
        return run.model_copy(update={"results": rows})

    assert joules(with_prompts(0.1)) == 2
    assert joules(with_prompts(0.2)) == 0
    (hops_alone,) = (
        e.measured
        for e in check_prediction(prediction(), [with_prompts(0.05)]).held_out
        if e.quantity == "energy_j_per_token" and e.kernel == "bf16"
    )
    assert hops_alone == pytest.approx(0.4 / 1.05)


def test_crossings_are_measured_without_replays_too() -> None:
    def with_intervals(run: RunRecord, share: float) -> RunRecord:
        rows = [
            row.model_copy(
                update={
                    "cor_tps": None,
                    "cor_tps_ci95": None,
                    "hop_ms_p50_ci95": (row.hop_ms_p50 * (1 - share), row.hop_ms_p50 * (1 + share)),
                }
            )
            for row in run.results
        ]
        return run.model_copy(update={"results": rows})

    (found,) = check_prediction(prediction(), [with_intervals(chain(HOPS), 0.01)]).crossings
    assert found.agrees
    # 1.33 is not above 1 for sure where either median may be 20 % off.
    (found,) = check_prediction(prediction(), [with_intervals(chain(HOPS), 0.2)]).crossings
    assert found.agrees is None


def test_what_calibrated_a_prediction_is_not_held_out() -> None:
    cells = [cell("bf16", 1, 2e-3, calibrated=True), cell("fused_nf4", 1, 1e-3)]
    found = check_prediction(prediction(cells=cells), [chain(HOPS)])
    assert {e.kernel for e in found.held_out} == {"fused_nf4"}
    assert any("1 rows belong to what calibrated" in sentence for sentence in found.skipped)


@pytest.mark.parametrize(
    ("star", "agrees"), [((20.0,), True), ((9.0,), True), ((3.0,), False), ((), False), ((20.0, 30.0), False)]
)
def test_b_star_agrees_within_a_step_of_the_grid(star: tuple[float, ...], agrees: bool) -> None:
    sizes = (1, 2, 8, 16, 32, 64, 128)
    ratios = {("fused_nf4", b): 0.8 if b < 32 else 1.2 for b in sizes}
    hops = {(kernel, b): 1e-3 for kernel in ("bf16", "fused_nf4") for b in sizes}
    (found,) = check_prediction(prediction(star=star), [chain(hops, ratios=ratios)]).crossings
    assert found.brackets == ((16, 32, "loses"),) and found.agrees is agrees


@pytest.mark.parametrize(
    ("loses", "star", "ratio", "agrees"),
    [
        ([(1.0, 256.0)], (), 0.8, False),
        ([(1.0, 256.0)], (), 1.2, True),
        ([], (), 1.2, False),
        ([], (), 0.8, True),
        # Beyond the grid: it loses above, and wins in all of the grid.
        ([(200.0, 256.0)], (200.0,), 0.8, True),
        ([(200.0, 256.0)], (200.0,), 1.2, False),
    ],
)
def test_without_a_crossing_in_the_grid_the_same_side_has_to_lose(
    loses: list[tuple[float, float]], star: tuple[float, ...], ratio: float, agrees: bool
) -> None:
    sizes = (1, 8, 32, 128)
    ratios = {("fused_nf4", b): ratio for b in sizes}
    hops = {(kernel, b): 1e-3 for kernel in ("bf16", "fused_nf4") for b in sizes}
    given = prediction(star=star, loses=loses)
    (found,) = check_prediction(given, [chain(hops, ratios=ratios)]).crossings
    assert found.brackets == () and found.agrees is agrees


def test_a_variant_that_is_to_lose_below_and_loses_above_does_not_agree() -> None:
    sizes = (1, 2, 8, 16, 32, 64, 128)
    ratios = {("fused_nf4", b): 0.8 if b < 32 else 1.2 for b in sizes}
    hops = {(kernel, b): 1e-3 for kernel in ("bf16", "fused_nf4") for b in sizes}
    given = prediction(star=(20.0,), loses=[(1.0, 20.0)])
    (found,) = check_prediction(given, [chain(hops, ratios=ratios)]).crossings
    assert found.agrees is False


def test_hops_are_compared_in_their_own_mode_and_bf16_with_nothing() -> None:
    sizes = (1, 8, 64)
    hops = {(kernel, b): 1e-3 for kernel in ("bf16", "fused_nf4", "null_nf4") for b in sizes}
    run = chain(hops, ratios={("fused_nf4", b): 1.2 for b in sizes})
    rows = [row for row in run.results if isinstance(row, VariantResult)]
    # Replayed hops of bf16 and null that are faster than the generated ones of all.
    bare = {"mode": "replay", "cor_tps": None, "cor_tps_ci95": None, "hop_ms_p50": 0.5}
    replayed = [row.model_copy(update=bare) for row in rows if row.kernel != "fused_nf4"]
    found = measured_by_chain([run.model_copy(update={"results": [*rows, *replayed]})])
    assert {kernel for _, kernel in found} == {"fused_nf4"}
    assert found[MODEL.key, "fused_nf4"].loses == sizes


def test_a_run_whose_samples_were_changed_checks_nothing(tmp_path: Path) -> None:
    write_prediction(tmp_path / "p.json", prediction())
    run = write_run(tmp_path / "runs", chain(HOPS), [])
    words = ["predict", "--check", str(tmp_path / "p.json"), str(run), "--fits", str(tmp_path)]
    (run / "samples.jsonl.gz").write_bytes(gzip.compress(b'{"hop_s":NaN}\n'))
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0 and "line 1 is not a sample" in result.stderr
    assert not (tmp_path / HISTORY).exists()


def test_the_shipped_history_is_shown_with_ones_own(tmp_path: Path) -> None:
    shipped = known_history(tmp_path)
    assert len(shipped) > 400 and {entry.machine for entry in shipped} == {"NVIDIA H200"}
    own = check_prediction(prediction(), [chain(HOPS)]).held_out
    append_history(tmp_path / HISTORY, [*own, *shipped[:3]])
    assert len(known_history(tmp_path)) == len(shipped) + len(own)


def test_the_history_keeps_every_check_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / HISTORY
    held_out = check_prediction(prediction(), [chain(HOPS)]).held_out
    assert append_history(path, held_out) == 4
    assert append_history(path, held_out) == 0
    other = check_prediction(prediction(), [chain(HOPS, number=2)]).held_out
    assert append_history(path, other) == 4
    assert read_history(path) == [*held_out, *other]
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1: Field required"):
        read_history(path)


def test_a_history_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / HISTORY
    found = check_prediction(prediction(), [chain(HOPS)]).held_out
    append_history(path, found[:1])
    before = path.read_bytes()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("profiler.record_io.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        append_history(path, found)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [HISTORY]


def test_a_prediction_survives_the_disk_and_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    write_prediction(path, prediction())
    assert read_prediction(path) == prediction()
    with pytest.raises(ValueError, match="is not overwritten"):
        write_prediction(path, prediction())
    path.write_text('{"schema_version": 2}')
    with pytest.raises(ValueError, match="is no prediction: schema_version"):
        read_prediction(path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_prediction(tmp_path / "none.json")


def test_runs_left_out_for_one_reason_are_one_sentence() -> None:
    early = [chain(HOPS, later_s=-number, number=number) for number in range(1, 6)]
    eager = [chain(HOPS, engine="eager", number=number) for number in (6, 7)]
    found = check_prediction(prediction(), [*early, *eager, chain(HOPS, number=8)])
    others, before = found.skipped
    ids = [record.run_id for record in early]
    assert others == (
        f"2 runs ({eager[0].run_id}, {eager[1].run_id}) ran with engine=eager, the prediction is for graph"
    )
    assert before.startswith(f"5 runs ({ids[0]}, {ids[1]}, {ids[2]} and 2 more) started at ")
    assert before.endswith("UTC: they are not held out")
    assert {entry.run_id for entry in found.held_out} == {chain(HOPS, number=8).run_id}
