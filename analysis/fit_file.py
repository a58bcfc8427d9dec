"""The fits file: fitted parameters of one machine with intervals, draws and residuals, as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AwareDatetime, Field, ValidationError

from analysis.fit_solver import Floats, Solution
from profiler.record import Strict, write_whole

FITS_SCHEMA_VERSION = 2
_DIGITS = 6


class Parameter(Strict):
    """A fitted parameter in the unit that its name ends in."""

    point: float
    """Estimate."""
    ci95: tuple[float, float]
    """Bootstrap interval."""


class Residual(Strict):
    """One observation beside its prediction."""

    m: int
    """Rows of x; sequences of a hop."""
    n: int
    """Out-features; of a hop's layers the width inside the feed-forward block."""
    k: int
    """In-features; of a hop's layers the width of the residual stream."""
    observed: float
    """What was measured, s."""
    residual_share: float
    """Predicted less observed, over the prediction (times) or over the call without cast (casts)."""


class Fitted(Strict):
    """One fit: parameters, draws of all of them together, quality."""

    parameters: dict[str, Parameter]
    """By name."""
    draws: list[list[float]]
    """Bootstrap draws, a row each, in the order of ``parameters``."""
    condition: float | None
    """Condition number of the Jacobian with columns of length 1; None where it is singular."""
    residual_share_p50: float
    """Median absolute residual."""
    residual_share_p90: float
    """90th percentile of absolute residuals."""
    residuals: list[Residual] = []
    """Observations of a kernel's fit, or of the time between its linears."""
    not_identified: dict[str, str] = {}
    """Parameters held at 0, and which run would identify them."""
    warnings: list[str] = []
    """What the data determine badly, and which run would help."""

    def point(self) -> Floats:
        """Return the estimates, in the order of ``parameters``."""
        return np.array([parameter.point for parameter in self.parameters.values()])

    def all_draws(self) -> Floats:
        """Return the draws [d, p], in the order of ``parameters``."""
        return np.array(self.draws)


class KernelFit(Strict):
    """A kernel on this machine."""

    time: Fitted
    """Time of a call; see ``analysis.fit_time``."""
    cast: Fitted | None = None
    """phi: time of casting; see ``analysis.fit_cast``. None for a kernel without one, or where it was not measured."""
    pass_bytes_per_weight: float | None = None
    """Bytes that a pass over one weight moves, whatever the batch."""
    bits: int | None = None
    """Bits of a code; None where the sweep does not say."""


class FitsFile(Strict):
    """Everything fitted from the runs of one machine."""

    schema_version: Literal[2] = 2
    """Layout of this file."""
    created_utc: AwareDatetime
    """When it was fitted, UTC."""
    machine: str
    """GPU, or CPU where there is none."""
    arch: str | None
    """Key of the hardware table; None where it lacks the machine."""
    driver: str | None
    """NVIDIA driver."""
    versions: dict[str, str]
    """Versions of the newest run."""
    git_commit: str | None
    """Commit of the newest run's source tree."""
    runs: Annotated[list[str], Field(min_length=1)]
    """Runs that it was fitted on."""
    cards: list[str] = []
    """GPUs that they ran on, by UUID: cards of one model differ in power."""
    seed: int
    """Seed of the bootstrap."""
    read_bytes_per_s: float | None
    """Median read bandwidth over the runs; None where none measured it."""
    cache_bytes: float | None = None
    """Last-level cache of the GPU; None on a CPU, and where no run says."""
    kernels: dict[str, KernelFit]
    """By kernel."""
    energy: Fitted | None = None
    """Static power and joules per byte, operation and decoded weight; None where no counter was read."""
    host: Fitted | None = None
    """Seconds per launch and per synchronisation; None where no launch chain was timed."""
    between: dict[str, Fitted] = {}
    """By kernel, the time between the linears of the fused engine's hops; see ``analysis.fit_between``. Without those
    that were not measured."""
    linears: dict[str, list[Residual]] = {}
    """By kernel, the linears of the fused engine's hops in their order beside the sum of their calls; see
    ``analysis.fit_linears``."""
    warnings: list[str] = []
    """What was left out or is not identified, and which run would help."""

    def kernel(self, name: str) -> KernelFit:
        """Return what was fitted for a kernel.

        Raises:
            ValueError: nothing was.
        """
        found = self.kernels.get(name)
        if found is None:
            raise ValueError(f"the fits of {self.machine} lack {name}; they have {', '.join(self.kernels)}")
        return found


def fitted(
    solution: Solution,
    *,
    residuals: Sequence[Residual] = (),
    not_identified: dict[str, str] | None = None,
    warnings: Sequence[str] = (),
) -> Fitted:
    """Turn a solution into its stored form; numbers keep six digits."""
    size = np.abs(solution.residuals)
    return Fitted(
        parameters={
            name: Parameter(point=_short(i.point), ci95=(_short(i.low), _short(i.high)))
            for name, i in ((name, solution.interval(name)) for name in solution.names)
        },
        draws=[[_short(value) for value in row] for row in solution.draws],
        condition=_short(solution.condition) if np.isfinite(solution.condition) else None,
        residual_share_p50=_short(float(np.median(size))),
        residual_share_p90=_short(float(np.quantile(size, 0.9))),
        residuals=list(residuals),
        not_identified=not_identified or {},
        warnings=list(warnings),
    )


def write_fits(folder: Path, fits: FitsFile) -> Path:
    """Write a fits file as ``<folder>/<utc>-<machine>.json``, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    words = re.sub(r"[^a-z0-9]+", "-", (fits.arch or fits.machine).lower()).strip("-")
    path = folder / f"{fits.created_utc.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{words}.json"
    write_whole(path, fits.model_dump_json())
    return path


def read_fits(path: Path) -> FitsFile:
    """Read a fits file.

    Raises:
        ValueError: it cannot be read or is not one, in one sentence.
    """
    try:
        return FitsFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{path} is not a fits file: {place}: {first['msg']}") from error


def newest_fits(folder: Path, machine: str) -> FitsFile | None:
    """Return the newest fits of a machine (its name or its key of the hardware table), or None."""
    # Named as write_fits names them: predictions may be kept in the same folder.
    files = sorted(folder.glob("[0-9]*T[0-9]*Z-*.json"), reverse=True) if folder.is_dir() else []
    return next((fits for fits in map(read_fits, files) if machine in (fits.machine, fits.arch)), None)


def now_utc() -> datetime:
    """Return the time of a fit, whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
