"""What native end-to-end runs may calibrate: the time between the linears, which micro-benchmarks of kernels lack.

Runs of low-bit kernels calibrate nothing: they are what predictions are checked with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit_input import machine_of
from analysis.fit_solver import Floats, linear_problem, solve
from analysis.kernel_kinds import BASELINE
from analysis.model_shape import HopEngine, ModelShape
from analysis.predict_check import other_context
from analysis.predict_hop import (
    Calibration,
    HopSetting,
    attention_time,
    hop_time_of,
    launches,
    linears_time,
)
from analysis.predict_machine import Machine
from profiler.record import RunRecord, VariantResult

_LEAST_FOR_BOTH = 4


@dataclass(frozen=True)
class NativeHop:
    """A measured hop of the baseline.

    Attributes:
        model: sizes.
        batch_size: B.
        hop_s: median time, s.
        relative_se: standard error over the time.
        run_id: the run.
    """

    model: ModelShape
    batch_size: int
    hop_s: float
    relative_se: float
    run_id: str


def native_hops(
    records: Sequence[RunRecord],
    models: Mapping[str, ModelShape],
    machine: Machine,
    engine: HopEngine,
    context: int,
) -> list[NativeHop]:
    """Take the baseline's hops from chain runs.

    Args:
        records: chain runs of the machine.
        models: sizes by key.
        machine: which is predicted.
        engine: whose runs count.
        context: cached tokens that are predicted for.

    Raises:
        ValueError: a run of another machine, kind or length of cache, or no hop of this engine and of a known model.
    """
    found = []
    for record in records:
        if record.kind != "chain":
            raise ValueError(f"--calibrate {record.run_id} is a record of kind {record.kind}, not of a chain")
        if machine_of(record) != machine.name:
            raise ValueError(
                f"--calibrate {record.run_id} ran on {machine_of(record)}, the prediction is for {machine.name}"
            )
        columns = other_context(record, context)
        if columns is not None:
            raise ValueError(
                f"--calibrate {record.run_id} read {columns} cached tokens per hop on average, the prediction is for "
                f"{context}"
            )
        model = models.get(str(record.arguments.get("model")))
        if model is None or record.arguments.get("engine") != engine.value:
            continue
        for row in record.results:
            if isinstance(row, VariantResult) and row.kernel == BASELINE and row.hop_ms_p50:
                low, high = row.hop_ms_p50_ci95 or (row.hop_ms_p50, row.hop_ms_p50)
                error = (high - low) / 3.92 / row.hop_ms_p50
                found.append(NativeHop(model, row.batch_size, row.hop_ms_p50 / 1e3, error, record.run_id))
    if not found:
        raise ValueError(
            f"{len(records)} runs hold 0 hops of {BASELINE} with engine={engine.value} and a model of the table"
        )
    return found


def calibrate(
    machine: Machine, hops: Sequence[NativeHop], engine: HopEngine, context: int, *, seed: int
) -> Calibration:
    """Calibrate the time between the linears.

    Graphs: the time of one kernel on the device and, where 4 or more hops at 2 or more batch sizes tell them apart, the
    share of the bandwidth that the traffic of rows reaches. Eager hops: the host's time per launch, from the smallest
    batch, where the device waits for the host.

    Args:
        machine: with its fits.
        hops: native hops.
        engine: how they were launched.
        context: cached tokens that each row read.
        seed: of the bootstrap.

    Raises:
        ValueError: no hops.
    """
    if not hops:
        raise ValueError("a calibration needs at least 1 native hop, got 0")
    if engine is HopEngine.EAGER:
        kernel_s, factor = _eager(machine, hops), np.ones(1)
    else:
        kernel_s, factor = _graph(machine, hops, engine, context, seed)
    runs = tuple(dict.fromkeys(hop.run_id for hop in hops))
    found = Calibration(engine, tuple(map(float, kernel_s)), tuple(map(float, factor)), runs, 0.0)
    if len(found.traffic_factor) < len(found.kernel_s):
        found = Calibration(
            engine, found.kernel_s, tuple(float(factor[0]) for _ in found.kernel_s), runs, 0.0
        )
    setting = HopSetting(engine, context, found)
    errors = [
        abs(float(hop_time_of(machine, hop.model, BASELINE, setting, 0).at(hop.batch_size)) / hop.hop_s - 1)
        for hop in hops
    ]
    return Calibration(engine, found.kernel_s, found.traffic_factor, runs, float(np.median(errors)))


def _eager(machine: Machine, hops: Sequence[NativeHop]) -> Floats:
    sync_s = 0.0 if machine.host is None else machine.host.named(0).get("sync_s", 0.0)
    smallest = min(hop.batch_size for hop in hops)
    each = [
        max(0.0, hop.hop_s - sync_s) / launches(hop.model, BASELINE, HopEngine.EAGER)
        for hop in hops
        if hop.batch_size == smallest
    ]
    return np.array([float(np.median(each)), *each])


def _graph(
    machine: Machine, hops: Sequence[NativeHop], engine: HopEngine, context: int, seed: int
) -> tuple[Floats, Floats]:
    graph_s = 0.0 if machine.host is None else machine.host.named(0).get("graph_s", 0.0)
    rest = np.array(
        [
            hop.hop_s
            - graph_s
            - float(linears_time(machine, hop.model, BASELINE, engine, 0).at(hop.batch_size))
            - attention_time(machine, hop.model, engine, 0)
            for hop in hops
        ]
    )
    others = np.array([float(hop.model.other_kernels(engine, hop.batch_size)) for hop in hops])
    traffic = np.array([hop.batch_size * hop.model.row_bytes(context) / machine.bytes_per_s for hop in hops])
    measured, errors = (np.array([getattr(hop, name) for hop in hops]) for name in ("hop_s", "relative_se"))
    if len(hops) >= _LEAST_FOR_BOTH and len({hop.batch_size for hop in hops}) > 1:
        columns = np.stack([others, traffic], axis=1)
        problem = linear_problem(("kernel_s", "traffic_factor"), columns, rest, errors, measured)
        solution = solve(problem, seed=seed)
        rows = np.vstack([solution.point[None], solution.draws])
        return rows[:, 0], rows[:, 1]
    each = np.maximum(0.0, rest - traffic) / others
    return np.array([float(np.median(each)), *each]), np.ones(1)
