import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.energy_check import CheckPlan, check_command, failures, run_check, store
from benchmarks.energy_loads import compute_load, decode_load, idle_load, memory_load
from benchmarks.energy_rows import (
    EnergyOutcome,
    Subject,
    energy_row,
    energy_samples,
    energy_table,
    to_record,
    unmeasured_row,
)
from benchmarks.kernel_energy import EnergyPlan, energy_command, measure_kernels
from benchmarks.machine import Target
from benchmarks.plan import SweepRequest, make_plan
from profiler.energy import EnergyReading, FakeMeter, FilledWindow, HliMeter, Load, NoMeter
from profiler.record import EnergyRow, RunRecord, load_run
from reasoning.model import load_model

CPU = Target(torch.device("cpu"), "a CPU", None, cache_bytes=1)
STEADY = Subject("memory_bound", "call", "copy")


def window(energy_j: float, polled_j: float | None = None, units: int = 10) -> FilledWindow:
    polled = energy_j if polled_j is None else polled_j
    reading = EnergyReading(energy_j, 5.0, "nvml_counter", 20.0, "counter", 1.0, energy_j, polled, 3500.0)
    return FilledWindow(reading, units, units)


def test_a_row_adds_windows_up() -> None:
    row = energy_row(STEADY, [window(1000.0), window(1100.0, 1043.0)])
    assert (row.windows, row.units, row.duration_s, row.energy_j) == (2, 20, 10.0, 2100.0)
    assert row.power_w == 210
    assert row.polled_over_counter == pytest.approx(2043 / 2100)
    assert row.hli_over_counter == pytest.approx(7000 / 2100)
    assert row.repeat_spread_share == pytest.approx(20 / 210)
    assert (row.active_j, row.energy_error_j) == (1900.0, 2.0)
    assert (row.energy_j_per_unit, row.active_j_per_unit) == (105.0, 95.0)
    low, high = row.energy_j_per_unit_ci95
    assert low < 105 < high
    samples = energy_samples(STEADY, [window(1000.0), window(1100.0)])
    assert [(s.repeat, s.units, s.counter_j) for s in samples] == [(0, 10, 1000.0), (1, 10, 1100.0)]


def test_rest_has_power_and_no_energy_per_unit() -> None:
    row = energy_row(Subject("idle", "none"), [window(100.0, units=0)])
    assert (row.power_w, row.energy_j_per_unit, row.energy_j_per_unit_ci95) == (20.0, None, None)
    assert row.repeat_spread_share is None


def test_what_fails_is_said() -> None:
    assert failures(energy_row(STEADY, [window(1000.0), window(1010.0)])) == []
    (agreement,) = failures(energy_row(STEADY, [window(1000.0, 965.0)]))
    assert agreement == "memory_bound: polled over counter is 0.9650, further from 1 than 3%"
    (spread,) = failures(energy_row(Subject("idle", "none"), [window(1000.0), window(1030.0, 900.0)]))
    assert spread == "idle: windows differ by 2.96%, more than 2%"
    reading = EnergyReading(35.0, 5.0, "hli", None, "lost; downgraded to hli", hli_j=35.0)
    found = failures(energy_row(STEADY, [FilledWindow(reading, 1, 1)]))
    assert found == [
        "memory_bound was measured by hli and not by the counter",
        "memory_bound has no polled energy to compare the counter with",
    ]
    empty = energy_row(STEADY, [FilledWindow(NoMeter("no counter").end(NoMeter("x").begin()), 1, 1)])
    assert failures(empty) == ["memory_bound was not measured: not measured: no counter"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "neither energy_j nor a reason"),
        ({"energy_j": 1.0}, "has no energy_source"),
        ({"energy_j": 1.0, "energy_source": "hli"}, "comes from windows=0"),
        ({"not_measured": "x", "energy_j_per_unit": 1.0}, "comes from units=0"),
    ],
)
def test_illegal_rows_cannot_be_built(fields: dict[str, object], message: str) -> None:
    base = {
        "load": "idle",
        "unit": "none",
        "windows": 0,
        "units": 0,
        "duration_s": 0,
        "energy_source": "none",
    }
    with pytest.raises(ValueError, match=message):
        EnergyRow.model_validate(base | fields)


def test_the_loads_do_their_work() -> None:
    start = time.perf_counter()
    idle_load().step()
    assert time.perf_counter() - start > 0.04
    for load in (memory_load(CPU, 1 << 16), compute_load(CPU, 33)):
        load.step()
        load.finish()
        assert load.units_per_step == 1
    decode = decode_load(load_model("tiny", device="cpu"), hops=2)
    for _ in range(5):  # two sequences and a half
        decode.step()


