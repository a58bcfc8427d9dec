"""One pass of each kernel: joules and hop times with the drift of the host in their intervals."""

import pytest

from analysis.chain_summary import summarise
from profiler.record import EnergySample, HopSample, VariantResult

HOPS = 300


def row(kernel: str, mode: str, **fields) -> VariantResult:
    base = {"implementation": "torch", "batch_size": 1, "problems": 4, "hops": HOPS, "tokens": HOPS}
    return VariantResult(kernel=kernel, mode=mode, **(base | fields))


def test_hops_that_a_host_paces_one_kernel_after_the_other_are_compared_with_its_drift() -> None:
    rows = [row("bf16", "generate"), row("fused_nf4", "generate")]
    taken = {
        "bf16": [0.0100 + 1e-5 * (i % 7) for i in range(300)],
        # 2 % slower, and a host that is slow now and then.
        "fused_nf4": [0.0102 + 1e-5 * (i % 5) + 0.005 * ((i // 40) % 4 == 3) for i in range(300)],
    }
    samples = [
        HopSample(kernel=k, mode="generate", repeat=0, batch_index=0, hop=i, active=1, tokens=1, hop_s=s)
        for k, times in taken.items()
        for i, s in enumerate(times)
    ]
    judged = {
        is_paced: summarise(
            rows, samples, baseline="bf16", seed=0, fixed_hops=True, host_paced=is_paced
        ).rows[1]
        for is_paced in (False, True)
    }
    assert judged[False].verdict_time == "trapped" and judged[True].verdict_time == "inconclusive"
    assert judged[True].cor_tps == pytest.approx(judged[False].cor_tps)


def test_one_window_is_judged_by_the_drift_of_its_hops() -> None:
    def judged(native_j: float, slow_s: float) -> tuple[VariantResult, VariantResult]:
        def one(kernel: str, joules: float) -> VariantResult:
            return row(
                kernel,
                "generate",
                energy_source="nvml_counter",
                energy_windows=1,
                energy_j_per_query=joules,
                energy_j_per_query_ci95=(joules - 0.01, joules + 0.01),
            )

        steady = [0.010 + 1e-5 * (i % 7) for i in range(300)]
        uneven = [taken_s + (slow_s if (i // 30) % 3 == 0 else 0) for i, taken_s in enumerate(steady)]
        samples = [
            HopSample(
                kernel=k, mode="generate", repeat=0, batch_index=0, hop=i, active=1, tokens=1, hop_s=taken_s
            )
            for k, times in (("bf16", steady), ("fused_nf4", uneven))
            for i, taken_s in enumerate(times)
        ]
        rows = [one("bf16", native_j), one("fused_nf4", 2.1)]
        first, second = summarise(rows, samples, baseline="bf16", seed=0).rows
        return first, second

    native, quiet = judged(2.0, 0.0)
    low, high = quiet.energy_j_per_query_ci95
    assert 2.1 - 0.02 < low < 2.1 - 0.01 and 2.1 + 0.01 < high < 2.1 + 0.02
    assert quiet.verdict_energy == "trapped" and "Energy: dearer than bf16" in quiet.verdict_reason
    assert native.verdict_energy is None
    _, noisy = judged(2.0, 0.005)
    low, high = noisy.energy_j_per_query_ci95
    assert low < 1.9 and high > 2.3 and noisy.verdict_energy == "inconclusive"


@pytest.mark.parametrize(
    ("own_j", "error_j", "verdict"),
    [
        # Windows of 10 and 13 J: both pairs have the variant dearer, by 10 and by 11 %.
        ((11.0, 14.43), 0.0, "trapped"),
        # By 3 and by 35 %: two pairs that differ so much say nothing, although both are dearer.
        ((10.3, 17.55), 0.0, "inconclusive"),
        # Pairs that agree by chance are known no better than the counter's ticks.
        ((10.3, 13.39), 0.2, "inconclusive"),
    ],
)
def test_windows_measured_side_by_side_are_compared_in_pairs(own_j, error_j, verdict) -> None:
    joules = {"bf16": (10.0, 13.0), "fused_nf4": own_j}
    rows = [
        row(k, "generate", energy_source="nvml_counter", energy_windows=2, energy_j_per_query=sum(j) / 4)
        for k, j in joules.items()
    ]
    samples = [
        EnergySample(
            kernel=k,
            repeat=i,
            queries=2,
            energy_j=window_j,
            energy_error_j=error_j,
            duration_s=5.0,
            energy_source="nvml_counter",
        )
        for k, windows in joules.items()
        for i, window_j in enumerate(windows)
    ]
    found = summarise(rows, samples, baseline="bf16", seed=0).rows[1]
    assert found.verdict_energy == verdict, found.verdict_reason
