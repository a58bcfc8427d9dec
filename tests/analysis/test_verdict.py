import ast
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis.paper import cor_tps
from analysis.stats import Interval
from analysis.verdict import Verdict, Waterfall, decide, judge_energy, judge_time

SLOWER = Interval(1.8, 1.7, 1.9)
FASTER = Interval(0.5, 0.4, 0.625)
EVEN = Interval(1.004, 0.991, 1.02)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (SLOWER, Verdict.TRAPPED),
        (FASTER, Verdict.NOT_TRAPPED),
        (EVEN, Verdict.INCONCLUSIVE),
        (Interval(1.5, 1.0, 2.0), Verdict.INCONCLUSIVE),
        (Interval(0.9, 0.8, 1.0), Verdict.INCONCLUSIVE),
        (None, Verdict.NOT_MEASURED),
    ],
)
def test_intervals_decide(ratio: Interval | None, verdict: Verdict) -> None:
    assert decide(ratio) is verdict
    assert judge_time(ratio).verdict is verdict
    assert judge_energy(ratio, hli=False).verdict is verdict


def test_a_bare_number_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="needs an Interval, got float"):
        decide(1.8)  # type: ignore[arg-type]


def test_reason_names_the_waterfall() -> None:
    waterfall = Waterfall(reference_s=3.6e-3, saving_s=0.2e-3, exposed_cast_s=3.1e-3)
    assert judge_time(SLOWER, waterfall).reason == (
        "slower than bf16 by 1.8x [1.7, 1.9]: decoding costs 3.1 ms per hop and "
        "the smaller weights save 0.2 ms"
    )


def test_reason_names_the_host_and_a_slower_null_kernel() -> None:
    waterfall = Waterfall(3.6e-3, -0.5e-3, 1e-3, host_s=1.2e-3, other_s=-0.25e-3)
    assert judge_time(SLOWER, waterfall, reference="native_fp8").reason == (
        "slower than native_fp8 by 1.8x [1.7, 1.9]: decoding costs 1.0 ms per hop and "
        "the kernel without it is 0.5 ms slower than the reference, waiting for the host adds 1.2 ms, "
        "work outside the linear layers saves 0.25 ms"
    )


def test_faster_is_told_by_its_inverse() -> None:
    waterfall = Waterfall(4e-3, 2.1e-3, -0.01e-3)
    assert judge_time(FASTER, waterfall).reason == (
        "faster than bf16 by 2.0x [1.6, 2.5]: decoding is hidden (-0.01 ms per hop) and "
        "the smaller weights save 2.1 ms"
    )


def test_close_calls_get_the_digits_they_need() -> None:
    assert judge_time(EVEN).reason == "not distinguishable from bf16: 1.00x [0.99, 1.02]"
    assert judge_time(Interval(1.03, 1.01, 1.05)).reason == "slower than bf16 by 1.03x [1.01, 1.05]"


def test_energy_by_hli_is_no_independent_evidence() -> None:
    counter, hli = judge_energy(SLOWER, hli=False), judge_energy(SLOWER, hli=True)
    assert counter.reason == "dearer than bf16 by 1.8x [1.7, 1.9]"
    assert counter.independent
    assert "repeats the time verdict and is no independent evidence" in hli.reason
    assert not hli.independent
    assert hli.verdict is Verdict.TRAPPED


def test_throttling_is_said_where_something_was_measured() -> None:
    assert judge_time(SLOWER, throttled=True).reason.endswith("the GPU throttled during this run")
    assert judge_energy(None, hli=True, throttled=True).reason == "not measured"


times = st.floats(1e-6, 1.0)
changes = st.floats(-1e-3, 1e-3)


@given(times, times, times, changes, changes)
def test_waterfall_of_replayed_chains_closes(
    reference_s: float, null_s: float, fused_s: float, host_s: float, other_s: float
) -> None:
    waterfall = Waterfall.from_times(reference_s, null_s, fused_s, host_s=host_s, other_s=other_s)
    assert waterfall.variant_s == pytest.approx(fused_s, abs=1e-12)
    assert waterfall.cor_tps == pytest.approx(cor_tps(1 / reference_s, 1 / fused_s), rel=1e-6, abs=1e-9)


def test_waterfall_refuses_what_is_no_time() -> None:
    with pytest.raises(ValueError, match="saving_s=nan"):
        Waterfall(1.0, math.nan, 0.0)
    with pytest.raises(ValueError, match="reference_s=0"):
        Waterfall(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="begins at 0"):
        judge_time(Interval(0.5, 0.0, 0.9))


@pytest.mark.parametrize("name", ["checks", "paper", "si", "stats", "verdict"])
def test_analysis_needs_no_torch(name: str) -> None:
    source = Path(str(analysis.__file__)).with_name(f"{name}.py").read_text("utf-8")
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not {module.split(".")[0] for module in imported} & {"torch", "triton", "kernels", "reasoning"}
