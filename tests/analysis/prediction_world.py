"""A made-up machine whose parameters are known, a made-up model, and runs that they would give."""

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from analysis.fit_crossing import Layer
from analysis.fit_file import FitsFile, Fitted, KernelFit, Parameter
from analysis.fit_time import TIME_PARAMETERS
from analysis.model_shape import ModelShape
from analysis.predict_machine import GpuFigures, Machine, from_fits
from profiler.record import Environment, GpuState, RunRecord, VariantResult

WHEN = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
TRUTH = {
    "bf16": (2e-6, 4e-13, 2e-15, 0.0, 1e-12, 0.0),
    "fused_nf4": (1e-6, 1e-13, 8e-15, 0.0, 1e-12, 0.0),
    "unfused_nf4": (4e-6, 2e-12, 2e-15, 0.0, 1e-12, 0.0),
    "native_fp8": (3e-6, 2e-13, 1e-15, 0.0, 1e-12, 0.0),
}
PASS_BYTES = {"bf16": 2.0, "fused_nf4": 0.5625, "unfused_nf4": 4.5625, "native_fp8": 1.0}
HOST = {"launch_s": 5e-6, "sync_s": 1e-5, "graph_s": 1.2e-5, "node_s": 1.5e-6}
ENERGY = {
    "static_w": 150.0,
    "j_per_byte": 5e-11,
    "j_per_flop": 4e-13,
    "cast_j_per_weight.fused_nf4": 2e-12,
    "cast_j_per_weight.unfused_nf4": 4e-12,
}
BYTES_PER_S = 4e12
H200 = GpuFigures(
    "h200", "NVIDIA H200 (SXM)", 141e9, 4.8e12, 700.0, {"bf16": 1e15, "fp8": 2e15, "int8": 2e15}
)
A100 = GpuFigures(
    "a100-80", "NVIDIA A100", 80e9, 2.4e12, 350.0, {"bf16": 0.25e15, "fp8": None, "int8": 0.5e15}
)
# Linears of 2 layers, merged: 4096 hidden, 4 key heads of 128, 8192 wide.
MODEL = ModelShape(
    key="made-up",
    layers=2,
    hidden=4096,
    intermediate=8192,
    kv_heads=4,
    head_dim=128,
    vocabulary=32000,
    merged=(Layer(5120, 4096, 2), Layer(4096, 4096, 2), Layer(16384, 4096, 2), Layer(4096, 8192, 2)),
    separate=(
        Layer(4096, 4096, 4),
        Layer(512, 4096, 4),
        Layer(8192, 4096, 4),
        Layer(4096, 8192, 2),
    ),
)


def fitted(names: tuple[str, ...], point: tuple[float, ...], spread: float, n_draws: int) -> Fitted:
    random = np.random.default_rng(len(names))
    # One factor per draw: the parameters move together, as those of one machine do.
    draws = np.outer(1 + spread * random.standard_normal(n_draws), point)
    return Fitted(
        parameters={n: Parameter(point=p, ci95=(p, p)) for n, p in zip(names, point, strict=True)},
        draws=draws.tolist(),
        condition=1.0,
        residual_share_p50=0.0,
        residual_share_p90=0.0,
    )


def fits(*, spread: float = 0.01, n_draws: int = 40, **changed: Any) -> FitsFile:
    fields: dict[str, Any] = {
        "created_utc": WHEN,
        "machine": "NVIDIA H200",
        "arch": "h200",
        "driver": "1",
        "versions": {},
        "git_commit": None,
        "runs": ["20260131T120000Z-sweep"],
        "seed": 0,
        "read_bytes_per_s": BYTES_PER_S,
        "kernels": {
            name: KernelFit(
                time=fitted(TIME_PARAMETERS, point, spread, n_draws),
                pass_bytes_per_weight=PASS_BYTES[name],
                bits=16 if name == "bf16" else 4,
            )
            for name, point in TRUTH.items()
        },
        "host": fitted(tuple(HOST), tuple(HOST.values()), spread, n_draws),
        "energy": fitted(tuple(ENERGY), tuple(ENERGY.values()), spread, n_draws),
    }
    return FitsFile(**(fields | changed))


def machine(**changed: Any) -> Machine:
    return from_fits(fits(**changed), H200)


def chain(
    rows: dict[tuple[str, int], float],
    *,
    later_s: float = 60.0,
    number: int = 0,
    energy_j_per_token: dict[tuple[str, int], float] | None = None,
    gpu: str = "NVIDIA H200",
    arch: str = "h200",
    ratios: dict[tuple[str, int], float] | None = None,
    **arguments: Any,
) -> RunRecord:
    """A replayed chain with these hop times, s, by kernel and batch size."""
    state = GpuState(index=0, name=gpu, uuid="GPU-1", arch=arch)
    environment = Environment(
        captured_utc=WHEN, platform="L", cpu_model="cpu", cpu_threads=2, compute_threads=2, gpus=[state]
    )
    results = []
    for (kernel, batch), hop_s in rows.items():
        fields: dict[str, Any] = {}
        if energy_j_per_token and (kernel, batch) in energy_j_per_token:
            joules = energy_j_per_token[kernel, batch] * 100 * batch / (2 * batch)
            fields = {"energy_j_per_query": joules, "energy_source": "nvml_counter"}
        if ratios and (kernel, batch) in ratios:
            cor = ratios[kernel, batch] - 1
            fields |= {"cor_tps": cor, "cor_tps_ci95": (cor - 0.01, cor + 0.01)}
        results.append(
            VariantResult(
                kernel=kernel,
                implementation="cuda",
                mode="replay",
                batch_size=batch,
                problems=2 * batch,
                hops=100,
                tokens=100 * batch,
                hop_ms_p50=1e3 * hop_s,
                hop_ms_p50_ci95=(995 * hop_s, 1005 * hop_s),
                **fields,
            )
        )
    return RunRecord(
        run_id=f"20260131T12010{number}Z-chain-made-up",
        kind="chain",
        status="complete",
        created_utc=WHEN + timedelta(seconds=later_s),
        command=["qt-profile", "chain"],
        environment=environment,
        arguments={"device": "cuda", "model": MODEL.key, "engine": "graph"} | arguments,
        results=results,
    )
