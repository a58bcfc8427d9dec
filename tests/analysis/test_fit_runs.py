"""From run folders to a fits file, by the command: what is fitted, held out and refused."""

import dataclasses
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.crossing import Regime
from analysis.fit import fit_all
from analysis.fit_crossing import (
    Layer,
    energy_crossing,
    measured_by_chain,
    measured_by_shape,
    printed_b_star,
    time_crossing,
)
from analysis.fit_file import newest_fits, read_fits, write_fits
from analysis.fit_input import FitInput, read_runs, take
from analysis.fit_picture import draw_residuals
from analysis.fit_time import call_s
from profiler.cli import app
from profiler.record import (
    EnergyRow,
    Environment,
    GpuState,
    RunRecord,
    SweepRow,
    VariantResult,
    load_record,
    write_run,
)

WHEN = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
SHAPES = ((1024, 3072), (6144, 1024), (3072, 2048), (4096, 4096), (28672, 4096))
ROWS = (1, 8, 32, 64, 256)
# fused: cheap passes and dear rows, so that it loses above some batch; unfused: dear passes.
TRUTH = {
    "bf16": (4e-6, 4.5e-13, 2.5e-15, 0.2, 1e-12, 1e-9),
    "fused_nf4": (3e-6, 1.4e-13, 4.0e-15, 0.9, 2e-12, 1e-9),
    "unfused_nf4": (7e-6, 2.3e-12, 2.5e-15, 0.1, 1e-12, 1e-9),
    "null_nf4": (2.5e-6, 1.2e-13, 4.0e-15, 0.9, 2e-12, 1e-9),
}
BYTES = {"bf16": 2.0, "fused_nf4": 0.53125, "unfused_nf4": 4.53125, "null_nf4": 0.53125}
STATIC_W, PER_BYTE, PER_FLOP, PER_DECODED = 130.0, 5e-11, 4e-13, 6e-12


def environment(gpu: str = "NVIDIA H200") -> Environment:
    state = GpuState(index=0, name=gpu, uuid="GPU-1", arch="h200")
    return Environment(
        captured_utc=WHEN,
        platform="Linux",
        cpu_model="cpu",
        cpu_threads=2,
        compute_threads=2,
        gpus=[state],
        versions={"torch": "2.11.0"},
    )


def row(kernel: str, m: int, n: int, k: int, **changed: Any) -> SweepRow:
    def time_us(name: str) -> float:
        return 1e6 * float(call_s(np.array([TRUTH[name]]), *(np.array([float(v)]) for v in (m, n, k)))[0, 0])

    us, native = time_us(kernel), time_us("bf16")
    wobble = 1 + 0.01 * np.sin(n + 7 * m + len(kernel))
    fields: dict[str, Any] = {
        "kernel": kernel,
        "arch": "h200",
        "m": m,
        "n": n,
        "k": k,
        "time_us_p50": us * wobble,
        "time_us_p05": us * 0.98,
        "time_us_p95": us * 1.02,
        "timings": 20,
        "bits": 16 if kernel == "bf16" else 4,
        "bytes_moved": round(BYTES[kernel] * n * k) + 2 * m * (n + k),
        "gate": "no meaning" if kernel.startswith("null") else "passed",
    }
    if kernel != "bf16":
        ratio = native / us
        fields |= {"speedup_p50": ratio, "speedup_ci95": (0.99 * ratio, 1.01 * ratio), "baseline": "bf16"}
    return SweepRow(**(fields | changed))


def sweep(rows: list[SweepRow] | None = None, *, number: int = 0, **changed: Any) -> RunRecord:
    cells = [(m, n, k) for n, k in SHAPES for m in ROWS]
    tau = [
        {
            "kernel": "fused_nf4",
            "m": m,
            "n": n,
            "k": k,
            "tau_cast_us_p50": 0.5 + 2e-8 * n * k,
            "tau_cast_us_ci95": [0.45 + 2e-8 * n * k, 0.55 + 2e-8 * n * k],
            "tau_comp_us_p50": 3.0 + 2e-7 * n * k,
        }
        for m, n, k in cells
    ]
    fields: dict[str, Any] = {
        "run_id": f"20260131T12000{number}Z-sweep-h200-test",
        "kind": "sweep",
        "status": "complete",
        "created_utc": WHEN,
        "command": ["sweep"],
        "environment": environment(),
        "arguments": {"device": "cuda"},
        "results": rows or [row(kernel, *cell) for kernel in TRUTH for cell in cells],
        "derived": {"tau": tau, "read_bandwidth": {"read_gb_s_p50": 4400.0}},
    }
    return RunRecord(**(fields | changed))


