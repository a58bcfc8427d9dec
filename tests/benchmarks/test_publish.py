"""Published numbers come from committed records and are up to date."""

from pathlib import Path

import pytest
from published_chain_runs import row, run, scored, with_energy
from typer.testing import CliRunner

from analysis.chain_picture import draw_chain
from benchmarks import publish, published
from benchmarks.published import RESULTS, NotPublished, published_energy, published_run
from profiler.record import RunRecord, SweepRow, list_runs, load_record, load_run, write_run


def test_every_published_table_is_what_the_records_say() -> None:
    for path, named in publish.blocks().items():
        text = path.read_text(encoding="utf-8")
        assert publish.with_blocks(text, named) == text, f"{path.name}: run python -m benchmarks.publish"


def test_the_card_shows_ten_depths_and_five_kernels() -> None:
    text = publish.CARD.read_text(encoding="utf-8")
    block = text.split("<!-- begin: accuracy -->")[1].split("<!-- end: accuracy -->")[0]
    assert all(
        f"| `{name}` |" in block for name in ("bf16", "fused_nf4", "fused_fp4", "fused_int8", "fused_fp8")
    )
    assert block.splitlines()[1].count("|") == 14


def test_the_bundled_model_solves_nine_of_ten_held_out_problems() -> None:
    record = load_record(published_run("h200", batch_size=500))
    baseline = next(row for row in record.results if row.kernel == "bf16")
    assert baseline.problems == 1000
    assert baseline.accuracy is not None and baseline.accuracy >= 0.9
    deepest = baseline.accuracy_by_operations[10]
    assert deepest.correct < deepest.n


def test_committed_runs_are_whole() -> None:
    runs = [path for folder in RESULTS.iterdir() if folder.is_dir() for path in list_runs(folder)]
    assert len(runs) >= 3
    for path in runs:
        record, samples = load_run(path)
        assert record.samples_count == len(samples) > 0


def test_missing_marks_and_missing_runs_are_said() -> None:
    with pytest.raises(ValueError, match="lacks the marks <!-- begin: x -->"):
        publish.with_blocks("no marks", {"x": "y"})
    with pytest.raises(ValueError, match="no eager chain run of tiny with batch_size=77"):
        published_run("cpu", batch_size=77)
    with pytest.raises(ValueError, match="no run named absent"):
        published_energy("h200", "absent")


def test_chains_without_runs_or_without_marks_leave_their_page_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> str:
        raise NotPublished("no such run")

    page, bare = tmp_path / "page.md", tmp_path / "bare.md"
    page.write_text("<!-- begin: a -->\nold\n<!-- end: a -->\n<!-- begin: b -->\nold\n<!-- end: b -->\n")
    bare.write_text("no marks")
    made = [(page, "a", lambda: "new"), (page, "b", missing), (bare, "a", lambda: "new")]
    monkeypatch.setattr(publish, "_measured_chains", lambda: made)
    found = publish.blocks()
    assert found[page] == {"a": "new"} and bare not in found
    said = capsys.readouterr().err
    assert f"{page}: b is left as it is: no such run" in said
    assert f"{bare}: a has no place" in said

    def broken() -> str:
        raise ValueError("p_value=7")

    monkeypatch.setattr(publish, "_measured_chains", lambda: [(page, "a", broken)])
    with pytest.raises(ValueError, match="p_value=7"):
        publish.blocks()


def test_chain_blocks_come_from_the_runs_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [with_energy("bf16", 1, 100.0), with_energy("fused_nf4", 1, 50.0)]
    chains = [
        run(1, rows, energy_windows=1),
        run(2, rows, energy_windows=1, engine="hf_graph"),
        run(3, [scored("bf16", 1, 9, 10)], model="tiny", weights="real"),
    ]
    monkeypatch.setattr(publish, "published_chains", lambda folder: chains)
    made = {}
    for path, name, make in publish._measured_chains():
        if name in ("hops-h200", "energy-h200", "engines-h200", "accuracy-h200"):
            made[path, name] = make()
    assert len(made) == 5
    assert all(block.startswith("| ") and "NVIDIA H200" in block for block in made.values())


def test_single_runs_are_those_of_the_bundled_model_run_eagerly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    given: dict[int, dict[str, str]] = {
        1: {"model": "tiny", "engine": "eager"},
        2: {"model": "tiny", "engine": "fused"},
        3: {"model": "mistral-7b", "engine": "eager"},
    }
    for number, arguments in given.items():
        write_run(tmp_path / "h200", run(number, [row("bf16", 1)], batch_size=1, **arguments)[1], [])
    assert published_run("h200", batch_size=1).name == "20260131T120100Z-chain-tiny"
    assert [path.name[:15] for path, _ in published.published_chains("h200")] == [
        "20260131T120100",
        "20260131T120200",
        "20260131T120300",
    ]
    assert published.published_predictions("h200") == ([], [])


def test_sweeps_for_fits_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    environment = run(0, [row("bf16", 1)])[1].environment
    sweep_row = SweepRow(kernel="bf16", m=1, n=64, k=64, time_us_p50=1.0, gate="passed")
    for number, is_for_fit in ((1, False), (2, True)):
        record = RunRecord(
            run_id=f"2026013{number}T120000Z-sweep",
            kind="sweep",
            status="complete",
            created_utc=environment.captured_utc,
            command=["sweep"],
            environment=environment,
            arguments={"given": {"for_fit": is_for_fit}},
            results=[sweep_row],
        )
        write_run(tmp_path / "h200", record, [])
    assert [path.name for path in published.published_sweeps("h200").values()] == ["20260131T120000Z-sweep"]


def test_check_exits_with_1_on_a_stale_table(monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    app = typer.Typer()
    app.command()(publish.main)
    assert CliRunner().invoke(app, ["--check"]).exit_code == 0
    monkeypatch.setattr(publish, "training_table", lambda: "changed")
    result = CliRunner().invoke(app, ["--check"])
    assert result.exit_code == 1
    assert "out of date: reasoning/tiny/README.md" in result.output


def test_picture(tmp_path) -> None:
    cpu = published_run("cpu", batch_size=10)
    draw_chain(load_run(cpu), load_record(cpu), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="0 kernels have replayed hops"):
        draw_chain((load_record(cpu), []), load_record(cpu), tmp_path / "y.png")
