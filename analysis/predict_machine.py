"""The machine that a prediction is for: fitted parameters, or those of another GPU carried over by the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.call_time import NO_DEVIATIONS, Deviations
from analysis.checks import above_zero
from analysis.fit_energy import ACTIVE, BETWEEN
from analysis.fit_file import FitsFile, Fitted
from analysis.fit_solver import Floats
from analysis.fit_time import TIME_PARAMETERS
from analysis.kernel_kinds import BASELINE

LEAST_DRAWS = 20


@dataclass(frozen=True)
class GpuFigures:
    """What the hardware table says of a GPU.

    Attributes:
        key: its key.
        name: its name.
        memory_bytes: device memory.
        bytes_per_s: memory bandwidth.
        tdp_w: W.
        cache_bytes: last-level cache; None where the table does not say.
        flops_per_s: dense peak by what is multiplied: ``bf16``, ``fp8``, ``int8``; None where the chip has none.
    """

    key: str
    name: str
    memory_bytes: float
    bytes_per_s: float
    tdp_w: float
    flops_per_s: Mapping[str, float | None]
    cache_bytes: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no GPU."""
        above_zero(memory_bytes=self.memory_bytes, bytes_per_s=self.bytes_per_s, tdp_w=self.tdp_w)


@dataclass(frozen=True)
class Draws:
    """Parameters that were fitted together.

    Attributes:
        names: of the parameters.
        rows: [1 + d, p]: the estimates, then the draws.
    """

    names: tuple[str, ...]
    rows: Floats

    @classmethod
    def of(cls, fit: Fitted) -> Draws:
        """Take over a stored fit."""
        return cls(tuple(fit.parameters), np.vstack([fit.point()[None], fit.all_draws()]))

    def named(self, row: int) -> dict[str, float]:
        """Return the parameters of a row by name."""
        return dict(zip(self.names, map(float, self.rows[row]), strict=True))

    def scaled(self, factors: Mapping[str, float]) -> Draws:
        """Return every row with some parameters multiplied."""
        return replace(self, rows=self.rows * np.array([factors.get(name, 1.0) for name in self.names]))


@dataclass(frozen=True)
class KernelCost:
    """A kernel on this machine.

    Attributes:
        time: parameters of ``analysis.fit_time``.
        pass_bytes_per_weight: bytes that a pass over one weight moves; None where no run says.
        bits: width of a code; None where no run says.
        deviations: of measured calls from ``time``; none on a machine that was not measured.
    """

    time: Draws
    pass_bytes_per_weight: float | None
    bits: int | None
    deviations: Deviations = NO_DEVIATIONS


@dataclass(frozen=True)
class BetweenCost:
    """What lies between the linears of the fused engine's hops with a kernel, on this machine.

    Attributes:
        time: parameters of ``analysis.fit_between``.
        deviations: of measured hops from ``time``; none on a machine that was not measured.
    """

    time: Draws
    deviations: Deviations = NO_DEVIATIONS