def energy_run() -> RunRecord:
    def load(name: str, m: int, n: int, k: int) -> EnergyRow:
        time_s = float(call_s(np.array([TRUTH[name]]), *(np.array([float(v)]) for v in (m, n, k)))[0, 0])
        moved = BYTES[name] * n * k + 2 * m * (n + k)
        joules = STATIC_W * time_s + PER_BYTE * moved + PER_FLOP * 2 * m * n * k
        joules += PER_DECODED * n * k * (name == "fused_nf4")
        units = 100_000
        return EnergyRow(
            load=name,
            unit="call",
            m=m,
            n=n,
            k=k,
            windows=3,
            units=units,
            duration_s=units * time_s,
            energy_j=units * joules,
            energy_source="nvml_counter",
            energy_j_per_unit=joules,
            energy_j_per_unit_ci95=(0.99 * joules, 1.01 * joules),
        )

    idle = EnergyRow(
        load="idle",
        unit="none",
        windows=3,
        units=0,
        duration_s=30,
        energy_j=30 * STATIC_W,
        energy_source="nvml_counter",
        energy_error_j=1.0,
    )
    estimate = idle.model_copy(update={"energy_source": "hli", "energy_j": 21000.0})
    cells = [(1, 28672, 4096), (64, 28672, 4096), (256, 28672, 4096), (1, 4096, 4096)]
    calls = [load(name, *cell) for name in ("bf16", "fused_nf4") for cell in cells]
    return sweep(number=1, kind="energy", results=[idle, estimate, *calls], derived={})


def chain(batch: int, cor: float, *, number: int) -> RunRecord:
    result = VariantResult(
        kernel="fused_nf4",
        implementation="cuda",
        mode="replay",
        batch_size=batch,
        problems=1,
        hops=9,
        tokens=9,
        cor_tps=cor,
        cor_tps_ci95=(cor - 0.01, cor + 0.01),
    )
    return sweep(
        number=number,
        kind="chain",
        results=[result],
        derived={},
        arguments={"device": "cuda", "model": "tiny"},
    )


@pytest.fixture(scope="module")
def fitted() -> Any:
    return fit_all(take([sweep(), energy_run(), chain(1, -0.4, number=2)]), n_draws=40)


def test_everything_is_fitted_and_chains_are_held_out(fitted: Any) -> None:
    assert set(fitted.kernels) == set(TRUTH)
    for name, truth in TRUTH.items():
        time = fitted.kernels[name].time
        assert time.parameters["pass_s_per_weight"].point == pytest.approx(truth[1], rel=0.1)
        assert time.residual_share_p90 < 0.02 and len(time.residuals) == len(SHAPES) * len(ROWS)
        assert fitted.kernels[name].pass_bytes_per_weight == pytest.approx(BYTES[name], rel=1e-6)
    cast = fitted.kernels["fused_nf4"].cast.parameters
    assert cast["pass_s_per_weight"].point == pytest.approx(2e-14, rel=0.01)
    assert cast["row_s_per_weight"].point == 0
    joules = {name: parameter.point for name, parameter in fitted.energy.parameters.items()}
    assert joules["static_w"] == pytest.approx(STATIC_W, rel=0.02)
    assert joules["cast_j_per_weight.fused_nf4"] == pytest.approx(PER_DECODED, rel=0.05)
    assert any("is held out" in warning for warning in fitted.warnings)
    assert any("by hli repeats time" in warning for warning in fitted.warnings)
    assert any("launch chains" in warning for warning in fitted.warnings)


