"""Published numbers come from committed records and are up to date."""

import pytest
from typer.testing import CliRunner

from analysis.chain_picture import draw_chain
from benchmarks import publish
from benchmarks.published import RESULTS, published_energy, published_run
from profiler.record import list_runs, load_record, load_run


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
    with pytest.raises(ValueError, match="no chain run with batch_size=77"):
        published_run("cpu", batch_size=77)
    with pytest.raises(ValueError, match="no run named absent"):
        published_energy("h200", "absent")


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
