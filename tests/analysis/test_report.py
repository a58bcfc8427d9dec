"""The report by its parts and by its command: what is drawn, named as missing, kept apart, escaped and refused."""

from __future__ import annotations

import json
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_runs as given
from typer.testing import CliRunner

from analysis.predict_file import Prediction
from analysis.report.build import build_report
from analysis.report.draw_matplotlib import draw_files
from analysis.report.draw_plotly import figure_json
from analysis.report.inputs import Inputs
from analysis.report.markdown import markdown
from analysis.report.page import page
from analysis.report.read import read_inputs
from analysis.report.section import Cards, Missing, Report, Table, number
from profiler.cli import app
from profiler.record import RunRecord, write_run

ORDER = ["verdict", "waterfall", "batch", "roofline", "speedup", "phi", "scale", "si"]
ORDER += ["accuracy", "energy", "prediction", "environment"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return given.write_all(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def whole(paths: list[Path]) -> Report:
    return build_report(read_inputs(paths), given.catalogue())


def section(report: Report, key: str) -> Any:
    return next(one for one in report.sections if one.key == key)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["report", *words])


def test_sections_come_in_their_order_and_nothing_is_missing(whole: Report) -> None:
    assert [one.key for one in whole.sections] == ORDER
    missing = [block.what for one in whole.sections for block in one.blocks if isinstance(block, Missing)]
    # The accuracy chain has no replayed hops, and no energy windows were fitted.
    assert len(missing) == 2 and "Without verdict" in missing[0] and "joules" in missing[1]
    drawn = {one.key for one in whole.sections if one.figures}
    assert drawn == set(ORDER) - {"verdict", "environment"}
    keys = [figure.key for figure in whole.figures]
    assert len(keys) == len(set(keys)) >= 12


def test_verdicts_are_those_of_the_records(whole: Report) -> None:
    chains, calls = (block.cards for block in section(whole, "verdict").blocks if isinstance(block, Cards))
    by_name = {card.title: [badge.verdict for badge in card.badges] for card in chains}
    assert by_name == {
        "fused_nf4": ["depends on the batch", "depends on the batch"],
        "unfused_nf4": ["trapped", "trapped"],
    }
    fused = next(card for card in calls if card.title == "fused_nf4")
    rows = [r for r in given.sweep().results if r.kernel == "fused_nf4"]
    lost = sum(row.speedup_ci95[1] < 1 for row in rows)  # type: ignore[index,union-attr]
    assert 0 < lost < len(rows) == 20
    assert fused.badges[0].verdict == f"trapped in {lost} of 20 cells"
    assert {card.title for card in calls} == {"fused_nf4", "fused_int8"}
    assert section(whole, "verdict").lead.startswith(
        "Whole hops: fused_nf4 trapped in 1 of 3 models, engines and batch sizes; unfused_nf4 trapped. Single calls: "
    )


def test_waterfall_ends_where_the_record_ends(whole: Report) -> None:
    (figure,) = section(whole, "waterfall").figures
    assert [panel.title for panel in figure.panels] == [f"fused_nf4, B = {b}" for b in (1, 8, 64)]
    bars = figure.panels[2].items
    assert [bar.name for bar in bars] == ["bf16", "smaller weights", "decoding", "host", "other", "fused_nf4"]
    assert bars[1].base[0] == pytest.approx(6 - 2.5) and bars[1].y[0] == pytest.approx(6)
    assert bars[-1].y[0] == pytest.approx(6 - 2.5 + 0.5 + 64 / 40)
    assert (bars[1].role, bars[2].role) == ("good", "bad")
    (table,) = (block for block in section(whole, "waterfall").blocks if isinstance(block, Table))
    assert table.rows[0][3:5] == ("−2.50 [−2.60, −2.40]", "+0.525")


def test_each_kernel_and_batch_has_its_newest_waterfall() -> None:
    parts = {
        "reference_ms": 6.0,
        "saving_ms": 2.0,
        "exposed_cast_ms": 1.0,
        "variant_ms": 5.0,
        "adds_up": True,
    }

    def at(size: int, **falls: dict[str, object]) -> dict[str, object]:
        return {"baseline": "bf16", "by_batch_size": {str(size): {"waterfall": falls}}}

    old = given.batch_chain(1)
    newer = given.batch_chain(2, batches=(1,), derived=at(1, fused_int8=parts, fused_nf4=parts))
    none = given.batch_chain(3, derived={"baseline": "bf16"})
    other = at(8, fused_nf4=parts) | {"baseline": "fp16"}
    elsewhere = given.batch_chain(0, derived=other, arguments=old.arguments | {"baseline": "fp16"})
    found = section(build_report(Inputs((elsewhere, old, newer, none)), given.catalogue()), "waterfall")
    (figure,) = found.figures
    assert [panel.title for panel in figure.panels] == [
        "fused_nf4, B = 1", "fused_int8, B = 1", "fused_nf4, B = 8", "fused_nf4, B = 64"
    ]  # fmt: skip
    assert any(
        getattr(b, "text", "") == "From 2 runs: of each kernel and batch size the newest."
        for b in found.blocks
    )
    ends = [panel.items[-1].y[0] for panel in figure.panels]
    assert ends == [5.0, 5.0, pytest.approx(5 + 8 / 64 - 2 + 8 / 40), pytest.approx(6 - 2 + 64 / 40)]


def test_waterfalls_of_old_records_and_steps_that_do_not_add_up() -> None:
    parts = {
        "reference_ms": 10.0,
        "saving_ms": -3.0,
        "exposed_cast_ms": 1.0,
        "variant_ms": 20.0,
        "adds_up": False,
    }
    old = given.batch_chain(batches=(8,), derived={"waterfall": {"fused_nf4": parts}})
    found = section(build_report(Inputs((old,)), given.catalogue()), "waterfall")
    (figure,) = found.figures
    assert figure.panels[0].title == "fused_nf4, B = 8"
    assert figure.panels[0].items[1].name == "null kernel"  # it costs, so nothing is saved
    assert any("own times do not explain" in getattr(b, "text", "") for b in found.blocks)
    assert any("add up to 14.0 ms, measured were 20.0 ms" in getattr(b, "text", "") for b in found.blocks)


def test_b_star_is_marked_where_it_was_measured_and_fitted(whole: Report) -> None:
    measured, fitted = section(whole, "batch").figures
    bracket, by_fits = measured.panels[0].marks
    assert (bracket.low, bracket.high) == (8, 64)
    assert "by the fits" in by_fits.label and by_fits.low <= by_fits.at <= by_fits.high
    lines = {line.name: line for line in measured.panels[0].items}
    assert set(lines) == {"bf16", "fused_nf4", "unfused_nf4"}
    assert lines["fused_nf4"].x == (1.0, 8.0, 64.0)
    (star,) = fitted.panels[0].marks
    assert star.low < star.at < star.high


def test_roofline_reaches_the_measured_bandwidth(whole: Report) -> None:
    (figure,) = section(whole, "roofline").figures
    roof = figure.panels[0].items[0]
    assert roof.name == "read bandwidth 4,400 GB/s, bf16 peak 989 TFLOP/s"
    assert roof.y[0] == pytest.approx(4.4 * roof.x[0]) and roof.y[-1] == 989
    assert not any("bnb" in item.name or "unfused" in item.name for item in figure.panels[0].items)


def test_map_has_a_cell_per_model_and_batch_of_every_gpu(whole: Report) -> None:
    figure = section(whole, "scale").figures[0]
    cells = figure.panels[0].items[0]
    assert cells.rows == ("small", "large") and cells.columns[0] == "1" and cells.columns[-1] == "256"
    assert cells.values[1][0] > 0 > cells.values[1][-1]  # wins at B = 1, loses at 256


def test_both_back_ends_draw_the_same_numbers(whole: Report, tmp_path: Path) -> None:
    figure = next(f for f in whole.figures if f.key.startswith("speedup"))
    drawn = figure_json(figure)["panels"]
    assert len(drawn) == len(figure.panels)
    for panel, json_panel in zip(figure.panels, drawn, strict=True):
        for item, trace in zip(panel.items, json_panel["data"], strict=True):
            assert trace["x"] == list(item.x) and trace["y"] == list(item.y)
    files = draw_files(whole.figures, tmp_path)
    assert len(files) == 2 * len(whole.figures)
    for file in files:
        head = file.read_bytes()[:200]
        assert head.startswith(b"\x89PNG") if file.suffix == ".png" else b"<?xml" in head
    assert "fused_nf4" in (tmp_path / f"{figure.key}.svg").read_text()


class Reader(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_what_comes_from_records_is_escaped_everywhere(tmp_path: Path) -> None:
    report = build_report(given.hostile(), given.catalogue())
    text = page(report)
    reader = Reader()
    reader.feed(text)
    assert not any(tag == "img" or any(name.startswith("on") for name in attrs) for tag, attrs in reader.tags)
    data = re.search(r'id="report-data">(.*?)</script>', text, re.DOTALL)
    assert data is not None and "<" not in data[1]
    shown = json.dumps(json.loads(data[1]))
    assert "onerror" in shown and "<img" not in shown and "&lt;img" in shown
    assert len(draw_files(report.figures, tmp_path)) == 2 * len(report.figures) > 0
    words = markdown(report)
    assert "<img" not in words.replace("\\<img", "")
    table = next(line for line in words.splitlines() if line.startswith("| ") and "onerror" in line)
    assert table.count(" | ") == words.splitlines()[words.splitlines().index(table) - 1].count("---") - 1


def test_page_loads_nothing(whole: Report) -> None:
    text = page(whole)
    reader = Reader()
    reader.feed(text)
    for tag, attrs in reader.tags:
        assert tag not in ("img", "iframe", "object", "embed"), tag
        for name in ("src", "href"):
            target = attrs.get(name) or ""
            assert not target or target.startswith(("#", "data:")), target
    assert "url(" not in text.split("</style>")[0]
    assert len(text.encode()) < 8e6
    assert page(whole) == text


def test_markdown_holds_the_tables_and_pictures(whole: Report) -> None:
    text = markdown(whole, pictures="figures")
    for one in whole.sections:
        assert f"## {one.title}" in text.replace("\\*", "*")
    for figure in whole.figures:
        assert f"(figures/{figure.key}.png)" in text
    rows = sum(len(b.rows) for one in whole.sections for b in one.blocks if isinstance(b, Table))
    assert sum(line.startswith("| ") for line in text.splitlines()) >= rows
    assert "figures/" not in markdown(whole)


def test_what_was_not_given_is_named_and_not_drawn() -> None:
    report = build_report(Inputs((given.energy_run(),)), given.catalogue())
    assert [f.key for f in report.figures] == ["power-nvidia-h200"]
    missing = {one.key for one in report.sections if any(isinstance(b, Missing) for b in one.blocks)}
    assert missing == set(ORDER) - {"energy", "environment"}
    for one in report.sections:
        for block in one.blocks:
            if isinstance(block, Missing):
                assert block.command.startswith(("qt-profile ", "python -m "))


def test_machines_models_and_engines_are_kept_apart() -> None:
    other = given.sweep(4, environment=given.environment(given.A100))
    eager = {"device": "cuda", "model": "large", "baseline": "bf16", "engine": "eager", "context": 512}
    runs = (given.sweep(), given.batch_chain(), other, given.batch_chain(5, arguments=eager))
    report = build_report(Inputs(runs), given.catalogue())
    keys = {figure.key for figure in report.figures}
    assert {"roofline-nvidia-h200", "roofline-nvidia-a100-sxm4-80gb"} <= keys
    assert {f"batch-nvidia-h200-large-{engine}-context-512" for engine in ("graph", "eager")} <= keys
    phi = next(figure for figure in report.figures if figure.key == "phi")
    assert {bar.name for bar in phi.panels[0].items} == {f"nf4, {given.H200}", f"nf4, {given.A100}"}


def test_fits_with_energy_give_phi_and_b_star_in_joules() -> None:
    fits = given.fits_with_energy()
    report = build_report(Inputs((), (fits,)), given.catalogue())
    phi = section(report, "phi")
    assert not any("joules" in getattr(block, "what", "") for block in phi.blocks)
    (table,) = (block for block in phi.blocks if isinstance(block, Table))
    assert table.head[-1] == "φ of large at B = 1, mJ/hop"
    weights = 32 * 28672 * 4096
    fused = next(row for row in table.rows if row[0] == "fused_nf4")
    cast = fits.kernels["fused_nf4"].cast
    assert cast is not None
    cast_s = float(cast.point() @ [32, weights, weights, 32 * (28672 + 4096)])
    phi = number(1e3 * (given.STATIC_W * cast_s + weights * given.J_PER_DECODED))
    assert fused[-1].startswith(f"{phi} [")
    star = next(b for b in section(report, "batch").blocks if isinstance(b, Table))
    assert all(row[4] != "not measured" for row in star.rows)


def test_a_prediction_is_checked_by_later_chains_and_only_by_them() -> None:
    chain = given.batch_chain()
    inputs = read_inputs_of(given.prediction(), chain)
    assert {entry.batch_size for entry in inputs.held_out} == {8}
    assert inputs.held_out[0].error_share == pytest.approx(0.1)
    report = build_report(inputs, given.catalogue())
    figures = section(report, "prediction").figures
    assert figures[0].key == "prediction-nvidia-h200" and "median error 10.0 %" in figures[0].alt
    late = given.prediction(created_utc=chain.created_utc)
    notes = " ".join(read_inputs_of(late, chain).notes)
    assert f"prediction {late.name} is not checked" in notes and "it is not held out" in notes
    assert build_report(Inputs((), predictions=(late,)), given.catalogue()).title.endswith(given.H200)


def read_inputs_of(prediction: Prediction, chain: RunRecord) -> Inputs:
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), chain, [])
        (Path(folder) / "prediction.json").write_text(prediction.model_dump_json())
        return read_inputs([Path(folder)])


