"""Predicted against measured: what the fits describe, and held-out predictions that were checked later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from analysis.fit_file import FitsFile
from analysis.predict_file import Prediction
from analysis.predict_history import HeldOut, summarise_errors
from analysis.report.colours import split_name, styles
from analysis.report.figure import Axis, Figure, Line, Panel, Style
from analysis.report.inputs import Inputs
from analysis.report.section import Block, Missing, Section, Table, number, percent, slug
from analysis.report.ticks import decades

_BAND = (0.9, 1.1)
# By quantity: what it is called, its unit on the page, and what turns the stored number into that unit.
_QUANTITIES = {"hop_s": ("time per hop", "ms", 1e3), "energy_j_per_token": ("energy per token", "J", 1.0)}


def prediction_section(inputs: Inputs) -> Section:
    """Return checked predictions, and the fits beside what they were fitted on."""
    blocks: list[Block] = []
    for machine in dict.fromkeys(entry.machine for entry in inputs.held_out):
        blocks += _held_out_blocks(inputs, machine)
    if not blocks:
        blocks.append(
            Missing(
                "No prediction that was made before its measurement was given",
                "qt-profile predict --out PREDICTION, then qt-profile predict --check PREDICTION RUN",
            )
        )
    blocks += [_open_table(prediction) for prediction in inputs.predictions if prediction.crossings]
    for fits in inputs.fits:
        blocks += _fit_blocks(fits)
    return Section(
        "prediction",
        "Predictions",
        "Predicted against measured",
        "Points on the line are predicted right; the band is 10 %. Predictions are held out: nothing that they "
        "predict was fitted. The fits beside their own data only show that the model can describe it.",
        tuple(blocks),
    )


def _held_out_blocks(inputs: Inputs, machine: str) -> list[Block]:
    entries = [entry for entry in inputs.held_out if entry.machine == machine]
    panels = []
    for quantity, (title, unit, scale) in _QUANTITIES.items():
        by_kernel: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for entry in entries:
            if entry.quantity == quantity and entry.predicted > 0 and entry.measured > 0:
                by_kernel[entry.kernel].append((scale * entry.predicted, scale * entry.measured))
        if by_kernel:
            panels.append(_panel(title, unit, dict(by_kernel)))
    if not panels:
        return []
    rows = tuple(
        (
            _QUANTITIES[summary.quantity][0],
            str(summary.cells),
            percent(summary.error_share_p50),
            percent(summary.error_share_p90),
            percent(summary.inside_share, 0),
        )
        for summary in summarise_errors(entries)
    )
    figure = Figure(
        f"prediction-{slug(machine)}",
        f"Held-out predictions on {machine}",
        "; ".join(
            f"{row[0]}: median error {row[2]}, 90th percentile {row[3]} of {row[1]} cells" for row in rows
        ),
        tuple(panels),
        columns=2,
    )
    head = ("quantity", "cells", "median error", "90th percentile", "inside the predicted interval")
    return [
        figure,
        Table(f"Errors of held-out predictions on {machine}", head, rows),
        _cells(entries, machine),
    ]


def _cells(entries: Sequence[HeldOut], machine: str) -> Table:
    rows = tuple(
        (
            entry.model,
            entry.kernel,
            str(entry.batch_size),
            entry.engine,
            _QUANTITIES[entry.quantity][0],
            number(_QUANTITIES[entry.quantity][2] * entry.predicted),
            number(_QUANTITIES[entry.quantity][2] * entry.measured),
            percent(entry.error_share),
            f"{entry.predicted_utc:%Y-%m-%d %H:%M}",
        )
        for entry in entries
    )
    head = (
        "model",
        "kernel",
        "B",
        "engine",
        "quantity, ms or J",
        "predicted",
        "measured",
        "error",
        "predicted, UTC",
    )
    return Table(f"Every held-out cell on {machine}", head, rows, is_folded=True)


def _open_table(prediction: Prediction) -> Table:
    """B* of a stored prediction, whether it was checked or not."""
    rows = tuple(
        (crossing.model, crossing.kernel, crossing.quantity, crossing.answer, percent(crossing.confidence, 0))
        for crossing in prediction.crossings
    )
    title = f"B* predicted {prediction.created_utc:%Y-%m-%d %H:%M} UTC for {prediction.machine}: {prediction.source}"
    return Table(title, ("model", "kernel", "quantity", "answer", "draws that agree"), rows, False, True)


def _fit_blocks(fits: FitsFile) -> list[Block]:
    by_scheme: dict[str, dict[str, list[tuple[float, float]]]] = {}
    rows = []
    for kernel, fit in fits.kernels.items():
        # The residual is 1 - observed / predicted, in the unit of the prediction.
        pairs = [
            (1e6 * r.observed / (1 - r.residual_share), 1e6 * r.observed)
            for r in fit.time.residuals
            if r.residual_share < 1 and r.observed > 0
        ]
        if pairs:
            scheme = split_name(kernel)[0] or "peers"
            by_scheme.setdefault(scheme, {})[kernel] = pairs
            rows.append(
                (
                    kernel,
                    str(len(pairs)),
                    percent(fit.time.residual_share_p50),
                    percent(fit.time.residual_share_p90),
                )
            )
    if not rows:
        return []
    worst = max(fits.kernels.items(), key=lambda item: item[1].time.residual_share_p90)
    figure = Figure(
        f"fitted-{slug(fits.machine)}",
        f"Fitted call times on {fits.machine} (fitted on these, not held out)",
        f"Worst: {worst[0]}, a tenth of its cells is off by more than {percent(worst[1].time.residual_share_p90)}.",
        tuple(_panel(scheme, "µs per call", own) for scheme, own in by_scheme.items()),
    )
    head = ("kernel", "cells", "|residual| p50", "p90")
    return [figure, Table("How well the fits describe their own data", head, tuple(rows), is_folded=True)]


def _panel(title: str, unit: str, by_kernel: dict[str, list[tuple[float, float]]]) -> Panel:
    look = styles(by_kernel)
    numbers = [value for pairs in by_kernel.values() for pair in pairs for value in pair]
    low, high = min(numbers) / 1.3, max(numbers) * 1.3
    ends = (low, high)
    band = Line(
        "exact, ±10 %",
        ends,
        ends,
        Style("muted", "solid", "none", 1.2),
        tuple(_BAND[0] * e for e in ends),
        tuple(_BAND[1] * e for e in ends),
        is_area=True,
        hover=("exact",) * 2,
    )
    points = [
        Line(
            kernel,
            tuple(p for p, _ in pairs),
            tuple(m for _, m in pairs),
            Style(look[kernel].role, "none", look[kernel].marker),
            hover=tuple(_said(kernel, pair, unit) for pair in pairs),
        )
        for kernel, pairs in by_kernel.items()
    ]
    ticks = decades(numbers)
    x = Axis(f"predicted, {unit}", True, ticks, low, high)
    return Panel(title, x, Axis(f"measured, {unit}", True, ticks, low, high), (band, *points))


def _said(kernel: str, pair: Sequence[float], unit: str) -> str:
    predicted, measured = pair
    off = percent(predicted / measured - 1)
    return f"{kernel}: predicted {number(predicted)}, measured {number(measured)} {unit} ({off})"
