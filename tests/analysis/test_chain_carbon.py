import pytest

from analysis.chain_summary import summarise
from profiler.record import EnergySample, HopSample, VariantResult


def row(kernel: str, energy_j: float | None) -> VariantResult:
    return VariantResult(
        kernel=kernel,
        implementation="torch",
        mode="generate",
        batch_size=1,
        problems=2,
        hops=4,
        tokens=4,
        energy_j_per_query=energy_j,
        energy_source="none" if energy_j is None else "fake",
    )


def test_caes_is_energy_in_kwh_times_the_grid() -> None:
    rows = [row("bf16", 3.6e6), row("fused_nf4", None)]
    first, second = summarise(rows, [], baseline="bf16", seed=0, grid_kgco2e_per_kwh=0.4).rows
    assert first.caes_kgco2e_per_query == pytest.approx(0.4)
    assert second.caes_kgco2e_per_query is None
    assert summarise(rows, [], baseline="bf16", seed=0).rows[0].caes_kgco2e_per_query is None


@pytest.mark.parametrize("throttled", [False, True])
def test_a_throttled_run_says_so_in_its_verdicts(throttled: bool) -> None:
    samples = [
        sample
        for kernel, scale in (("bf16", 1.0), ("fused_nf4", 2.0))
        for i in range(8)
        for sample in (
            HopSample(
                kernel=kernel,
                mode="replay",
                repeat=0,
                batch_index=0,
                hop=i,
                active=1,
                tokens=1,
                hop_s=scale + i / 1e3,
            ),
            EnergySample(
                kernel=kernel,
                repeat=i,
                queries=1,
                energy_j=scale + i / 1e3,
                duration_s=1.0,
                energy_source="fake",
            ),
        )
    ]
    rows = [row("bf16", 1.0), row("fused_nf4", 2.0)]
    _, fused = summarise(rows, samples, baseline="bf16", seed=0, throttled=throttled).rows
    assert fused.verdict_reason is not None
    assert fused.verdict_reason.count("throttled") + fused.verdict_reason.count("lowered its clocks") == (
        2 if throttled else 0
    )
