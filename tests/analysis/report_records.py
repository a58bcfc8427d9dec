"""Records for the tests of the report, whose numbers are simple functions of kernel, shape and batch."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from analysis.fit_time import call_s
from analysis.stats import wilson_interval
from profiler.record import (
    EnergyRow,
    Environment,
    GpuState,
    Proportion,
    RunRecord,
    SweepRow,
    VariantResult,
)

WHEN = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
H200, A100 = "NVIDIA H200", "NVIDIA A100-SXM4-80GB"
ARCH = {H200: "h200", A100: "a100-80"}
SHAPES = ((1024, 3072), (3072, 2048), (6144, 1024), (4096, 4096))
ROWS = (1, 8, 32, 64, 256)
# launch, pass, row, unhidden, edge, depth of each kernel: fused ones lose above some batch, unfused ones always.
TRUTH = {
    "bf16": (4e-6, 4.5e-13, 2.5e-15, 0.2, 1e-12, 1e-9),
    "fused_nf4": (3e-6, 1.4e-13, 4.0e-15, 0.9, 2e-12, 1e-9),
    "unfused_nf4": (7e-6, 2.3e-12, 2.5e-15, 0.1, 1e-12, 1e-9),
    "null_nf4": (2.5e-6, 1.2e-13, 4.0e-15, 0.9, 2e-12, 1e-9),
    "fused_int8": (3e-6, 2.6e-13, 3.0e-15, 0.7, 2e-12, 1e-9),
    "bnb_nf4": (5e-6, 3.5e-13, 6.0e-15, 0.9, 2e-12, 1e-9),
}
BITS = {"bf16": 16, "fused_int8": 8}


def environment(gpu: str = H200) -> Environment:
    state = GpuState(index=0, name=gpu, uuid="GPU-1", arch=ARCH[gpu], power_limit_w=700, sm_clock_mhz=1980)
    return Environment(
        captured_utc=WHEN,
        platform="Linux",
        cpu_model="cpu",
        cpu_threads=2,
        compute_threads=2,
        gpus=[state],
        nvidia_driver="580.1",
        versions={"torch": "2.11.0", "python": "3.12.3"},
    )


def record(kind: str, number: int, **changed: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "run_id": f"20260131T1200{number:02d}Z-{kind}-test",
        "kind": kind,
        "status": "complete",
        "created_utc": WHEN + timedelta(minutes=number),
        "command": ["test"],
        "environment": environment(),
        "arguments": {"device": "cuda"},
    }
    return RunRecord(**(fields | changed))


def sweep_row(kernel: str, m: int, n: int, k: int, **changed: Any) -> SweepRow:
    def time_us(name: str) -> float:
        return 1e6 * float(call_s(np.array([TRUTH[name]]), *(np.array([float(v)]) for v in (m, n, k)))[0, 0])

    us, native = time_us(kernel), time_us("bf16")
    bits = BITS.get(kernel, 4)
    moved = n * k * bits // 8 + 2 * m * (n + k)
    fields: dict[str, Any] = {
        "kernel": kernel,
        "arch": "h200",
        "m": m,
        "n": n,
        "k": k,
        "time_us_p50": us * (1 + 0.01 * np.sin(n + 7 * m + len(kernel))),
        "time_us_p05": us * 0.98,
        "time_us_p95": us * 1.02,
        "timings": 20,
        "bits": bits,
        "bytes_moved": moved,
        "flops": 2 * m * n * k,
        "gb_s": 1e-3 * moved / us,
        "read_bandwidth_share": 1e-3 * moved / us / 4400,
        "gate": "no meaning" if kernel.startswith("null") else "passed",
    }
    if kernel != "bf16":
        ratio = native / us
        fields |= {"speedup_p50": ratio, "speedup_ci95": (0.99 * ratio, 1.01 * ratio), "baseline": "bf16"}
    return SweepRow(**(fields | changed))


def sweep(number: int = 0, **changed: Any) -> RunRecord:
    cells = [(m, n, k) for n, k in SHAPES for m in ROWS]
    tau = [
        {
            "kernel": kernel,
            "m": m,
            "n": n,
            "k": k,
            "tau_cast_us_p50": scale * (0.5 + 2e-8 * n * k),
            "tau_cast_us_ci95": [scale * (0.45 + 2e-8 * n * k), scale * (0.55 + 2e-8 * n * k)],
            "tau_comp_us_p50": 3.0 + 2e-7 * n * k,
        }
        for kernel, scale in (("fused_nf4", 1.0), ("unfused_nf4", 20.0))
        for m, n, k in cells
    ]
    fields: dict[str, Any] = {
        "results": [sweep_row(kernel, *cell) for kernel in TRUTH for cell in cells],
        "derived": {"tau": tau, "read_bandwidth": {"read_gb_s_p50": 4400.0}},
        "warnings": ["a row looked odd"],
    }
    return record("sweep", number, **(fields | changed))


def variant(kernel: str, batch: int, **changed: Any) -> VariantResult:
    """A row whose numbers are simple functions of kernel and batch."""
    speed = {"bf16": 1.0, "fused_nf4": 0.5 + batch / 80, "unfused_nf4": 4.0, "null_nf4": 0.45}[kernel]
    ms = speed * (5 + batch / 64)
    fields: dict[str, Any] = {
        "kernel": kernel,
        "implementation": "cuda",
        "mode": "replay",
        "batch_size": batch,
        "problems": 4,
        "hops": 64,
        "tokens": 64 * batch,
        "hop_ms_p50": ms,
        "hop_ms_p50_ci95": (0.98 * ms, 1.02 * ms),
        "hop_ms_p95": 1.1 * ms,
        "energy_j_per_query": 3 * ms / batch,
        "energy_source": "nvml_counter",
        "counter_j_per_query": 3 * ms / batch,
        "polled_j_per_query": 3.1 * ms / batch,
        "hli_j_per_query": 9 * ms / batch,
    }
    if kernel in ("fused_nf4", "unfused_nf4"):
        trapped = speed > 1
        fields |= {
            "cor_tps": speed - 1,
            "cor_tps_ci95": (speed - 1.02, speed - 0.98),
            "verdict_time": "trapped" if trapped else "not trapped",
            "verdict_energy": "trapped" if trapped else "not trapped",
            "verdict_reason": f"{'slower' if trapped else 'faster'} than bf16 by a factor of {speed:.2f}",
        }
    return VariantResult(**(fields | changed))


def batch_chain(number: int = 1, batches: tuple[int, ...] = (1, 8, 64), **changed: Any) -> RunRecord:
    kernels = ("bf16", "null_nf4", "fused_nf4", "unfused_nf4")
    rows = [variant(kernel, batch) for batch in batches for kernel in kernels]
    falls = {
        str(b): {
            "waterfall": {
                "fused_nf4": {
                    "reference_ms": 5 + b / 64,
                    "saving_ms": 2.5,
                    "saving_ms_ci95": [2.4, 2.6],
                    "exposed_cast_ms": 0.5 + b / 40,
                    "host_ms": 0.1,
                    "other_ms": -0.1,
                    "variant_ms": 5 + b / 64 - 2.5 + 0.5 + b / 40,
                    "adds_up": True,
                }
            },
            "mcnemar": {},
        }
        for b in batches
    }
    fields: dict[str, Any] = {
        "results": rows,
        "derived": {"baseline": "bf16", "by_batch_size": falls},
        "arguments": {
            "device": "cuda",
            "model": "large",
            "baseline": "bf16",
            "engine": "graph",
            "context": 512,
        },
    }
    return record("chain", number, **(fields | changed))


def accuracy_chain(number: int = 2, **changed: Any) -> RunRecord:
    def row(kernel: str, right: list[int], **own: Any) -> VariantResult:
        groups = {}
        for depth, correct in enumerate(right, 1):
            ends = wilson_interval(correct, 50)
            groups[depth] = Proportion(correct=correct, n=50, ci95=(ends.low, ends.high))
        total, problems = sum(right), 50 * len(right)
        ends = wilson_interval(total, problems)
        fields: dict[str, Any] = {
            "mode": "generate",
            "problems": problems,
            "accuracy": total / problems,
            "correct": total,
            "accuracy_ci95": (ends.low, ends.high),
            "accuracy_by_operations": groups,
            "tps": {"bf16": 100.0, "fused_nf4": 180.0, "unfused_nf4": 25.0}[kernel],
            "peak_memory_bytes": 1_000_000 if kernel == "bf16" else 800_000,
            "verdict_time": None,
            "verdict_energy": None,
            "verdict_reason": None,
            "cor_tps": None,
            "cor_tps_ci95": None,
        }
        return variant(kernel, 8, **(fields | own))

    rows = [
        row("bf16", [50, 49, 49, 48], t_si=1.0, e_si=1.0, s_si=1.0, si=1.0),
        row("fused_nf4", [49, 46, 42, 38], t_si=0.9, e_si=1.4, s_si=1.2, si=1.16),
        row("unfused_nf4", [49, 46, 42, 38], t_si=0.9, e_si=0.3, s_si=0.2, si=0.47),
    ]
    fields: dict[str, Any] = {
        "results": rows,
        "derived": {"mcnemar": {"fused_nf4": {"only_baseline": 25, "only_variant": 3, "p_value": 2e-5}}},
        "arguments": {"device": "cuda", "model": "tiny", "baseline": "bf16", "engine": "eager"},
    }
    return record("chain", number, **(fields | changed))


def energy_run(number: int = 3, **changed: Any) -> RunRecord:
    def load(name: str, watts: float, m: int | None = None) -> EnergyRow:
        shape = {} if m is None else {"m": m, "n": 4096, "k": 4096}
        return EnergyRow(
            load=name,
            unit="call" if m else "none",
            windows=3,
            units=1000 if m else 0,
            duration_s=30,
            energy_j=30 * watts,
            energy_source="nvml_counter",
            counter_j=30 * watts,
            polled_j=30.5 * watts,
            hli_j=30 * 700,
            power_w=watts,
            energy_j_per_unit=0.03 * watts if m else None,
            hli_over_counter=700 / watts,
            **shape,
        )

    rows = [load("idle", 130), load("bf16", 500, 1), load("fused_nf4", 410, 1), load("bf16", 650, 64)]
    return record("energy", number, **({"results": rows} | changed))
