"""Time and energy of a model's linear layers over the batch by the fits, with B*."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from analysis.crossing import CrossingEstimate
from analysis.fit_crossing import energy_crossing, fitted_time, linear_energy, time_crossing
from analysis.fit_file import FitsFile
from analysis.fit_joules import printed_b_star
from analysis.hop_cost import Cost
from analysis.kernel_kinds import BASELINE, NATIVE_KERNELS
from analysis.report.colours import role_of, split_name, styles
from analysis.report.figure import Axis, Figure, Line, Mark, Panel
from analysis.report.inputs import Catalogue, ModelRow
from analysis.report.section import Block, Table, Words, number, percent, slug
from analysis.report.ticks import decades, powers_of_two

_POINTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def fitted_blocks(fits: FitsFile, catalogue: Catalogue) -> list[Block]:
    """Return time and, where energy was fitted, joules of the model's linear layers over the batch, and B* of both."""
    spec = catalogue.models[catalogue.model]
    variants = [
        k
        for k in fits.kernels
        if split_name(k)[0] in ("fused", "unfused", "native") and k not in NATIVE_KERNELS
    ]
    if BASELINE not in fits.kernels or not variants:
        return [Words(f"The fits of {fits.machine} lack {BASELINE} or a variant, so they give no B*.", True)]
    found = {k: time_crossing(fits, k, spec.layers, b_max=catalogue.b_max) for k in variants}
    joules = {k: energy_crossing(fits, k, spec.layers, b_max=catalogue.b_max) for k in variants}
    formats = [f for f in dict.fromkeys(split_name(k)[1] for k in variants) if f"fused_{f}" in found]
    blocks: list[Block] = []
    if formats:
        blocks.append(
            Figure(
                f"batch-fits-{slug(fits.machine)}",
                f"Linear layers of {spec.key} on {fits.machine}, by the fits: time per hop, ms",
                "; ".join(f"fused_{f} {found[f'fused_{f}'].sentence}" for f in formats),
                tuple(
                    _panel(fits, fmt, found[f"fused_{fmt}"], catalogue.b_max, "ms", _time_of(fits, spec))
                    for fmt in formats
                ),
                columns=2,
            )
        )
        blocks += _joule_figure(fits, spec, {f: joules[f"fused_{f}"] for f in formats}, catalogue.b_max)
    blocks.append(_fit_table(fits, spec, found, joules))
    return blocks


def _joule_figure(
    fits: FitsFile, spec: ModelRow, joules: Mapping[str, CrossingEstimate | None], b_max: int
) -> list[Block]:
    found = {fmt: star for fmt, star in joules.items() if star is not None}
    if not found:
        return []
    return [
        Figure(
            f"batch-fits-joules-{slug(fits.machine)}",
            f"Linear layers of {spec.key} on {fits.machine}, by the fits: energy per hop and row, mJ",
            "; ".join(f"fused_{fmt} {star.sentence}" for fmt, star in found.items()),
            tuple(
                _panel(fits, fmt, star, b_max, "mJ per row", _joules_of(fits, spec))
                for fmt, star in found.items()
            ),
            columns=2,
        )
    ]


def _time_of(fits: FitsFile, spec: ModelRow) -> Callable[[str, float], float | None]:
    """Time of a hop's linear layers, ms."""

    def at(kernel: str, batch: float) -> float:
        return 1e3 * float(_cost(fits, kernel, spec).at(batch))

    return at


def _joules_of(fits: FitsFile, spec: ModelRow) -> Callable[[str, float], float | None]:
    """Energy of a hop's linear layers per row, mJ; None for a kernel whose bytes are not known."""

    def at(kernel: str, batch: float) -> float | None:
        energy = fits.energy
        if energy is None:
            return None
        row = list(map(float, energy.point()))
        time, own = _cost(fits, kernel, spec), fits.kernel(kernel)
        cost = linear_energy(time, kernel, own, energy, row, spec.layers, fits.cache_bytes)
        return None if cost is None else 1e3 * float(cost.at(batch)) / batch

    return at


def _cost(fits: FitsFile, kernel: str, spec: ModelRow) -> Cost:
    return fitted_time(fits.kernels[kernel].time, spec.layers)


def _panel(
    fits: FitsFile,
    fmt: str,
    found: CrossingEstimate,
    b_max: int,
    unit: str,
    value_at: Callable[[str, float], float | None],
) -> Panel:
    kernels = [k for k in (BASELINE, f"fused_{fmt}", f"unfused_{fmt}", f"native_{fmt}") if k in fits.kernels]
    look = styles(kernels)
    places = tuple(float(b) for b in _POINTS if b <= b_max)
    lines = []
    for kernel in kernels:
        values = tuple(value_at(kernel, b) for b in places)
        if values[0] is None:
            continue
        hover = tuple(f"{kernel}, B = {b:g}: {number(v)} {unit}" for b, v in zip(places, values, strict=True))
        lines.append(Line(kernel, places, values, look[kernel], hover=hover))
    marks: tuple[Mark, ...] = ()
    if found.b_star is not None:
        star = found.b_star
        label = f"B* {star.point:.3g} [{star.low:.3g}, {star.high:.3g}]"
        marks = (Mark("x", star.point, role_of(f"fused_{fmt}"), label, star.low, star.high),)
    values_seen = [y for line in lines for y in line.y if y]
    x = Axis("B", True, powers_of_two(places[::2]), 0.9, 1.1 * places[-1])
    return Panel(
        fmt,
        x,
        Axis(f"{unit} per hop" if unit == "ms" else unit, True, decades(values_seen)),
        tuple(lines),
        marks,
    )


def _fit_table(
    fits: FitsFile,
    spec: ModelRow,
    found: Mapping[str, CrossingEstimate],
    joules: Mapping[str, CrossingEstimate | None],
) -> Table:
    rows = []
    for kernel, time in found.items():
        energy = joules[kernel]
        printed = printed_b_star(fits, kernel, spec.layers)
        rows.append(
            (
                kernel,
                time.sentence,
                "–" if time.b_star is None else str(time.b_star),
                percent(time.confidence, 0),
                "not measured" if energy is None else energy.sentence,
                "–" if printed is None else str(printed),
            )
        )
    return Table(
        f"B* of the linear layers of {spec.key} on {fits.machine} against {BASELINE}, by the fits",
        ("kernel", "time", "B* [95 %]", "draws that agree", "energy", "B* as the paper prints it (Eq. 18)"),
        tuple(rows),
        is_numeric=False,
    )
