"""phi: what casting costs, by format and GPU, from the ablations of sweeps and from the fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.fit_file import FitsFile
from analysis.fit_joules import phi_of_hop
from analysis.report.colours import role_of, split_name
from analysis.report.figure import Axis, Bars, Figure, Mark, Panel
from analysis.report.inputs import Catalogue, Inputs
from analysis.report.section import Block, Missing, Section, Table, Words, number, slug, with_interval
from analysis.report.ticks import grouped
from analysis.stats import Interval

_METHODS = {
    "fused": "exposed: fused less null",
    "unfused": "the cast kernel alone",
    "native": "quantizing x",
}


@dataclass(frozen=True)
class _Cast:
    machine: str
    kernel: str
    ps: float
    low: float
    high: float
    shape: tuple[int, int]
    m: int


def phi_section(inputs: Inputs, catalogue: Catalogue) -> Section:
    """Return casting cost by format and machine, per weight and, where energy was fitted, in J."""
    casts = [cast for machine in inputs.machines for cast in _casts(inputs, machine)]
    blocks: list[Block] = []
    panels = [_panel([c for c in casts if split_name(c.kernel)[0] == scheme], scheme) for scheme in _METHODS]
    drawn = tuple(panel for panel in panels if panel is not None)
    if drawn:
        worst = max(casts, key=lambda cast: cast.ps)
        blocks.append(
            Figure(
                "phi",
                "τ_cast per weight of the largest shape at the smallest m, ps",
                f"Largest: {worst.kernel} on {worst.machine}, {number(worst.ps)} ps per weight.",
                drawn,
            )
        )
        if any(cast.ps < 0 for cast in casts):
            blocks.append(
                Words(
                    "Below 0, decoding hides under the time of memory and the difference shows scheduling or noise."
                )
            )
    else:
        blocks.append(
            Missing("No sweep with null and unfused kernels was given", "qt-profile sweep --format nf4")
        )
    for fits in inputs.fits:
        blocks += _fit_tables(fits, catalogue) + _joule_blocks(fits, catalogue)
    if not any(fits.energy for fits in inputs.fits):
        blocks.append(
            Missing(
                "φ in joules needs fits with energy windows",
                "qt-profile sweep --for-fit, then qt-profile fit RUN",
            )
        )
    return Section(
        "phi",
        "φ",
        "φ, what casting costs, by format and GPU",
        "Decoding is paid once per pass over the weights, whatever the batch, and by every row; in the unfused "
        "kernels it is a pass of its own through memory.",
        tuple(blocks),
    )


def _casts(inputs: Inputs, machine: str) -> list[_Cast]:
    found: dict[tuple[str, int, int, int], dict[str, Any]] = {}
    for record in inputs.of_kind("sweep", machine):
        taus: Any = record.derived.get("tau")
        for tau in taus if isinstance(taus, list) else []:
            if (
                isinstance(tau, dict)
                and {"kernel", "m", "n", "k", "tau_cast_us_p50", "tau_cast_us_ci95"} <= tau.keys()
            ):
                found[tau["kernel"], tau["m"], tau["n"], tau["k"]] = tau
    casts = []
    for kernel in dict.fromkeys(key[0] for key in found):
        keys = [key for key in found if key[0] == kernel]
        n, k = max(((key[2], key[3]) for key in keys), key=lambda shape: shape[0] * shape[1])
        m = min(key[1] for key in keys if key[2:] == (n, k))
        tau = found[kernel, m, n, k]
        low, high = tau["tau_cast_us_ci95"]
        ps = [1e6 * value / (n * k) for value in (tau["tau_cast_us_p50"], low, high)]
        casts.append(_Cast(machine, kernel, ps[0], ps[1], ps[2], (n, k), m))
    return casts


def _panel(casts: Sequence[_Cast], scheme: str) -> Panel | None:
    if not casts:
        return None
    formats = list(dict.fromkeys(split_name(cast.kernel)[1] for cast in casts))
    machines = list(dict.fromkeys(cast.machine for cast in casts))
    places, width = grouped(len(formats), len(machines), filled=0.7)
    bars = []
    for i, machine in enumerate(machines):
        for j, fmt in enumerate(formats):
            cast = next((c for c in casts if c.machine == machine and split_name(c.kernel)[1] == fmt), None)
            if cast is None:
                continue
            n, k = cast.shape
            said = f"{cast.kernel} on {machine}, {n}×{k}, m = {cast.m}: {number(cast.ps)} ps per weight"
            text = number(cast.ps, 2)
            bars.append(
                Bars(
                    f"{fmt}, {machine}",
                    (places[i][j],),
                    (cast.ps,),
                    role_of(cast.kernel),
                    width,
                    low=(cast.low,),
                    high=(cast.high,),
                    labels=(text,),
                    hover=(said,),
                    is_named=False,
                )
            )
    ticks = tuple(
        (places[i][j], fmt if len(machines) == 1 else f"{fmt}\n{_short(machine)}")
        for i, machine in enumerate(machines)
        for j, fmt in enumerate(formats)
    )
    highest, lowest = max(c.high for c in casts), min(c.low for c in casts)
    span = max(highest, 0.0) - min(lowest, 0.0) or 1.0
    y = Axis(
        "ps per weight",
        low=min(lowest, 0.0) - 0.16 * span * (lowest < 0),
        high=max(highest, 0.0) + 0.16 * span,
    )
    x = Axis(ticks=tuple(sorted(ticks)), low=-0.6, high=len(formats) - 0.4, has_grid=False)
    return Panel(
        f"{scheme}: {_METHODS[scheme]}",
        x,
        y,
        tuple(bars),
        (Mark("y", 0.0, "muted", dash="solid"),),
        height=260,
    )


def _short(machine: str) -> str:
    return machine.removeprefix("NVIDIA ").split("-")[0].split(" (")[0]


def _fit_tables(fits: FitsFile, catalogue: Catalogue) -> list[Block]:
    casts = {name: kernel.cast for name, kernel in fits.kernels.items() if kernel.cast is not None}
    if not casts:
        return []
    spec = catalogue.models[catalogue.model]
    scales = (
        ("fixed, µs", 1e6),
        ("per pass, ps/weight", 1e12),
        ("per row, fs/weight", 1e15),
        ("per row, ps/element", 1e12),
    )
    rows = []
    for name, cast in casts.items():
        cells = [
            "not identified"
            if key in cast.not_identified
            else with_interval(p.point * s, [e * s for e in p.ci95])
            for (key, p), (_, s) in zip(cast.parameters.items(), scales, strict=False)
        ]
        phi = _joules(fits, name, catalogue)
        said = number(None) if phi is None else with_interval(phi.point, (phi.low, phi.high))
        rows.append((name, *cells, *([said] if fits.energy else [])))
    head = (
        "kernel",
        *(label for label, _ in scales),
        *((f"φ of {spec.key} at B = 1, mJ/hop",) if fits.energy else ()),
    )
    return [Table(f"φ fitted on {fits.machine} [95 %]", head, tuple(rows))]


def _joules(fits: FitsFile, kernel: str, catalogue: Catalogue) -> Interval | None:
    """Casting energy of a hop of the catalogue's model, mJ."""
    phi = phi_of_hop(fits, kernel, catalogue.models[catalogue.model].layers)
    return None if phi is None else phi.scaled(1e3)


