import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks import cell, checkpoint, kernel_sweep, sweep
from benchmarks.checkpoint import Checkpoint
from benchmarks.gate import GateResult
from benchmarks.machine import Target, find_target
from profiler import record_io
from profiler.record import RecordError, RunRecord, list_runs, load_run, write_run

# Equal times settle after two medians of three.
_WARM_ROUNDS = 6
app = typer.Typer()
app.command()(kernel_sweep.sweep_command)
SMALL = (
    "--arch",
    "cpu",
    "--shapes",
    "24x64,8x128",
    "--m",
    "1,3",
    "--repeats",
    "3",
    "--kernels",
    "fused_int8",
)


def invoke(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*SMALL, "--out", str(out), "--json", *arguments])


def sweep_json(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = invoke(out, *arguments)
    return result.exit_code, json.loads(result.stdout)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int, error: type[BaseException]) -> list[str]:
    """Let the n-th cell fail while it is sampled; returns the cells that are run, as they come."""
    cells: list[str] = []
    real = sweep.run_cell

    def run_cell(context: Any, *rest: Any, **settings: Any) -> None:
        cells.append(f"{context.shape} m={context.m}")
        if len(cells) == number:
            taken = 0

            def sample(self: Any) -> Mapping[str, float]:
                nonlocal taken
                taken += 1
                if taken > 2 * _WARM_ROUNDS + 5:
                    raise error
                return {"call": 1.0}

            with monkeypatch.context() as patch:
                patch.setattr(cell, "make_sampler", lambda *rest: type("Fake", (), {"sample": sample})())
                real(context, *rest, **settings)
        else:
            real(context, *rest, **settings)

    monkeypatch.setattr(sweep, "run_cell", run_cell)
    return cells


def test_a_resumed_sweep_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, KeyboardInterrupt)
        code, first = sweep_json(tmp_path)
    assert code == 130
    assert first["derived"]["unfinished"] == [[8, 128, 1]]
    partial = [row for row in first["results"] if row["n"] == 8]
    assert {row["timings"] for row in partial} == {2}, "two whole rounds were taken in the third cell"

    cells = interrupt_at(monkeypatch, 99, KeyboardInterrupt)
    code, printed = sweep_json(tmp_path, "--resume", first["run"])
    assert code == 0
    assert cells == ["8x128 m=1", "8x128 m=3"]
    old, old_samples = load_run(first["run"])
    new, new_samples = load_run(printed["run"])
    assert (new.status, new.derived["unfinished"]) == ("complete", [])
    assert new.run_id != old.run_id and old.status == "interrupted"
    sizes = [(row.kernel, row.n, row.m, row.timings) for row in new.results]
    assert sizes == [(kernel, n, m, 3) for n in (24, 8) for m in (1, 3) for kernel in ("bf16", "fused_int8")]
    kept = [sample for sample in old_samples if sample.n == 24]
    assert new_samples[: len(kept)] == kept and len(new_samples) == 2 * len(kept)
    for before, after in zip(old.results[:4], new.results[:4], strict=True):
        note = f"measured in run {old.run_id}, and compared with that run's read bandwidth"
        assert after == before.model_copy(update={"notes": [*before.notes, note]})
    (resumed,) = new.derived["resumed"]
    assert (resumed["run_id"], resumed["status"], resumed["cells"]) == (old.run_id, "interrupted", 2)
    assert resumed["read_bandwidth"] == old.derived["read_bandwidth"] != new.derived["read_bandwidth"]
    assert any(f"4 of 8 rows: measured in run {old.run_id}" in text for text in new.warnings)


def test_a_complete_run_is_taken_over_whole_and_the_chain_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = sweep_json(tmp_path)
    cells = interrupt_at(monkeypatch, 99, KeyboardInterrupt)
    _, second = sweep_json(tmp_path, "--resume", first["run"])
    code, third = sweep_json(tmp_path, "--resume", f"{second['run']}/run.json")
    assert code == 0 and cells == []
    assert [run["run_id"] for run in third["derived"]["resumed"]] == [first["run_id"], second["run_id"]]
    assert {len([n for n in row["notes"] if n.startswith("measured in")]) for row in third["results"]} == {1}
    assert load_run(third["run"])[1] == load_run(first["run"])[1] != []


def test_a_failed_check_stays_one_after_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cell, "check", lambda *rest, **settings: GateResult("failed", 0.5, 0.01, "it is off"))
        assert sweep_json(tmp_path)[0] == 1
    code, printed = sweep_json(tmp_path, "--resume", str(list_runs(tmp_path)[0]))
    assert code == 1
    assert "fused_int8 24x64 m=1: it is off" in printed["failures"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--seed", "4"), ("seed=0", "seed=4")),
        (("--m", "1,3,5"), ("m=1,3", "m=1,3,5")),
        (("--shapes", "24x64"), ("shapes=24x64,8x128", "shapes=24x64")),
        (("--kernels", "fused_nf4"), ("kernels=bf16,fused_int8", "kernels=bf16,fused_nf4")),
        (("--repeats", "4"), ("repeats=3", "repeats=4")),
        (("--peer", "bnb_nf4"), ("peers=none", "peers=bnb_nf4")),
    ],
)
def test_other_arguments_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    _, first = sweep_json(tmp_path)
    result = invoke(tmp_path, "--resume", first["run"], *arguments)
    assert result.exit_code == 2
    sentence = json.loads(result.stdout)["error"]
    assert first["run_id"] in sentence
    assert [part for part in parts if part not in sentence] == []
    assert len(list_runs(tmp_path)) == 1


