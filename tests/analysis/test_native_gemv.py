"""``gemv_bf16`` in fits and predictions: a kernel of its own for few rows, the baseline beyond."""

from fractions import Fraction
from typing import Any

import pytest
from fit_world import ROWS, SHAPES, row, sweep
from prediction_world import H200, MODEL, PASS_BYTES, TRUTH, fits, fitted

from analysis.chain_figures import _scheme_and_format
from analysis.chain_picture import _scheme
from analysis.fit import fit_all
from analysis.fit_file import KernelFit
from analysis.fit_input import take
from analysis.fit_time import TIME_PARAMETERS
from analysis.hop_cost import Cost, Line
from analysis.kernel_kinds import BASELINE, GEMV, GEMV_ROWS
from analysis.model_shape import HopEngine, ModelShape
from analysis.predict_hop import linears_time, why_no_gemv
from analysis.predict_machine import Machine, from_fits
from analysis.report.colours import is_peer, role_of, split_name, styles

TRUTH_GEMV = (1e-6, 3.5e-13, 0.0, 0.0, 0.0, 0.0)


def both() -> Machine:
    kernels = {
        name: KernelFit(
            time=fitted(TIME_PARAMETERS, point, 0.01, 40), pass_bytes_per_weight=PASS_BYTES[name], bits=16
        )
        for name, point in TRUTH.items()
    }
    kernels[GEMV] = KernelFit(
        time=fitted(TIME_PARAMETERS, TRUTH_GEMV, 0.01, 40), pass_bytes_per_weight=2.0, bits=16
    )
    return from_fits(fits(kernels=kernels), H200)


def seconds(name: str, model: ModelShape, engine: HopEngine, batch: int, *, head: bool) -> float:
    """By hand, as long as memory bounds: launches and passes, and what the baseline pays per row and edge."""
    launch, per_weight, per_row, _, edge, _ = {**TRUTH, GEMV: TRUTH_GEMV}[name]
    layers = (model.head,) if head else model.linears(engine)
    return sum(
        layer.count
        * (launch + max(per_weight, batch * per_row) * layer.n * layer.k + edge * batch * (layer.n + layer.k))
        for layer in layers
    )


@pytest.mark.parametrize(
    ("engine", "kernel", "few", "few_head"),
    [
        (HopEngine.FUSED, BASELINE, GEMV, GEMV),
        (HopEngine.FUSED, "fused_nf4", "fused_nf4", GEMV),
        (HopEngine.FUSED, GEMV, GEMV, GEMV),
        (HopEngine.GRAPH, BASELINE, BASELINE, BASELINE),
        (HopEngine.GRAPH, "fused_nf4", "fused_nf4", BASELINE),
        (HopEngine.COMPILE, GEMV, GEMV, GEMV),
        (HopEngine.EAGER, GEMV, GEMV, BASELINE),
    ],
)
def test_few_rows_take_the_kernel_where_the_engine_does(
    engine: HopEngine, kernel: str, few: str, few_head: str
) -> None:
    cost = linears_time(both(), MODEL, kernel, engine, 0)
    for batch in (1, GEMV_ROWS, GEMV_ROWS + 1, 8):
        beyond = BASELINE if kernel in (BASELINE, GEMV) else kernel
        names = (few, few_head) if batch <= GEMV_ROWS else (beyond, BASELINE)
        expected = seconds(names[0], MODEL, engine, batch, head=False)
        expected += seconds(names[1], MODEL, engine, batch, head=True)
        assert float(cost.at(batch)) == pytest.approx(expected, rel=1e-9)


def test_without_a_fit_native_weights_are_predicted_as_the_baseline_and_said_so() -> None:
    without = from_fits(fits(), H200)
    for batch in (1, 4, 64):
        fused, graph = (
            linears_time(without, MODEL, BASELINE, engine, 0).at(batch)
            for engine in (HopEngine.FUSED, HopEngine.GRAPH)
        )
        assert fused == graph
    note = why_no_gemv(without, HopEngine.FUSED)
    assert note is not None and "lack gemv_bf16" in note and "up to 2 rows" in note
    assert why_no_gemv(without, HopEngine.GRAPH) is None and why_no_gemv(both(), HopEngine.FUSED) is None
    with pytest.raises(ValueError, match="lack gemv_bf16"):
        linears_time(without, MODEL, GEMV, HopEngine.GRAPH, 0)


def test_a_cost_until_a_batch_is_exact_and_continuous() -> None:
    few = Cost((Line(0, Fraction(1), Fraction(1)), Line(2, Fraction(3), Fraction(0))))
    many = Cost((Line(0, Fraction(10), Fraction(0)), Line(8, Fraction(2), Fraction(1))))
    cost = few.until(4, many)
    assert [cost.at(b) for b in (0, 1, 2, 4, 5, 8, 9)] == [1, 2, 3, 3, 10, 10, 11]
    assert cost.at(Fraction(9, 2)) == Fraction(13, 2)
    for low, high in zip(cost.pieces, cost.pieces[1:], strict=False):
        assert low.at(high.start) == high.at(high.start)


def test_a_fit_takes_the_rows_that_the_kernel_multiplies_itself() -> None:
    def own(m: int, n: int, k: int) -> Any:
        as_baseline = row(BASELINE, m, n, k)
        slow = 1.0 if m <= GEMV_ROWS else 3.0
        times = {name: slow * getattr(as_baseline, name) for name in _TIMES}
        return as_baseline.model_copy(update={"kernel": GEMV, **times})

    rows = [row(BASELINE, m, *shape) for shape in SHAPES for m in ROWS]
    rows += [own(m, *shape) for shape in SHAPES for m in (*ROWS, 2)]
    found = take([sweep(rows)])
    assert {cell.m for cell in found.cells[GEMV]} == {m for m in (*ROWS, 2) if m <= GEMV_ROWS}
    assert {cell.m for cell in found.cells[BASELINE]} == set(ROWS)
    fitted_both = fit_all(found, n_draws=40)
    assert set(fitted_both.kernels) == {BASELINE, GEMV}
    passes = [
        fitted_both.kernels[name].time.parameters["pass_s_per_weight"].point for name in (BASELINE, GEMV)
    ]
    assert passes[1] == pytest.approx(passes[0], rel=0.1)
    assert fitted_both.kernels[GEMV].cast is None


_TIMES = ("time_us_p50", "time_us_p05", "time_us_p95")


def test_the_rows_are_those_of_the_kernel() -> None:
    pytest.importorskip("triton")
    from kernels.triton_impl.gemv import MOST_ROWS

    assert GEMV_ROWS == MOST_ROWS


def test_pictures_and_reports_know_it_as_native() -> None:
    assert split_name(GEMV) == ("native", "") and not is_peer(GEMV) and role_of(GEMV) == "bf16"
    look = styles([BASELINE, GEMV])
    assert look[BASELINE] != look[GEMV]
    assert _scheme(GEMV) == _scheme(BASELINE) == "native"
    assert _scheme_and_format(GEMV) == ("", "")
