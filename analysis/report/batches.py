"""Time and energy over the batch size, with B*: as chains measured it, and by the fits for a model's linear layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from analysis.crossing import CrossingEstimate, MeasuredCrossing
from analysis.fit_crossing import (
    energy_crossing,
    linear_time,
    measured_by_chain,
    printed_b_star,
    time_crossing,
)
from analysis.fit_file import FitsFile
from analysis.fit_input import BASELINE
from analysis.report.colours import role_of, split_name, styles
from analysis.report.figure import Axis, Figure, Line, Mark, Panel
from analysis.report.inputs import Catalogue, Inputs, ModelRow, baseline_of, variants_of
from analysis.report.section import Block, Missing, Section, Table, Words, listed, number, percent, slug
from analysis.report.ticks import decades, powers_of_two
from profiler.record import RunRecord, VariantResult

_POINTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
Rows = dict[str, dict[int, VariantResult]]


def batch_section(inputs: Inputs, catalogue: Catalogue) -> Section:
    """Return hop time and energy over B, measured and fitted."""
    blocks: list[Block] = []
    for machine in inputs.machines:
        for model, records in inputs.chains(machine).items():
            # Replayed hops are the same for every kernel, so they are the ones to compare where there are any.
            modes = (_by_batch(records, mode) for mode in ("replay", "generate"))
            rows = next((found for found in modes if any(len(by_b) > 1 for by_b in found.values())), {})
            if rows:
                own = measured_by_chain(records).items()
                crossings = {kernel: crossing for (_, kernel), crossing in own}
                fits = next((f for f in inputs.fits if f.machine == machine), None)
                blocks += _measured(
                    rows, crossings, model, machine, baseline_of(records[-1]), fits, catalogue
                )
    if not blocks:
        blocks.append(
            Missing(
                "No chain over several batch sizes was given", "qt-profile chain --batch 1,8,64 --mode replay"
            )
        )
    for fits in inputs.fits:
        blocks += _fitted(fits, catalogue)
    if not inputs.fits:
        blocks.append(Missing("No fits were given, so B* by the model is missing", "qt-profile fit RUN"))
    return Section(
        "batch",
        "Batch and B*",
        "Time and energy over the batch, and B*",
        "B* is the batch size at which a variant and the native model cost the same. A shaded band is its 95 % "
        "interval by the fits, or, where chains were measured, the two neighbouring batch sizes between which the "
        "verdict changes.",
        tuple(blocks),
    )


def _by_batch(records: Sequence[RunRecord], mode: str) -> Rows:
    found: Rows = defaultdict(dict)
    for record in records:
        for row in variants_of(record):
            if row.mode == mode:
                found[row.kernel][row.batch_size] = row
    return dict(found)


def _measured(
    rows: Rows,
    crossings: dict[str, MeasuredCrossing],
    model: str,
    machine: str,
    baseline: str,
    fits: FitsFile | None,
    catalogue: Catalogue,
) -> list[Block]:
    shown = {kernel: by_batch for kernel, by_batch in rows.items() if not kernel.startswith("null_")}
    marks = tuple(_bracket_marks(crossings)) + tuple(_fit_marks(shown, model.split(" (")[0], fits, catalogue))
    times = _lines(shown, lambda r: r.hop_ms_p50, lambda r: r.hop_ms_p50_ci95)
    panels = []
    if times:
        panels.append(_panel("time per hop", "hop_ms_p50", times, marks))
    joules = _lines(shown, lambda r: r.energy_j_per_query, lambda r: r.energy_j_per_query_ci95)
    if any(len(line.x) > 1 for line in joules):
        panels.append(_panel("energy per query", "J per query", joules, ()))
    blocks: list[Block] = []
    if panels:
        figure = Figure(
            f"batch-{slug(machine)}-{slug(model)}",
            f"{model} on {machine}: over the batch size",
            f"Time per hop of {listed(list(shown))} over the batch size B.",
            tuple(panels),
            columns=2,
        )
        blocks.append(figure)
    blocks.append(_crossing_words(crossings, baseline))
    return blocks


def _crossing_words(crossings: dict[str, MeasuredCrossing], baseline: str) -> Block:
    if not crossings:
        return Words(f"No variant was compared with {baseline} on replayed hops at several batch sizes.")
    rows = []
    for kernel, found in crossings.items():
        between = "; ".join(f"{low} < B* < {high}, above it {does}" for low, high, does in found.brackets)
        places = (", ".join(map(str, sizes)) or "–" for sizes in (found.wins, found.loses, found.unclear))
        rows.append((kernel, between or "no crossing within the batch sizes measured", *places))
    return Table(
        f"Measured against {baseline}, by intervals",
        ("kernel", "B*", "wins at", "loses at", "unclear"),
        tuple(rows),
        False,
    )


def _lines(
    rows: Rows,
    value: Callable[[VariantResult], float | None],
    interval: Callable[[VariantResult], tuple[float, float] | None],
) -> list[Line]:
    look = styles(rows)
    found = []
    for kernel, by_batch in rows.items():
        own = [(b, by_batch[b]) for b in sorted(by_batch) if (value(by_batch[b]) or 0) > 0]
        if not own:
            continue
        ends = [interval(row) or (value(row) or 0.0,) * 2 for _, row in own]
        found.append(
            Line(
                kernel,
                tuple(float(b) for b, _ in own),
                tuple(value(row) for _, row in own),
                look[kernel],
                tuple(max(low, 1e-3 * high) for low, high in ends),
                tuple(high for _, high in ends),
                hover=tuple(f"{kernel}, B = {b}: {number(value(row))}" for b, row in own),
            )
        )
    return found


def _panel(title: str, unit: str, lines: list[Line], marks: tuple[Mark, ...]) -> Panel:
    places = sorted({x for line in lines for x in line.x})
    values = [y for line in lines for y in line.y if y]
    x = Axis("B, sequences decoded together", True, powers_of_two(places), places[0] / 1.2, places[-1] * 1.2)
    return Panel(title, x, Axis(unit, True, decades(values)), tuple(lines), marks, height=340)


def _bracket_marks(crossings: dict[str, MeasuredCrossing]) -> Iterable[Mark]:
    for kernel, found in crossings.items():
        for low, high, _ in found.brackets:
            label = f"B* {kernel}: {low}–{high}"
            yield Mark("x", (low * high) ** 0.5, role_of(kernel), label, low, high)


def _fit_marks(rows: Rows, model: str, fits: FitsFile | None, catalogue: Catalogue) -> Iterable[Mark]:
    """B* of the model's linear layers by the fits, where the model is a row of the table."""
    spec = catalogue.models.get(model)
    if fits is None or spec is None:
        return
    for kernel in rows:
        if kernel in fits.kernels and kernel.startswith("fused_") and BASELINE in fits.kernels:
            found = time_crossing(fits, kernel, spec.layers, b_max=catalogue.b_max)
            if found.b_star is not None:
                star = found.b_star
                label = f"B* {kernel} by the fits: {star.point:.3g}"
                yield Mark("x", star.point, role_of(kernel), label, star.low, star.high, "dot")


