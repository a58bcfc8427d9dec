"""What a fit needs besides times of calls: joules, launches, and what lies between the linears of hops.

What is measured is the plan's business, see ``benchmarks.fit_plan``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pydantic import JsonValue

from analysis.fit_energy import IDLE
from benchmarks.energy_loads import idle_load, wait_load
from benchmarks.energy_rows import Subject, energy_row, energy_samples
from benchmarks.fit_plan import FitPlan
from benchmarks.hop_parts import HopParts, measure_hop_parts, why_no_hops
from benchmarks.hop_size import HopSize, sizes_of
from benchmarks.kernel_energy import EnergyPlan, measure_kernels
from benchmarks.machine import Target
from profiler.energy import EnergyMeter, best_meter, fill_window
from profiler.gpu_watch import GpuWatch, throttling_sentence
from profiler.record import EnergyRow, GpuRunState, LoadEnergySample, RunRecord
from profiler.timing import percentile

_WARM_CHAINS = 5
_HOP_REPEATS = 12


@dataclass
class ForFit:
    """What was measured beyond the times of calls."""

    energy: list[EnergyRow] = field(default_factory=list)
    """A row per load."""
    samples: list[LoadEnergySample] = field(default_factory=list)
    """A sample per energy window."""
    launch_chains: list[dict[str, JsonValue]] = field(default_factory=list)
    """Time of each chain of launches."""
    hop_parts: list[dict[str, JsonValue]] = field(default_factory=list)
    """Time of each hop, of its linears, and between them."""
    hop_energy: list[dict[str, JsonValue]] = field(default_factory=list)
    """Energy of some of these hops."""
    gpu_states: list[GpuRunState] = field(default_factory=list)
    """GPUs before and after."""
    warnings: list[str] = field(default_factory=list)
    """What is missing, and why."""
    interrupted: bool = False
    """Whether Ctrl-C ended it."""

    def added_to(self, record: RunRecord) -> RunRecord:
        """Return the record with these figures among its derived ones."""
        if not (self.energy or self.launch_chains or self.warnings):
            return record
        derived: dict[str, JsonValue] = {
            "energy": [row.model_dump(mode="json") for row in self.energy],
            "launch_chains": list(self.launch_chains),
            "hop_parts": list(self.hop_parts),
            "hop_energy": list(self.hop_energy),
        }
        throttled = throttling_sentence(self.gpu_states)
        added = [*self.warnings, *([] if throttled is None else [throttled])]
        return record.model_copy(
            update={
                "derived": record.derived | derived,
                "gpu_states": self.gpu_states,
                "warnings": [*record.warnings, *added],
            }
        )


def measure_for_fit(
    plan: FitPlan,
    target: Target,
    *,
    meter: EnergyMeter | None = None,
    on_progress: Callable[[float, str], object] = lambda done, text: None,
) -> ForFit:
    """Measure what a plan asks for; after Ctrl-C, what was measured until then is returned.

    Args:
        plan: what to measure.
        target: where.
        meter: measures energy; None for the best one here. One that estimates is not used.
        on_progress: told the finished steps and what is being done.
    """
    found = ForFit()
    meter = meter or best_meter(device="cuda" if target.is_cuda else "cpu")
    is_measured = meter.source not in ("none", "hli")
    if not is_measured:
        found.warnings.append(
            f"no energy is measured here, so a fit identifies no joules: {meter.reason} (source {meter.source})"
        )
    watch = GpuWatch.open() if target.is_cuda else None
    try:
        _measure_launches(plan, target, found, on_progress)
        _measure_hop_parts(plan, target, meter if is_measured else None, found, on_progress)
        if is_measured:
            _measure_energy(plan, target, meter, found, on_progress)
    except KeyboardInterrupt:
        found.interrupted = True
    finally:
        found.gpu_states = [] if watch is None else watch.states()
    return found


def _measure_launches(
    plan: FitPlan, target: Target, found: ForFit, on_progress: Callable[[float, str], object]
) -> None:
    word = torch.zeros(1, device=target.device)
    wait = torch.cuda.synchronize if target.is_cuda else _nothing
    for number, (launches, syncs) in enumerate(plan.eager):
        on_progress(number, f"{launches} launches, {syncs} synchronisations")

        def chain(launches: int = launches, syncs: int = syncs) -> None:
            every = launches // syncs if syncs else launches
            for _ in range(launches // every):
                for _ in range(every):
                    word.add_(1)
                wait()

        found.launch_chains.append(_timed("eager", launches, syncs, chain, plan.repeats))
    for number, launches in enumerate(plan.graphs, len(plan.eager)):
        on_progress(number, f"a graph of {launches} launches")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(launches):
                word.add_(1)

        def replay(graph: torch.cuda.CUDAGraph = graph) -> None:
            graph.replay()
            wait()

        entry = _timed("graph", launches, 1, replay, plan.repeats)
        entry["device_us_p50"] = _device_us_p50(graph, plan.repeats)
        found.launch_chains.append(entry)


def _measure_hop_parts(
    plan: FitPlan,
    target: Target,
    meter: EnergyMeter | None,
    found: ForFit,
    on_progress: Callable[[float, str], object],
) -> None:
    if not plan.hops:
        return
    why_not = why_no_hops(target.device)
    if why_not:
        found.warnings.append(
            f"no hops of the fused engine are timed, so its time between linears is not identified: {why_not}"
        )
        return
    done = len(plan.eager) + len(plan.graphs)

    def told(size: HopSize, kernel: str) -> None:
        text = f"{size.layers} layers of {kernel}, B = {size.batch_size}"
        on_progress(done + len(found.hop_parts) + len(found.hop_energy), text)

    def measure_energy(size: HopSize, parts: HopParts, row: dict[str, JsonValue]) -> None:
        if meter is not None and plan.has_window(size, str(row["kernel"])):
            _measure_hop_energy(plan, meter, size, parts, row, found)

    for row in measure_hop_parts(plan.hops, target, _HOP_REPEATS, on_size=told, then=measure_energy):
        found.hop_parts.append(row)  # one by one: an interruption keeps them


def _measure_hop_energy(
    plan: FitPlan,
    meter: EnergyMeter,
    size: HopSize,
    parts: HopParts,
    row: dict[str, JsonValue],
    found: ForFit,
) -> None:
    hop_us = row["hop_us_p50"]
    assert isinstance(hop_us, float)
    load, wait_s = parts.load(hop_us * 1e-6, plan.wait_share)
    window = fill_window(meter, load, least_s=plan.window_s, lead_in_s=plan.lead_in_s)
    engine = f"{size.layers} layers of engine {row['engine']}"
    subject = Subject(str(row["kernel"]), "hop", engine, wait_s=wait_s)
    shape = size.shape
    found.hop_energy.append(
        {
            "kernel": row["kernel"],
            **sizes_of(size),
            "linear_weights": shape.linear_weights,
            "head_weights": shape.head.n * shape.head.k,
            "edge_elements": sum(layer.count * (layer.n + layer.k) for layer in (*shape.merged, shape.head)),
            "between_us_p50": row["time_us_p50"],
            "energy": energy_row(subject, [window]).model_dump(mode="json"),
        }
    )
    found.samples += energy_samples(subject, [window])


def _nothing() -> None:
    """Wait for nothing: on a CPU work is finished when the call returns."""


def _timed(
    engine: str, launches: int, syncs: int, chain: Callable[[], None], repeats: int
) -> dict[str, JsonValue]:
    """Time a chain on the host's clock, from the first launch to the last wait."""
    for _ in range(_WARM_CHAINS):
        chain()
    taken_us = []
    for _ in range(repeats):
        start_ns = time.perf_counter_ns()
        chain()
        taken_us.append((time.perf_counter_ns() - start_ns) / 1e3)
    return {
        "engine": engine,
        "launches": launches,
        "syncs": syncs,
        "time_us_p50": percentile(taken_us, 50),
        "time_us_p05": percentile(taken_us, 5),
        "time_us_p95": percentile(taken_us, 95),
        "timings": repeats,
    }


