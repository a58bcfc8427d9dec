"""Two runs side by side: verdicts beyond noise, environments, and what cannot be compared."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.compare import Change, Comparison, Outcome, compare_runs, decide_change
from analysis.stats import Interval
from profiler.cli import app
from profiler.record import (
    EnergyRow,
    Environment,
    GpuRunState,
    GpuState,
    HopSample,
    KernelSample,
    QuerySample,
    RunRecord,
    Sample,
    SweepRow,
    VariantResult,
    write_run,
)

WHEN = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
CELLS = ((1, 1024, 1024), (16, 1024, 1024), (1, 4096, 4096))
Run = tuple[RunRecord, list[Sample]]


def environment(**changed: Any) -> Environment:
    gpu = GpuState(index=0, name="NVIDIA H200", uuid="GPU-1", arch="h200", power_limit_w=700.0)
    fields: dict[str, Any] = {
        "captured_utc": WHEN,
        "platform": "Linux",
        "cpu_model": "cpu",
        "cpu_threads": 2,
        "compute_threads": 2,
        "gpus": [gpu],
        "versions": {"torch": "2.11.0"},
        "git_commit": "a" * 40,
    }
    return Environment(**(fields | changed))


def record(kind: str, results: list[Any], number: int, **changed: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "run_id": f"20260131T12000{number}Z-{kind}",
        "kind": kind,
        "status": "complete",
        "created_utc": WHEN,
        "command": [kind],
        "environment": environment(),
        "arguments": {"device": "cuda", "dtype": "bfloat16", "group_size": None},
        "results": results,
    }
    return RunRecord(**(fields | changed))


def times_us(base: float, seed: int, spread: float = 0.005, count: int = 20) -> list[float]:
    return list(base * (1 + spread * np.random.default_rng(seed).standard_normal(count)))


def sweep(
    factor: dict[str, float] | None = None, *, number: int = 0, spread: float = 0.005, **changed: Any
) -> Run:
    rows, samples = [], []
    for place, (m, n, k) in enumerate(CELLS):
        for kernel in ("bf16", "fused_nf4"):
            base = 10.0 * (1 + place) * (factor or {}).get(kernel, 1.0)
            times = times_us(base, 100 * number + place + len(kernel), spread)
            rows.append(
                SweepRow(
                    kernel=kernel,
                    m=m,
                    n=n,
                    k=k,
                    time_us_p50=float(np.median(times)),
                    time_us_p05=float(np.quantile(times, 0.05)),
                    time_us_p95=float(np.quantile(times, 0.95)),
                    timings=len(times),
                    gate="passed",
                )
            )
            samples += [
                KernelSample(kernel=kernel, m=m, n=n, k=k, repeat=i, time_us=t) for i, t in enumerate(times)
            ]
    return record("sweep", rows, number, **changed), samples


def chain(
    hop_s: float = 1e-3, *, number: int = 0, wrong: int = 0, weight: int = 100, **arguments: Any
) -> Run:
    row = VariantResult(
        kernel="fused_nf4",
        implementation="cuda",
        mode="generate",
        batch_size=4,
        problems=40,
        hops=200,
        tokens=800,
        weight_bytes=weight,
        energy_j_per_query=2.0 * hop_s / 1e-3,
        energy_j_per_query_ci95=(1.99 * hop_s / 1e-3, 2.01 * hop_s / 1e-3),
        energy_source="nvml_counter",
    )
    samples: list[Sample] = [
        HopSample(
            kernel="fused_nf4",
            batch_size=4,
            mode="generate",
            repeat=0,
            batch_index=0,
            hop=i,
            active=4,
            tokens=4,
            hop_s=t,
        )
        for i, t in enumerate(times_us(hop_s, number, count=200))
    ]
    samples += [
        QuerySample(
            kernel="fused_nf4", batch_size=4, problem_id=str(i), operations=3, correct=i >= wrong, hops=20
        )
        for i in range(40)
    ]
    settings = {"device": "cuda", "model": "tiny", "engine": "graph", "seed": 1} | arguments
    return record("chain", [row], number, arguments=settings), samples


def energy(
    scale: float = 1.0, *, number: int = 0, source: str = "nvml_counter", spread: float = 0.005
) -> Run:
    call = EnergyRow(
        load="fused_nf4",
        unit="call",
        m=1,
        n=4096,
        k=4096,
        windows=2,
        units=1000,
        duration_s=10.0,
        energy_j=2000.0 * scale,
        energy_source=source,
        energy_j_per_unit=2.0 * scale,
        energy_j_per_unit_ci95=(2.0 * scale * (1 - spread), 2.0 * scale * (1 + spread)),
    )
    idle = EnergyRow(
        load="idle",
        unit="none",
        windows=1,
        units=0,
        duration_s=5.0,
        energy_j=600.0,
        energy_source=source,
        energy_error_j=3.0,
        power_w=120.0,
    )
    return record("energy", [idle, call], number), []


def outcomes(found: Comparison) -> dict[str, list[str]]:
    by_metric: dict[str, list[str]] = {}
    for change in found.changes:
        by_metric.setdefault(f"{change.cell.split()[0]} {change.metric}", []).append(change.word)
    return by_metric


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [
        (Interval(1.1, 1.05, 1.2), Outcome.REGRESSED),
        (Interval(0.9, 0.8, 0.95), Outcome.IMPROVED),
        (Interval(1.0, 0.98, 1.02), Outcome.SAME),
        (Interval(1.015, 1.01, 1.02), Outcome.SAME),
        (Interval(1.02, 1.01, 1.05), Outcome.AMBIGUOUS),
        (Interval(1.1, 0.99, 1.2), Outcome.AMBIGUOUS),
        (Interval(1.0, 0.5, 1.5), Outcome.AMBIGUOUS),
        (None, Outcome.AMBIGUOUS),
    ],
)
def test_a_change_needs_an_interval_off_1_and_an_estimate_beyond_the_tolerance(
    ratio: Interval | None, outcome: Outcome
) -> None:
    assert decide_change(ratio, 0.03) is outcome
    mirrored = {Outcome.REGRESSED: Outcome.IMPROVED, Outcome.IMPROVED: Outcome.REGRESSED}
    assert decide_change(ratio, 0.03, lower_is_better=False) is mirrored.get(outcome, outcome)


def test_a_sweep_names_the_kernel_that_got_slower() -> None:
    found = compare_runs(sweep(), sweep({"fused_nf4": 1.2}, number=1))
    assert outcomes(found) == {"bf16 time_us_p50": ["same"] * 3, "fused_nf4 time_us_p50": ["slower"] * 3}
    assert found.counts == {"improved": 0, "regressed": 3, "same": 3, "ambiguous": 0}
    worst = found.regressions[0]
    assert worst.cell == "fused_nf4 1024x1024, m = 1"
    assert worst.ratio is not None and worst.ratio.low < 1.2 < worst.ratio.high
    assert found.differences == ()
    back = compare_runs(sweep({"fused_nf4": 1.2}, number=1), sweep())
    assert [c.word for c in back.changes].count("faster") == 3


def test_a_noisy_run_says_ambiguous_and_not_slower() -> None:
    found = compare_runs(sweep(spread=0.3), sweep({"bf16": 1.05, "fused_nf4": 1.05}, number=1, spread=0.3))
    assert found.counts["ambiguous"] >= 5


def test_a_shift_of_everything_is_told_from_one_of_a_kernel() -> None:
    one = compare_runs(sweep(), sweep({"fused_nf4": 1.2}, number=1))
    assert one.time_shift is not None and one.time_shift < 1.15
    all_ = compare_runs(sweep(), sweep({"fused_nf4": 1.2, "bf16": 1.2}, number=1))
    assert all_.time_shift == pytest.approx(1.2, rel=0.01)


def test_cells_of_one_run_alone_are_listed() -> None:
    first, samples = sweep()
    fewer = first.model_copy(update={"results": first.results[:-1], "run_id": "20260131T120009Z-sweep"})
    found = compare_runs((first, samples), (fewer, samples))
    assert found.only_first == ("fused_nf4 4096x4096, m = 1: time_us_p50",) and found.only_second == ()


def test_times_without_samples_use_their_quantiles() -> None:
    found = compare_runs((sweep()[0], []), (sweep({"fused_nf4": 1.2}, number=1)[0], []))
    assert found.counts["regressed"] == 3 and found.counts["same"] == 3


def test_a_chain_compares_hops_energy_memory_and_answers() -> None:
    found = compare_runs(chain(), chain(1.3e-3, number=1, wrong=12, weight=90))
    assert outcomes(found) == {
        "fused_nf4, hop_s_p50": ["slower"],
        "fused_nf4, energy_j_per_query": ["more"],
        "fused_nf4, weight_bytes": ["less"],
        "fused_nf4, changed answers": ["worse"],
    }
    answers: Change = found.changes[-1]
    assert (answers.first, answers.second) == (12, 0) and "McNemar p = 0.00049" in answers.reason
    few = compare_runs(chain(), chain(number=1, wrong=2)).changes[-1]
    assert few.outcome is Outcome.AMBIGUOUS
    assert compare_runs(chain(), chain(number=1)).changes[-1].outcome is Outcome.SAME


def test_energy_rows_compare_joules_and_leave_estimates_out() -> None:
    found = compare_runs(energy(), energy(0.8, number=1))
    assert outcomes(found) == {"idle power_w": ["same"], "fused_nf4 energy_j_per_call": ["less"]}
    assert compare_runs(energy(), energy(1.2, number=1)).regressions[0].word == "more"
    assert compare_runs(energy(), energy(1.2, number=1, spread=0.5)).counts["ambiguous"] == 1
    with pytest.raises(ValueError, match="0 cells in common of 2 and 0"):
        compare_runs(energy(), energy(number=1, source="hli"))


def test_what_a_sweep_for_a_fit_adds_is_compared_too() -> None:
    launch = {"engine": "graph", "launches": 64, "syncs": 1, "time_us_p50": 100.0, "timings": 40}
    launch |= {"time_us_p05": 99.0, "time_us_p95": 101.0}
    rows = [row.model_dump(mode="json") for row in energy()[0].results]
    first = sweep(derived={"launch_chains": [launch], "energy": rows})
    second = sweep(number=1, derived={"launch_chains": [launch | {"time_us_p50": 120.0}], "energy": rows})
    found = outcomes(compare_runs(first, second))
    assert found["64 time_us_p50"] == ["slower"] and found["fused_nf4 energy_j_per_call"] == ["same"]


def test_environments_come_first() -> None:
    slow = GpuRunState(uuid="GPU-1", name="NVIDIA H200", throttled=["power cap"])
    gpu = environment().gpus[0].model_copy(update={"power_limit_w": 600.0, "uuid": "GPU-2"})
    changed = environment(
        gpus=[gpu], versions={"torch": "2.12.0", "triton": "3.6"}, git_commit="b" * 40, nvidia_driver="590"
    )
    first = sweep(derived={"read_bandwidth": {"read_gb_s_p50": 4400.0}})
    second = sweep(
        number=1,
        environment=changed,
        gpu_states=[slow],
        status="interrupted",
        derived={"read_bandwidth": {"read_gb_s_p50": 4000.0}},
    )
    assert compare_runs(first, second).differences == (
        "card: GPU-1 and GPU-2",
        "power limit, W: 700.0 and 600.0",
        "NVIDIA driver: none and 590",
        f"commit: {'a' * 40} and {'b' * 40}",
        "torch: 2.11.0 and 2.12.0",
        "triton: none and 3.6",
        "20260131T120001Z-sweep was interrupted: it holds what was measured until then",
        "20260131T120001Z-sweep: NVIDIA H200 was held down by power cap",
        "read bandwidth: 4,400 and 4,000 GB/s, so one of the runs was disturbed",
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (sweep(), chain(number=1), "is a record of kind sweep and .* of kind chain"),
        (
            chain(),
            chain(number=1, model="mistral-7b"),
            "different commands: model is tiny in .* and mistral-7b in",
        ),
        (chain(), chain(number=1, engine="eager"), "engine is graph in .* and eager in"),
        (
            sweep(),
            (record("sweep", [], 1, status="failed", error="no GPU"), []),
            "20260131T120001Z-sweep failed and holds no results: no GPU",
        ),
        (sweep(), sweep(number=1, arguments={"device": "cpu"}), "device is cuda in .* and cpu in"),
    ],
)
def test_what_cannot_be_compared_is_refused(first: Run, second: Run, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_runs(first, second)


def test_an_argument_that_the_older_command_lacked_is_no_difference() -> None:
    assert compare_runs(chain(), chain(number=1, context=None)).counts["same"] == 4


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["compare", *words])
    return result.exit_code, result.stdout


def test_the_command_fails_on_regressions_only_where_it_is_told(tmp_path: Path) -> None:
    first = str(write_run(tmp_path, *sweep()))
    second = str(write_run(tmp_path, *sweep({"fused_nf4": 1.2}, number=1)))
    code, shown = invoke(first, second)
    assert code == 0 and "the environments are the same" in shown and "slower" in shown
    assert "0 improved, 3 regressed, 3 same, 0 ambiguous" in shown
    assert invoke(first, second, "--fail")[0] == 1
    assert invoke(second, first, "--fail")[0] == 0
    code, shown = invoke(first, second, "--fail", "--json")
    fields = json.loads(shown)
    assert (code, fields["exit_code"], fields["counts"]["regressed"]) == (1, 1, 3)
    assert fields["changes"][1]["ratio_ci95"][0] > 1.1
    shown = invoke(first, second, "--changed")[1]
    assert "bf16" not in shown and "fused_nf4" in shown
    code, shown = invoke(first, str(tmp_path / "none"), "--json")
    assert code == 2 and "none" in json.loads(shown)["error"]
    code, shown = invoke(first, second, "--tolerance", "1.5", "--json")
    assert code == 2 and "tolerance=1.5" in json.loads(shown)["error"]
    assert invoke(first, second, "--tolerance", "0.3", "--fail")[0] == 0
