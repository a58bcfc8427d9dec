import math
from datetime import datetime, timezone
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from profiler import record as record_module
from profiler.record import (
    Agreement,
    Environment,
    GpuState,
    HopSample,
    KernelSample,
    Proportion,
    RunRecord,
    SweepRow,
    VariantResult,
    new_run_id,
)

VARIANT = {
    "kernel": "fused_nf4",
    "implementation": "torch",
    "mode": "generate",
    "batch_size": 8,
    "problems": 10,
    "hops": 700,
    "tokens": 5000,
}
ROW = {"kernel": "fused_nf4", "implementation": "triton", "m": 1, "n": 77, "k": 64}


def test_every_field_has_a_docstring() -> None:
    models = [m for m in vars(record_module).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    assert len(models) > 10
    bare = [f"{m.__name__}.{n}" for m in models for n, f in m.model_fields.items() if not f.description]
    assert bare == []


def test_a_variant_is_none_where_not_measured() -> None:
    variant = VariantResult(**VARIANT)
    assert variant.hop_ms_p50 is None
    assert variant.accuracy is None
    assert variant.accuracy_by_operations == {}
    assert not variant.energy_is_estimate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop_ms_p50": -0.1}, "greater than or equal to 0"),
        ({"cast_ms_p50": -1e-9}, "greater than or equal to 0"),
        ({"decode_s": math.nan}, "finite"),
        ({"cor_tps": math.inf}, "finite"),
        ({"accuracy": 1.01}, "less than or equal to 1"),
        ({"accuracy": -0.01}, "greater than or equal to 0"),
        ({"correct": 11}, "correct=11 is more than problems=10"),
        ({"correct": 5, "accuracy": 0.6}, "accuracy=0.6 is not correct/problems=0.5"),
        ({"problems": 0, "correct": 0, "accuracy": 0.0}, "is not correct/problems=nan"),
        ({"cor_tps_ci95": (0.5, 0.4)}, "upside down: low=0.5 is above high=0.4"),
        ({"accuracy_ci95": (0.5, 1.4)}, "less than or equal to 1"),
        ({"energy_j_per_query": 3.0}, "energy_j_per_query=3 has no energy_source"),
        ({"energy_j_per_query": 3.0, "energy_source": "none"}, "has no energy_source"),
        ({"energy_source": "guess"}, "Input should be"),
        ({"hop_ms_p50": 3.0, "hop_ms_p95": 2.0}, "hop_ms_p50=3 is above hop_ms_p95=2"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"mode": "guess"}, "Input should be"),
        ({"verdict_time": "maybe"}, "Input should be"),
        ({"hop_ms": 3.0}, "Extra inputs are not permitted"),
        (
            {"accuracy_by_operations": {2: {"correct": 9, "n": 11, "ci95": (0.5, 1.0)}}},
            "counts 11 problems of 10",
        ),
    ],
)
def test_illegal_variants_cannot_be_built(changes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        VariantResult(**{**VARIANT, **changes})


def test_differences_may_be_negative_by_noise_or_because_the_variant_is_faster() -> None:
    variant = VariantResult(**VARIANT, cor_tps=-0.03, cor_direct=-0.001, cast_from_null_ms=-0.002)
    assert variant.cor_tps == -0.03


def test_an_estimate_is_never_a_measurement() -> None:
    for source, estimate in (("hli", True), ("fake", True), ("rapl", False), ("nvml_counter", False)):
        variant = VariantResult(**VARIANT, energy_j_per_query=1.0, energy_source=source)
        assert variant.energy_is_estimate is estimate


def test_parts_check_themselves() -> None:
    with pytest.raises(ValidationError, match="correct=3 is more than n=2"):
        Proportion(correct=3, n=2, ci95=(0, 1))
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Agreement(positions=5, top1_share=1.5, kl_nats_mean=0, logits_rel_error_max=0)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        HopSample(kernel="x", mode="replay", repeat=0, batch_index=0, hop=0, active=1, tokens=1, hop_s=-1)
    with pytest.raises(ValidationError, match="frozen"):
        VariantResult(**VARIANT).hops = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "neither time_us_p50 nor a reason"),
        ({"time_us_p50": 3.0, "gate": "failed"}, "although the correctness gate is 'failed'"),
        ({"time_us_p50": 3.0}, "although the correctness gate is 'not run'"),
        ({"time_us_p50": 3.0, "gate": "passed", "not_measured": "no GPU"}, "time_us_p50=3 and not_measured"),
        ({"time_us_p50": -3.0, "gate": "passed"}, "greater than or equal to 0"),
        ({"m": 0, "not_measured": "x"}, "greater than or equal to 1"),
    ],
)
def test_illegal_sweep_rows_cannot_be_built(changes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        SweepRow(**{**ROW, **changes})


def test_sweep_rows_hold_a_time_or_say_why_not() -> None:
    assert SweepRow(**ROW, time_us_p50=3.0, gate="passed").time_us_p50 == 3.0
    assert SweepRow(**ROW, time_us_p50=3.0, gate="no meaning").rel_error is None
    assert SweepRow(**ROW, not_measured="no GPU here").time_us_p50 is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"status": "failed", "error": "out of memory"},
            "a failed run cannot carry results, but 1 are given",
        ),
        ({"status": "failed", "results": []}, "must say why in error"),
        ({"error": "out of memory"}, "a complete run cannot carry an error"),
        ({"results": []}, "a complete run must carry results"),
        ({"kind": "sweep"}, "1 of 1 results are not rows of a sweep"),
        ({"kind": "guess"}, "Input should be"),
        ({"run_id": "../../etc"}, "match pattern"),
        ({"schema_version": 2}, "Input should be 1"),
        ({"created_utc": datetime(2026, 1, 31)}, "timezone"),
        ({"derived": {"phi": {"j": [1.0, math.nan]}}}, r"derived\.phi\.dict\.j\.list\.1.*\n.*finite"),
        ({"arguments": {"x": -math.inf}}, r"arguments\.x.*\n.*finite"),
        ({"arguments": {"x": object()}}, "JSON"),
    ],
)
def test_illegal_records_cannot_be_built(make_record, changes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        make_record(**changes)


def test_legal_ends_of_a_run(make_record) -> None:
    assert make_record(status="failed", error="out of memory", results=[]).results == []
    assert len(make_record(status="interrupted").results) == 1
    assert make_record(status="interrupted", results=[], error="Ctrl-C").error == "Ctrl-C"


def test_json_round_trip(make_record) -> None:
    row = SweepRow(**ROW, not_measured="no GPU here")
    for record in (
        make_record(derived={"n_star_ci95": [1, 2.5], "none": None}),
        make_record(kind="sweep", results=[row]),
    ):
        assert RunRecord.model_validate_json(record.model_dump_json()) == record
    grouped = VariantResult(
        **VARIANT, accuracy_by_operations={3: Proportion(correct=1, n=2, ci95=(0.1, 0.9))}
    )
    assert VariantResult.model_validate_json(grouped.model_dump_json()) == grouped


def test_run_ids_are_folder_names() -> None:
    created = datetime(2026, 1, 31, 23, 59, 1, tzinfo=timezone.utc)
    assert new_run_id("Chain tiny/fused_nf4 é!", created) == "20260131T235901Z-chain-tiny-fused_nf4"
    assert new_run_id("../..", created) == "20260131T235901Z-run"
    assert len(new_run_id("x" * 500, created)) < 120
    with pytest.raises(ValueError, match="has no time zone"):
        new_run_id("x", datetime(2026, 1, 31))


def test_environment_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Environment(
            captured_utc=datetime.now(timezone.utc),
            platform="x",
            cpu_model="x",
            cpu_threads=1,
            compute_threads=1,
            hostname="secret",
        )
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        GpuState(index=0, name="x", uuid="GPU-0", power_limit_w=-1)


def test_a_sampled_time_is_negative_only_where_it_is_a_difference() -> None:
    fields: dict[str, Any] = {"m": 1, "n": 2, "k": 3, "repeat": 0, "time_us": -0.02}
    assert KernelSample(kernel="native_fp8.tau_comp", **fields).time_us == -0.02
    for kernel in ("native_fp8", "native_fp8.tau_cast"):
        with pytest.raises(ValidationError, match=f"time_us=-0.02 of {kernel} is below 0"):
            KernelSample(kernel=kernel, **fields)