def _joule_blocks(fits: FitsFile, catalogue: Catalogue) -> list[Block]:
    found = {
        kernel: phi
        for kernel, fit in fits.kernels.items()
        if fit.cast is not None and (phi := _joules(fits, kernel, catalogue)) is not None
    }
    if not found:
        return []
    bars = [
        Bars(
            kernel,
            (float(place),),
            (phi.point,),
            role_of(kernel),
            low=(min(phi.low, phi.point),),
            high=(max(phi.high, phi.point),),
            labels=(number(phi.point, 2),),
            hover=(f"{kernel}: {with_interval(phi.point, (phi.low, phi.high))} mJ per hop",),
            is_named=False,
        )
        for place, (kernel, phi) in enumerate(found.items())
    ]
    ticks = tuple((float(place), kernel.replace("_", "\n", 1)) for place, kernel in enumerate(found))
    top = 1.16 * max(max(phi.high, phi.point) for phi in found.values()) or 1.0
    panel = Panel(
        "static power times exposed time, and joules of decoding",
        Axis(ticks=ticks, low=-0.6, high=len(found) - 0.4, has_grid=False),
        Axis("φ, mJ per hop", low=0.0, high=top),
        tuple(bars),
        height=280,
    )
    return [
        Figure(
            f"phi-joules-{slug(fits.machine)}",
            f"φ(h, p) of {catalogue.model} on {fits.machine} at B = 1, by the fits",
            "; ".join(f"{kernel} {number(phi.point)} mJ" for kernel, phi in found.items()),
            (panel,),
            columns=1,
        )
    ]
