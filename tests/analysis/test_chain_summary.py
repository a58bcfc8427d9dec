"""Figures derived from made-up samples whose answers are known."""

import io
from datetime import datetime, timezone

import pytest
from rich.console import Console

from analysis.chain_summary import summarise
from analysis.chain_table import print_chain
from profiler.record import (
    AgreementSample,
    EnergySample,
    Environment,
    HopSample,
    QuerySample,
    RangeSample,
    RunRecord,
    VariantResult,
)

HOPS = 40
BASE_S, UNFUSED_S, FUSED_S, NULL_S = 0.010, 0.030, 0.014, 0.008


def row(kernel: str, mode: str, **fields) -> VariantResult:
    base = {"implementation": "torch", "batch_size": 1, "problems": 4, "hops": HOPS, "tokens": HOPS}
    return VariantResult(kernel=kernel, mode=mode, **(base | fields))


def hops(kernel: str, mode: str, seconds: float) -> list[HopSample]:
    return [
        HopSample(
            kernel=kernel,
            mode=mode,
            repeat=0,
            batch_index=0,
            hop=i,
            active=1,
            tokens=1,
            hop_s=seconds * (1 + 0.01 * (i % 3)),
        )
        for i in range(HOPS)
    ]


def ranges(kernel: str, linear_s: float, cast_s: float | None = None) -> list[RangeSample]:
    comp_s = None if cast_s is None else linear_s - cast_s
    return [
        RangeSample(
            kernel=kernel, repeat=0, batch_index=0, hop=i, linear_s=linear_s, cast_s=cast_s, comp_s=comp_s
        )
        for i in range(HOPS)
    ]


def queries(kernel: str, correct: list[bool]) -> list[QuerySample]:
    return [
        QuerySample(kernel=kernel, problem_id=str(i), operations=1 + i % 2, correct=c, hops=10)
        for i, c in enumerate(correct)
    ]


@pytest.fixture
def summary():
    rows = [
        row(
            "bf16",
            "generate",
            tps=100.0,
            correct=4,
            accuracy=1.0,
            peak_memory_bytes=1000,
            energy_source="fake",
            energy_j_per_query=2.0,
        ),
        row(
            "fused_nf4",
            "generate",
            tps=50.0,
            correct=2,
            accuracy=0.5,
            peak_memory_bytes=500,
            energy_source="fake",
            energy_j_per_query=4.0,
        ),
        *(row(k, "replay") for k in ("bf16", "unfused_nf4", "fused_nf4", "null_nf4")),
    ]
    samples = [
        *hops("bf16", "generate", 0.011),
        *hops("fused_nf4", "generate", 0.015),
        *hops("bf16", "replay", BASE_S),
        *hops("unfused_nf4", "replay", UNFUSED_S),
        *hops("fused_nf4", "replay", FUSED_S),
        *hops("null_nf4", "replay", NULL_S),
        *ranges("unfused_nf4", 0.025, 0.020),
        *ranges("fused_nf4", 0.009),
        *ranges("null_nf4", 0.003),
        *queries("bf16", [True] * 4),
        *queries("fused_nf4", [True, False, True, False]),
        *(
            EnergySample(
                kernel=k, repeat=i, queries=1, energy_j=j + 0.01 * i, duration_s=1.0, energy_source="fake"
            )
            for k, j in (("bf16", 2.0), ("fused_nf4", 4.0))
            for i in range(4)
        ),
        *(
            AgreementSample(
                kernel="fused_nf4",
                problem_id="0",
                hop=i,
                kl_nats=0.1 * i,
                top1_same=i != 3,
                logits_rel_error=0.01 * i,
            )
            for i in range(4)
        ),
    ]
    return summarise(rows, samples, baseline="bf16", seed=0)


def found(summary, kernel: str, mode: str) -> VariantResult:
    return next(r for r in summary.rows if (r.kernel, r.mode) == (kernel, mode))


def test_cast_by_ranges_and_by_difference(summary) -> None:
    fused = found(summary, "fused_nf4", "generate")
    assert fused.cast_ms_p50 == pytest.approx(20.0)
    assert fused.comp_ms_p50 == pytest.approx(5.0)
    assert fused.comp_from_null_ms == pytest.approx(3.0)
    assert fused.cast_from_null_ms == pytest.approx(6.0)
    assert fused.cor_direct == pytest.approx(2.0)
    assert found(summary, "unfused_nf4", "replay").cor_direct == pytest.approx(4.0)


