"""Parts of the report that need samples, energy fits or the hardware table: drift, divergence, joules, N* elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_runs as given
from test_report import section

from analysis.predict_file import PredictedCrossing
from analysis.predict_machine import transferred
from analysis.report.build import build_report
from analysis.report.divergences import bits_of
from analysis.report.figure import Cells, Figure, Line
from analysis.report.headline import headline_figure
from analysis.report.inputs import Inputs
from analysis.report.read import read_inputs
from analysis.report.section import Missing, Report, Table, Words
from analysis.si_draws import DRAWS, VariantSamples, collect_samples, draw_index
from analysis.stats import Interval


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("parts")
    return build_report(read_inputs(given.write_all(folder)), given.catalogue())


def figure_of(report: Report, key: str) -> Figure:
    return next(figure for figure in report.figures if figure.key.startswith(key))


def table_of(report: Report, key: str, title: str) -> Table:
    return next(
        block
        for block in section(report, key).blocks
        if isinstance(block, Table) and block.title.startswith(title)
    )


def test_drift_is_drawn_by_step_and_says_where_it_grows(whole: Report) -> None:
    kl, top1 = figure_of(whole, "drift-nvidia-h200-tiny-eager").panels
    lines = {line.name: line for line in kl.items if isinstance(line, Line)}
    assert set(lines) == {"fused_nf4", "unfused_nf4"} and kl.y.title == "KL, nats, mean"
    assert lines["fused_nf4"].x == (1.0, 2.0, 3.0, 4.0)
    assert lines["fused_nf4"].y == pytest.approx([0.0115 * step for step in (1, 2, 3, 4)])
    assert lines["unfused_nf4"].y == pytest.approx([0.0115] * 4)
    (shares, _) = (line.y for line in top1.items if isinstance(line, Line))
    assert shares == pytest.approx([100, 100, 200 / 3, 200 / 3])
    rows = {row[0]: row for row in table_of(whole, "accuracy", "Drift from bf16").rows}
    assert rows["fused_nf4"][-1] == "grows along solutions"
    assert rows["unfused_nf4"][-1] == "does not grow beyond noise"
    assert rows["fused_nf4"][1] == "48"


def test_without_samples_drift_is_named_as_missing() -> None:
    report = build_report(Inputs((given.accuracy_chain(),)), given.catalogue())
    missing = [b.what for b in section(report, "accuracy").blocks if isinstance(b, Missing)]
    assert any("no drift is shown" in what for what in missing)
    words = [b.text for b in section(report, "si").blocks if isinstance(b, Words)]
    assert any("needs the samples" in text for text in words)


def index_tables(*variants: dict[str, Any]) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Rows of both tables of indices, by kernel, for a baseline of 519.79 J per query and these variants of it."""
    equal = {"t_si": 1.0, "e_si": 1.0, "s_si": 1.0, "si": 1.0}
    rows = [given.variant("bf16", 1, energy_j_per_query=519.79, **equal)]
    rows += [given.variant(fields.pop("kernel"), 1, **fields) for fields in variants]
    report = build_report(Inputs((given.accuracy_chain(results=rows),)), given.catalogue())
    tables = (table_of(report, "si", "Indices"), table_of(report, "si", "Share of all weightings"))
    assert tables[0].head[3:] == ("S_SI, linear", "S_SI, log, kWh", "SI, linear", "SI, geometric")
    first, second = ({row[0]: row[1:] for row in table.rows} for table in tables)
    return first, second


