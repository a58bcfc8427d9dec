"""From runs to a fits file: what is fitted, held out and refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fit_world import (
    BYTES,
    PER_BYTE,
    PER_DECODED,
    ROWS,
    SHAPES,
    STATIC_W,
    TRUTH,
    chain,
    energy_run,
    environment,
    pair,
    row,
    sweep,
)

from analysis.crossing import Regime
from analysis.fit import fit_all
from analysis.fit_crossing import (
    Layer,
    energy_crossing,
    measured_by_chain,
    measured_by_shape,
    time_crossing,
)
from analysis.fit_file import newest_fits, read_fits, write_fits
from analysis.fit_input import FitInput, take
from analysis.fit_joules import printed_b_star
from analysis.fit_picture import draw_residuals


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
    assert fitted.cards == sorted({run.environment.gpus[0].uuid for run in (sweep(), energy_run())})
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