def test_crossings_of_the_fits_are_those_of_the_truth(fitted: Any) -> None:
    layers = [Layer(28672, 4096, 2)]
    found = time_crossing(fitted, "fused_nf4", layers, b_max=256)
    truth = {b: slow > fast for b in (1, 8, 32, 64, 128, 256) for slow, fast in [pair(b)]}
    assert found.point.regime is Regime.ABOVE
    lowest = min(b for b, loses in truth.items() if loses)
    assert found.b_star is not None and lowest / 2 <= found.b_star.point <= lowest
    assert time_crossing(fitted, "unfused_nf4", layers, b_max=256).point.regime is Regime.ALWAYS
    joules = energy_crossing(fitted, "fused_nf4", layers, b_max=256)
    # Where it loses in time, the bytes that it saves still pay for its joules: the two thresholds differ.
    assert joules is not None and joules.point.regime is Regime.NEVER
    slow_s, fast_s = pair(256)
    saved_j = (2.0 - BYTES["fused_nf4"]) * PER_BYTE * 28672 * 4096 - PER_DECODED * 28672 * 4096
    assert 0 < STATIC_W * (slow_s - fast_s) < saved_j
    printed = printed_b_star(fitted, "fused_nf4", layers)
    weights = 2 * 28672 * 4096
    alpha = weights / 8 * (PER_BYTE + STATIC_W / 4.4e12)
    phi = STATIC_W * (2 * 0.5e-6 + 2e-14 * weights) + PER_DECODED * weights
    assert printed is not None and printed.point == pytest.approx(12 * alpha / phi, rel=0.1)
    assert printed_b_star(fitted, "unfused_nf4", layers) is None
    with pytest.raises(ValueError, match="lack fused_fp4"):
        time_crossing(fitted, "fused_fp4", layers, b_max=256)


def pair(batch: int) -> tuple[float, float]:
    shape = (np.array([float(v)]) for v in (batch, 28672, 4096))
    m, n, k = shape
    return tuple(float(call_s(np.array([TRUTH[x]]), m, n, k)[0, 0]) for x in ("fused_nf4", "bf16"))  # type: ignore[return-value]


def test_measured_crossings() -> None:
    by_shape = measured_by_shape([sweep()])
    assert by_shape["unfused_nf4", 28672, 4096].wins == ()
    assert by_shape["fused_nf4", 28672, 4096].brackets[0][2] == "loses"
    chains = measured_by_chain([chain(1, -0.4, number=2), chain(64, 0.3, number=3)])
    assert chains["tiny", "fused_nf4"].brackets == ((1, 64, "loses"),)


def test_a_fits_file_comes_back(fitted: Any, tmp_path: Path) -> None:
    path = write_fits(tmp_path, fitted)
    assert read_fits(path) == fitted
    assert newest_fits(tmp_path, "h200") == fitted == newest_fits(tmp_path, "NVIDIA H200")
    assert newest_fits(tmp_path, "h100") is None and newest_fits(tmp_path / "none", "h200") is None
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    draw_residuals(fitted, tmp_path / "residuals.png")
    assert (tmp_path / "residuals.png").read_bytes().startswith(b"\x89PNG")
    path.write_text('{"schema_version": 9}')
    with pytest.raises(ValueError, match="is not a fits file: schema_version"):
        read_fits(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_fits(tmp_path / "missing.json")


def test_mixed_machines_are_refused() -> None:
    other = sweep(number=1, environment=environment("NVIDIA A100-SXM4-80GB"))
    with pytest.raises(ValueError, match=r"2 machines cannot be fitted together \(NVIDIA H200: 2026.*A100"):
        take([sweep(), other])


def test_versions_and_bandwidths_that_differ_are_named() -> None:
    newer = environment().model_copy(update={"versions": {"torch": "2.12.0"}})
    other = sweep(number=1, environment=newer, derived={"read_bandwidth": {"read_gb_s_p50": 3900.0}})
    warnings = " ".join(take([sweep(), other]).warnings)
    assert "2 versions of torch" in warnings and "3,900 to 4,400 GB/s" in warnings


def test_rows_of_too_few_samples_are_left_out() -> None:
    few = [row("bf16", m, *shape, timings=4) for shape in SHAPES for m in ROWS]
    with pytest.raises(ValueError, match="0 timed sweep rows with 5 or more timings"):
        take([sweep(few)])
    found = take([sweep([*few, *(row("bf16", 1, *shape) for shape in SHAPES)])])
    assert len(found.cells["bf16"]) == 5 and any("25 rows of fewer than 5" in w for w in found.warnings)


def test_no_baseline_and_no_sweep_are_refused() -> None:
    with pytest.raises(ValueError, match="no row of the baseline bf16 among fused_nf4"):
        take([sweep([row("fused_nf4", 1, *SHAPES[0])])])
    with pytest.raises(ValueError, match="0 timed sweep rows"):
        take([chain(1, 0.1, number=2)])
    with pytest.raises(ValueError, match="got 0"):
        take([])


def test_a_kernel_with_too_few_cells_is_left_out_and_a_baseline_with_too_few_is_refused() -> None:
    rows = [row("bf16", m, *shape) for shape in SHAPES for m in ROWS] + [row("fused_nf4", 1, *SHAPES[0])]
    fits = fit_all(take([sweep(rows)]), n_draws=20)
    assert set(fits.kernels) == {"bf16"} and any("fused_nf4 is not fitted" in w for w in fits.warnings)
    with pytest.raises(ValueError, match="bf16: 1 observations"):
        fit_all(take([sweep(rows[:1])]))


def test_energy_that_is_not_enough_is_said() -> None:
    found = take([sweep(), energy_run()])
    short = FitInput(**{f.name: getattr(found, f.name) for f in dataclasses.fields(found)})
    short.energy = found.energy[:2]
    fits = fit_all(short, n_draws=20)
    assert fits.energy is None and any("energy is not fitted" in w for w in fits.warnings)
    assert energy_crossing(fits, "fused_nf4", [Layer(64, 64)], b_max=8) is None
    assert printed_b_star(fits, "fused_nf4", [Layer(64, 64)]) is None


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["fit", *arguments])


