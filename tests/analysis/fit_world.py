"""Sweeps, energy windows and chains whose parameters are known, for the tests of fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from analysis.fit_solver import Solution
from analysis.fit_time import call_s
from profiler.record import EnergyRow, Environment, GpuState, RunRecord, SweepRow, VariantResult

WHEN = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
SHAPES = ((1024, 3072), (6144, 1024), (3072, 2048), (4096, 4096), (28672, 4096))
ROWS = (1, 8, 32, 64, 256)
# fused: cheap passes and dear rows, so that it loses above some batch; unfused: dear passes.
TRUTH = {
    "bf16": (4e-6, 4.5e-13, 2.5e-15, 0.2, 1e-12, 1e-9),
    "fused_nf4": (3e-6, 1.4e-13, 4.0e-15, 0.9, 2e-12, 1e-9),
    "unfused_nf4": (7e-6, 2.3e-12, 2.5e-15, 0.1, 1e-12, 1e-9),
    "null_nf4": (2.5e-6, 1.2e-13, 4.0e-15, 0.9, 2e-12, 1e-9),
}
BYTES = {"bf16": 2.0, "fused_nf4": 0.53125, "unfused_nf4": 4.53125, "null_nf4": 0.53125}
READ_BYTES_PER_S = 4.4e12
ONCE_S, LAYER_S, TRAFFIC = 2.5e-5, 1.1e-5, 1.25
STATIC_W, PER_BYTE, PER_FLOP, PER_DECODED = 130.0, 5e-11, 4e-13, 6e-12


def coverage(
    truth: Mapping[str, float], solutions: Sequence[Solution]
) -> tuple[dict[str, float], dict[str, float]]:
    """Share of intervals that hold the truth, and their mean width over the spread of the estimates."""
    held, width = {}, {}
    for name, value in truth.items():
        intervals = [solution.interval(name) for solution in solutions]
        held[name] = sum(one.low <= value <= one.high for one in intervals) / len(solutions)
        spread = np.std([one.point for one in intervals])
        width[name] = float(np.mean([one.high - one.low for one in intervals]) / (2 * 1.96 * spread))
    return held, width


def environment(gpu: str = "NVIDIA H200") -> Environment:
    state = GpuState(index=0, name=gpu, uuid="GPU-1", arch="h200")
    return Environment(
        captured_utc=WHEN,
        platform="Linux",
        cpu_model="cpu",
        cpu_threads=2,
        compute_threads=2,
        gpus=[state],
        versions={"torch": "2.11.0"},
    )


def row(kernel: str, m: int, n: int, k: int, **changed: Any) -> SweepRow:
    def time_us(name: str) -> float:
        return 1e6 * float(call_s(np.array([TRUTH[name]]), *(np.array([float(v)]) for v in (m, n, k)))[0, 0])

    us, native = time_us(kernel), time_us("bf16")
    wobble = 1 + 0.01 * np.sin(n + 7 * m + len(kernel))
    fields: dict[str, Any] = {
        "kernel": kernel,
        "arch": "h200",
        "m": m,
        "n": n,
        "k": k,
        "time_us_p50": us * wobble,
        "time_us_p05": us * 0.98,
        "time_us_p95": us * 1.02,
        "timings": 20,
        "bits": 16 if kernel == "bf16" else 4,
        "bytes_moved": round(BYTES[kernel] * n * k) + 2 * m * (n + k),
        "gate": "no meaning" if kernel.startswith("null") else "passed",
    }
    if kernel != "bf16":
        ratio = native / us
        fields |= {"speedup_p50": ratio, "speedup_ci95": (0.99 * ratio, 1.01 * ratio), "baseline": "bf16"}
    return SweepRow(**(fields | changed))


def sweep(rows: list[SweepRow] | None = None, *, number: int = 0, **changed: Any) -> RunRecord:
    cells = [(m, n, k) for n, k in SHAPES for m in ROWS]
    tau = [
        {
            "kernel": "fused_nf4",
            "m": m,
            "n": n,
            "k": k,
            "tau_cast_us_p50": 0.5 + 2e-8 * n * k,
            "tau_cast_us_ci95": [0.45 + 2e-8 * n * k, 0.55 + 2e-8 * n * k],
            "tau_comp_us_p50": 3.0 + 2e-7 * n * k,
        }
        for m, n, k in cells
    ]
    fields: dict[str, Any] = {
        "run_id": f"20260131T12000{number}Z-sweep-h200-test",
        "kind": "sweep",
        "status": "complete",
        "created_utc": WHEN,
        "command": ["sweep"],
        "environment": environment(),
        "arguments": {"device": "cuda"},
        "results": rows or [row(kernel, *cell) for kernel in TRUTH for cell in cells],
        "derived": {"tau": tau, "read_bandwidth": {"read_gb_s_p50": READ_BYTES_PER_S / 1e9}},
    }
    return RunRecord(**(fields | changed))


def linears_s(layers: int, batch: int) -> float:
    """What linears of bf16 of a hop of 1024 wide layers take in their order: a tenth more than their calls."""
    shapes = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)] * layers + [(32768, 1024)]
    n, k = (np.array(sizes, dtype=np.float64) for sizes in zip(*shapes, strict=True))
    truth = np.array([TRUTH["bf16"]])
    return 1.1 * float(call_s(truth, np.full(len(n), float(batch)), n, k).sum())


def hop_parts(kernel: str = "bf16") -> list[dict[str, Any]]:
    """What a sweep for a fit keeps of hops and their linears."""
    rows = []
    for layers in (4, 12):
        for batch in (1, 8, 64):
            row_bytes = layers * 2_150_000 + 306_000
            us = 1e6 * (ONCE_S + layers * LAYER_S + TRAFFIC * batch * row_bytes / READ_BYTES_PER_S)
            rows.append(
                {
                    "kernel": kernel,
                    "layers": layers,
                    "batch_size": batch,
                    "row_bytes": row_bytes,
                    "hidden": 1024,
                    "intermediate": 3072,
                    "heads": 16,
                    "kv_heads": 8,
                    "head_dim": 128,
                    "vocabulary": 32768,
                    "linears_us_p50": 1e6 * linears_s(layers, batch),
                    "time_us_p50": us,
                    "time_us_p05": 0.99 * us,
                    "time_us_p95": 1.01 * us,
                    "timings": 40,
                }
            )
    return rows


def energy_run() -> RunRecord:
    def load(name: str, m: int, n: int, k: int) -> EnergyRow:
        time_s = float(call_s(np.array([TRUTH[name]]), *(np.array([float(v)]) for v in (m, n, k)))[0, 0])
        moved = BYTES[name] * n * k + 2 * m * (n + k)
        joules = STATIC_W * time_s + PER_BYTE * moved + PER_FLOP * 2 * m * n * k
        joules += PER_DECODED * n * k * (name == "fused_nf4")
        units = 100_000
        return EnergyRow(
            load=name,
            unit="call",
            m=m,
            n=n,
            k=k,
            windows=3,
            units=units,
            duration_s=units * time_s,
            energy_j=units * joules,
            energy_source="nvml_counter",
            energy_j_per_unit=joules,
            energy_j_per_unit_ci95=(0.99 * joules, 1.01 * joules),
        )

    idle = EnergyRow(
        load="idle",
        unit="none",
        windows=3,
        units=0,
        duration_s=30,
        energy_j=30 * STATIC_W,
        energy_source="nvml_counter",
        energy_error_j=1.0,
    )
    estimate = idle.model_copy(update={"energy_source": "hli", "energy_j": 21000.0})
    cells = [(1, 28672, 4096), (64, 28672, 4096), (256, 28672, 4096), (1, 4096, 4096)]
    calls = [load(name, *cell) for name in ("bf16", "fused_nf4") for cell in cells]
    return sweep(number=1, kind="energy", results=[idle, estimate, *calls], derived={})


def chain(batch: int, cor: float, *, number: int) -> RunRecord:
    result = VariantResult(
        kernel="fused_nf4",
        implementation="cuda",
        mode="replay",
        batch_size=batch,
        problems=1,
        hops=9,
        tokens=9,
        cor_tps=cor,
        cor_tps_ci95=(cor - 0.01, cor + 0.01),
    )
    return sweep(
        number=number,
        kind="chain",
        results=[result],
        derived={},
        arguments={"device": "cuda", "model": "tiny"},
    )


def pair(batch: int) -> tuple[float, float]:
    shape = (np.array([float(v)]) for v in (batch, 28672, 4096))
    m, n, k = shape
    return tuple(float(call_s(np.array([TRUTH[x]]), m, n, k)[0, 0]) for x in ("fused_nf4", "bf16"))  # type: ignore[return-value]