def _device_us_p50(graph: torch.cuda.CUDAGraph, repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    taken_us = []
    for _ in range(repeats):
        graph.replay()  # the timed replay is queued while the device is busy
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken_us.append(1e3 * float(start.elapsed_time(end)))
    return percentile(taken_us, 50)


def _measure_energy(
    plan: FitPlan,
    target: Target,
    meter: EnergyMeter,
    found: ForFit,
    on_progress: Callable[[float, str], object],
) -> None:
    done = plan.steps_before_energy

    def told(label: str) -> None:
        nonlocal done
        done += 1
        on_progress(done, f"energy of {label}")

    # The context is alive and the card warm: the static power under work, not that of a cold start.
    for name in plan.resting:
        subject, load = Subject(name, "none"), idle_load() if name == IDLE else wait_load()
        window = fill_window(meter, load, least_s=plan.window_s, lead_in_s=plan.lead_in_s)
        told(name)
        found.energy.append(energy_row(subject, [window]))
        found.samples += energy_samples(subject, [window])
    for sweep in plan.energy:
        cell = EnergyPlan(
            sweep,
            windows=1,
            seconds=plan.window_s,
            lead_in_s=plan.lead_in_s,
            wait_share=plan.wait_share,
        )
        outcome = measure_kernels(cell, target, meter, on_window=told)
        found.energy += outcome.rows
        found.samples += outcome.samples
        found.warnings += [f"energy: {failure}" for failure in outcome.failures]
        if outcome.interrupted:
            found.interrupted = True
            return
