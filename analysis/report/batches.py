"""Time and energy over the batch size as chains measured them, with B* measured, by the fits and predicted before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from analysis.crossing import MeasuredCrossing
from analysis.fit_crossing import measured_by_chain, measured_energy_by_chain, time_crossing
from analysis.fit_file import FitsFile
from analysis.kernel_kinds import BASELINE
from analysis.predict_file import PredictedCrossing
from analysis.report.batch_fits import fitted_blocks
from analysis.report.colours import role_of, styles
from analysis.report.figure import Axis, Figure, Line, Mark, Panel
from analysis.report.inputs import Catalogue, Inputs, baseline_of, variants_of
from analysis.report.section import Block, Missing, Section, Table, Words, listed, number, slug, with_interval
from analysis.report.ticks import decades, powers_of_two
from profiler.record import RunRecord, VariantResult

_NEAR = 4
Rows = dict[str, dict[int, VariantResult]]


def batch_section(inputs: Inputs, catalogue: Catalogue) -> Section:
    """Return hop time and energy over B, measured and fitted."""
    blocks: list[Block] = []
    for machine in inputs.machines:
        for model, records in inputs.chains(machine).items():
            rows = _comparable(records)
            if rows:
                sweep = _Sweep(
                    rows,
                    _crossings(measured_by_chain(records)),
                    _crossings(measured_energy_by_chain(records)),
                    model,
                    machine,
                    baseline_of(records[-1]),
                    records[-1].created_utc,
                )
                fits = next((f for f in inputs.fits if f.machine == machine), None)
                blocks += _measured(sweep, fits, _predicted(inputs, sweep), catalogue)
    if not blocks:
        blocks.append(
            Missing(
                "No chain over several batch sizes was given", "qt-profile chain --batch 1,8,64 --mode replay"
            )
        )
    for fits in inputs.fits:
        blocks += fitted_blocks(fits, catalogue)
    if not inputs.fits:
        blocks.append(Missing("No fits were given, so B* by the model is missing", "qt-profile fit RUN"))
    return Section(
        "batch",
        "Batch and B*",
        "Time and energy over the batch, and B*",
        "B* is the batch size at which a variant and the native model cost the same. A shaded band is its 95 % "
        "interval by the fits or a prediction, or, where chains were measured, the two neighbouring batch sizes "
        "between which the verdict changes.",
        tuple(blocks),
    )


def _comparable(records: Sequence[RunRecord]) -> Rows:
    """Rows by kernel and batch size of hops that are the same for every kernel, where there are any over batch sizes.

    Replayed hops are; so are generated ones in a fixed number, which are taken where they cover more batch sizes.
    """
    replayed, generated = (_by_batch(records, mode) for mode in ("replay", "generate"))
    most = [max((len(by_b) for by_b in rows.values()), default=0) for rows in (replayed, generated)]
    is_fixed = all(record.arguments.get("hops") for record in records)
    if most[0] > 1 and not (is_fixed and most[1] > most[0]):
        return replayed
    return generated if most[1] > 1 else {}


def _by_batch(records: Sequence[RunRecord], mode: str) -> Rows:
    found: Rows = defaultdict(dict)
    for record in records:
        for row in variants_of(record):
            if row.mode == mode:
                found[row.kernel][row.batch_size] = row
    return dict(found)


@dataclass(frozen=True)
class _Sweep:
    """A chain over several batch sizes."""

    rows: Rows
    time: dict[str, MeasuredCrossing]
    energy: dict[str, MeasuredCrossing]
    model: str
    machine: str
    baseline: str
    newest_utc: datetime

    @property
    def model_key(self) -> str:
        return self.model.split(" (")[0]


def _crossings(found: dict[tuple[str, str], MeasuredCrossing]) -> dict[str, MeasuredCrossing]:
    return {kernel: crossing for (_, kernel), crossing in found.items()}


def _predicted(inputs: Inputs, sweep: _Sweep) -> dict[tuple[str, str], PredictedCrossing]:
    """B* by kernel and quantity of the newest prediction made before the chains for their machine, model and engine."""
    found = {}
    for prediction in sorted(inputs.predictions, key=lambda one: one.created_utc):
        if prediction.machine != sweep.machine or f"({prediction.engine}" not in sweep.model:
            continue
        if prediction.created_utc >= sweep.newest_utc:
            continue
        for crossing in prediction.crossings:
            if crossing.model == sweep.model_key:
                found[crossing.kernel, str(crossing.quantity)] = crossing
    return found


def _measured(
    sweep: _Sweep,
    fits: FitsFile | None,
    predicted: dict[tuple[str, str], PredictedCrossing],
    catalogue: Catalogue,
) -> list[Block]:
    shown = {kernel: by_b for kernel, by_b in sweep.rows.items() if not kernel.startswith("null_")}
    marks = (
        *_bracket_marks(sweep.time),
        # A prediction is of whole hops, the fits alone of the linear layers.
        *_fit_marks([k for k in shown if (k, "time") not in predicted], sweep.model_key, fits, catalogue),
        *_predicted_marks(predicted, "time"),
    )
    times = _lines(shown, lambda r: r.hop_ms_p50, lambda r: r.hop_ms_p50_ci95)
    panels = []
    if times:
        panels.append(_panel("time per hop", "hop_ms_p50", times, marks))
    joules = _lines(shown, lambda r: r.energy_j_per_query, lambda r: r.energy_j_per_query_ci95)
    if any(len(line.x) > 1 for line in joules):
        marks = (*_bracket_marks(sweep.energy), *_predicted_marks(predicted, "energy"))
        panels.append(_panel("energy per query", "J per query", joules, marks))
    blocks: list[Block] = []
    if panels:
        figure = Figure(
            f"batch-{slug(sweep.machine)}-{slug(sweep.model)}",
            f"{sweep.model} on {sweep.machine}: over the batch size",
            f"Time per hop of {listed(list(shown))} over the batch size B.",
            tuple(panels),
            columns=2,
        )
        blocks.append(figure)
    blocks.append(_crossing_block(sweep, predicted))
    return blocks


def _crossing_block(sweep: _Sweep, predicted: dict[tuple[str, str], PredictedCrossing]) -> Block:
    rows = []
    for quantity, crossings in (("time", sweep.time), ("energy", sweep.energy)):
        for kernel, found in crossings.items():
            between = "; ".join(f"{low} < B* < {high}, above it {does}" for low, high, does in found.brackets)
            places = (", ".join(map(str, sizes)) or "–" for sizes in (found.wins, found.loses, found.unclear))
            known = predicted.get((kernel, quantity))
            rows.append(
                (
                    kernel,
                    quantity,
                    between or "no crossing within the batch sizes measured",
                    "–" if known is None else _star_words(known),
                    *places,
                )
            )
    if not rows:
        return Words(
            f"No variant was compared with {sweep.baseline} on replayed hops at several batch sizes."
        )
    return Table(
        f"Measured against {sweep.baseline}, by intervals",
        ("kernel", "of", "B* measured", "B* predicted [95 %]", "wins at", "loses at", "unclear"),
        tuple(rows),
        False,
    )


def _star_words(crossing: PredictedCrossing) -> str:
    if not crossing.b_star:
        return crossing.answer
    return with_interval(crossing.b_star[0], crossing.b_star_ci95)


def _predicted_marks(predicted: dict[tuple[str, str], PredictedCrossing], quantity: str) -> Iterable[Mark]:
    for (kernel, of), crossing in predicted.items():
        if of == quantity and crossing.b_star:
            low, high = crossing.b_star_ci95 or (None, None)
            label = f"B* {kernel} predicted: {crossing.b_star[0]:.3g}"
            yield Mark("x", crossing.b_star[0], role_of(kernel), label, low, high, "dashdot")


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
    # A B* not far beyond the batch sizes measured still belongs into view; one further out is left to the table.
    near = [mark for mark in marks if mark.at <= _NEAR * places[-1]]
    high = max([places[-1], *(max(mark.at, mark.high or 0.0) for mark in near)])
    x = Axis("B, sequences decoded together", True, powers_of_two(places), places[0] / 1.2, high * 1.2)
    return Panel(title, x, Axis(unit, True, decades(values)), tuple(lines), tuple(near), height=340)


def _bracket_marks(crossings: dict[str, MeasuredCrossing]) -> Iterable[Mark]:
    for kernel, found in crossings.items():
        for low, high, _ in found.brackets:
            label = f"B* {kernel}: {low}–{high}"
            yield Mark("x", (low * high) ** 0.5, role_of(kernel), label, low, high)


def _fit_marks(
    kernels: Iterable[str], model: str, fits: FitsFile | None, catalogue: Catalogue
) -> Iterable[Mark]:
    """B* of the model's linear layers by the fits, where the model is a row of the table."""
    spec = catalogue.models.get(model)
    if fits is None or spec is None:
        return
    for kernel in kernels:
        if kernel in fits.kernels and kernel.startswith("fused_") and BASELINE in fits.kernels:
            found = time_crossing(fits, kernel, spec.layers, b_max=catalogue.b_max)
            if found.b_star is not None:
                star = found.b_star
                label = f"B* {kernel} by the fits: {star.point:.3g}"
                yield Mark("x", star.point, role_of(kernel), label, star.low, star.high, "dot")
