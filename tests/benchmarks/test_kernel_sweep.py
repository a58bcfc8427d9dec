import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from benchmarks import cell, kernel_sweep
from benchmarks.gate import GateResult
from benchmarks.variants import KernelVariant
from profiler.record import KernelSample, SweepRow, load_run

app = typer.Typer()
app.command()(kernel_sweep.sweep_command)
SMALL = ("--arch", "cpu", "--shapes", "24x64,8x128", "--m", "1,3", "--repeats", "3")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def sweep_json(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = invoke(*SMALL, "--json", "--out", str(out), *arguments)
    assert result.stdout.count("\n") == 1, result.output
    return result.exit_code, json.loads(result.stdout)


def test_a_sweep_gives_rows_samples_and_tau(tmp_path: Path) -> None:
    code, printed = sweep_json(tmp_path, "--format", "nf4,int8", "--seed", "3")
    assert code == printed["exit_code"] == 0
    record, samples = load_run(printed["run"])
    assert (record.kind, record.status) == ("sweep", "complete")
    assert len(record.results) == len(printed["results"]) == 2 * 2 * 8
    row = next(
        r for r in record.results if isinstance(r, SweepRow) and (r.kernel, r.n, r.m) == ("fused_nf4", 24, 3)
    )
    assert row.gate == "passed" and row.implementation == "torch-eager"
    assert row.group_size == 64 and row.timings == 3
    assert row.time_us_p50 is not None and row.gb_s == pytest.approx(row.bytes_moved / row.time_us_p50 / 1e3)
    bandwidth = record.derived["read_bandwidth"]
    assert isinstance(bandwidth, dict)
    assert row.read_bandwidth_share == pytest.approx(row.gb_s / bandwidth["read_gb_s_p50"])
    times = [
        s.time_us
        for s in samples
        if isinstance(s, KernelSample) and (s.kernel, s.n, s.m) == ("fused_nf4", 24, 3)
    ]
    assert sorted(times)[1] == pytest.approx(row.time_us_p50)
    baseline = next(
        r for r in record.results if isinstance(r, SweepRow) and (r.kernel, r.n, r.m) == ("bf16", 24, 3)
    )
    assert baseline.speedup_p50 is None and baseline.group_size is None
    assert row.speedup_p50 == pytest.approx(baseline.time_us_p50 / row.time_us_p50)
    assert record.arguments["seed"] == 3


def test_tau_is_measured_by_ranges_and_by_fused_minus_null(tmp_path: Path) -> None:
    _, printed = sweep_json(tmp_path, "--kernels", "unfused_fp4,fused_fp4,null_fp4")
    tau = {(t["kernel"], t["n"], t["m"]): t for t in printed["derived"]["tau"]}
    rows = {(r["kernel"], r["n"], r["m"]): r for r in printed["results"]}
    fused = tau["fused_fp4", 8, 1]
    p50 = {name: rows[name, 8, 1]["time_us_p50"] for name in ("fused_fp4", "null_fp4")}
    assert fused["method"] == "fused - null"
    assert fused["tau_comp_us_p50"] == pytest.approx(p50["null_fp4"])
    assert fused["tau_cast_us_p50"] == pytest.approx(p50["fused_fp4"] - p50["null_fp4"])
    assert fused["tau_cast_us_ci95"][0] <= fused["tau_cast_us_p50"] <= fused["tau_cast_us_ci95"][1]
    unfused = tau["unfused_fp4", 8, 1]
    assert unfused["method"] == "ranges"
    assert unfused["tau_cast_us_p50"] == pytest.approx(rows["unfused_fp4", 8, 1]["cast_us_p50"])
    assert rows["null_fp4", 8, 1]["gate"] == "no meaning"
    assert rows["null_fp4", 8, 1]["rel_error"] is None


def test_the_tables(tmp_path: Path) -> None:
    result = invoke(*SMALL, "--format", "int8", "--out", str(tmp_path))
    assert result.exit_code == 0
    assert result.stdout.startswith("measured on the CPU here: ")
    for words in ("time_us_p50", "fused_int8", "24 x 64", "tau_cast_us_p50 [95 %]", "read ", "run: "):
        assert words in result.stdout, words


def test_a_kernel_that_fails_the_gate_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(variant: KernelVariant, *rest: Any, **settings: Any) -> GateResult:
        is_wrong = variant.name == "fused_nf4"
        reason = "its relative error 5.00e-01 is above the bound 8.00e-03" if is_wrong else None
        return GateResult("failed" if is_wrong else "passed", 0.5 if is_wrong else 0.001, 0.008, reason)

    monkeypatch.setattr(cell, "check", check)
    code, printed = sweep_json(tmp_path, "--kernels", "fused_nf4,unfused_nf4")
    assert code == 1
    wrong = [row for row in printed["results"] if row["kernel"] == "fused_nf4"]
    assert {row["gate"] for row in wrong} == {"failed"}
    assert all(row["time_us_p50"] is None and "5.00e-01" in row["not_measured"] for row in wrong)
    assert all(row["time_us_p50"] for row in printed["results"] if row["kernel"] == "unfused_nf4")
    assert "fused_nf4 24x64 m=1" in printed["failures"][0]
    _, samples = load_run(printed["run"])
    assert "fused_nf4" not in {sample.kernel for sample in samples if isinstance(sample, KernelSample)}


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = cell.make_sampler

    def make_sampler(variant: KernelVariant, *rest: Any) -> Any:
        sampler = real(variant, *rest)
        made.append(sampler)
        if len(made) <= 2:
            return sampler

        class Interrupting:
            calls = 0

            def sample(self) -> Mapping[str, float]:
                self.calls += 1
                if self.calls > 2:
                    raise KeyboardInterrupt
                return sampler.sample()

        return Interrupting()

    monkeypatch.setattr(cell, "make_sampler", make_sampler)
    code, printed = sweep_json(tmp_path, "--kernels", "fused_nf4")
    assert code == printed["exit_code"] == 130
    record, _ = load_run(printed["run"])
    assert record.status == "interrupted"
    rows = [row for row in record.results if isinstance(row, SweepRow)]
    assert [(row.kernel, row.m, row.time_us_p50 is not None) for row in rows] == [
        ("bf16", 1, True),
        ("fused_nf4", 1, True),
        ("bf16", 3, False),
        ("fused_nf4", 3, False),
    ]
    assert rows[-1].not_measured == "interrupted before it was timed"


def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    place = tmp_path / "runs"
    place.write_text("a file, no folder")
    result = invoke(*SMALL, "--kernels", "fused_nf4", "--out", str(place))
    assert result.exit_code == 1
    assert "error: cannot write run" in result.stderr
    assert "time_us_p50" in result.stdout
    code, printed = sweep_json(place, "--kernels", "fused_nf4")
    assert (code, printed["run"], printed["exit_code"]) == (1, None, 1)
    assert "cannot write run" in printed["failures"][0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--kernels", "fused_nf5"), ("'fused_nf5'", "unfused_nf4")),
        (("--format", "nf5"), ("'nf5'", "fp4_bnb")),
        (("--model", "gpt-9"), ("'gpt-9'", "tiny")),
        (("--arch", "h1000"), ("'h1000'", "h200", "auto")),
        (("--m", "0"), ("m=0", "less than 1")),
        (("--shapes", "64by64"), ("'64by64'", "NxK")),
        (("--shapes", "64x100"), ("k=100", "group_size=64")),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path) -> None:
    result = invoke(*arguments, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert [part for part in parts if part not in result.stderr] == []
    printed = json.loads(invoke(*arguments, "--json").stdout)
    assert printed["exit_code"] == 2 and parts[0] in printed["error"]
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ("--arch", "h200", "--shapes", "4096x4096", "--m", "1", "--kernels", "fused_nf4")
    result = invoke(*arguments, "--out", str(tmp_path))
    assert result.exit_code == 3
    first, *rest = result.stdout.splitlines()
    assert "no GPU here" in first and "h200" in first and "NVIDIA H200" in first
    assert sum("not measured" in line for line in rest) == 2
    assert list(tmp_path.iterdir()) == []
    shown = invoke(*arguments, "--json", "--out", str(tmp_path))
    assert shown.exit_code == 3
    printed = json.loads(shown.stdout)
    bf16, fused = printed["results"]
    assert bf16["time_us_p50"] is None and bf16["not_measured"].startswith("not measured")
    assert bf16["floor_us"] == pytest.approx((2 * 4096 * 4096 + 2 * 2 * 4096) / 4.8e12 * 1e6)
    assert fused["bytes_moved"] == 4096 * 4096 // 2 + 4 * 4096 * 64 + 2 * 2 * 4096


def test_another_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name = "NVIDIA L4"
        L2_cache_size = 48 << 20

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    result = invoke("--arch", "h100", "--shapes", "64x64", "--kernels", "fused_nf4")
    assert result.exit_code == 3
    assert result.stdout.startswith("the GPU here is NVIDIA L4, and --arch h100 names NVIDIA H100")


def test_every_option_has_a_name_and_a_help() -> None:
    options = {word: option for option in typer.main.get_command(app).params for word in option.opts}
    wanted = "--arch --format --kernels --model --shapes --m --repeats --group-size --seed --json --out "
    wanted += "--peers --peer --resume --tune"
    assert set(wanted.split()) <= set(options)
    assert [word for word in wanted.split() if not getattr(options[word], "help", None)] == []


@pytest.mark.gpu
def test_on_a_gpu_every_kernel_is_timed_with_cuda_graphs(tmp_path: Path) -> None:
    result = invoke("--shapes", "256x256", "--m", "1,8", "--repeats", "4", "--json", "--out", str(tmp_path))
    printed = json.loads(result.stdout)
    assert result.exit_code == 0, printed["failures"]
    assert all(row["time_us_p50"] > 0 for row in printed["results"])
    assert {t["method"] for t in printed["derived"]["tau"]} == {"cast alone", "fused - null"}