@dataclass(frozen=True)
class Machine:
    """Everything that a prediction rests on.

    Attributes:
        name: the device.
        arch: its key of the hardware table; None where it has none.
        memory_bytes: device memory; None where it is not known.
        tdp_w: rated power, which is the power cap of a GPU as it is delivered, W; None where it is not known.
        cache_bytes: last-level cache; None where it is not known.
        bytes_per_s: read bandwidth, measured or carried over.
        kernels: by name.
        host: parameters of ``analysis.fit_host``; None where no launches were timed.
        energy: parameters of ``analysis.fit_energy``; None where no counter was read.
        source: which of the two ways this is, in a sentence.
        is_transferred: whether the parameters come from another GPU.
        fitted_on: machine of the fits, and the moment they were made.
        runs: runs behind the fits.
        cards: GPUs that they ran on, by UUID.
        warnings: what a reader must know.
        left_out: kernels that were fitted and that this machine cannot run, with the reason.
        between: what lies between the linears of the fused engine's hops, by kernel.
        linears: what its linears in their order differ from the sum of their calls, by kernel.
    """

    name: str
    arch: str | None
    memory_bytes: float | None
    bytes_per_s: float
    kernels: Mapping[str, KernelCost]
    host: Draws | None
    energy: Draws | None
    source: str
    is_transferred: bool
    fitted_on: str
    runs: tuple[str, ...]
    cards: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tdp_w: float | None = None
    cache_bytes: float | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    between: Mapping[str, BetweenCost] = field(default_factory=dict)
    linears: Mapping[str, Deviations] = field(default_factory=dict)

    @property
    def draws(self) -> int:
        """Draws that every fit has."""
        fits = [kernel.time for kernel in self.kernels.values()]
        fits += [between.time for between in self.between.values()]
        fits += [fit for fit in (self.host, self.energy) if fit is not None]
        return min(len(fit.rows) - 1 for fit in fits)

    def between_of(self, kernel: str) -> BetweenCost | None:
        """Return what lies between the linears of the fused engine's hops with a kernel.

        A kernel that was not measured takes that of the first of its scheme (``fused_``, ``unfused_``, ``native_``), or
        else the baseline's; None where nothing was measured.
        """
        return self.between.get(_of_scheme(kernel, self.between))

    def linears_of(self, kernel: str) -> Deviations:
        """Return what a kernel's linears in the fused engine's order differ from the sum of their calls, as above."""
        return self.linears.get(_of_scheme(kernel, self.linears), NO_DEVIATIONS)

    def kernel(self, name: str) -> KernelCost:
        """Return a kernel's costs.

        Raises:
            ValueError: the fits lack it, or the machine cannot run it.
        """
        found = self.kernels.get(name)
        if name in self.left_out:
            raise ValueError(f"{name} cannot be predicted: {self.left_out[name]}")
        if found is None:
            raise ValueError(
                f"the fits of {self.fitted_on} lack {name}; they have {', '.join(self.kernels)}: measure it with "
                "`qt-profile sweep --for-fit`"
            )
        return found

    def node_s(self, row: int) -> float:
        """Return the time of a kernel that does nothing, s: inside a graph, on a CPU a call.

        Where no launch chain was timed, the shortest call of the baseline bounds it from above.

        Args:
            row: 0 for the estimates, 1 and above for a draw.
        """
        host = {} if self.host is None else self.host.named(row)
        for name in ("node_s", "launch_s"):
            if name in host:
                return host[name]
        return self.kernel(BASELINE).time.named(row)["launch_s"]


def from_fits(fits: FitsFile, gpu: GpuFigures | None) -> Machine:
    """Predict for the machine that the fits were made on.

    Args:
        fits: its fits.
        gpu: its row of the hardware table; None for a CPU.

    Raises:
        ValueError: too few draws for intervals, or no bandwidth.
    """
    when = f"{fits.created_utc:%Y-%m-%d %H:%M} UTC"
    sentence = f"from stored fits of {fits.machine} ({when}, {len(fits.runs)} runs)"
    return _machine(fits, gpu, fits.machine, sentence, is_transferred=False)


