"""Fits everything that runs of one machine allow, and says what they do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.fit_between import fit_between
from analysis.fit_cast import fit_cast
from analysis.fit_energy import fit_energy
from analysis.fit_file import FitsFile, Fitted, KernelFit, Residual, fitted, now_utc
from analysis.fit_host import fit_host
from analysis.fit_input import FitInput, cache_of, cards_of
from analysis.fit_linears import linear_residuals
from analysis.fit_time import fit_time
from analysis.kernel_kinds import BASELINE

# Where a tenth of the cells is further off than this, the model is named as too simple for the kernel.
_MISFIT = 0.25
_LEAST_CASTS = 6
Progress = Callable[[float, float, str], None]


def no_progress(done: float, total: float, label: str) -> None:
    """Report nothing."""


def fit_all(
    found: FitInput, *, seed: int = 0, n_draws: int = 200, progress: Progress = no_progress
) -> FitsFile:
    """Fit every kernel, the casts, energy, the host and what lies between the linears.

    Args:
        found: observations of one machine.
        seed: of the bootstrap.
        n_draws: bootstrap draws per fit.
        progress: told after every kernel.

    Returns:
        The fits. A kernel with too few cells is left out, with a warning; so is every other part.

    Raises:
        ValueError: the baseline has too few cells for a fit.
    """
    warnings = list(found.warnings)
    kernels = {}
    for number, kernel in enumerate(found.cells):
        try:
            kernels[kernel] = _kernel(found, kernel, seed, n_draws, warnings)
        except ValueError as error:
            if kernel == BASELINE:
                raise ValueError(f"{kernel}: {error}") from error
            warnings.append(f"{kernel} is not fitted: {error}")
        progress(number + 1, len(found.cells), kernel)
    newest = found.records[-1]
    gpus = newest.environment.gpus if newest.arguments.get("device") != "cpu" else []
    bandwidth = float(np.median(found.bandwidth_bytes_per_s)) if found.bandwidth_bytes_per_s else None
    return FitsFile(
        created_utc=now_utc(),
        machine=found.machine,
        arch=gpus[0].arch if gpus else None,
        driver=newest.environment.nvidia_driver if gpus else None,
        versions=newest.environment.versions,
        git_commit=newest.environment.git_commit,
        runs=[record.run_id for record in found.records],
        cards=cards_of(found.records),
        seed=seed,
        read_bytes_per_s=bandwidth,
        cache_bytes=max((size for size in map(cache_of, found.records) if size is not None), default=None),
        kernels=kernels,
        energy=_energy(found, seed, n_draws, warnings),
        host=_host(found, seed, n_draws, warnings),
        between=_between(found, bandwidth, seed, n_draws, warnings, is_gpu=bool(gpus)),
        linears={
            kernel: rows
            for kernel, hops in found.linears.items()
            if (rows := linear_residuals(kernel, hops, kernels))
        },
        warnings=warnings,
    )


def _kernel(found: FitInput, kernel: str, seed: int, n_draws: int, warnings: list[str]) -> KernelFit:
    fit = fit_time(found.cells[kernel], seed=seed, n_draws=n_draws)
    residuals = [
        Residual(m=c.m, n=c.n, k=c.k, observed=c.time_s, residual_share=float(r))
        for c, r in zip(fit.cells, fit.solution.residuals, strict=True)
    ]
    own = list(fit.warnings)
    worst = float(np.quantile(np.abs(fit.solution.residuals), 0.9))
    if worst > _MISFIT:
        own.append(
            f"a tenth of the cells is more than {100 * worst:.0f} % off: the model is too simple for it"
        )
    time = fitted(fit.solution, residuals=residuals, not_identified=fit.not_identified, warnings=own)
    return KernelFit(
        time=time,
        cast=_cast(found, kernel, seed, n_draws, warnings),
        pass_bytes_per_weight=found.pass_bytes.get(kernel),
        bits=found.bits.get(kernel),
    )


def _cast(found: FitInput, kernel: str, seed: int, n_draws: int, warnings: list[str]) -> Fitted | None:
    cells = found.casts.get(kernel, [])
    if not cells:
        return None
    if len(cells) < _LEAST_CASTS:
        warnings.append(f"phi of {kernel} is not fitted: {len(cells)} casts, needed are {_LEAST_CASTS}")
        return None
    fit = fit_cast(cells, seed=seed, n_draws=n_draws)
    residuals = [
        Residual(m=c.m, n=c.n, k=c.k, observed=c.cast_s, residual_share=float(r))
        for c, r in zip(cells, fit.solution.residuals, strict=True)
    ]
    return fitted(fit.solution, residuals=residuals, not_identified=fit.not_identified, warnings=fit.warnings)


def _energy(found: FitInput, seed: int, n_draws: int, warnings: list[str]) -> Fitted | None:
    if not found.energy:
        warnings.append(
            "static_w, j_per_byte, j_per_flop, alpha and phi in J are not identified: no run holds energy windows "
            "of idling, of memory-bound, compute-bound and decoding kernels read from a counter"
        )
        return None
    try:
        fit = fit_energy(found.energy, seed=seed, n_draws=n_draws)
    except ValueError as error:
        warnings.append(f"energy is not fitted: {error}")
        return None
    return fitted(fit.solution, warnings=fit.warnings)


def _host(found: FitInput, seed: int, n_draws: int, warnings: list[str]) -> Fitted | None:
    if not found.launches:
        warnings.append("h and s (launch and synchronisation) are not identified: no run holds launch chains")
        return None
    try:
        return fitted(fit_host(found.launches, seed=seed, n_draws=n_draws))
    except ValueError as error:
        warnings.append(f"the host is not fitted: {error}")
        return None


def _between(
    found: FitInput,
    bytes_per_s: float | None,
    seed: int,
    n_draws: int,
    warnings: list[str],
    *,
    is_gpu: bool,
) -> dict[str, Fitted]:
    if is_gpu and not found.between:
        warnings.append(
            "once_s, layer_s and traffic (the time between linears) are not identified: no run holds parts of hops"
        )
    fits = {}
    for kernel, hops in found.between.items():
        if bytes_per_s is None:
            warnings.append(
                f"what lies between linears of {kernel} is not fitted: no run measured a read bandwidth"
            )
            continue
        try:
            fit = fit_between(hops, bytes_per_s, seed=seed, n_draws=n_draws)
        except ValueError as error:
            warnings.append(f"what lies between linears of {kernel} is not fitted: {error}")
            continue
        residuals = [
            Residual(m=h.batch_size, n=h.intermediate, k=h.hidden, observed=h.time_s, residual_share=float(r))
            for h, r in zip(hops, fit.solution.residuals, strict=True)
        ]
        fits[kernel] = fitted(fit.solution, residuals=residuals, warnings=fit.warnings)
    return fits
