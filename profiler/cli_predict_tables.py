"""Tables of ``qt-profile predict``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from analysis.predict_check import Check
    from analysis.predict_file import PredictedCell, PredictedScale, Prediction
    from analysis.predict_history import ErrorRow, ErrorSummary

_GB = 1e9
_NAMES = {"hop_s": "hop time", "energy_j_per_token": "energy"}


def show_prediction(
    console: Console, prediction: Prediction, errors: Sequence[ErrorSummary], rows: Sequence[ErrorRow]
) -> None:
    """Print a prediction, where its numbers come from first.

    Args:
        console: prints.
        prediction: the prediction.
        errors: held-out errors of every prediction checked so far.
        rows: the same by machine, engine and kernel.
    """
    console.print(f"predicted, not measured: {prediction.source}")
    if prediction.calibration_runs:
        left = 100 * (prediction.calibration_residual_share_p50 or 0.0)
        console.print(
            f"the time between linears is calibrated by {len(prediction.calibration_runs)} native runs, "
            f"which it then misses by {left:.1f} % (median)"
        )
    console.print(history_sentence(errors))
    for model in dict.fromkeys(cell.model for cell in prediction.cells):
        console.print(_cells_table(prediction, model))
        if any(crossing.model == model for crossing in prediction.crossings):
            console.print(_crossing_table(prediction, model))
    console.print(_memory_table(prediction))
    if prediction.scales:
        console.print(_scale_table(prediction))
    if rows:
        console.print(_error_table(prediction, rows))
    for warning in prediction.warnings:
        console.print(f"warning: {warning}")


def show_check(
    console: Console,
    prediction: Prediction,
    found: Check,
    own: Sequence[ErrorSummary],
    ever: Sequence[ErrorSummary],
) -> None:
    """Print what became of a prediction.

    Args:
        console: prints.
        prediction: as stored.
        found: its cells beside what was measured.
        own: errors of this check.
        ever: errors of every prediction checked so far.
    """
    console.print(f"{prediction.name}: {prediction.source}")
    table = Table(title="predicted and measured later", title_justify="left")
    for heading in ("model", "kernel", "B", "mode", "quantity", "predicted", "measured", "error", "in 95 %"):
        table.add_column(heading)
    for entry in found.held_out:
        scale, unit = (1e3, "ms") if entry.quantity == "hop_s" else (1.0, "J/token")
        table.add_row(
            entry.model,
            entry.kernel,
            str(entry.batch_size),
            entry.mode,
            "hop" if entry.quantity == "hop_s" else "energy",
            f"{scale * entry.predicted:.3g} {unit}",
            f"{scale * entry.measured:.3g} {unit}",
            f"{100 * entry.error_share:+.1f} %",
            "yes" if entry.is_inside_ci95 else "no",
        )
    console.print(table)
    for crossing in found.crossings:
        said = {True: "agrees", False: "disagrees", None: "cannot be compared"}[crossing.agrees]
        predicted = ", ".join(f"{b:.3g}" for b in crossing.predicted) or "none"
        measured = ", ".join(f"{low} to {high} ({what} above)" for low, high, what in crossing.brackets)
        console.print(
            f"B* of {crossing.kernel}, {crossing.model}: predicted {predicted}, measured {measured or 'none'}: {said}"
        )
    for sentence in found.skipped:
        console.print(f"left out: {sentence}")
    if found.is_same_card is False:
        console.print("the runs were made on another card than the fits: cards of one model differ in power")
    for summary in own:
        console.print(f"this check: {_errors(summary)}")
    console.print(history_sentence(ever))


def history_sentence(errors: Sequence[ErrorSummary]) -> str:
    """Return the errors of every prediction checked so far, in a sentence."""
    if not errors:
        return "held-out errors so far: no prediction was checked yet"
    return "held-out errors so far: " + "; ".join(_errors(summary) for summary in errors)


def _error_table(prediction: Prediction, rows: Sequence[ErrorRow]) -> Table:
    """What became of earlier predictions: those of the kernels predicted here first."""
    table = Table(
        title="held-out errors of every prediction checked so far: |predicted / measured - 1|",
        title_justify="left",
    )
    for heading in ("machine", "fits", "engine", "kernel", "of", "cells", "median", "p90", "in 95 %"):
        table.add_column(heading)
    wanted = {cell.kernel for cell in prediction.cells}
    near = sorted(rows, key=lambda row: (row.machine != prediction.machine, row.kernel not in wanted))
    for row in near:
        summary = row.summary
        table.add_row(
            row.machine,
            "carried over" if row.is_transferred else "its own",
            row.engine,
            row.kernel,
            _NAMES[summary.quantity],
            str(summary.cells),
            f"{100 * summary.error_share_p50:.1f} %",
            f"{100 * summary.error_share_p90:.1f} %",
            f"{100 * summary.inside_share:.0f} %",
        )
    return table


def _errors(summary: ErrorSummary) -> str:
    return (
        f"{_NAMES[summary.quantity]}, {summary.cells} cells: median {100 * summary.error_share_p50:.1f} %, "
        f"90th percentile {100 * summary.error_share_p90:.1f} %, {100 * summary.inside_share:.0f} % inside their "
        "intervals"
    )


def _cells_table(prediction: Prediction, model: str) -> Table:
    table = Table(
        title=f"{model} on {prediction.machine}, engine {prediction.engine}, {prediction.context} cached tokens "
        "(95 % intervals over the fits' draws)",
        title_justify="left",
    )
    for heading in (
        "kernel",
        "B",
        "hop, ms",
        "tokens/s",
        f"J per query of {prediction.hops} hops",
        "W",
        "time / bf16",
        "time",
        "energy",
        "memory, GB",
    ):
        table.add_column(heading)
    for cell in (c for c in prediction.cells if c.model == model):
        query = "–" if cell.energy_j_per_query is None else f"{cell.energy_j_per_query:.3g}"
        low, high = cell.hop_s_ci95
        table.add_row(
            cell.kernel + (" (calibrated)" if cell.calibrated else ""),
            str(cell.batch_size),
            f"{1e3 * cell.hop_s:.3g} [{1e3 * low:.3g}, {1e3 * high:.3g}]",
            f"{cell.tps:,.0f}",
            query,
            _power_words(cell),
            f"{cell.time_ratio:.3g} [{cell.time_ratio_ci95[0]:.3g}, {cell.time_ratio_ci95[1]:.3g}]",
            cell.verdict_time.replace("_", " "),
            cell.verdict_energy.replace("_", " "),
            _memory_words(cell),
        )
    return table


def _power_words(cell: PredictedCell) -> str:
    if cell.power_w is None:
        return "–"
    return f"{cell.power_w:.0f}" + (" (capped)" if cell.held_down_share > 0 else "")


def _memory_words(cell: PredictedCell) -> str:
    fits = {True: "", False: " (does not fit)", None: ""}[cell.memory.fits]
    return f"{cell.memory.total_bytes / _GB:.1f}{fits}"


def _crossing_table(prediction: Prediction, model: str) -> Table:
    table = Table(title=f"B* of {model} against bf16, whole hop", title_justify="left")
    for heading in ("kernel", "of", "answer", "B* (95 %)", "sure"):
        table.add_column(heading)
    for row in (c for c in prediction.crossings if c.model == model):
        star = "–"
        if row.b_star and row.b_star_ci95 is not None:
            star = f"{row.b_star[0]:.3g} [{row.b_star_ci95[0]:.3g}, {row.b_star_ci95[1]:.3g}]"
        table.add_row(row.kernel, row.quantity, row.answer, star, f"{100 * row.confidence:.0f} %")
    return table


def _memory_table(prediction: Prediction) -> Table:
    table = Table(title="memory", title_justify="left")
    for heading in (
        "model",
        "kernel",
        "weights, GB",
        "layout copies, GB",
        "KV per sequence, MB",
        "largest batch",
    ):
        table.add_column(heading)
    seen = set()
    for cell in prediction.cells:
        if (cell.model, cell.kernel) in seen:
            continue
        seen.add((cell.model, cell.kernel))
        memory = cell.memory
        largest = "memory not known" if memory.largest_batch is None else f"{memory.largest_batch:,}"
        table.add_row(
            cell.model,
            cell.kernel,
            f"{memory.weight_bytes / _GB:.2f}",
            f"{memory.layout_bytes / _GB:.2f}",
            f"{memory.kv_bytes / cell.batch_size / 1e6:.1f}",
            "weights alone do not fit" if memory.largest_batch == 0 else largest,
        )
    return table


def _scale_table(prediction: Prediction) -> Table:
    table = Table(title="N*, over the sizes of the model table, against bf16", title_justify="left")
    for heading in ("kernel", "B", "N* in weights (95 % of the first)", "sizes that lose", "sizes that win"):
        table.add_column(heading)
    batches: dict[tuple[str, str, int, int], list[str]] = {}
    for row in prediction.scales:
        key = (row.kernel, _scale_words(row), row.trapped_models, row.free_models)
        batches.setdefault(key, []).append(str(row.batch_size))
    for (kernel, words, trapped, free), sizes in batches.items():
        table.add_row(kernel, ", ".join(sizes), words, str(trapped), str(free))
    return table


def _scale_words(row: PredictedScale) -> str:
    if not row.n_star:
        return "none: loses at every size" if row.trapped_models else "none: wins at every size"
    sizes = ", ".join(f"{size / 1e9:.2g} G" for size in row.n_star)
    ends = row.n_star_ci95
    return sizes if ends is None else f"{sizes} [{ends[0] / 1e9:.2g}, {ends[1] / 1e9:.2g}]"
