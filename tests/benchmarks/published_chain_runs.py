"""Chain runs as a machine's folder of results holds them, with numbers that the tests choose."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from analysis.stats import wilson_interval
from profiler.record import Environment, GpuRunState, GpuState, RunRecord, VariantResult

WHEN = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
GPU = GpuState(index=0, name="NVIDIA H200", uuid="GPU-1", arch="h200")
# What a hop of 5 ms and a query of 100 J share with the numbers of real runs.
HOP_SPREAD, ENERGY_SPREAD = 0.002, 0.01


def row(kernel: str, batch: int, hop_ms: float | None = 5.0, **changed: Any) -> VariantResult:
    fields: dict[str, Any] = {
        "kernel": kernel,
        "implementation": "cuda",
        "mode": "generate",
        "batch_size": batch,
        "problems": 2 * batch,
        "hops": 128,
        "tokens": 128 * batch,
        "hop_ms_p50": hop_ms,
    }
    if hop_ms is not None:
        fields["hop_ms_p50_ci95"] = (hop_ms * (1 - HOP_SPREAD), hop_ms * (1 + HOP_SPREAD))
    return VariantResult(**(fields | changed))


def with_energy(kernel: str, batch: int, joules: float, **changed: Any) -> VariantResult:
    fields: dict[str, Any] = {
        "energy_j_per_query": joules,
        "energy_j_per_query_ci95": (joules * (1 - ENERGY_SPREAD), joules * (1 + ENERGY_SPREAD)),
        "energy_source": "nvml_counter",
    }
    return row(kernel, batch, **(fields | changed))


def scored(kernel: str, batch: int, correct: int, problems: int, **changed: Any) -> VariantResult:
    ends = wilson_interval(correct, problems)
    fields: dict[str, Any] = {
        "problems": problems,
        "correct": correct,
        "accuracy": correct / problems,
        "accuracy_ci95": (ends.low, ends.high),
    }
    return row(kernel, batch, **(fields | changed))


def run(
    number: int,
    rows: list[VariantResult],
    *,
    derived: dict[str, Any] | None = None,
    throttled: bool = False,
    torch: str = "2.11.0",
    status: str = "complete",
    **arguments: Any,
) -> tuple[Path, RunRecord]:
    """A run that starts ``number`` minutes after noon, with the folder that it would be in."""
    settings: dict[str, Any] = {
        "model": "mistral-7b",
        "engine": "fused",
        "weights": "random",
        "device": "cuda",
        "baseline": "bf16",
        "context": 448,
        "hops": 64,
        "energy_windows": 0,
        "batch_size": None,
    } | arguments
    environment = Environment(
        captured_utc=WHEN,
        platform="Linux",
        cpu_model="cpu",
        cpu_threads=2,
        compute_threads=2,
        gpus=[GPU],
        versions={"torch": torch, "triton": "3.6.0"},
    )
    states = [
        GpuRunState(
            uuid="GPU-1",
            name="NVIDIA H200",
            violation_s={"power_cap": 9.0, "thermal": 0.0},
            throttled=["power cap"],
        )
    ]
    record = RunRecord(
        run_id=f"20260131T12{number:02d}00Z-chain-{settings['model']}",
        kind="chain",
        status=status,
        created_utc=WHEN + timedelta(minutes=number),
        command=["qt-profile", "chain"],
        environment=environment,
        arguments=settings,
        results=rows,
        gpu_states=states if throttled else [],
        derived={"baseline": settings["baseline"]} | (derived or {}),
    )
    return Path("results") / "h200" / record.run_id, record


def cells(text: str, label: str) -> list[str]:
    """The cells of a row of a table, by the row's label."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def heading(text: str) -> list[str]:
    """The column headings of the first table."""
    return [cell.strip() for cell in text.splitlines()[0].split("|")[2:-1]]
