"""A sweep for a fit: what it measures, that a fit reads all of it, and what it refuses."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from pydantic import JsonValue
from typer.testing import CliRunner

from analysis.fit import fit_all
from analysis.fit_energy import Product
from analysis.fit_host import LaunchChain, fit_host
from analysis.fit_input import energy_rows, read_runs, take
from benchmarks import fit_plan as plans
from benchmarks import for_fit, kernel_sweep, plan
from benchmarks.fit_plan import fit_plan
from benchmarks.for_fit import ForFit, measure_for_fit
from benchmarks.hop_size import KERNELS as HOP_KERNELS
from benchmarks.hop_size import hop_sizes
from benchmarks.machine import Target
from benchmarks.plan import SweepRequest, make_plan
from profiler.energy import EnergyReading, FakeMeter, HliMeter, Load
from profiler.energy_window import EnergyWindow, KeepBusy
from profiler.record import load_run

CPU = Target(torch.device("cpu"), "a CPU", None, cache_bytes=1000)
GPU = Target(torch.device("cuda"), "a GPU", None, cache_bytes=60 << 20)
KERNELS = {"bf16", "native_int8", "native_fp8"} | {
    f"{scheme}_{fmt}" for scheme in ("unfused", "fused", "null") for fmt in ("nf4", "fp4", "int8", "fp8")
}
POWER_W = 80.0


class Counter(FakeMeter):
    """A made-up meter that a fit takes for a real one."""

    source = "rapl"

    def end(self, window: EnergyWindow, keep_busy: KeepBusy | None = None) -> EnergyReading:
        return dataclasses.replace(super().end(window, keep_busy), source="rapl")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_FIT_CPU_SHAPES", "64x64,192x64,64x192,128x128")
    monkeypatch.setattr(plan, "_FIT_CPU_MS", "1,5,9")
    monkeypatch.setattr(plans, "_COMPUTE_BOUND_M", 24)


def run(*words: str) -> tuple[int, dict[str, object]]:
    app = typer.Typer()
    app.command()(kernel_sweep.sweep_command)
    result = CliRunner().invoke(app, ["--arch", "cpu", "--for-fit", "--json", *words])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def test_the_record_holds_what_a_fit_needs(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(for_fit, "best_meter", lambda **kwargs: Counter(power_w=POWER_W))
    code, fields = run("--out", str(tmp_path))
    assert code == 0, fields["failures"]
    record, samples = load_run(Path(str(fields["run"])))
    assert {row.kernel for row in record.results} == KERNELS
    assert min(row.timings for row in record.results) >= 12
    loads = [(row.load, row.m) for row in energy_rows(record)]
    assert loads[0] == ("idle", None) and len(loads) == 1 + 11 + 3 + 1 + 1
    assert ("bf16", 24) in loads and ("fused_int8", 64) in loads and ("null_int8", 1) in loads
    assert sum(sample.type == "load_energy" for sample in samples) == len(loads)

    fits = fit_all(read_runs([tmp_path]), n_draws=20)
    assert set(fits.kernels) == KERNELS
    assert {name for name, kernel in fits.kernels.items() if kernel.cast} == {
        name for name in KERNELS if name.startswith(("fused", "unfused", "native_"))
    }
    assert all(kernel.time.not_identified == {} for kernel in fits.kernels.values())
    assert fits.host is not None and 0 < fits.host.parameters["launch_s"].point < 1e-3
    # Energy that is power times time is all static power.
    assert fits.energy is not None
    assert fits.energy.parameters["static_w"].point == pytest.approx(POWER_W, rel=0.02)
    assert not any("not identified" in warning for warning in fits.warnings)


def test_without_a_counter_no_joules_are_made_up(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_plan(SweepRequest(for_fit=True), "cpu")
    found = measure_for_fit(fit_plan(sweep, CPU), CPU, meter=HliMeter(100.0, reason="no counter"))
    assert found.energy == [] and len(found.launch_chains) == 6 and found.hop_parts == []
    assert found.warnings == [
        "no energy is measured here, so a fit identifies no joules: no counter (source hli)"
    ]


def test_an_interruption_keeps_what_was_measured(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_plan(SweepRequest(for_fit=True), "cpu")

    def on_progress(done: float, text: str) -> None:
        if text.startswith("energy of idle"):
            raise KeyboardInterrupt

    found = measure_for_fit(fit_plan(sweep, CPU), CPU, meter=Counter(), on_progress=on_progress)
    assert found.interrupted and len(found.launch_chains) == 6 and found.energy == []


def test_on_a_gpu_the_plan_covers_what_tells_parameters_apart_in_time() -> None:
    sweep = make_plan(SweepRequest(for_fit=True), "cuda", is_here=False)
    assert [str(shape) for shape in sweep.shapes] == [
        "1024x1024",
        "1024x3072",
        "2048x1024",
        "3072x2048",
        "6144x1024",
        "12288x2048",
        "4096x4096",
        "4096x14336",
        "28672x4096",
        "29568x8192",
    ]
    assert sweep.ms == (1, 8, 16, 32, 64, 128, 160, 256) and sweep.repeats == 12
    assert {variant.name for variant in sweep.variants} == KERNELS | {"gemv_bf16"}
    found = fit_plan(sweep, GPU)
    assert found.hops == hop_sizes() and fit_plan(sweep, CPU).hops == ()
    assert set(HOP_KERNELS) < KERNELS
    windows = [(k, s.hidden, s.batch_size) for k in HOP_KERNELS for s in found.hops if found.has_window(s, k)]
    bf16 = [("bf16", hidden, batch) for hidden in (1024, 4096) for batch in (1, 32)]
    assert windows == bf16 + [(k, 4096, batch) for k in ("fused_nf4", "fused_int8") for batch in (32, 128)]
    assert found.hop_windows == len(windows) and found.resting == ("idle", "wait")
    assert found.steps_before_energy == len(found.eager) + len(found.graphs) + found.hop_windows + len(
        hop_sizes()
    ) * len(HOP_KERNELS)
    assert found.steps - found.steps_before_energy == found.windows - found.hop_windows
    assert found.windows == 26 and found.windows * (found.window_s + found.lead_in_s) < 150
    assert len(set(found.graphs)) > 1 and {syncs for _, syncs in found.eager} == {1, 16, 64}
    assert max(p.ms[0] for p in found.energy) == 1024
    assert {str(shape) for p in found.energy for shape in p.shapes} == {
        "28672x4096",
        "1024x1024",
        "4096x4096",
    }
    # A decoded weight that stays in the cache: 33.5 of 63 MB.
    copying = found.energy[-1]
    assert [v.name for v in copying.variants] == ["unfused_nf4"] and str(copying.shapes[0]) == "4096x4096"
    without = fit_plan(sweep, dataclasses.replace(GPU, cache_bytes=1 << 20))
    assert without.windows == 25


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shapes", "64x64"], "--shapes 64x64 contradicts"),
        (["--m", "1", "--kernels", "bf16"], "--kernels bf16, --m 1 contradicts"),
        (["--peers"], "--peer all contradicts"),
        (["--repeats", "11"], "repeats=11 is less than 12"),
    ],
)
def test_settings_of_ones_own_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    code, fields = run(*words, "--out", str(tmp_path))
    assert code == 2 and message in str(fields["error"])


def test_a_record_without_additions_stays_itself(small: None) -> None:
    marker = object()
    assert ForFit().added_to(marker) is marker  # type: ignore[arg-type]


def test_graphs_of_launches_show_g_and_d() -> None:
    eager = [LaunchChain(n, s, n * 4e-6 + s * 9e-6, 0.001) for n, s in ((64, 1), (256, 1), (64, 64))]
    graphs = [LaunchChain(n, 1, 12e-6 + n * 1.5e-6, 0.001, "graph") for n in (16, 64, 256)]
    expected = {"launch_s": 4e-6, "sync_s": 9e-6, "graph_s": 12e-6, "node_s": 1.5e-6}
    found = fit_host([*graphs, *eager], seed=0)
    assert dict(zip(found.names, found.point, strict=True)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="2 graphs of 16 launches"):
        fit_host([*eager, graphs[0], graphs[0]], seed=0)
    with pytest.raises(ValueError, match="engine='compile' of a chain"):
        fit_host([LaunchChain(1, 1, 1e-6, 0.0, "compile")], seed=0)


def test_hops_follow_the_launches_and_a_machine_without_the_engine_is_named(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = hop_sizes()[:2]
    sweep = make_plan(SweepRequest(for_fit=True), "cpu")
    found_plan = dataclasses.replace(fit_plan(sweep, CPU), eager=((64, 1),), hops=sizes, repeats=3)
    told: list[tuple[float, str]] = []

    def measured(
        plan: object, target: object, repeats: int, on_size: Any, then: Any
    ) -> Iterator[dict[str, JsonValue]]:
        assert (plan, target) == (sizes, CPU) and repeats >= 10
        for size in sizes:
            on_size(size, "fused_nf4")
            yield {"batch_size": size.batch_size}
        raise KeyboardInterrupt

    def run_plan() -> ForFit:
        told.clear()
        return measure_for_fit(
            found_plan, CPU, meter=HliMeter(1.0, reason="r"), on_progress=lambda *t: told.append(t)
        )

    monkeypatch.setattr(for_fit, "measure_hop_parts", measured)
    monkeypatch.setattr(for_fit, "why_no_hops", lambda device: "")
    found = run_plan()
    assert found.interrupted and found.hop_parts == [{"batch_size": 1}, {"batch_size": 8}]
    assert told[1:] == [(1, "4 layers of fused_nf4, B = 1"), (2, "4 layers of fused_nf4, B = 8")]
    assert found_plan.steps == fit_plan(sweep, CPU).steps - 5 + 2 * len(HOP_KERNELS) + 1
    monkeypatch.setattr(for_fit, "why_no_hops", lambda device: "triton is not installed")
    without = run_plan()
    assert without.hop_parts == [] and without.warnings[-1].endswith(
        "its time between linears is not identified: triton is not installed"
    )


def test_the_energy_of_hops_is_measured_and_read(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = tuple(size for size in hop_sizes() if size.layers == 12 and size.batch_size in (1, 8, 32))[:3]
    hop_s, waited_s = 2e-3, 1e-3

    class Parts:
        def load(self, each_s: float, wait_share: float) -> tuple[Load, float]:
            assert (each_s, wait_share) == (pytest.approx(hop_s), 0.5)
            return Load(lambda: time.sleep(hop_s + waited_s), 1), waited_s

    def measured(
        plan: object, target: object, repeats: int, on_size: Any, then: Any
    ) -> Iterator[dict[str, JsonValue]]:
        for kernel in ("bf16", "fused_nf4", "fused_int8"):
            for size in sizes:
                row = {"kernel": kernel, "hop_us_p50": 1e6 * hop_s, "time_us_p50": 400.0, "engine": "fused"}
                yield {"kernel": "another"}
                then(size, Parts(), row)

    monkeypatch.setattr(for_fit, "measure_hop_parts", measured)
    monkeypatch.setattr(for_fit, "why_no_hops", lambda device: "")
    sweep = make_plan(SweepRequest(for_fit=True), "cpu")
    found = ForFit()
    plan_ = dataclasses.replace(fit_plan(sweep, CPU), hops=sizes, wait_share=0.5)
    assert (plan_.hop_windows, plan_.resting) == (4, ("idle", "wait"))
    for_fit._measure_hop_parts(plan_, CPU, Counter(power_w=POWER_W), found, lambda *told: None)
    measured_hops = [(hop["kernel"], hop["batch_size"]) for hop in found.hop_energy]
    assert measured_hops == [("bf16", 1), ("bf16", 32), ("fused_nf4", 32), ("fused_int8", 32)]
    assert len(found.samples) == 4

    monkeypatch.setattr(for_fit, "best_meter", lambda **kwargs: Counter(power_w=POWER_W))
    monkeypatch.setattr(for_fit, "_measure_hop_parts", lambda *a: None)
    code, fields = run("--out", str(tmp_path))
    assert code == 0, fields["failures"]
    record = load_run(Path(str(fields["run"])))[0]
    held = record.model_copy(update={"derived": {**record.derived, "hop_energy": found.hop_energy}})
    one, many, nf4, int8 = (work for work in take([held]).energy if work.between_s > 0)
    weights, head = sizes[0].shape.linear_weights, sizes[0].vocabulary * sizes[0].hidden
    assert one.products == (Product("gemv_bf16", 16, weights, 1), Product("gemv_bf16", None, head, 1))
    assert many.products == (Product("bf16", 16, weights, 32), Product("bf16", None, head, 32))
    assert nf4.products == (Product("fused_nf4", 4, weights, 32), Product("bf16", None, head, 32))
    assert int8.products[0] == Product("fused_int8", 8, weights, 32)
    assert one.between_s == pytest.approx(4e-4) and one.wait_s == pytest.approx(waited_s)
    assert one.energy_j == pytest.approx(POWER_W * one.time_s) and one.time_s > hop_s + waited_s
    assert many.flops == 64 * (weights + head)
    assert many.bytes_moved - one.bytes_moved == pytest.approx(
        31
        * (
            sizes[0].row_bytes
            + 2 * sum(c.count * (c.n + c.k) for c in (*sizes[0].shape.merged, sizes[0].shape.head))
        )
    )


@pytest.mark.gpu
def test_launch_chains_on_a_gpu() -> None:
    from benchmarks.machine import find_target

    target = find_target("auto")
    assert isinstance(target, Target)
    found = ForFit()
    for_fit._measure_launches(
        fit_plan(make_plan(SweepRequest(for_fit=True), "cuda"), target),
        target,
        found,
        lambda done, text: None,
    )
    graphs = [chain for chain in found.launch_chains if chain["engine"] == "graph"]
    assert len(graphs) + 6 == len(found.launch_chains)
    assert all(chain["device_us_p50"] < chain["time_us_p50"] for chain in graphs)
    assert graphs[-1]["time_us_p50"] < 4 * 1024
