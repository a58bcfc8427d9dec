"""``qt-profile fit``: model parameters from micro-benchmarks, with intervals, and B* by them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from profiler.cli_fit_joules import joules_table, machine_table
from profiler.cli_fit_scale import ends, family_of_table, n_star_json, n_star_table
from profiler.cli_predict_inputs import model_shape

if TYPE_CHECKING:
    from analysis.crossing import CrossingEstimate
    from analysis.fit_file import FitsFile, Fitted
    from analysis.stats import Interval

_TABLE_WIDTH = 150


def fit_command(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs, of one machine.")],
    out: Annotated[Path, typer.Option(help="Folder that the fits are written into.")] = Path("fits"),
    model: Annotated[
        str, typer.Option(help="Row of the model table whose linear layers B* is given for.")
    ] = "mistral-7b",
    b_max: Annotated[int, typer.Option(help="Largest batch that B* is looked for in.")] = 256,
    draws: Annotated[int, typer.Option(help="Bootstrap draws per fit.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Fit the model's parameters to sweeps and energy runs; store them with intervals and a picture of residuals.

    End-to-end chains among the runs are held out: they are compared with, never fitted.
    """
    from analysis.fit import fit_all
    from analysis.fit_crossing import (
        energy_crossing,
        measured_by_chain,
        measured_by_shape,
        time_crossing,
    )
    from analysis.fit_file import write_fits
    from analysis.fit_input import read_runs
    from analysis.fit_joules import alpha_of_model, cast_joules, printed_b_star
    from analysis.fit_picture import draw_residuals
    from analysis.kernel_kinds import NATIVE_KERNELS

    if b_max < 2:
        raise ValueError(f"--b-max {b_max} is below 2")
    layers = model_shape(model).merged
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_TABLE_WIDTH)
    found = read_runs(runs)
    with console.status("fitting") as status:
        fits = fit_all(
            found, seed=seed, n_draws=draws, progress=lambda done, all_, name: status.update(f"fitted {name}")
        )
    variants = [n for n in fits.kernels if n not in NATIVE_KERNELS and not n.startswith("null_")]
    times = {name: time_crossing(fits, name, layers, b_max=b_max) for name in variants}
    energies = {name: energy_crossing(fits, name, layers, b_max=b_max) for name in variants}
    printed = {name: printed_b_star(fits, name, layers) for name in variants}
    scales = {name: family_of_table(fits, name) for name in variants}
    alpha = alpha_of_model(fits, layers)
    joules = {name: cast_joules(fits, name, layers) for name, kernel in fits.kernels.items() if kernel.cast}
    path = write_fits(out, fits)
    picture = path.with_suffix(".png")
    draw_residuals(fits, picture)
    measured = measured_by_shape(found.records)
    chains = measured_by_chain(found.records)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "fits": str(path),
                    "picture": str(picture),
                    "machine": fits.machine,
                    "warnings": _all_warnings(fits),
                    "parameters": {n: _parameters(k.time) for n, k in fits.kernels.items()},
                    "phi": {n: _parameters(k.cast) for n, k in fits.kernels.items() if k.cast},
                    "phi_j": {
                        n: c and {"pass_j": ends(c.pass_j), "row_j": ends(c.row_j)} for n, c in joules.items()
                    },
                    "alpha_j_per_bit": ends(alpha),
                    "read_bytes_per_s": fits.read_bytes_per_s,
                    "energy": None if fits.energy is None else _parameters(fits.energy),
                    "host": None if fits.host is None else _parameters(fits.host),
                    "between": {kernel: _parameters(fit) for kernel, fit in fits.between.items()},
                    "model": model,
                    "b_star_time": {n: _crossing_json(c) for n, c in times.items()},
                    "b_star_energy": {n: _crossing_json(c) for n, c in energies.items() if c},
                    "b_star_printed": {n: ends(b) for n, b in printed.items()},
                    "n_star_b1": {n: [bracket[2] for bracket in f.brackets] for n, f in scales.items()},
                    "n_star": n_star_json(fits, model, scales),
                    "measured": [
                        {"kernel": kernel, "n": n, "k": k, "loses_at": c.loses, "wins_at": c.wins}
                        for (kernel, n, k), c in measured.items()
                    ],
                    "measured_chains": [
                        {"model": name, "kernel": kernel, "loses_at": c.loses, "wins_at": c.wins}
                        for (name, kernel), c in chains.items()
                    ],
                }
            )
        )
        return
    console.print(f"{fits.machine}, {len(fits.runs)} runs, {len(fits.kernels)} kernels")
    console.print(machine_table(fits))
    console.print(_times_table(fits))
    console.print(_phi_table(fits))
    console.print(joules_table(model, alpha, joules))
    if fits.between:
        console.print(_between_table(fits))
    console.print(_crossing_table(model, times, energies, printed))
    console.print(n_star_table(fits, model, scales))
    for warning in _all_warnings(fits):
        console.print(f"warning: {warning}")
    console.print(f"written: {path} and {picture}")


