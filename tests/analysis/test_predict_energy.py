"""Joules of predicted hops: what a busy device, few rows, caches and what lies between linears cost; and power."""

import pytest
from prediction_world import A100, ENERGY, H200, HOST, MODEL, PASS_BYTES, TRUTH, fits, fitted, machine
from test_predict import SETTING

from analysis.fit_file import KernelFit
from analysis.fit_time import TIME_PARAMETERS
from analysis.model_shape import HopEngine
from analysis.predict_hop import HopSetting, hop_energy_of, hop_time_of, linears_time
from analysis.predict_machine import transferred


def test_a_busy_device_draws_more_and_an_eager_one_is_idle_while_it_waits() -> None:
    active_w = 60.0
    named = {**ENERGY, "active_w": active_w}
    busy = machine(energy=fitted(tuple(named), tuple(named.values()), 0.0, 40))
    for setting in (SETTING, HopSetting(HopEngine.EAGER, 512)):
        time = hop_time_of(busy, MODEL, "fused_nf4", setting, 0)
        found, without = (hop_energy_of(m, MODEL, "fused_nf4", setting, time, 0) for m in (busy, machine()))
        assert found is not None and without is not None
        extra_j = float(found.at(4)) - float(without.at(4))
        if setting.engine is HopEngine.EAGER:
            linears = linears_time(busy, MODEL, "fused_nf4", setting.engine, 0)
            assert active_w * float(linears.at(4)) < extra_j < active_w * float(time.at(4))
        else:
            assert extra_j == pytest.approx(active_w * (float(time.at(4)) - HOST["graph_s"]))
    elsewhere = transferred(fits(energy=fitted(tuple(named), tuple(named.values()), 0.0, 40)), H200, A100)
    assert elsewhere.energy is not None and elsewhere.energy.named(0)["active_w"] == pytest.approx(30)


def test_few_rows_of_native_weights_and_what_lies_between_linears_have_joules_of_their_own() -> None:
    own_j, between_w, active_w = 7e-11, 30.0, 60.0
    named = {**ENERGY, "active_w": active_w, "between_w": between_w, "own_j_per_weight.gemv_bf16": own_j}
    energy = fitted(tuple(named), tuple(named.values()), 0.0, 40)
    names = {**TRUTH, "gemv_bf16": TRUTH["bf16"]}
    kernels = {
        name: KernelFit(
            time=fitted(TIME_PARAMETERS, point, 0.0, 40),
            pass_bytes_per_weight=PASS_BYTES.get(name, 2.0),
            bits=4 if "nf4" in name else 16,
        )
        for name, point in names.items()
    }
    owner, plain = machine(kernels=kernels, energy=energy), machine(kernels=kernels)
    setting = HopSetting(HopEngine.FUSED, 512)
    weights, head = MODEL.linear_weights, MODEL.head.n * MODEL.head.k
    for kernel, native in (("bf16", weights + head), ("fused_nf4", head)):
        time = hop_time_of(owner, MODEL, kernel, setting, 0)
        linears = linears_time(owner, MODEL, kernel, setting.engine, 0)
        found, without = (hop_energy_of(m, MODEL, kernel, setting, time, 0) for m in (owner, plain))
        assert found is not None and without is not None
        for batch, own in ((1, native * own_j), (2, native * own_j), (3, 0.0), (64, 0.0)):
            between_s = float(time.at(batch)) - HOST["graph_s"] - float(linears.at(batch))
            wanted = active_w * float(linears.at(batch)) + between_w * between_s + own
            assert float(found.at(batch)) - float(without.at(batch)) == pytest.approx(wanted, rel=1e-6)


def test_a_decoded_weight_that_stays_in_the_cache_spends_the_joules_of_the_cache() -> None:
    named = {**ENERGY, "j_per_cached_byte": 1e-11}
    energy = fitted(tuple(named), tuple(named.values()), 0.0, 40)
    # 4096x4096 in bf16 is 34 MB, the others are larger: 3/4 of 50 MB hold it.
    small, large = (machine(energy=energy, cache_bytes=size) for size in (40e6, 50e6))
    layers = [layer for layer in MODEL.linears(SETTING.engine) if layer.n * layer.k == 4096 * 4096]
    cached = sum(layer.count * 4 * layer.n * layer.k for layer in layers)
    assert cached > 0
    for kernel, spared in (("unfused_nf4", cached), ("fused_nf4", 0), ("bf16", 0)):
        time = hop_time_of(small, MODEL, kernel, SETTING, 0)
        less, more = (hop_energy_of(m, MODEL, kernel, SETTING, time, 0) for m in (large, small))
        assert less is not None and more is not None
        wanted = spared * (ENERGY["j_per_byte"] - 1e-11)
        assert float(more.at(8)) - float(less.at(8)) == pytest.approx(wanted, abs=1e-12)