def _fitted(fits: FitsFile, catalogue: Catalogue) -> list[Block]:
    spec = catalogue.models[catalogue.model]
    variants = [
        k for k in fits.kernels if split_name(k)[0] in ("fused", "unfused", "native") and k != BASELINE
    ]
    if BASELINE not in fits.kernels or not variants:
        return [Words(f"The fits of {fits.machine} lack {BASELINE} or a variant, so they give no B*.", True)]
    found = {k: time_crossing(fits, k, spec.layers, b_max=catalogue.b_max) for k in variants}
    formats = [f for f in dict.fromkeys(split_name(k)[1] for k in variants) if f"fused_{f}" in found]
    blocks: list[Block] = []
    if formats:
        blocks.append(
            Figure(
                f"batch-fits-{slug(fits.machine)}",
                f"Linear layers of {spec.key} on {fits.machine}, by the fits: time per hop, ms",
                "; ".join(f"fused_{f} {found[f'fused_{f}'].sentence}" for f in formats),
                tuple(_fit_panel(fits, fmt, spec, found[f"fused_{fmt}"], catalogue.b_max) for fmt in formats),
                columns=2,
            )
        )
    blocks.append(_fit_table(fits, spec, found, catalogue.b_max))
    return blocks


def _fit_panel(fits: FitsFile, fmt: str, spec: ModelRow, found: CrossingEstimate, b_max: int) -> Panel:
    kernels = [k for k in (BASELINE, f"fused_{fmt}", f"unfused_{fmt}", f"native_{fmt}") if k in fits.kernels]
    look = styles(kernels)
    places = tuple(float(b) for b in _POINTS if b <= b_max)
    lines = []
    for kernel in kernels:
        cost = linear_time(fits.kernels[kernel].time.point().tolist(), spec.layers)
        values = tuple(1e3 * float(cost.at(b)) for b in places)
        hover = tuple(f"{kernel}, B = {b:g}: {number(v)} ms" for b, v in zip(places, values, strict=True))
        lines.append(Line(kernel, places, values, look[kernel], hover=hover))
    marks: tuple[Mark, ...] = ()
    if found.b_star is not None:
        star = found.b_star
        label = f"B* {star.point:.3g} [{star.low:.3g}, {star.high:.3g}]"
        marks = (Mark("x", star.point, role_of(f"fused_{fmt}"), label, star.low, star.high),)
    values_seen = [y for line in lines for y in line.y if y]
    x = Axis("B", True, powers_of_two(places[::2]), 0.9, 1.1 * places[-1])
    return Panel(fmt, x, Axis("ms per hop", True, decades(values_seen)), tuple(lines), marks)


def _fit_table(fits: FitsFile, spec: ModelRow, found: dict[str, CrossingEstimate], b_max: int) -> Table:
    rows = []
    for kernel, time in found.items():
        joules = energy_crossing(fits, kernel, spec.layers, b_max=b_max)
        printed = printed_b_star(fits, kernel, spec.layers)
        rows.append(
            (
                kernel,
                time.sentence,
                "–" if time.b_star is None else str(time.b_star),
                percent(time.confidence, 0),
                "not measured" if joules is None else joules.sentence,
                "–" if printed is None else str(printed),
            )
        )
    return Table(
        f"B* of the linear layers of {spec.key} on {fits.machine} against {BASELINE}, by the fits",
        ("kernel", "time", "B* [95 %]", "draws that agree", "energy", "B* as the paper prints it (Eq. 18)"),
        tuple(rows),
        is_numeric=False,
    )