def test_another_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = sweep_json(tmp_path)
    here = find_target("cpu")
    assert isinstance(here, Target)
    other = Target(here.device, "another CPU", None, here.cache_bytes)
    monkeypatch.setattr(kernel_sweep, "find_target", lambda arch: other)
    code, printed = sweep_json(tmp_path, "--resume", first["run"])
    assert code == 2
    assert here.name in printed["error"] and "another CPU" in printed["error"]


def test_what_is_no_run_of_a_sweep_is_refused(tmp_path: Path) -> None:
    code, printed = sweep_json(tmp_path, "--resume", str(tmp_path / "nothing"))
    assert code == 2 and "nothing is not a run" in printed["error"]
    chain = load_run(next(Path("benchmarks/results/cpu").iterdir()))[0]
    path = write_run(tmp_path, chain, [])
    code, printed = sweep_json(tmp_path, "--resume", str(path))
    assert code == 2 and "is the record of a chain, not of a sweep" in printed["error"]


def test_a_crash_leaves_the_finished_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_LEAST_INTERVAL_S", 0.0)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, TypeError)
        result = invoke(tmp_path)
        assert isinstance(result.exception, TypeError)
    (path,) = list_runs(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    record, samples = load_run(path)
    assert record.status == "interrupted"
    assert {(row.n, row.m) for row in record.results} == {(24, 1), (24, 3)}
    assert len(samples) == 2 * 2 * 3
    code, printed = sweep_json(tmp_path, "--resume", str(path))
    assert code == 0 and len(printed["results"]) == 8


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    _, printed = sweep_json(tmp_path / "made")
    return load_run(printed["run"])[0]


def test_a_checkpoint_is_one_folder_that_is_replaced(record: RunRecord, tmp_path: Path) -> None:
    now_s = 0.0
    kept = Checkpoint(tmp_path / "runs", clock=lambda: now_s)
    assert kept.is_due
    path = kept.write(record.model_copy(update={"warnings": ["first"]}), [])
    assert not kept.is_due
    now_s = 60.0
    assert kept.is_due
    assert kept.write(record.model_copy(update={"warnings": ["second"]}), []) == path
    assert load_run(path)[0].warnings == ["second"]
    assert list((tmp_path / "runs").iterdir()) == [path]
    other = Checkpoint(tmp_path / "runs").write(record, [])
    assert other.name == f"{path.name}-2" and load_run(path)[0].warnings == ["second"]


def test_a_checkpoint_that_the_disk_refuses_leaves_the_one_before(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoint(tmp_path / "runs")
    path = kept.write(record.model_copy(update={"warnings": ["first"]}), [])

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(record_io.os, "fsync", refuse)
        with pytest.raises(RecordError, match="No space left on device"):
            kept.write(record.model_copy(update={"warnings": ["second"]}), [])
    assert load_run(path)[0].warnings == ["first"]
    assert list((tmp_path / "runs").iterdir()) == [path]
    real = checkpoint.os.replace

    def fail_second(source: Path, target: Path) -> None:
        if Path(source).parent.name.startswith(".partial") and Path(target) == path:
            raise OSError(5, "Input/output error")
        real(source, target)

    calls: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint.os,
            "replace",
            lambda source, target: (
                (calls.append(Path(target)), fail_second(source, target))
                if Path(target) != path or calls.count(path) == 0
                else real(source, target)
            ),
        )
        with pytest.raises(RecordError, match="Input/output error"):
            kept.write(record.model_copy(update={"warnings": ["third"]}), [])
    assert load_run(path)[0].warnings == ["first"]


def test_a_checkpoint_that_fails_is_told_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Checkpoint.write, 0

    def write(self: Checkpoint, *rest: Any) -> Path:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RecordError("cannot write run x: No space left on device")
        return real(self, *rest)

    monkeypatch.setattr(Checkpoint, "write", write)
    code, printed = sweep_json(tmp_path)
    assert code == 0
    assert (
        "unfinished, the run could not be stored: cannot write run x: No space left on device"
        in printed["warnings"]
    )
    assert load_run(printed["run"])[0].status == "complete"


def test_a_run_of_the_same_second_and_name_is_told_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.outcome.new_run_id", lambda slug, created_utc: f"20260131T120000Z-{slug}")
    told = [sweep_json(tmp_path)[1] for _ in range(2)]
    names = [str(fields["run_id"]) for fields in told]
    assert names[1] == f"{names[0]}-2"
    assert [load_run(fields["run"])[0].run_id for fields in told] == names
