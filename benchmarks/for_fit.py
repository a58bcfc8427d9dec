"""What a fit needs besides times of calls: joules, launches, and what lies between the linears of hops.

On an H200 ``--for-fit`` takes about 5 minutes, of which 135 s are 24 energy windows. A GPU waits between the calls of a
window, or its power cap would slow calls that a hop with its pauses runs at full clocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from pydantic import JsonValue

from analysis.fit_energy import IDLE, WAIT
from analysis.kernel_kinds import cached_bytes
from benchmarks.energy_loads import idle_load, wait_load
from benchmarks.energy_rows import Subject, energy_row, energy_samples
from benchmarks.hop_parts import (
    KERNELS,
    HopParts,
    HopSize,
    hop_sizes,
    measure_hop_parts,
    sizes_of,
    why_no_hops,
)
from benchmarks.kernel_energy import EnergyPlan, measure_kernels
from benchmarks.machine import Target
from benchmarks.plan import SweepPlan
from benchmarks.variants import BASELINE
from profiler.energy import EnergyMeter, best_meter, fill_window
from profiler.gpu_watch import GpuWatch, throttling_sentence
from profiler.record import EnergyRow, GpuRunState, LoadEnergySample, RunRecord
from profiler.timing import percentile

# One window of 5 s is 50 ticks of an H200's counter, 2 %: the fit wants many loads more than many windows of one.
_WINDOW_S = 5.0
# Calls that would draw 1,000 W alone stay below a cap of 700 W.
_WAIT_SHARE = 0.6
_DECODING = ("fused_", "unfused_")
_UNDECODED = ("null_nf4", "null_int8")
# One of each width: what a product of ours takes per row is that of its width.
_MANY_ROWS = ("fused_nf4", "fused_int8")
_COMPUTE_BOUND_M = 1024
# Writes the decoded weight, which stays in the cache at the largest shape that fits into it.
_COPYING = "unfused_nf4"
_CHAIN_REPEATS = 40
_WARM_CHAINS = 5
# (launches, synchronisations): with few and with many of these per launch, or the two cannot be told apart.
_EAGER_CHAINS = ((64, 1), (128, 1), (256, 1), (512, 1), (64, 16), (64, 64))
_GRAPH_CHAINS = (16, 64, 256, 1024)
_HOP_REPEATS = 12
# Kernels and batch sizes of hops whose energy is measured, at the most layers.
_HOP_WINDOWS = (("bf16", 1), ("bf16", 32))
_GEMV = "gemv_bf16"


@dataclass(frozen=True)
class FitPlan:
    """What is measured beyond the times of calls.

    Attributes:
        sweep: the sweep that it belongs to.
        energy: kernels at shapes and m, each a small sweep, whose energy is measured.
        window_s: length of each energy window, s; None for what the meter needs.
        lead_in_s: time of a load ahead of its window, s.
        eager: launches and synchronisations of chains launched one by one.
        graphs: launches of chains replayed from a CUDA graph; empty on a CPU.
        hops: sizes of hops of the fused engine that are timed beside their linears; empty on a CPU.
        wait_share: time that a GPU waits after calls in a window, over the time of the calls.
        repeats: timings of each chain.
    """

    sweep: SweepPlan
    energy: tuple[SweepPlan, ...]
    window_s: float | None
    lead_in_s: float
    eager: tuple[tuple[int, int], ...]
    graphs: tuple[int, ...]
    hops: tuple[HopSize, ...] = ()
    wait_share: float = 0.0
    repeats: int = _CHAIN_REPEATS

    @property
    def resting(self) -> tuple[str, ...]:
        """Loads that do no work: ``idle``, and ``wait`` where calls wait."""
        return (IDLE, WAIT) if self.wait_share else (IDLE,)

    @property
    def hop_windows(self) -> int:
        """Energy windows of hops."""
        return sum(self.has_window(size, kernel) for size in self.hops for kernel in KERNELS)

    def has_window(self, size: HopSize, kernel: str) -> bool:
        """Whether the energy of a hop is measured."""
        most = max(hop.layers for hop in self.hops)
        return size.layers == most and (kernel, size.batch_size) in _HOP_WINDOWS

    @property
    def windows(self) -> int:
        """Energy windows of hops, calls and what does no work."""
        calls = sum(len(p.variants) * len(p.shapes) * len(p.ms) for p in self.energy)
        return len(self.resting) + calls + self.hop_windows

    @property
    def steps(self) -> int:
        """Steps that progress counts: chains, hops by kernel, and energy windows."""
        return self.steps_before_energy + self.windows - self.hop_windows

    @property
    def steps_before_energy(self) -> int:
        """Those ahead of the windows of calls."""
        return len(self.eager) + len(self.graphs) + len(self.hops) * len(KERNELS) + self.hop_windows


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


def fit_plan(sweep: SweepPlan, target: Target) -> FitPlan:
    """Choose the loads that tell the parameters apart.

    Static power comes from idling, joules per byte from m = 1, joules per operation from many rows, joules per decoded
    weight from a kernel beside its null twin, and what runs between linears from hops.

    Args:
        sweep: the sweep for the fit.
        target: the device; a CPU gets a small variant and no graphs.
    """
    named = {variant.name: variant for variant in sweep.variants}
    large = max(sweep.shapes, key=lambda shape: shape.n * shape.k)
    square = next(shape for shape in sweep.shapes if shape.n == shape.k and shape != large)
    decoding = tuple(v for name, v in named.items() if name.startswith(_DECODING))
    fused = tuple(named[name] for name in _MANY_ROWS)
    baseline = (named[BASELINE],)
    few = replace(sweep, shapes=(large,), ms=(1,))
    own = tuple(named[name] for name in (*_UNDECODED, _GEMV) if name in named)
    cells: tuple[SweepPlan, ...] = (
        replace(few, variants=(*baseline, *own, *decoding)),
        replace(few, variants=(*baseline, *fused), ms=(64,)),
        replace(few, variants=baseline, ms=(_COMPUTE_BOUND_M,)),
        replace(few, variants=baseline, shapes=(square,)),
    )
    if target.is_cuda:
        cached = [
            shape for shape in sweep.shapes if cached_bytes(_COPYING, shape.n, shape.k, target.cache_bytes)
        ]
        if cached:
            largest = max(cached, key=lambda shape: shape.n * shape.k)
            cells = (*cells, replace(few, variants=(named[_COPYING],), shapes=(largest,)))
        return FitPlan(
            sweep, cells, _WINDOW_S, 0.5, _EAGER_CHAINS, _GRAPH_CHAINS, hop_sizes(), wait_share=_WAIT_SHARE
        )
    return FitPlan(sweep, cells, None, 0.0, _EAGER_CHAINS, ())


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
