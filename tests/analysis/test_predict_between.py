"""The time between linears from hops less their linears: from a record over a fit to a predicted hop."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fit_world import LAYER_S, ONCE_S, READ_BYTES_PER_S, TRAFFIC, energy_run, hop_parts, sweep
from prediction_world import A100, BYTES_PER_S, H200, HOST, MODEL, TRUTH, fits, fitted

from analysis.fit import fit_all
from analysis.fit_between import BETWEEN_PARAMETERS, HopBetween
from analysis.fit_file import read_fits, write_fits
from analysis.fit_input import take
from analysis.model_shape import HopEngine, ModelShape
from analysis.predict import Request, predict
from analysis.predict_calibrate import calibrate, native_hops
from analysis.predict_hop import (
    Calibration,
    HopSetting,
    hop_time_of,
    linears_time,
    why_too_short,
)
from analysis.predict_machine import BetweenCost, Machine, from_fits, transferred
from analysis.predict_memory import Memory

CONTEXT = 640
SETTING = HopSetting(HopEngine.FUSED, CONTEXT)


def measured(**changed: Any) -> Machine:
    between = {"bf16": fitted(BETWEEN_PARAMETERS, (ONCE_S, LAYER_S, TRAFFIC), 0.05, 40)}
    return from_fits(fits(between=between, **changed), H200)


def between_s(model: ModelShape, batch: int, bytes_per_s: float = BYTES_PER_S) -> float:
    kv = 2 * model.layers * model.kv_heads * model.head_dim * 2 * CONTEXT
    wide = model.layers * (8 * model.hidden + 3 * model.intermediate)
    row_bytes = kv + 2 * (wide + model.vocabulary + model.hidden)
    return ONCE_S + model.layers * LAYER_S + TRAFFIC * batch * row_bytes / bytes_per_s


def test_a_hop_takes_what_was_measured_instead_of_counts() -> None:
    for kernel in ("bf16", "fused_nf4"):
        for batch in (1, 2, 64):
            linears = float(linears_time(measured(), MODEL, kernel, HopEngine.FUSED, 0).at(batch))
            found = hop_time_of(measured(), MODEL, kernel, SETTING, 0).at(batch)
            expected = linears + between_s(MODEL, batch)
            assert found == pytest.approx(expected, rel=1e-9)
    # Neither an empty kernel nor a call of the baseline has a part in it.
    other = {**HOST, "node_s": 1.0}
    dear = measured(host=fitted(tuple(other), tuple(other.values()), 0.01, 40))
    assert hop_time_of(dear, MODEL, "fused_nf4", SETTING, 0) == hop_time_of(
        measured(), MODEL, "fused_nf4", SETTING, 0
    )


def test_a_kernel_takes_its_own_then_that_of_its_scheme_then_the_baseline_s() -> None:
    given = {
        name: fitted(BETWEEN_PARAMETERS, (once_s, LAYER_S, TRAFFIC), 0.05, 40)
        for name, once_s in (("bf16", 1e-6), ("fused_int8", 2e-6), ("fused_nf4", 3e-6), ("unfused_nf4", 4e-6))
    }
    machine = from_fits(fits(between=given), H200)
    once_s = {}
    for name in ("bf16", "fused_nf4", "fused_fp4", "unfused_int8", "native_fp8", "bnb_nf4"):
        own = machine.between_of(name)
        assert own is not None
        once_s[name] = own.time.named(0)["once_s"]
    assert once_s == pytest.approx(
        {
            "bf16": 1e-6,
            "fused_nf4": 3e-6,
            "fused_fp4": 2e-6,
            "unfused_int8": 4e-6,
            "native_fp8": 1e-6,
            "bnb_nf4": 1e-6,
        }
    )
    hops = {k: float(hop_time_of(machine, MODEL, k, SETTING, 0).at(1)) for k in ("bf16", "fused_nf4")}
    linears = {k: float(linears_time(machine, MODEL, k, HopEngine.FUSED, 0).at(1)) for k in hops}
    assert (hops["fused_nf4"] - linears["fused_nf4"]) - (hops["bf16"] - linears["bf16"]) == pytest.approx(
        2e-6
    )
    assert from_fits(fits(), H200).between_of("bf16") is None


def test_draws_spread_with_those_of_the_fit() -> None:
    tight = fitted(BETWEEN_PARAMETERS, (ONCE_S, LAYER_S, TRAFFIC), 0.0, 40)
    request = Request((MODEL,), ("fused_nf4",), (1,), SETTING, n_draws=40)
    memories = {(MODEL.key, name): Memory(10, 0, 1, 0, 0, 1e9) for name in request.all_kernels}
    widths = []
    for machine in (from_fits(fits(between={"bf16": tight}), H200), measured()):
        low, high = predict(machine, request, memories).cells[1].hop_s_ci95
        widths.append(high - low)
    assert widths[1] > 1.05 * widths[0]
    few = {"bf16": fitted(BETWEEN_PARAMETERS, (ONCE_S, LAYER_S, TRAFFIC), 0.0, 5)}
    with pytest.raises(ValueError, match="hold 5 draws"):
        from_fits(fits(between=few), H200)


@pytest.mark.parametrize("engine", [HopEngine.GRAPH, HopEngine.COMPILE, HopEngine.EAGER])
def test_other_engines_are_counted_and_said_to_be_a_lower_bound(engine: HopEngine) -> None:
    setting = HopSetting(engine, CONTEXT)
    bare = from_fits(fits(), H200)
    assert hop_time_of(measured(), MODEL, "bf16", setting, 0) == hop_time_of(bare, MODEL, "bf16", setting, 0)
    said = why_too_short(measured(), setting)
    assert said is not None and f"engine={engine.value} " in said
    assert "a lower bound" in said and said.endswith("--calibrate")
    given = replace(setting, calibration=Calibration(engine, (1e-6,), (1.0,), (), 0.0))
    assert why_too_short(measured(), given) is None
    assert why_too_short(measured(host=None), setting) is None


def test_the_fused_engine_is_a_lower_bound_only_until_it_is_measured() -> None:
    assert why_too_short(measured(), SETTING) is None
    said = why_too_short(from_fits(fits(), H200), SETTING)
    assert said is not None and said.endswith("or measure it with `qt-profile sweep --for-fit`")
    linears = float(linears_time(measured(), MODEL, "bf16", HopEngine.FUSED, 0).at(1))
    counted = (2 * 3 + 6) * HOST["node_s"] + 2 * TRUTH["bf16"][0] + HOST["graph_s"]
    found = float(hop_time_of(from_fits(fits(), H200), MODEL, "bf16", SETTING, 0).at(1))
    assert found - linears - counted == pytest.approx(
        (between_s(MODEL, 1) - ONCE_S - 2 * LAYER_S) / TRAFFIC, rel=1e-6
    )


def test_a_calibration_overrides_the_measurement() -> None:
    from prediction_world import chain

    machine = measured()
    true = HopSetting(HopEngine.FUSED, CONTEXT, Calibration(HopEngine.FUSED, (4e-6,), (3.0,), (), 0.0))
    hops = {("bf16", b): float(hop_time_of(machine, MODEL, "bf16", true, 0).at(b)) for b in (1, 8, 32, 128)}
    native = native_hops([chain(hops, engine="fused")], {MODEL.key: MODEL}, machine, HopEngine.FUSED, CONTEXT)
    found = calibrate(machine, native, HopEngine.FUSED, CONTEXT, seed=0)
    assert (found.kernel_s[0], found.traffic_factor[0]) == pytest.approx((4e-6, 3.0), rel=1e-3)
    assert found.residual_share_p50 < 1e-4


def test_another_gpu_keeps_the_parameters_and_gets_its_own_bandwidth() -> None:
    there = transferred(
        fits(between={"bf16": fitted(BETWEEN_PARAMETERS, (ONCE_S, LAYER_S, TRAFFIC), 0.05, 40)}), H200, A100
    )
    linears = float(linears_time(there, MODEL, "bf16", HopEngine.FUSED, 0).at(64))
    found = float(hop_time_of(there, MODEL, "bf16", SETTING, 0).at(64))
    expected = between_s(MODEL, 64, BYTES_PER_S / 2)
    assert found - linears == pytest.approx(expected, rel=1e-9)


def recorded(**changed: Any) -> dict[str, Any]:
    """Derived figures of a sweep for a fit."""
    return {**sweep().derived, "hop_parts": hop_parts(), **changed}


def test_from_a_record_to_a_hop(tmp_path: Path) -> None:
    found = take([sweep(derived=recorded()), energy_run()])
    first = found.between["bf16"][0]
    assert first == HopBetween(
        4, 1, 8_906_000, 1024, 3072, first.time_s, pytest.approx(0.02 * 1.2533 / 3.2897 / 40**0.5)
    )
    made = fit_all(found, n_draws=40)
    points = {name: p.point for name, p in made.between["bf16"].parameters.items()}
    assert points == pytest.approx({"once_s": ONCE_S, "layer_s": LAYER_S, "traffic": TRAFFIC}, rel=1e-4)
    back = read_fits(write_fits(tmp_path, made))
    assert back.between == made.between
    machine = from_fits(back, H200)
    linears = float(linears_time(machine, MODEL, "bf16", HopEngine.FUSED, 0).at(8))
    time = float(hop_time_of(machine, MODEL, "bf16", SETTING, 0).at(8))
    assert time - linears == pytest.approx(between_s(MODEL, 8, READ_BYTES_PER_S), rel=1e-4)
    assert np.all(machine.between["bf16"].time.rows > 0) and machine.draws == 40


def test_what_hops_take_more_is_carried_to_models_of_like_width() -> None:
    parts = hop_parts()
    for part in parts:
        for name in ("time_us_p50", "time_us_p05", "time_us_p95"):
            part[name] *= 1.2 if part["batch_size"] == 1 else 1.0
    machine = from_fits(fit_all(take([sweep(derived=recorded(hop_parts=parts))]), n_draws=40), H200)
    found = machine.between["bf16"]
    bare = replace(machine, between={"bf16": BetweenCost(found.time)})

    def factor(model: ModelShape, batch: int) -> float:
        linears = linears_time(machine, model, "bf16", HopEngine.FUSED, 0)
        both = [
            hop_time_of(each, model, "bf16", SETTING, 0).at(batch) - linears.at(batch)
            for each in (machine, bare)
        ]
        return float(both[0] / both[1])

    point = found.time.named(0)
    alike = replace(MODEL, hidden=1024, intermediate=3072)
    for batch in (1, 8, 64):
        told = []
        for part in (part for part in parts if part["batch_size"] == batch):
            row_s = point["traffic"] * batch * part["row_bytes"] / READ_BYTES_PER_S
            formula_s = point["once_s"] + part["layers"] * point["layer_s"] + row_s
            told.append(np.log(1e-6 * part["time_us_p50"] / formula_s))
        assert factor(alike, batch) == pytest.approx(float(np.exp(np.mean(told))), rel=2e-3)
    far = factor(replace(MODEL, hidden=8192, intermediate=29568), 1)
    assert 1 < far < factor(replace(MODEL, hidden=2048, intermediate=6144), 1) < factor(alike, 1)


def test_fits_without_the_section_are_read(tmp_path: Path) -> None:
    path = write_fits(tmp_path, fits())
    fields = json.loads(path.read_text("utf-8"))
    del fields["between"]
    path.write_text(json.dumps(fields), "utf-8")
    assert read_fits(path).between == {}


def test_what_cannot_be_fitted_is_said() -> None:
    def warned(**changed: Any) -> str:
        made = fit_all(take([sweep(derived=recorded(**changed))]), n_draws=40)
        assert made.between == {}
        return "\n".join(made.warnings)

    assert "(the time between linears) are not identified: no run holds parts of hops" in warned(hop_parts=[])
    assert "between linears of bf16 is not fitted: 3 hops of 4 layers" in warned(hop_parts=hop_parts()[:3])
    assert "no run measured a read bandwidth" in warned(read_bandwidth=None)


def test_chains_of_the_fused_engine_in_earlier_records_are_read_and_left_out() -> None:
    def chain(engine: str, launches: int, syncs: int, us: float) -> dict[str, Any]:
        times = {"time_us_p50": us, "time_us_p05": us, "time_us_p95": us, "timings": 40}
        return {"engine": engine, "launches": launches, "syncs": syncs, **times}

    own = [chain("eager", n, s, 4 * n + 9 * s) for n, s in ((64, 1), (256, 1), (64, 64))]
    own += [chain("graph", n, 1, 12 + 1.5 * n) for n in (16, 64, 256)]
    earlier = [chain("fused", n, 1, 12 + 2.5 * n) for n in (16, 64)]
    both, without = (
        fit_all(take([sweep(derived=recorded(launch_chains=chains))]), n_draws=40).host
        for chains in ([*own, *earlier], own)
    )
    assert both is not None and both == without
    assert both.parameters["node_s"].point == pytest.approx(1.5e-6, rel=1e-3)