def test_a_check_measures_everything_twice_and_is_stored(tmp_path: Path, capsys) -> None:
    meter = FakeMeter(power_w=50.0, idle_w=10.0, tdp_w=100.0)
    meter.measure_idle()
    loads = {
        "idle": (Subject("idle", "none"), Load(lambda: time.sleep(0.002), 0)),
        "memory_bound": (STEADY, Load(lambda: time.sleep(0.002))),
    }
    told: list[str] = []
    plan = CheckPlan(seconds=0.01, repeats=2, lead_in_s=0.0, rest_s=0.01)
    outcome = run_check(meter, loads, plan, on_window=told.append)
    assert told == ["idle", "memory_bound"] * 2
    assert [row.windows for row in outcome.rows] == [2, 2]
    assert all(row.hli_over_counter == pytest.approx(2) for row in outcome.rows)
    record = to_record(
        outcome,
        meter,
        slug="energy check",
        command=["energy_check"],
        created_utc=datetime.now(timezone.utc),
        arguments={"seconds": 0.01},
        derived={},
    )
    console = Console(width=200)
    console.print(energy_table(outcome.rows))
    assert store(record, outcome, tmp_path, console) == 0
    shown = capsys.readouterr().out
    assert "50.0 (fake estimate)" in shown and "2.00x" in shown
    (folder,) = tmp_path.iterdir()
    loaded, samples = load_run(folder)
    assert isinstance(loaded, RunRecord) and loaded.kind == "energy"
    assert loaded.results == outcome.rows and samples == outcome.samples


def test_an_interruption_keeps_what_was_measured() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    loads = {"idle": (Subject("idle", "none"), Load(lambda: None, 0)), "b": (STEADY, Load(stop))}
    outcome = run_check(FakeMeter(), loads, CheckPlan(0.0, 1, 0.0, 0.0))
    assert outcome.interrupted and [row.load for row in outcome.rows] == ["idle"]


def test_kernels_get_energy_per_call_and_wrong_ones_none(monkeypatch) -> None:
    request = SweepRequest(kernels="unfused_nf4,null_nf4,fused_nf4", shapes="33x64,17x128", m="1,3", seed=0)
    sweep = make_plan(request, "cpu")
    meter = FakeMeter(power_w=50.0, idle_w=10.0)
    meter.measure_idle()
    wrong = {"fused_nf4"}
    fused = next(v for v in sweep.variants if v.name == "fused_nf4")
    linear = type(fused).linear

    def spoilt(self, x, weight, *ranges):
        y = linear(self, x, weight, *ranges)
        return y + 1 if self.name in wrong else y

    monkeypatch.setattr(type(fused), "linear", spoilt)
    told: list[str] = []
    plan = EnergyPlan(sweep, windows=2, seconds=0.005, lead_in_s=0.0)
    outcome = measure_kernels(plan, CPU, meter, on_window=told.append)
    assert [(r.load, r.n, r.m) for r in outcome.rows] == [
        (name, n, m)
        for n in (33, 17)
        for m in (1, 3)
        for name in ("bf16", "unfused_nf4", "null_nf4", "fused_nf4")
    ]
    assert len(told) == 2 * 2 * 2 * 3
    for row in outcome.rows:
        if row.load in wrong:
            assert row.energy_j is None and "above the bound" in str(row.not_measured)
        else:
            assert row.windows == 2 and row.units >= 2
            assert row.energy_j_per_unit == pytest.approx(row.energy_j / row.units)
            assert row.active_j_per_unit == pytest.approx(0.8 * row.energy_j_per_unit)
    assert len(outcome.samples) == 24
    assert len(outcome.failures) == 4


def test_a_row_without_energy_says_why() -> None:
    row = unmeasured_row(STEADY, "no memory")
    assert (row.not_measured, row.energy_source, row.windows) == ("no memory", "none", 0)
    assert EnergyOutcome([row], [], []).failures == ()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is meant")
@pytest.mark.parametrize("command", [check_command, energy_command])
def test_commands_without_a_counter_exit_3(command, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.kernel_energy.best_meter", lambda **_: HliMeter(100.0))
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 3
    assert "error: no energy" in done.output


def test_bad_arguments_exit_2() -> None:
    app = typer.Typer()
    app.command()(energy_command)
    done = CliRunner().invoke(app, ["--windows", "0"])
    assert done.exit_code == 2
    assert "windows=0 at least 1" in done.output
