"""Everything that a report takes, for its tests: every section has something to show."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from report_records import (
    A100,
    H200,
    WHEN,
    accuracy_chain,
    batch_chain,
    energy_run,
    environment,
    record,
    sweep,
    sweep_row,
    variant,
)

from analysis.fit import fit_all
from analysis.fit_crossing import Layer
from analysis.fit_file import FitsFile, Fitted, Parameter
from analysis.fit_input import take
from analysis.predict_file import PredictedCell, PredictedMemory, Prediction
from analysis.predict_history import HeldOut
from analysis.predict_machine import GpuFigures
from analysis.report.inputs import Catalogue, Inputs, ModelRow
from profiler.record import AgreementSample, EnergySample, HopSample, QuerySample, Sample, write_run

__all__ = [
    "A100",
    "H200",
    "WHEN",
    "accuracy_chain",
    "batch_chain",
    "energy_run",
    "environment",
    "record",
    "sweep",
    "sweep_row",
    "variant",
]

EVIL = "</script><img src=x onerror=alert(1)>{}$a_b$ |`*[x](y)"
STATIC_W, J_PER_DECODED = 130.0, 6e-12
MODELS = {
    "small": ModelRow("small", 8 * 4096 * 1024, (Layer(4096, 1024, 8),)),
    "large": ModelRow("large", 32 * 28672 * 4096, (Layer(28672, 4096, 32),)),
}


def catalogue(**changed: Any) -> Catalogue:
    gpus = {
        "h200": GpuFigures(
            "h200", H200, 141e9, 4.8e12, 700.0, {"bf16": 989e12, "fp8": 1979e12, "int8": 1979e12}
        ),
        "a100-80": GpuFigures(
            "a100-80", A100, 80e9, 2.039e12, 400.0, {"bf16": 312e12, "fp8": None, "int8": 624e12}
        ),
    }
    return Catalogue(**({"models": MODELS, "gpus": gpus, "model": "large"} | changed))


def fits(**changed: Any) -> FitsFile:
    return fit_all(take([sweep()]), n_draws=40).model_copy(update=changed)


def fits_with_energy() -> FitsFile:
    plain = fits()
    values = {
        "static_w": STATIC_W,
        "j_per_byte": 5e-11,
        "j_per_flop": 4e-13,
        "cast_j_per_weight.fused_nf4": J_PER_DECODED,
    }
    energy = Fitted(
        parameters={name: Parameter(point=v, ci95=(0.9 * v, 1.1 * v)) for name, v in values.items()},
        draws=[list(values.values()) for _ in plain.kernels["bf16"].time.draws],
        condition=10.0,
        residual_share_p50=0.01,
        residual_share_p90=0.02,
    )
    return plain.model_copy(update={"energy": energy})


def prediction(**changed: Any) -> Prediction:
    """A prediction of one cell of ``batch_chain``, 10 % above what that measures."""
    row = variant("fused_nf4", 8)
    hop_s = 1.1e-3 * (row.hop_ms_p50 or 0)
    memory = PredictedMemory(
        weight_bytes=1, layout_bytes=1, kv_bytes=1, total_bytes=3, fits=True, largest_batch=64
    )
    cell = PredictedCell(
        model="large",
        kernel="fused_nf4",
        batch_size=8,
        hop_s=hop_s,
        hop_s_ci95=(0.9 * hop_s, hop_s),
        tps=8 / hop_s,
        tps_ci95=(8 / hop_s, 9 / hop_s),
        time_ratio=0.7,
        time_ratio_ci95=(0.6, 0.8),
        verdict_time="not_trapped",
        energy_j_per_token=None,
        energy_j_per_token_ci95=None,
        energy_j_per_query=None,
        energy_ratio_ci95=None,
        verdict_energy="not_measured",
        memory=memory,
    )
    fields: dict[str, Any] = {
        "created_utc": WHEN - timedelta(hours=1),
        "git_commit": None,
        "command": ["predict"],
        "machine": H200,
        "arch": "h200",
        "source": "fits of this machine",
        "is_transferred": False,
        "fits": "h200",
        "fit_runs": ["a"],
        "engine": "graph",
        "context": 512,
        "hops": 256,
        "calibration_runs": [],
        "calibration_residual_share_p50": None,
        "cells": [cell],
        "crossings": [],
        "scales": [],
        "warnings": [],
    }
    return Prediction(**(fields | changed))


def held_out(count: int = 6) -> list[HeldOut]:
    return [
        HeldOut(
            prediction="20260131T110000Z-h200",
            predicted_utc=WHEN - timedelta(hours=1),
            is_transferred=False,
            run_id=batch_chain().run_id,
            measured_utc=WHEN,
            machine=H200,
            model="large",
            kernel=kernel,
            batch_size=2**i,
            mode="replay",
            engine="graph",
            quantity=quantity,
            predicted=(1.05 if i % 2 else 0.97) * 0.005 * (1 + i),
            measured=0.005 * (1 + i),
            error_share=0.05 if i % 2 else -0.03,
            is_inside_ci95=bool(i % 2),
        )
        for i in range(count)
        for kernel in ("bf16", "fused_nf4")
        for quantity in ("hop_s", "energy_j_per_token")
    ]


def hostile() -> Inputs:
    """Records whose every text tries to be something else."""
    chain = batch_chain(
        warnings=[EVIL],
        arguments={"device": "cuda", "model": EVIL, "baseline": "bf16", "engine": EVIL},
        results=[variant("bf16", 1, notes=[EVIL])]
        + [
            variant("fused_nf4", b, verdict_reason=EVIL).model_copy(update={"kernel": f"fused_{EVIL}"})
            for b in (1, 8)
        ],
        derived={"waterfall": {EVIL: {"reference_ms": 2.0, "variant_ms": 1.0, "saving_ms": 1.0}}},
    )
    rows = [
        sweep_row("bf16", 1, 64, 64),
        sweep_row("fused_nf4", 1, 64, 64).model_copy(update={"kernel": EVIL}),
    ]
    return Inputs((chain, sweep(results=rows)), notes=(EVIL,))


def chain_samples() -> list[Sample]:
    """Samples whose drift grows for the fused kernel and not for the unfused one, and windows of a fixed ratio."""
    samples: list[Sample] = []
    hop_s = {"bf16": 0.01, "fused_nf4": 0.0055, "unfused_nf4": 0.04}
    right = {"bf16": 20, "fused_nf4": 18, "unfused_nf4": 18}
    joules = {"bf16": 6.0, "fused_nf4": 5.0, "unfused_nf4": 30.0}
    for kernel in hop_s:
        for i in range(20):
            samples.append(
                QuerySample(kernel=kernel, problem_id=str(i), operations=1, correct=i < right[kernel], hops=9)
            )
            samples.append(
                HopSample(
                    kernel=kernel,
                    mode="generate",
                    repeat=0,
                    batch_index=0,
                    hop=i,
                    active=1,
                    tokens=1,
                    hop_s=hop_s[kernel] * (1 + 0.02 * (i % 3)),
                )
            )
        samples += [
            EnergySample(
                kernel=kernel,
                repeat=i,
                energy_j=joules[kernel] * (1 + 0.01 * i),
                duration_s=1,
                energy_source="nvml_counter",
                queries=1,
            )
            for i in range(4)
        ]
        if kernel != "bf16":
            samples += [
                AgreementSample(
                    kernel=kernel,
                    problem_id=str(problem),
                    hop=3 * step + hop,
                    step=step,
                    kl_nats=0.01 * (1 + step * (kernel == "fused_nf4")) * (1 + 0.1 * problem),
                    top1_same=hop > 0 or step < 2,
                    logits_rel_error=0.1,
                )
                for problem in range(4)
                for step in range(4)
                for hop in range(3)
            ]
    return samples


def write_all(folder: Path) -> list[Path]:
    """Write every kind of input and return what to give to the command."""
    runs = folder / "runs"
    for run in (sweep(), batch_chain(), accuracy_chain(), energy_run()):
        write_run(runs, run, chain_samples() if run.kind == "chain" else [])
    stored = folder / "fits"
    stored.mkdir()
    (stored / "h200.json").write_text(fits().model_dump_json())
    lines = "".join(entry.model_dump_json() + "\n" for entry in held_out())
    (stored / "held_out.jsonl").write_text(lines)
    return [runs, stored]
