"""Ranges, tuning, warnings and the GPU that is not here."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from fake_peers import FAKES
from typer.testing import CliRunner

from benchmarks import kernel_sweep, sweep
from benchmarks.bandwidth import Bandwidth
from benchmarks.machine import Target
from benchmarks.outcome import SweepRun, to_record
from benchmarks.plan import SweepRequest, make_plan
from benchmarks.sweep import SweepOutcome
from kernels.peers import registry
from profiler.environment import capture_environment
from profiler.nvtx import ranges_to

app = typer.Typer()
app.command()(kernel_sweep.sweep_command)
CPU = Target(torch.device("cpu"), "a CPU", None, cache_bytes=1000)
GPU = Target(torch.device("cuda"), "a GPU", None, cache_bytes=1000)


def test_ranges_nest_sweep_cell_variant_and_cast() -> None:
    stack: list[str] = []
    paths = []

    class Sink:
        def push(self, name: str, payload: int | None) -> None:
            stack.append(name)
            paths.append("/".join(stack))

        def pop(self) -> None:
            stack.pop()

    plan = make_plan(SweepRequest(kernels="unfused_int8", shapes="8x64", m="2", repeats=2), "cpu")
    with ranges_to(Sink()):
        sweep.run_sweep(plan, CPU, bandwidth=lambda target: Bandwidth(100, (1.0,), (1.0,)))
    cell = "sweep/8x64 m=2"
    gate = [path for path in paths if path.startswith(cell)][:6]
    assert gate == [
        cell,
        f"{cell}/bf16",
        f"{cell}/bf16/linear",
        f"{cell}/unfused_int8",
        f"{cell}/unfused_int8/tau_cast",
        f"{cell}/unfused_int8/tau_comp",
    ]
    assert paths.count(f"{cell}/bf16") >= 1 + 2 + 2
    assert stack == []


def test_tuning_needs_a_gpu(tmp_path: Path) -> None:
    words = [
        "--arch",
        "cpu",
        "--kernels",
        "fused_nf4",
        "--shapes",
        "8x64",
        "--tune",
        "--json",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert (
        "--tune chooses configurations for a GPU, but this sweep runs on"
        in json.loads(result.stdout)["error"]
    )
    assert list(tmp_path.iterdir()) == []


def test_tuning_gets_kernels_shapes_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    module = ModuleType("kernels.tuning")
    module.__spec__ = SimpleNamespace(name="kernels.tuning")  # type: ignore[assignment]

    def tune(kernels: Any, shapes: Any, ms: Any, *, device: Any, on_progress: Any) -> Path:
        on_progress(0.5, "fused_nf4")
        calls.append((list(kernels), list(shapes), list(ms), device.type))
        return Path("table.json")

    module.tune = tune  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernels.tuning", module)
    plan = make_plan(
        SweepRequest(kernels="fused_nf4,null_nf4", shapes="8x64,16x64", m="1,8"), "cuda", is_here=False
    )
    kernel_sweep._tune(plan, GPU)
    assert calls == [(["fused_nf4", "null_nf4"], [(8, 64), (16, 64)], [1, 8], "cuda")]


def test_a_version_without_tuning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sweep, "_TUNING", "kernels.no_such_tuning")
    plan = make_plan(SweepRequest(kernels="fused_nf4", shapes="8x64"), "cuda", is_here=False)
    with pytest.raises(ValueError, match=r"--tune needs the module kernels\.no_such_tuning"):
        kernel_sweep._tune(plan, GPU)


def tau(kernel: str, method: str, cast: tuple[float, float], comp: tuple[float, float]) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "method": method,
        "n": 8,
        "k": 64,
        "m": 1,
        "tau_cast_us_p50": sum(cast) / 2,
        "tau_cast_us_ci95": list(cast),
        "tau_comp_us_p50": sum(comp) / 2,
        "tau_comp_us_ci95": list(comp),
    }


def test_a_null_twin_slower_than_fused_is_a_warning() -> None:
    plan = make_plan(SweepRequest(kernels="fused_nf4", shapes="8x64", m="1"), "cpu")
    environment = capture_environment()
    run = SweepRun(plan, SweepRequest(), CPU, [], environment.captured_utc, environment)
    outcome = SweepOutcome(
        tau=[
            tau("fused_nf4", "fused - null", (-3.0, -1.0), (5.0, 6.0)),
            tau("fused_fp4", "fused - null", (-3.0, 0.5), (5.0, 6.0)),
            tau("unfused_nf4", "cast alone", (5.0, 6.0), (-2.0, -0.5)),
        ]
    )
    warnings = to_record(outcome, run, is_running=True).warnings
    assert len(warnings) == 2
    assert warnings[0].startswith("fused_nf4 8x64 m=1: tau_cast by fused - null is -2.00 us, below 0 beyond")
    assert warnings[1].startswith("unfused_nf4 8x64 m=1: tau_comp by cast alone is -1.25 us")


def test_a_gpu_that_is_not_here_lists_peers_and_names_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(registry, "PEERS", FAKES)
    words = ["--arch", "h100", "--shapes", "4096x4096", "--m", "1", "--kernels", "fused_nf4"]
    words += ["--peer", "good_int8,gpu_int4", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3
    first, *rest = result.stdout.splitlines()
    assert first.startswith("torch sees no GPU here") and "NVIDIA H100" in first
    assert sum("not measured" in line for line in rest) == 4
    assert "qt-profile predict" in result.stdout
    assert list(tmp_path.iterdir()) == []
    printed = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert printed["exit_code"] == 3
    assert [row["kernel"] for row in printed["results"]] == ["bf16", "fused_nf4", "good_int8", "gpu_int4"]
    assert {row["time_us_p50"] for row in printed["results"]} == {None}
    assert printed["results"][2]["floor_us"] is None, "a peer's traffic is known once it has stored a weight"