def test_of_repeated_cells_the_newest_is_shown() -> None:
    row = given.sweep_row("bf16", 1, 1024, 3072)
    runs = (given.sweep(0), given.sweep(7, results=[row.model_copy(update={"time_us_p50": 1.0})]))
    cells = Inputs(runs).cells(given.H200)
    assert cells["bf16", 1, 1024, 3072].time_us_p50 == 1.0
    assert len(cells) == len(given.sweep().results)


def test_command_writes_page_pictures_and_markdown(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", given.energy_run(), [])
    out, figures, md = tmp_path / "deep" / "r.html", tmp_path / "figures", tmp_path / "r.md"
    words = [str(tmp_path / "runs"), "-o", str(out)]
    result = run(*words, "--png", str(figures), "--md", str(md), "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["bytes"] == out.stat().st_size
    assert facts["figures"] == ["power-nvidia-h200"] == [path.stem for path in figures.glob("*.svg")]
    assert "(figures/power-nvidia-h200.png)" in md.read_text()
    assert len(facts["written"]) == 4 and not list(out.parent.glob(".partial*"))
    plain = run(*words)
    assert plain.exit_code == 0 and "incomplete for lack of runs: Verdict, " in plain.stdout
    assert "(1 figure, " in plain.stdout and "MB)" in plain.stdout