def test_the_papers_example_is_shown_in_both_forms_and_policies() -> None:
    shares = {"t_si": 0.9138, "e_si": 0.8, "s_si": 0.4680, "si": 0.729132}
    indices, weightings = index_tables(
        {"kernel": "fused_nf4", "energy_j_per_query": 1110.56, **shares},
        {"kernel": "unfused_nf4", "energy_j_per_query": None, "energy_source": "none", **shares},
    )
    assert indices["bf16"] == ("1.00",) * 6
    # log(1 + 519.79 / 3.6e6) / log(1 + 1110.56 / 3.6e6) = 0.4681, and
    # exp(0.34 * -0.09014 + 0.33 * -0.22314 + 0.33 * -0.75929) = exp(-0.35485) = 0.7013.
    assert indices["fused_nf4"] == ("0.914", "0.800", "0.468", "0.468", "0.729", "0.701")
    assert indices["unfused_nf4"] == ("0.914", "0.800", "0.468", "–", "0.729", "0.701")
    assert weightings["bf16"] == ("100 %", "100 %", "yes")
    assert weightings["fused_nf4"] == ("0 %", "0 %", "no")


@pytest.mark.parametrize(("joules", "log"), [(259.895, "1.00"), (0.0, "–")])
def test_a_saving_is_cut_off_in_the_log_form_and_no_energy_has_none(joules: float, log: str) -> None:
    shares = {"t_si": 1.0, "e_si": 1.0, "s_si": 2.0, "si": 1.33}
    indices, _ = index_tables({"kernel": "fused_nf4", "energy_j_per_query": joules, **shares})
    # 2 ** 0.33 = 1.257.
    assert indices["fused_nf4"] == ("1.00", "1.00", "2.00", log, "1.33", "1.26")


def test_weightings_differ_between_the_policies() -> None:
    indices, weightings = index_tables(
        {"kernel": "fused_nf4", "t_si": 0.0, "e_si": 4.0, "s_si": 1.0, "si": 1.65}
    )
    assert indices["fused_nf4"][-2:] == ("1.65", "0")
    # Of 231 weightings in steps of 1/20, (a, b, c) of trust, economy and energy: by Eq. 6 it comes first where
    # 3b > a, in 165, and ties where 3b = a, in 6; by the product only where a = 0, in 20, with 1 tie.
    assert weightings["fused_nf4"] == ("73 %", "9 %", "yes")
    assert weightings["bf16"] == ("27 %", "91 %", "yes")


def test_divergence_is_a_slope_with_an_interval(whole: Report) -> None:
    table = table_of(whole, "si", "Divergence of Prop. 3.2")
    rows = {row[0]: row for row in table.rows}
    assert set(rows) == {"fused_nf4 → bf16", "unfused_nf4 → bf16"}
    assert rows["unfused_nf4 → bf16"][1] == "4 → 16"
    assert rows["unfused_nf4 → bf16"][3].startswith("trap")
    assert rows["fused_nf4 → bf16"][3].startswith("no trap")
    (panel,) = figure_of(whole, "divergence-nvidia-h200-tiny-eager").panels
    ends = {line.name: line for line in panel.items if isinstance(line, Line)}
    # SI of the unfused row is 0.34 * 0.9 + 0.33 * (0.3 + 0.2).
    assert ends["unfused_nf4"].y == pytest.approx((0.471, 1.0))
    assert ends["unfused_nf4"].low[0] <= 0.471 <= ends["unfused_nf4"].high[0]


@pytest.mark.parametrize(
    ("kernel", "bits"),
    [
        ("fused_nf4", 4),
        ("bf16", 16),
        ("bnb_int8", 8),
        ("native_fp8", 8),
        ("fused_fp4_bnb", 4),
        ("marlin", None),
    ],
)
def test_bits_are_read_off_the_name(kernel: str, bits: int | None) -> None:
    assert bits_of(kernel) == bits


