"""Calls between small kernels: from a record over a fit to a predicted hop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fit_world import sweep
from prediction_world import H200, MODEL, fits, machine

from analysis.fit import fit_all
from analysis.fit_file import InTurn, KernelFit, read_fits, write_fits
from analysis.fit_input import take
from analysis.model_shape import HopEngine
from analysis.predict_hop import linears_time, why_no_turns
from analysis.predict_machine import Machine, from_fits

EXTRA = {1: 1e-6, 8: 3e-6}


def with_turns(kernel: str = "fused_nf4") -> Machine:
    base = fits()
    turns = [InTurn(m=m, n=1024, k=4096, extra_s=s) for m, s in EXTRA.items()]
    kernels = dict(base.kernels)
    kernels[kernel] = KernelFit(**(dict(base.kernels[kernel]) | {"in_turn": turns}))
    return from_fits(fits(kernels=kernels), H200)


def test_a_record_is_fitted_and_the_file_keeps_it(tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = [
        {"kernel": "fused_nf4", "n": n, "k": 4096, "m": m, "extra_us_p50": 1e6 * s + shift}
        for m, s in EXTRA.items()
        for n, shift in ((1024, -0.5), (4096, 0.5))
    ]
    record = sweep()
    record = record.model_copy(update={"derived": record.derived | {"calls_in_turn": calls}})
    found = fit_all(take([record]), n_draws=20)
    stored = read_fits(write_fits(tmp_path, found)).kernels
    assert [(c.m, c.n, c.k) for c in stored["fused_nf4"].in_turn] == [
        (m, n, 4096) for m in EXTRA for n in (1024, 4096)
    ]
    times = [c.extra_s for c in stored["fused_nf4"].in_turn]
    assert times == pytest.approx([0.5e-6, 1.5e-6, 2.5e-6, 3.5e-6])
    assert stored["bf16"].in_turn == []


@pytest.mark.parametrize("engine", [HopEngine.FUSED, HopEngine.GRAPH, HopEngine.COMPILE])
def test_every_linear_of_a_captured_hop_takes_longer(engine: HopEngine) -> None:
    calls = sum(layer.count for layer in MODEL.linears(engine))
    for batch, extra_s in {1: 1e-6, 8: 3e-6, 64: 3e-6}.items():
        without, found = (
            float(linears_time(m, MODEL, "fused_nf4", engine, 0).at(batch)) for m in (machine(), with_turns())
        )
        assert found - without == pytest.approx(calls * extra_s, rel=1e-6)
    native = linears_time(with_turns(), MODEL, "bf16", engine, 0)
    assert native == linears_time(machine(), MODEL, "bf16", engine, 0)


def test_the_output_layer_takes_the_extra_of_the_baseline() -> None:
    without, found = (
        float(linears_time(m, MODEL, "fused_nf4", HopEngine.GRAPH, 0).at(1))
        for m in (machine(), with_turns("bf16"))
    )
    assert found - without == pytest.approx(1e-6, rel=1e-6)


def test_eager_hops_stay() -> None:
    for kernel in ("bf16", "fused_nf4"):
        assert linears_time(with_turns(), MODEL, kernel, HopEngine.EAGER, 0) == linears_time(
            machine(), MODEL, kernel, HopEngine.EAGER, 0
        )


def test_fits_without_it_are_said_to_come_out_short() -> None:
    said = why_no_turns(machine(), HopEngine.FUSED)
    assert said is not None and "come out somewhat short" in said and "--for-fit" in said
    assert why_no_turns(with_turns(), HopEngine.FUSED) is None
    assert why_no_turns(machine(), HopEngine.EAGER) is None
    assert why_no_turns(replace(machine(), host=None), HopEngine.FUSED) is None