def test_cor_tps_comes_from_identical_hops(summary) -> None:
    fused = found(summary, "fused_nf4", "generate")
    assert fused.cor_tps == pytest.approx(FUSED_S / BASE_S - 1)
    assert fused.cor_tps_ci95[0] <= fused.cor_tps <= fused.cor_tps_ci95[1]
    assert found(summary, "bf16", "generate").cor_tps is None


def test_generated_hops_are_compared_where_their_number_is_fixed() -> None:
    rows = [row("bf16", "generate"), row("fused_nf4", "generate")]
    samples = [*hops("bf16", "generate", 0.010), *hops("fused_nf4", "generate", 0.005)]
    (_, free), (_, fixed) = (
        summarise(rows, samples, baseline="bf16", seed=0, fixed_hops=fixed).rows for fixed in (False, True)
    )
    assert (free.verdict_time, free.cor_tps) == (None, None)
    assert fixed.verdict_time == "not trapped" and fixed.cor_tps == pytest.approx(-0.5, abs=0.05)
    # Replayed hops, which share their tokens too, are preferred.
    samples += [*hops("bf16", "replay", 0.010), *hops("fused_nf4", "replay", 0.020)]
    (_, replayed) = summarise(rows, samples, baseline="bf16", seed=0, fixed_hops=True).rows
    assert replayed.verdict_time == "trapped"


def test_waterfall_adds_up(summary) -> None:
    fall = summary.derived["waterfall"]["fused_nf4"]
    assert fall["reference_ms"] - fall["saving_ms"] + fall["exposed_cast_ms"] == pytest.approx(
        fall["variant_ms"]
    )
    assert fall["exposed_cast_ms"] == pytest.approx(1e3 * (FUSED_S - NULL_S) * 1.01)


def test_indices_are_the_paper_s(summary) -> None:
    fused = found(summary, "fused_nf4", "generate")
    assert (fused.t_si, fused.s_si) == (pytest.approx(0.5), pytest.approx(0.5))
    assert fused.e_si == pytest.approx(1 / (0.5 / 0.5 + 0.5 / 2))
    assert fused.si == pytest.approx(0.34 * 0.5 + 0.33 * 0.8 + 0.33 * 0.5)
    assert found(summary, "bf16", "generate").si == pytest.approx(1.0)


def test_verdicts_and_their_reason(summary) -> None:
    fused = found(summary, "fused_nf4", "generate")
    assert (fused.verdict_time, fused.verdict_energy) == ("trapped", "trapped")
    assert "decoding costs 6.1 ms per hop and the smaller weights save 2.0 ms" in fused.verdict_reason
    assert found(summary, "null_nf4", "replay").verdict_time is None
    assert found(summary, "bf16", "generate").verdict_time is None


def test_accuracy_by_operations_pairs_and_agreement(summary) -> None:
    fused = found(summary, "fused_nf4", "generate")
    assert {o: (g.correct, g.n) for o, g in fused.accuracy_by_operations.items()} == {1: (2, 2), 2: (0, 2)}
    assert fused.accuracy_ci95[0] < 0.5 < fused.accuracy_ci95[1]
    assert summary.derived["mcnemar"]["fused_nf4"] == {
        "problems": 4,
        "only_baseline": 2,
        "only_variant": 0,
        "p_value": pytest.approx(0.5),
    }
    assert fused.agreement.top1_share == pytest.approx(0.75)
    assert fused.agreement.kl_nats_mean == pytest.approx(0.15)
    assert fused.agreement.logits_rel_error_max == pytest.approx(0.03)


def test_without_samples_nothing_is_made_up() -> None:
    bare = summarise([row("bf16", "generate"), row("fused_nf4", "generate")], [], baseline="bf16", seed=0)
    fused = bare.rows[1]
    for name in ("hop_ms_p50", "cor_tps", "cor_direct", "t_si", "e_si", "s_si", "si", "verdict_time"):
        assert getattr(fused, name) is None, name


def test_unknown_tdp_leaves_the_joules_out_but_not_the_ratio() -> None:
    rows = [
        row("bf16", "generate", energy_source="none", prefill_s=1.0, decode_s=3.0),
        row("fused_nf4", "generate", energy_source="none", prefill_s=2.0, decode_s=6.0),
    ]
    fused = summarise(rows, [], baseline="bf16", seed=0).rows[1]
    assert fused.energy_j_per_query is None
    assert fused.s_si == pytest.approx(0.5)
    assert any("TDP" in note for note in fused.notes)


