"""Which loads a sweep for a fit measures beyond the times of calls.

On an H200 ``--for-fit`` takes about 5 minutes, of which 145 s are 26 energy windows. A GPU waits between the calls of a
window, or its power cap would slow calls that a hop with its pauses runs at full clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.fit_energy import IDLE, WAIT
from analysis.kernel_kinds import GEMV, cached_bytes
from benchmarks.hop_size import KERNELS, HopSize, hop_sizes
from benchmarks.machine import Target
from benchmarks.plan import SweepPlan
from benchmarks.variants import BASELINE

# One window of 5 s is 50 ticks of an H200's counter, 2 %: the fit wants many loads more than many windows of one.
_WINDOW_S = 5.0
# Calls that would draw 1,000 W alone stay below a cap of 700 W.
_WAIT_SHARE = 0.6
_DECODING = ("fused_", "unfused_")
_UNDECODED = ("null_nf4", "null_int8")
# One of each width: what a product of ours takes per row is that of its width.
_MANY_ROWS = ("fused_nf4", "fused_int8")
_COMPUTE_BOUND_M = 1024
# Energy windows of a larger matrix tell no more, and those of records before have this one.
_MOST_WEIGHTS = 28672 * 4096
# Writes the decoded weight, which stays in the cache at the largest shape that fits into it.
_COPYING = "unfused_nf4"
_CHAIN_REPEATS = 40
# (launches, synchronisations): with few and with many of these per launch, or the two cannot be told apart.
_EAGER_CHAINS = ((64, 1), (128, 1), (256, 1), (512, 1), (64, 16), (64, 64))
_GRAPH_CHAINS = (16, 64, 256, 1024)
# Batch sizes of hops whose energy is measured, at the most layers. What a product of ours takes per row is read off
# hops, because per weight it is more in a deep matrix than in a wide one; a CPU has no hops, there it is one product.
_HOP_WINDOWS = {"bf16": (1, 32), "fused_nf4": (32, 128), "fused_int8": (32, 128)}


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
        is_longest = size.layers == max(hop.layers for hop in self.hops)
        is_wanted = is_longest and size.batch_size in _HOP_WINDOWS.get(kernel, ())
        return is_wanted and (kernel == BASELINE or size.hidden == max(hop.hidden for hop in self.hops))

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


def fit_plan(sweep: SweepPlan, target: Target) -> FitPlan:
    """Choose the loads that tell the parameters apart.

    Static power comes from idling, joules per byte from m = 1, joules per operation from many rows, joules per decoded
    weight from a kernel beside its null twin, and what runs between linears from hops.

    Args:
        sweep: the sweep for the fit.
        target: the device; a CPU gets a small variant and no graphs.
    """
    named = {variant.name: variant for variant in sweep.variants}
    windowed = [shape for shape in sweep.shapes if shape.n * shape.k <= _MOST_WEIGHTS]
    large = max(windowed, key=lambda shape: shape.n * shape.k)
    square = next(shape for shape in sweep.shapes if shape.n == shape.k and shape != large)
    decoding = tuple(v for name, v in named.items() if name.startswith(_DECODING))
    baseline = (named[BASELINE],)
    fused = tuple(named[name] for name in _MANY_ROWS)
    few = replace(sweep, shapes=(large,), ms=(1,))
    own = tuple(named[name] for name in (*_UNDECODED, GEMV) if name in named)
    cells: tuple[SweepPlan, ...] = (
        replace(few, variants=(*baseline, *own, *decoding)),
        replace(few, variants=baseline if target.is_cuda else (*baseline, *fused), ms=(64,)),
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