def test_draws_of_the_index_scatter_like_their_parts() -> None:
    rows = {row.kernel: row for row in given.accuracy_chain().results}
    by_key = collect_samples(given.chain_samples())
    own, reference = by_key["fused_nf4", None], by_key["bf16", None]
    drawn = draw_index(rows["fused_nf4"], rows["bf16"], own, reference)
    assert drawn.fixed == () and len(drawn.draws) == DRAWS
    # 18 of 20 against 20 of 20: a binomial standard deviation of 0.067, times the weight of trust.
    assert np.std(drawn.draws) == pytest.approx(0.34 * np.sqrt(0.9 * 0.1 / 20), rel=0.25)
    assert draw_index(rows["bf16"], rows["bf16"], reference, reference).draws == pytest.approx(1.0, abs=0.02)
    bare = draw_index(rows["fused_nf4"], rows["bf16"], VariantSamples(), VariantSamples())
    assert bare.fixed == ("trust", "throughput", "energy") and np.ptp(bare.draws) == 0
    with pytest.raises(ValueError, match="fused_nf4 lacks an index: T None"):
        draw_index(rows["fused_nf4"].model_copy(update={"t_si": None}), rows["bf16"], own, reference)
    with pytest.raises(ValueError, match="lacks throughput or memory"):
        draw_index(rows["fused_nf4"].model_copy(update={"tps": None}), rows["bf16"], own, reference)


def test_n_star_of_other_gpus_is_carried_over_as_predictions_are(whole: Report) -> None:
    (panel,) = figure_of(whole, "n-star-carried").panels
    assert panel.title == given.A100
    (cells,) = (item for item in panel.items if isinstance(item, Cells))
    gpus = given.catalogue().gpus
    machine = transferred(given.fits(), gpus["h200"], gpus["a100-80"])
    from analysis.call_time import NO_DEVIATIONS
    from analysis.fit_crossing import linear_time

    layers = given.MODELS["large"].layers
    native, fused = (
        float(linear_time(cost.time.rows[0].tolist(), NO_DEVIATIONS, layers).at(8))
        for cost in (machine.kernel("bf16"), machine.kernel("fused_nf4"))
    )
    assert cells.text[1][cells.columns.index("8")] == f"{native / fused:.1f}"
    warning = next(b for b in section(whole, "scale").blocks if isinstance(b, Words) and b.is_warning)
    assert warning.text.startswith("Predicted, not measured")
    assert "predicted, not measured" in figure_of(whole, "n-star-carried").title


def test_fits_that_cannot_be_carried_over_say_so() -> None:
    fits = given.fits(read_bytes_per_s=None)
    report = build_report(Inputs((), (fits,)), given.catalogue())
    texts = [b.text for b in section(report, "scale").blocks if isinstance(b, Words)]
    assert any("N* of other GPUs is not predicted" in text and "no read bandwidth" in text for text in texts)
    strange = given.fits(arch=None)
    report = build_report(Inputs((), (strange,)), given.catalogue())
    assert not any(figure.key.startswith("n-star-carried") for figure in report.figures)


def test_energy_fits_draw_phi_and_b_star_in_joules() -> None:
    report = build_report(Inputs((), (given.fits_with_energy(),)), given.catalogue())
    (panel,) = figure_of(report, "phi-joules").panels
    bars = {bar.name: bar for bar in panel.items}
    assert set(bars) == {"fused_nf4", "unfused_nf4"}
    for bar in bars.values():
        assert bar.low[0] <= bar.y[0] <= bar.high[0]
    (panel,) = figure_of(report, "batch-fits-joules").panels[:1]
    lines = {line.name: line for line in panel.items if isinstance(line, Line)}
    assert {"bf16", "fused_nf4"} <= set(lines)
    # What a row pays falls with the batch, since passes are shared.
    assert all(a > b for a, b in zip(lines["bf16"].y, lines["bf16"].y[1:], strict=False))