def transferred(fits: FitsFile, origin: GpuFigures, target: GpuFigures) -> Machine:
    """Carry the fitted efficiencies of one GPU over to another.

    What memory bounds scales with the bandwidth of the two rows, arithmetic with their peaks, static power with their
    TDP; launches, latencies, the parameters of what lies between linears, and joules per byte and operation are kept.
    No interval holds the error of doing so.

    Args:
        fits: of the GPU that was measured.
        origin: its row of the hardware table.
        target: the row of the GPU that is predicted.

    Returns:
        The machine, without the kernels that the target's chip cannot run.

    Raises:
        ValueError: too few draws for intervals, or no bandwidth.
    """
    sentence = (
        f"from the hardware table: {target.name} was not measured; the efficiencies fitted on {fits.machine} "
        f"({fits.created_utc:%Y-%m-%d %H:%M} UTC) are applied to its bandwidth, peaks and TDP, and the intervals do "
        "not hold the error of that"
    )
    here = _machine(fits, target, target.name, sentence, is_transferred=True)
    memory = origin.bytes_per_s / target.bytes_per_s
    kernels, missing = {}, {}
    for name, cost in here.kernels.items():
        peak = name.removeprefix("native_") if name.startswith("native_") else BASELINE
        own, other = origin.flops_per_s.get(peak), target.flops_per_s.get(peak)
        if own is None or other is None:
            missing[name] = f"{target.name} has no arithmetic for it"
            continue
        factors = {"pass_s_per_weight": memory, "edge_s_per_element": memory, "row_s_per_weight": own / other}
        kernels[name] = replace(cost, time=cost.time.scaled(factors), deviations=NO_DEVIATIONS)
    energy = here.energy
    return replace(
        here,
        bytes_per_s=here.bytes_per_s / memory,
        cache_bytes=target.cache_bytes,
        kernels=kernels,
        between={name: BetweenCost(cost.time) for name, cost in here.between.items()},
        linears={},
        energy=None
        if energy is None
        else energy.scaled(dict.fromkeys(("static_w", ACTIVE, BETWEEN), target.tdp_w / origin.tdp_w)),
        left_out=missing,
    )


def _machine(
    fits: FitsFile, gpu: GpuFigures | None, name: str, sentence: str, *, is_transferred: bool
) -> Machine:
    if BASELINE not in fits.kernels:
        raise ValueError(f"the fits of {fits.machine} lack the baseline {BASELINE}")
    if fits.read_bytes_per_s is None:
        raise ValueError(f"the fits of {fits.machine} hold no read bandwidth, so no traffic has a time")
    warnings = []
    host = None if fits.host is None else Draws.of(fits.host)
    if host is None or (gpu is not None and not {"graph_s", "node_s"} <= set(host.names)):
        warnings.append(
            "no graphs of launches were timed: a kernel between the linears takes as long as the baseline's shortest "
            "call, which is too much; measure with `qt-profile sweep --for-fit`, or give native runs with --calibrate"
        )
    machine = Machine(
        name=name,
        arch=gpu.key if gpu is not None else fits.arch,
        memory_bytes=None if gpu is None else gpu.memory_bytes,
        tdp_w=None if gpu is None else gpu.tdp_w,
        cache_bytes=fits.cache_bytes,
        bytes_per_s=fits.read_bytes_per_s,
        kernels={
            kernel: KernelCost(
                _ordered(kernel, fit.time),
                fit.pass_bytes_per_weight,
                fit.bits,
                Deviations.of(fit.time.residuals),
            )
            for kernel, fit in fits.kernels.items()
        },
        host=host,
        energy=None if fits.energy is None else Draws.of(fits.energy),
        source=sentence,
        is_transferred=is_transferred,
        fitted_on=f"{fits.machine}, {fits.created_utc:%Y%m%dT%H%M%SZ}",
        runs=tuple(fits.runs),
        cards=tuple(fits.cards),
        warnings=tuple(warnings),
        between={
            kernel: BetweenCost(Draws.of(fit), Deviations.of(fit.residuals))
            for kernel, fit in fits.between.items()
        },
        linears={kernel: Deviations.of(rows) for kernel, rows in fits.linears.items()},
    )
    if machine.draws < LEAST_DRAWS:
        raise ValueError(
            f"the fits of {fits.machine} hold {machine.draws} draws, intervals need {LEAST_DRAWS} or more"
        )
    return machine


def _of_scheme(kernel: str, measured: Mapping[str, object]) -> str:
    """The kernel itself if it was measured, else the first of its scheme, else the baseline."""
    scheme = kernel.split("_")[0]
    alike = (name for name in measured if name.split("_")[0] == scheme)
    return kernel if kernel in measured else next(alike, BASELINE)


def _ordered(kernel: str, fit: Fitted) -> Draws:
    found = Draws.of(fit)
    if found.names != TIME_PARAMETERS:
        raise ValueError(
            f"{kernel} has parameters {', '.join(found.names)}, not {', '.join(TIME_PARAMETERS)}"
        )
    return found
