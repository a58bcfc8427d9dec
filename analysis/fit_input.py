"""What a fit takes from run records: one machine, timed cells, casts, energy windows, launch chains, empty hops."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.fit_between import HopBetween
from analysis.fit_cast import CastCell
from analysis.fit_crossing import Layer
from analysis.fit_energy import IDLE, WAIT, EnergyWork, Product
from analysis.fit_host import EAGER, GRAPH, LaunchChain
from analysis.fit_linears import HopLinears
from analysis.fit_time import Cell
from analysis.kernel_kinds import BASELINE, GEMV, GEMV_ROWS, NATIVE_KERNELS, cached_bytes
from analysis.model_shape import merged_layers
from profiler.record import EnergyRow, RunRecord, SweepRow, iter_samples, list_runs, load_record

LEAST_TIMINGS = 5
# Of a median, from the range that holds 90 % of a normal distribution.
_LAYER_SIZES = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim")
_MEDIAN_SE = 1.2533 / 3.2897
_SAME_BANDWIDTH = 0.03
_DTYPE_BYTES = 2
_MEASURED = ("nvml_counter", "nvml_polled", "rapl")


@dataclass
class FitInput:
    """Everything that the runs hold, by kernel.

    Attributes:
        records: the runs, oldest first.
        cells: timed calls.
        casts: tau_cast of decoding kernels, and of kernels that quantize x.
        pass_bytes: bytes that a pass over one weight moves, whatever the batch.
        bits: width of a code.
        energy: units of work with their energy.
        launches: chains of empty launches.
        between: what lies between the linears of hops of the fused engine, by kernel.
        linears: the linears of these hops alone, in their order, by kernel.
        bandwidth_bytes_per_s: read bandwidth of each run that measured one.
        warnings: what was left out, and why.
    """

    records: list[RunRecord]
    cells: dict[str, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    casts: dict[str, list[CastCell]] = field(default_factory=lambda: defaultdict(list))
    pass_bytes: dict[str, float] = field(default_factory=dict)
    bits: dict[str, int] = field(default_factory=dict)
    energy: list[EnergyWork] = field(default_factory=list)
    launches: list[LaunchChain] = field(default_factory=list)
    between: dict[str, list[HopBetween]] = field(default_factory=lambda: defaultdict(list))
    linears: dict[str, list[HopLinears]] = field(default_factory=lambda: defaultdict(list))
    bandwidth_bytes_per_s: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def machine(self) -> str:
        """Name of the device."""
        return machine_of(self.records[0])


def machine_of(record: RunRecord) -> str:
    """Name the device of a run: the GPU it was measured on, or the CPU."""
    on_gpu = record.environment.gpus and record.arguments.get("device") != "cpu"
    return record.environment.gpus[0].name if on_gpu else record.environment.cpu_model


def cards_of(records: Iterable[RunRecord]) -> list[str]:
    """Return the UUIDs of the GPUs that runs ran on; empty on a CPU."""
    found = (
        r.environment.gpus[0].uuid
        for r in records
        if r.environment.gpus and r.arguments.get("device") != "cpu"
    )
    return sorted({uuid for uuid in found if uuid})


def read_runs(paths: Sequence[Path]) -> FitInput:
    """Read runs and take from them what a fit needs.

    Args:
        paths: runs, or folders of runs.

    Returns:
        The observations. End-to-end chains are held out: a prediction that was fitted on what it predicts is none.

    Raises:
        ValueError: no runs, runs of different machines, no usable row, or no baseline; one sentence each.
    """
    records = []
    for path in _runs_in(paths):
        for _ in iter_samples(path):  # the last sample read checks their count and digest
            pass
        records.append(load_record(path))
    return take(records)


def take(records: Sequence[RunRecord]) -> FitInput:
    """Take from records what a fit needs; see :func:`read_runs`."""
    if not records:
        raise ValueError("a fit needs at least 1 run, got 0")
    records = sorted(records, key=lambda record: record.created_utc)
    _check_one_machine(records)
    found = FitInput(list(records))
    for record in records:
        if record.kind == "chain":
            found.warnings.append(
                f"{record.run_id} is an end-to-end chain: it is held out, so that it can check predictions"
            )
        elif record.status == "failed":
            found.warnings.append(f"{record.run_id} failed: {record.error}")
        else:
            _take_rows(found, record)
            _take_derived(found, record)
    if not found.cells:
        raise ValueError(
            f"{len(records)} runs hold 0 timed sweep rows with {LEAST_TIMINGS} or more timings, so there is "
            "nothing to fit; measure some with `qt-profile sweep`"
        )
    if BASELINE not in found.cells:
        raise ValueError(
            f"no row of the baseline {BASELINE} among {', '.join(found.cells)}: nothing can be compared"
        )
    _take_energy(found)
    _compare_bandwidths(found)
    return found


def _runs_in(paths: Sequence[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir() and not (path / "run.json").is_file():
            inside = list_runs(path)
            if not inside:
                raise ValueError(f"{path} holds no runs")
            yield from inside
        else:
            yield path


def _check_one_machine(records: Sequence[RunRecord]) -> None:
    machines: dict[str, list[str]] = defaultdict(list)
    for record in records:
        machines[machine_of(record)].append(record.run_id)
    if len(machines) > 1:
        named = "; ".join(f"{machine}: {', '.join(runs)}" for machine, runs in machines.items())
        raise ValueError(f"runs of {len(machines)} machines cannot be fitted together ({named})")


def _take_rows(found: FitInput, record: RunRecord) -> None:
    few = 0
    for row in record.results:
        if not isinstance(row, SweepRow) or row.time_us_p50 is None or row.time_us_p50 <= 0:
            continue
        if row.kernel == GEMV and row.m > GEMV_ROWS:
            continue
        if row.timings < LEAST_TIMINGS or row.time_us_p05 is None or row.time_us_p95 is None:
            few += 1
            continue
        spread_us = row.time_us_p95 - row.time_us_p05
        relative_se = _MEDIAN_SE * spread_us / row.time_us_p50 / math.sqrt(row.timings)
        found.cells[row.kernel].append(Cell(row.m, row.n, row.k, row.time_us_p50 * 1e-6, relative_se))
        if row.bits is not None:
            found.bits[row.kernel] = row.bits
        if row.bytes_moved is not None:
            of_rows = _DTYPE_BYTES * row.m * (row.n + row.k)
            found.pass_bytes[row.kernel] = max(0, row.bytes_moved - of_rows) / (row.n * row.k)
    if few:
        found.warnings.append(
            f"{record.run_id}: {few} rows of fewer than {LEAST_TIMINGS} timings are left out"
        )


def _take_derived(found: FitInput, record: RunRecord) -> None:
    derived: dict[str, Any] = record.derived
    for tau in derived.get("tau", []):
        low, high = tau["tau_cast_us_ci95"]
        if tau["tau_comp_us_p50"] <= 0:
            continue
        found.casts[tau["kernel"]].append(
            CastCell(
                tau["m"],
                tau["n"],
                tau["k"],
                tau["tau_cast_us_p50"] * 1e-6,
                (high - low) / 3.92 * 1e-6,
                tau["tau_comp_us_p50"] * 1e-6,
            )
        )
    for chain in derived.get("launch_chains", []):
        engine = chain.get("engine", EAGER)
        # Chains of another engine's kernels say nothing of an empty one.
        if engine in (EAGER, GRAPH):
            time = _median(chain)
            found.launches.append(LaunchChain(chain["launches"], chain["syncs"], *time, engine))
    for hop in derived.get("hop_parts", []):
        time = _median(hop)
        found.between[hop["kernel"]].append(
            HopBetween(
                hop["layers"], hop["batch_size"], hop["row_bytes"], hop["hidden"], hop["intermediate"], *time
            )
        )
        found.linears[hop["kernel"]].append(
            HopLinears(
                hop["batch_size"],
                hop["hidden"],
                hop["intermediate"],
                merged_layers(*(hop[name] for name in _LAYER_SIZES)),
                Layer(hop["vocabulary"], hop["hidden"]),
                hop["linears_us_p50"] * 1e-6,
            )
        )
    bandwidth = derived.get("read_bandwidth")
    if bandwidth:
        found.bandwidth_bytes_per_s.append(bandwidth["read_gb_s_p50"] * 1e9)


def _median(row: Mapping[str, Any]) -> tuple[float, float]:
    """Median time, s, and its standard error over it, of a row with quantiles in us."""
    p50: float = row["time_us_p50"]
    spread_us: float = row["time_us_p95"] - row["time_us_p05"]
    return p50 * 1e-6, _MEDIAN_SE * spread_us / p50 / math.sqrt(row["timings"])


def _take_energy(found: FitInput) -> None:
    for record in found.records:
        for row in energy_rows(record):
            if row.energy_j is None or not row.duration_s:
                continue
            if row.energy_source not in _MEASURED:
                found.warnings.append(
                    f"{record.run_id}: energy of {row.load} by {row.energy_source} repeats time and is left out"
                )
            elif row.load in (IDLE, WAIT):
                watt = row.energy_j / row.duration_s
                se, wait_s = _energy_se(row, watt), float(row.load == WAIT)
                found.energy.append(EnergyWork(row.load, watt, se, time_s=1.0, wait_s=wait_s))
            elif row.m is not None and row.n is not None and row.k is not None and row.units:
                _take_call(found, record, row, row.m, row.n, row.k)
        derived: dict[str, Any] = record.derived
        for hop in derived.get("hop_energy", []) if record.status != "failed" else []:
            _take_hop(found, hop)


def energy_rows(record: RunRecord) -> list[EnergyRow]:
    """Rows of an energy run, or those that a sweep for a fit keeps among its derived figures."""
    derived: Any = record.derived.get("energy", [])
    own = [row for row in record.results if isinstance(row, EnergyRow)]
    return [*own, *(EnergyRow.model_validate(row) for row in derived if record.status != "failed")]


def cache_of(record: RunRecord) -> float | None:
    """Return the size of the last-level cache that a sweep found, bytes; None where it does not say."""
    size = record.derived.get("cache_bytes")
    return float(size) if isinstance(size, int | float) and record.environment.gpus else None


def _take_call(found: FitInput, record: RunRecord, row: EnergyRow, m: int, n: int, k: int) -> None:
    energy_j, weights, edge = (row.energy_j or 0.0) / row.units, n * k, n + k
    cached = cached_bytes(row.load, n, k, cache_of(record))
    pass_bytes = found.pass_bytes.get(row.load)
    if pass_bytes is None:
        found.warnings.append(f"energy of {row.load} is left out: no sweep row says what bytes it moves")
        return
    found.energy.append(
        EnergyWork(
            row.load,
            energy_j,
            _energy_se(row, energy_j),
            time_s=row.duration_s / row.units,
            bytes_moved=pass_bytes * weights - cached + _DTYPE_BYTES * m * edge,
            cached_bytes=cached,
            flops=2.0 * m * weights,
            products=(Product(row.load, found.bits.get(row.load), weights, m),),
            wait_s=(row.wait_s or 0.0) / row.units,
        )
    )


def _take_hop(found: FitInput, hop: Mapping[str, Any]) -> None:
    """Take the energy of a hop of the fused engine, whose output layer is native."""
    kernel, batch, head = hop["kernel"], hop["batch_size"], hop["head_weights"]
    row = EnergyRow.model_validate(hop["energy"])
    pass_bytes = found.pass_bytes.get(kernel)
    if row.energy_j is None or not row.units or row.energy_source not in _MEASURED or pass_bytes is None:
        found.warnings.append(f"energy of a hop of {kernel} at B = {batch} is left out: {_why_no_hop(row)}")
        return
    native = GEMV if batch <= GEMV_ROWS else BASELINE
    energy_j = row.energy_j / row.units
    of_row = _DTYPE_BYTES * hop["edge_elements"] + hop["row_bytes"]
    found.energy.append(
        EnergyWork(
            kernel,
            energy_j,
            _energy_se(row, energy_j),
            time_s=row.duration_s / row.units,
            bytes_moved=pass_bytes * hop["linear_weights"] + _DTYPE_BYTES * head + batch * of_row,
            flops=2.0 * batch * (hop["linear_weights"] + head),
            products=(
                Product(
                    native if kernel in NATIVE_KERNELS else kernel,
                    found.bits.get(kernel),
                    hop["linear_weights"],
                    batch,
                ),
                Product(native, None, head, batch),
            ),
            wait_s=(row.wait_s or 0.0) / row.units,
            between_s=hop["between_us_p50"] * 1e-6,
        )
    )


def _why_no_hop(row: EnergyRow) -> str:
    if row.energy_j is None or row.energy_source not in _MEASURED:
        return f"it was not measured by a counter (source {row.energy_source})"
    return "no sweep row says what bytes the kernel moves" if row.units else "its window holds 0 hops"


def _energy_se(row: EnergyRow, energy_j: float) -> float:
    interval = row.energy_j_per_unit_ci95
    if interval is not None and energy_j > 0:
        return (interval[1] - interval[0]) / 3.92 / energy_j
    return (row.energy_error_j or 0.0) / row.energy_j if row.energy_j else 0.0


def _compare_bandwidths(found: FitInput) -> None:
    read = found.bandwidth_bytes_per_s
    if read and max(read) > (1 + _SAME_BANDWIDTH) * min(read):
        found.warnings.append(
            f"the runs read {min(read) / 1e9:,.0f} to {max(read) / 1e9:,.0f} GB/s: one of them was disturbed"
        )
    for name in ("torch", "triton"):
        versions = {r.environment.versions.get(name) for r in found.records}
        if len(versions) > 1:
            found.warnings.append(
                f"the runs have {len(versions)} versions of {name}: {sorted(map(str, versions))}"
            )