def test_the_command_prints_and_stores(tmp_path: Path) -> None:
    for record in (sweep(), energy_run(), chain(1, -0.4, number=2), chain(64, 0.3, number=3)):
        write_run(tmp_path / "runs", record, [])
    out = ("--out", str(tmp_path / "fits"), "--draws", "20")
    result = invoke(str(tmp_path / "runs"), *out, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.strip().splitlines()[-1])
    fits = read_fits(Path(said["fits"]))
    assert fits.machine == "NVIDIA H200" and len(fits.runs) == 4 and Path(said["picture"]).is_file()
    assert said["b_star_time"]["unfused_nf4"]["regime"] == "always" and "null_nf4" not in said["b_star_time"]
    assert said["measured_chains"] == [
        {"model": "tiny", "kernel": "fused_nf4", "loses_at": [64], "wins_at": [1]}
    ]
    text = invoke(str(tmp_path / "runs"), *out)
    assert text.exit_code == 0
    for words in ("phi, time of casting", "B* of the linear layers of mistral-7b", "loses at every size"):
        assert words in text.stdout


def test_the_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = write_run(tmp_path / "runs", sweep(), [])
    good = (folder / "run.json").read_text("utf-8")
    cases = {
        "holds no runs": [str(tmp_path / "empty")],
        "is not a run": [str(tmp_path / "nowhere")],
        "--b-max 1 is below 2": [str(folder), "--b-max", "1"],
        "n_draws=3": [str(folder), "--draws", "3"],
        "unknown model": [str(folder), "--model", "nosuch"],
    }
    for words, arguments in cases.items():
        result = invoke(*arguments, "--out", str(tmp_path / "fits"))
        assert result.exit_code in (1, 2) and words in result.stderr, (words, result.stderr)
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "fits").exists()
    for change in (('"schema_version":1', '"schema_version":99'), ('"timings":20', '"timings":NaN')):
        (folder / "run.json").write_text(
            good.replace(*change)
            if change[0] in good
            else good.replace(change[0].replace(":", ": "), change[1].replace(":", ": ")),
            "utf-8",
        )
        result = invoke(str(folder), "--out", str(tmp_path / "fits"))
        assert result.exit_code in (1, 2) and result.stderr.startswith("error: "), result.stderr
    with pytest.raises(ValueError):
        load_record(folder)
    with pytest.raises(ValueError):
        read_runs([folder])
