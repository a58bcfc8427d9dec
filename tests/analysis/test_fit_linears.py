"""Linears in the order of a hop beside the sum of their calls: from a record over a fit to a predicted hop."""

from dataclasses import replace
from pathlib import Path

import pytest
from fit_world import hop_parts, linears_s, sweep
from prediction_world import A100, H200, MODEL

from analysis.fit import fit_all
from analysis.fit_crossing import Layer
from analysis.fit_file import read_fits, write_fits
from analysis.fit_input import FitInput, take
from analysis.fit_linears import linear_residuals
from analysis.model_shape import HopEngine, merged_layers
from analysis.predict_hop import linears_time
from analysis.predict_machine import Machine, from_fits, transferred


def found(kernel: str = "bf16") -> FitInput:
    return take([sweep(derived={**sweep().derived, "hop_parts": hop_parts(kernel)})])


def more(machine: Machine, kernel: str = "bf16", batch: int = 8, **sizes: int) -> float:
    """What the fused engine's linears take over those of an engine that was not measured."""
    model = replace(MODEL, **{"hidden": 1024, "intermediate": 3072, **sizes})
    ours, calls = (
        float(linears_time(machine, model, kernel, engine, 0).at(batch))
        for engine in (HopEngine.FUSED, HopEngine.GRAPH)
    )
    return ours / calls


def test_linears_of_a_hop_are_read() -> None:
    first = found().linears["bf16"][0]
    assert (first.batch_size, first.hidden, first.intermediate) == (1, 1024, 3072)
    assert first.layers == (
        Layer(4096, 1024, 4),
        Layer(1024, 2048, 4),
        Layer(6144, 1024, 4),
        Layer(1024, 3072, 4),
    )
    assert first.layers == merged_layers(4, 1024, 3072, 16, 8, 128)
    assert first.head == Layer(32768, 1024) and first.time_s == pytest.approx(linears_s(4, 1))


def test_what_they_take_more_than_their_calls_is_carried_to_models_of_like_width(tmp_path: Path) -> None:
    fits = read_fits(write_fits(tmp_path, fit_all(found(), n_draws=40)))
    assert [(row.m, row.n, row.k) for row in fits.linears["bf16"]] == 2 * [
        (batch, 3072, 1024) for batch in (1, 8, 64)
    ]
    assert [row.residual_share for row in fits.linears["bf16"]] == pytest.approx(6 * [-0.1], abs=0.02)
    machine = from_fits(fits, H200)
    for batch in (1, 8, 30, 64):
        assert more(machine, batch=batch) == pytest.approx(1.1, abs=0.02)
    # A kernel whose hops were not timed takes those of its scheme, or else of the baseline.
    assert more(machine, "fused_nf4") == pytest.approx(more(machine), rel=1e-6)
    far = more(machine, hidden=8192, intermediate=29568)
    assert 1 < far < more(machine, hidden=2048, intermediate=6144) < more(machine)


def test_without_hops_and_on_another_gpu_calls_add_up() -> None:
    fits = fit_all(take([sweep()]), n_draws=40)
    assert fits.linears == {} and more(from_fits(fits, H200)) == 1
    assert more(transferred(fit_all(found(), n_draws=40), H200, A100)) == 1


def test_a_kernel_without_a_fit_has_none() -> None:
    fits = fit_all(found("unheard_of"), n_draws=40)
    assert (
        fits.linears == {}
        and linear_residuals("unheard_of", found("unheard_of").linears["unheard_of"], {}) == []
    )
