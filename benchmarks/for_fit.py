"""What a fit needs besides times of calls: joules, launches, and what lies between the linears of hops.

On an H200 ``--for-fit`` takes about 5 minutes, of which 130 s are 19 energy windows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from pydantic import JsonValue

from benchmarks.energy_loads import idle_load
from benchmarks.energy_rows import Subject, energy_row, energy_samples
from benchmarks.hop_parts import KERNELS, HopSize, hop_sizes, measure_hop_parts, why_no_hops
from benchmarks.kernel_energy import EnergyPlan, measure_kernels
from benchmarks.machine import Target
from benchmarks.plan import SweepPlan
from benchmarks.variants import BASELINE
from profiler.energy import EnergyMeter, best_meter, interleaved_windows
from profiler.energy_fill import Windows
from profiler.gpu_watch import GpuWatch, throttling_sentence
from profiler.record import EnergyRow, GpuRunState, LoadEnergySample, RunRecord
from profiler.timing import percentile

# One window of 6 s is 60 ticks of an H200's counter, 1.7 %: the fit wants many loads more than many windows of one.
_WINDOW_S = 6.0
_DECODING = ("fused_", "unfused_")
_UNDECODED = ("null_nf4", "null_int8")
_COMPUTE_BOUND_M = 1024
_CHAIN_REPEATS = 40
_WARM_CHAINS = 5
# (launches, synchronisations): with few and with many of these per launch, or the two cannot be told apart.
_EAGER_CHAINS = ((64, 1), (128, 1), (256, 1), (512, 1), (64, 16), (64, 64))
_GRAPH_CHAINS = (16, 64, 256, 1024)
_HOP_REPEATS = 15


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
        repeats: timings of each chain.
    """

    sweep: SweepPlan
    energy: tuple[SweepPlan, ...]
    window_s: float | None
    lead_in_s: float
    eager: tuple[tuple[int, int], ...]
    graphs: tuple[int, ...]
    hops: tuple[HopSize, ...] = ()
    repeats: int = _CHAIN_REPEATS

    @property
    def steps(self) -> int:
        """Steps that progress counts: chains, hops by kernel, and energy windows, idling among them."""
        windows = 1 + sum(len(p.variants) * len(p.shapes) * len(p.ms) for p in self.energy)
        return windows + self.steps_before_energy

    @property
    def steps_before_energy(self) -> int:
        """Those of them that come first."""
        return len(self.eager) + len(self.graphs) + len(self.hops) * len(KERNELS)


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

    Static power comes from idling, joules per byte from m = 1, joules per operation from many rows, and joules per
    decoded weight from a kernel beside its null twin.

    Args:
        sweep: the sweep for the fit.
        target: the device; a CPU gets a small variant and no graphs.
    """
    named = {variant.name: variant for variant in sweep.variants}
    large = max(sweep.shapes, key=lambda shape: shape.n * shape.k)
    square = next(shape for shape in sweep.shapes if shape.n == shape.k and shape != large)
    decoding = tuple(v for name, v in named.items() if name.startswith(_DECODING))
    fused = tuple(v for v in decoding if v.name.startswith("fused_"))
    baseline = (named[BASELINE],)
    few = replace(sweep, shapes=(large,), ms=(1,))
    cells = (
        replace(few, variants=(*baseline, *(named[name] for name in _UNDECODED), *decoding)),
        replace(few, variants=(*baseline, *fused), ms=(64,)),
        replace(few, variants=baseline, ms=(_COMPUTE_BOUND_M,)),
        replace(few, variants=baseline, shapes=(square,)),
    )
    if target.is_cuda:
        return FitPlan(sweep, cells, _WINDOW_S, 0.5, _EAGER_CHAINS, _GRAPH_CHAINS, hop_sizes())
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
    try:
        _measure_launches(plan, target, found, on_progress)
        _measure_hop_parts(plan, target, found, on_progress)
        _measure_energy(plan, target, meter, found, on_progress)
    except KeyboardInterrupt:
        found.interrupted = True
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
    plan: FitPlan, target: Target, found: ForFit, on_progress: Callable[[float, str], object]
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
        on_progress(done + len(found.hop_parts), text)

    for row in measure_hop_parts(plan.hops, target, _HOP_REPEATS, on_size=told):
        found.hop_parts.append(row)  # one by one: an interruption keeps them


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
    meter: EnergyMeter | None,
    found: ForFit,
    on_progress: Callable[[float, str], object],
) -> None:
    meter = meter or best_meter(device="cuda" if target.is_cuda else "cpu")
    if meter.source in ("none", "hli"):
        found.warnings.append(
            f"no energy is measured here, so a fit identifies no joules: {meter.reason} (source {meter.source})"
        )
        return
    done = plan.steps_before_energy

    def told(label: str) -> None:
        nonlocal done
        done += 1
        on_progress(done, f"energy of {label}")

    watch = GpuWatch.open() if target.is_cuda else None
    try:
        # The context is alive and the card warm: the static power under work, not that of a cold start.
        idle = Subject("idle", "none")
        taken = Windows()
        interleaved_windows(
            meter,
            {"idle": idle_load()},
            taken,
            windows=1,
            seed=plan.sweep.seed,
            least_s=plan.window_s,
            lead_in_s=plan.lead_in_s,
            on_window=told,
        )
        found.energy.append(energy_row(idle, taken.taken["idle"]))
        found.samples += energy_samples(idle, taken.taken["idle"])
        for sweep in plan.energy:
            cell = EnergyPlan(sweep, windows=1, seconds=plan.window_s, lead_in_s=plan.lead_in_s)
            outcome = measure_kernels(cell, target, meter, on_window=told)
            found.energy += outcome.rows
            found.samples += outcome.samples
            found.warnings += [f"energy: {failure}" for failure in outcome.failures]
            if outcome.interrupted:
                found.interrupted = True
                return
    finally:
        found.gpu_states = [] if watch is None else watch.states()