def _all_warnings(fits: FitsFile) -> list[str]:
    own = [
        f"{name}: {warning}"
        for name, kernel in fits.kernels.items()
        for fit in (kernel.time, kernel.cast)
        if fit is not None
        for warning in (*fit.not_identified.values(), *fit.warnings)
    ]
    rest = [w for fit in (fits.energy, fits.host) if fit is not None for w in fit.warnings]
    rest += [f"between linears, {kernel}: {w}" for kernel, fit in fits.between.items() for w in fit.warnings]
    return [*fits.warnings, *own, *rest]


def _parameters(fit: Fitted) -> dict[str, Any]:
    return {name: {"point": p.point, "ci95": p.ci95} for name, p in fit.parameters.items()}


def _crossing_json(found: CrossingEstimate) -> dict[str, Any]:
    star = found.b_star
    return {
        "answer": found.sentence,
        "regime": found.point.regime.value,
        "confidence": found.confidence,
        "loses": [[float(low), float(high)] for low, high in found.point.loses],
        "b_star": [float(b) for b in found.point.b_star],
        "b_star_ci95": None if star is None else [star.low, star.high],
        "loses_share": found.loses_share,
    }


def _times_table(fits: FitsFile) -> Table:
    table = Table(title="time of a call (95 % intervals)", title_justify="left")
    for heading in (
        "kernel",
        "launch, µs",
        "pass, ps/weight",
        "row, fs/weight",
        "unhidden",
        "edge, ps",
        "depth, ns",
    ):
        table.add_column(heading)
    table.add_column("|residual| p50, p90")
    scales = (1e6, 1e12, 1e15, 1.0, 1e12, 1e9)
    for name, kernel in fits.kernels.items():
        table.add_row(name, *_cells(kernel.time, scales), _residuals(kernel.time))
    return table


def _phi_table(fits: FitsFile) -> Table:
    table = Table(title="phi, time of casting (95 % intervals)", title_justify="left")
    for heading in (
        "kernel",
        "fixed, µs",
        "per pass, ps/weight",
        "per row, fs/weight",
        "per row, ps/element",
    ):
        table.add_column(heading)
    for name, kernel in fits.kernels.items():
        if kernel.cast is not None:
            table.add_row(name, *_cells(kernel.cast, (1e6, 1e12, 1e15, 1e12)))
    return table


def _between_table(fits: FitsFile) -> Table:
    table = Table(
        title="time between the linears of the fused engine's hops (95 % intervals)", title_justify="left"
    )
    for heading in ("kernel", "once, µs", "per layer, µs", "traffic, over its time at the read bandwidth"):
        table.add_column(heading)
    table.add_column("|residual| p50, p90")
    for kernel, fit in fits.between.items():
        table.add_row(kernel, *_cells(fit, (1e6, 1e6, 1.0)), _residuals(fit))
    return table


def _residuals(fit: Fitted) -> str:
    return f"{100 * fit.residual_share_p50:.1f} %, {100 * fit.residual_share_p90:.1f} %"


def _cells(fit: Fitted, scales: Sequence[float]) -> list[str]:
    return [
        "not identified"
        if name in fit.not_identified
        else f"{p.point * s:.3g} [{p.ci95[0] * s:.3g}, {p.ci95[1] * s:.3g}]"
        for (name, p), s in zip(fit.parameters.items(), scales, strict=True)
    ]


def _crossing_table(
    model: str,
    times: dict[str, CrossingEstimate],
    energies: dict[str, CrossingEstimate | None],
    printed: dict[str, Interval | None],
) -> Table:
    table = Table(
        title=f"B* of the linear layers of {model}, against bf16, by the fits", title_justify="left"
    )
    for heading in ("kernel", "time", "B* (95 %)", "sure", "energy", "Eq. 18, in J"):
        table.add_column(heading)
    for name, found in times.items():
        energy = energies[name]
        table.add_row(
            name,
            found.sentence,
            "–" if found.b_star is None else str(found.b_star),
            f"{100 * found.confidence:.0f} %",
            "not measured" if energy is None else energy.sentence,
            "–" if printed[name] is None else str(printed[name]),
        )
    return table