def test_table_prints_every_figure(summary) -> None:
    environment = Environment(
        captured_utc=datetime(2026, 1, 1, tzinfo=timezone.utc),
        platform="Linux",
        cpu_model="a CPU",
        cpu_threads=2,
        compute_threads=2,
    )
    record = RunRecord(
        run_id="20260101T000000Z-x",
        kind="chain",
        status="complete",
        created_utc=environment.captured_utc,
        command=["qt-profile", "chain"],
        environment=environment,
        arguments={"model": "tiny", "problems": "synthetic", "batch_size": 1, "mode": "generate"},
        results=summary.rows,
        derived=summary.derived,
        warnings=["energy: made up"],
    )
    stream = io.StringIO()
    print_chain(record, Console(file=stream, width=160))
    text = stream.getvalue()
    for part in (
        "fused_nf4",
        "COR direct [95 %]",
        "2.00 [2.00, 2.00]",
        "50.0% [15.0%, 85.0%]",
        "2/2",
        "time trapped",
        "note: energy: made up",
        "4 (fake estimate)",
    ):
        assert part in text, part
    # 0.5^0.34 * 0.8^0.33 * 0.5^0.33 = 0.584, below the sum of Eq. 6.
    shown = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in text.splitlines() if "│" in line}
    assert [cell.strip() for cell in shown["SI (Eq. 6)"]] == ["1.000", "0.599"]
    assert [cell.strip() for cell in shown["SI geometric (Remark 3.1)"]] == ["1.000", "0.584"]
    assert "unfused_nf4" not in text, "replayed rows stay in the record where rows ran free"


def test_a_native_8_bit_kernel_casts_x_in_ranges_of_its_own():
    rows = [row("bf16", "replay"), row("native_int8", "replay"), row("null_int8", "replay")]
    samples = [
        *hops("bf16", "replay", BASE_S),
        *hops("native_int8", "replay", FUSED_S),
        *hops("null_int8", "replay", NULL_S),
        *ranges("bf16", BASE_S),
        *ranges("native_int8", 0.010, cast_s=0.002),
        *ranges("unfused_int8", 0.020, cast_s=0.015),
        *ranges("null_int8", NULL_S),
    ]
    made = summarise(rows, samples, baseline="bf16", seed=0)
    native = next(r for r in made.rows if r.kernel == "native_int8")
    assert native.cast_ms_p50 == pytest.approx(2.0) and native.comp_ms_p50 == pytest.approx(8.0)
    assert native.cor_direct == pytest.approx(0.25)
    assert native.comp_from_null_ms is None and native.cast_from_null_ms is None
    assert "decoding costs" not in (native.verdict_reason or "")


def test_another_library_s_kernel_borrows_no_figures_from_ours_of_the_same_format():
    names = ("bf16", "fused_nf4", "unfused_nf4", "null_nf4", "bnb_nf4")
    times = dict(zip(names, (0.010, 0.008, 0.020, 0.006, 0.015), strict=True))
    rows = [row(name, "replay") for name in names]
    samples = [sample for name in names for sample in hops(name, "replay", times[name])]
    for name in names:
        samples += ranges(name, times[name] / 2, 0.002 if name == "unfused_nf4" else None)
    summary = summarise(rows, samples, baseline="bf16", seed=1)
    theirs = found(summary, "bnb_nf4", "replay")
    ours = found(summary, "fused_nf4", "replay")
    assert ours.cast_ms_p50 is not None and ours.comp_from_null_ms is not None
    for name in ("cast_ms_p50", "comp_ms_p50", "cast_from_null_ms", "comp_from_null_ms", "cor_direct"):
        assert getattr(theirs, name) is None
    assert theirs.cor_tps == pytest.approx(0.5, rel=1e-3)
    assert theirs.verdict_time == "trapped"
    assert theirs.verdict_reason is not None
    assert (
        "its linear layers take 2.5 ms more, decoding less what smaller weights save" in theirs.verdict_reason
    )
    assert "linear layers take" not in (ours.verdict_reason or "")
    assert set(summary.derived["waterfall"]) == {"fused_nf4", "unfused_nf4"}