def test_a_predicted_b_star_stands_beside_the_measured_one() -> None:
    crossings = [
        PredictedCrossing(
            model="large",
            kernel="fused_nf4",
            quantity=quantity,
            answer="loses above 30",
            regime="above",
            confidence=1.0,
            loses=[(star, 256.0)],
            b_star=[star],
            b_star_ci95=(0.8 * star, 1.2 * star),
        )
        for quantity, star in (("time", 30.0), ("energy", 50.0))
    ]
    inputs = Inputs((given.batch_chain(),), (), (given.prediction(crossings=crossings),))
    report = build_report(inputs, given.catalogue())
    time, energy = figure_of(report, "batch-nvidia-h200").panels
    assert [mark.label for mark in time.marks] == ["B* fused_nf4: 8–64", "B* fused_nf4 predicted: 30"]
    assert [mark.at for mark in energy.marks][-1] == 50.0
    rows = {row[:2]: row for row in table_of(report, "batch", "Measured against bf16").rows}
    assert rows["fused_nf4", "time"][2:4] == ("8 < B* < 64, above it loses", "30.0 [24.0, 36.0]")
    assert rows["fused_nf4", "energy"][2:4] == ("8 < B* < 64, above it loses", "50.0 [40.0, 60.0]")
    assert rows["unfused_nf4", "energy"][3] == "–"
    # One that was made when the chain had run predicted nothing, though it is the newest.
    late = given.prediction(
        created_utc=given.batch_chain().created_utc,
        crossings=[crossings[0].model_copy(update={"b_star": [20.0]})],
    )
    both = Inputs((given.batch_chain(),), (), (*inputs.predictions, late))
    (time, _) = figure_of(build_report(both, given.catalogue()), "batch-nvidia-h200").panels
    assert [mark.label for mark in time.marks] == ["B* fused_nf4: 8–64", "B* fused_nf4 predicted: 30"]
    # A prediction for another engine says nothing of this chain.
    other = given.prediction(crossings=crossings, engine="eager")
    report = build_report(Inputs((given.batch_chain(),), (), (other,)), given.catalogue())
    assert len(figure_of(report, "batch-nvidia-h200").panels[0].marks) == 1


def test_joules_that_are_an_estimate_have_no_crossing() -> None:
    chain = given.batch_chain()
    rows = [row.model_copy(update={"energy_source": "hli"}) for row in chain.results]  # type: ignore[union-attr]
    report = build_report(Inputs((chain.model_copy(update={"results": rows}),)), given.catalogue())
    assert {row[1] for row in table_of(report, "batch", "Measured against bf16").rows} == {"time"}


def test_the_headline_shows_a_waterfall_b_star_and_the_largest_shape(whole: Report) -> None:
    figure = headline_figure(whole)
    assert figure is not None and figure.key == "headline"
    waterfall, batch, speedup = figure.panels
    assert waterfall.title == "large (graph, context 512) on NVIDIA H200\nfused_nf4, B = 1"
    assert any(mark.label.startswith("B* fused_nf4") for mark in batch.marks)
    assert speedup.title.endswith("n=4,096 k=4,096")
    assert headline_figure(build_report(Inputs((given.energy_run(),)), given.catalogue())) is None
    only_fits = headline_figure(build_report(Inputs((), (given.fits(),)), given.catalogue()))
    assert only_fits is not None and [panel.title.split("\n")[1] for panel in only_fits.panels] == ["nf4"]


def test_a_b_star_far_beyond_the_batches_measured_is_left_to_the_table() -> None:
    def high_end(star: float) -> tuple[float | None, int]:
        crossing = PredictedCrossing(
            model="large",
            kernel="fused_nf4",
            quantity="time",
            answer="loses",
            regime="above",
            confidence=1.0,
            loses=[],
            b_star=[star],
            b_star_ci95=(0.9 * star, 1.1 * star),
        )
        inputs = Inputs((given.batch_chain(),), (), (given.prediction(crossings=[crossing]),))
        panel = figure_of(build_report(inputs, given.catalogue()), "batch-nvidia-h200").panels[0]
        return panel.x.high, len(panel.marks)

    assert high_end(100.0) == (pytest.approx(1.2 * 110), 2)
    assert high_end(1000.0) == (pytest.approx(1.2 * 64), 1)


def test_samples_reach_the_report_by_run(tmp_path: Path) -> None:
    inputs = read_inputs(given.write_all(tmp_path))
    assert set(inputs.samples) == {given.batch_chain().run_id, given.accuracy_chain().run_id}
    drift = inputs.samples[given.accuracy_chain().run_id].drifts["fused_nf4", None]
    slope = drift.slope_nats_per_step
    assert isinstance(slope, Interval) and slope.point == pytest.approx(0.0115)
