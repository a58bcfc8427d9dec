"""Tables of stored predictions beside the committed runs that checked them later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.cost_ratio import energy_ratio, time_ratio
from analysis.crossing import MeasuredCrossing, measured_crossing
from analysis.predict_check import is_same_card
from analysis.predict_file import PredictedCrossing, Prediction
from analysis.predict_history import ErrorSummary, HeldOut, error_rows, summarise_errors
from analysis.stats import Interval
from benchmarks.chain_cells import NATIVE, Cell, cells_of, words
from benchmarks.markdown import table
from benchmarks.published import Chains, NotPublished, place_of
from benchmarks.query_energy_tables import has_energy

_COLUMNS = ("cells", "median of \\|error\\|", "90th percentile", "inside the 95 % interval")
_NAMES = {"hop_s": "hop time", "energy_j_per_token": "energy per token"}
_BRIEF = "median and 90th percentile of the absolute error"
_CARDS = {True: "yes", False: "no", None: "not known"}
_SURE = 0.95
_LEAST_SIZES = 2
_STAMP = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class _Checked:
    path: Path
    prediction: Prediction
    held_out: list[HeldOut]
    chains: Chains


def prediction_summary(
    predictions: Sequence[tuple[Path, Prediction]], history: Sequence[HeldOut], chains: Chains
) -> str:
    """Errors of every stored prediction that was checked, a row each, newest first.

    Args:
        predictions: stored predictions with their files.
        history: every check of them.
        chains: chain runs with their folders.

    Raises:
        NotPublished: no prediction, or none that was checked.
        ValueError: a check names a prediction or a run that is not among those given, or a run that is not later.
    """
    checked = _checked(predictions, history, chains)
    quantities = [q for q in _NAMES if any(entry.quantity == q for one in checked for entry in one.held_out)]
    heads = [f"{_NAMES[quantity]}: cells, {_BRIEF}" for quantity in quantities]
    rows = {
        f"`{one.path.name}`, {one.prediction.created_utc:{_STAMP}}": [
            f"{min(entry.measured_utc for entry in one.held_out):{_STAMP}}",
            _CARDS[_is_same_card(one)],
            *(_brief(one.held_out, quantity) for quantity in quantities),
        ]
        for one in checked
    }
    shown = table("prediction, stored at (UTC)", ["runs from", "card of the fits", *heads], rows)
    machines = words(one.prediction.machine for one in checked)
    engines = words(f"`{one.prediction.engine}`" for one in checked)
    places = words(f"`{place_of(one.path.parent)}`" for one in checked)
    return f"{shown}\n\n{machines}; engine {engines}, fits of micro-benchmarks; predictions in {places}."


def prediction_page(
    predictions: Sequence[tuple[Path, Prediction]], history: Sequence[HeldOut], chains: Chains
) -> str:
    """Errors of every prediction that was checked by kernel, B* predicted and measured, what was predicted from what.

    Args and Raises: as ``prediction_summary``.
    """
    sections = []
    for one in _checked(predictions, history, chains):
        parts = [_error_table(one), _kernel_table(one.held_out), _star_table(one), _stamps(one)]
        sections += [part for part in parts if part]
    return "\n\n".join(sections)


def _checked(
    predictions: Sequence[tuple[Path, Prediction]], history: Sequence[HeldOut], chains: Chains
) -> list[_Checked]:
    runs = {record.run_id: (path, record) for path, record in chains}
    by_name: dict[str, list[HeldOut]] = defaultdict(list)
    for entry in history:
        by_name[entry.prediction].append(entry)
        if entry.run_id not in runs:
            raise ValueError(
                f"the history of checks names {entry.run_id}, which is not among {len(runs)} chain runs"
            )
        if entry.measured_utc <= entry.predicted_utc:
            raise ValueError(
                f"{entry.run_id} of {entry.measured_utc:{_STAMP}} is not later than the prediction "
                f"of {entry.predicted_utc:{_STAMP}}"
            )
    known = {prediction.name for _, prediction in predictions}
    if by_name.keys() - known:
        raise ValueError(
            f"the history of checks names {words(by_name.keys() - known)}, which is not among {len(known)} predictions"
        )
    found = []
    for path, prediction in sorted(predictions, key=lambda pair: pair[1].created_utc, reverse=True):
        held_out = by_name[prediction.name]
        if held_out:
            own = {entry.run_id: runs[entry.run_id] for entry in held_out}
            found.append(_Checked(path, prediction, held_out, list(own.values())))
    if not found:
        raise NotPublished(f"{len(predictions)} stored predictions, 0 of them checked by a later run")
    return found


def _error_table(one: _Checked) -> str:
    rows = {_NAMES[summary.quantity]: _errors(summary) for summary in summarise_errors(one.held_out)}
    uncapped = _without_cap(one)
    if uncapped:
        *errors, _ = _errors(summarise_errors(uncapped)[0])
        rows["the same hop times, had the power cap held none of them down"] = [*errors, "–"]
    return table("predicted / measured − 1", _COLUMNS, rows)


def _without_cap(one: _Checked) -> list[HeldOut]:
    """The checks of hop times at full clocks; none where no checked hop was predicted at lower ones."""
    shares = {(c.model, c.kernel, c.batch_size): c.held_down_share for c in one.prediction.cells}
    times = [entry for entry in one.held_out if entry.quantity == "hop_s"]
    longer = [1 + shares[entry.model, entry.kernel, entry.batch_size] for entry in times]
    if all(factor == 1 for factor in longer):
        return []
    return [
        entry.model_copy(update={"error_share": (1 + entry.error_share) / factor - 1})
        for entry, factor in zip(times, longer, strict=True)
    ]


def _kernel_table(held_out: Sequence[HeldOut]) -> str:
    rows = {
        f"`{row.kernel}`, {_NAMES[row.summary.quantity]}": _errors(row.summary)
        for row in sorted(error_rows(held_out), key=lambda row: row.summary.quantity, reverse=True)
    }
    return table("by kernel", _COLUMNS, rows)


def _errors(summary: ErrorSummary) -> list[str]:
    return [
        str(summary.cells),
        f"{summary.error_share_p50:.1%}",
        f"{summary.error_share_p90:.1%}",
        f"{summary.inside_share:.0%}",
    ]


def _star_table(one: _Checked) -> str:
    """B* of every model and kernel that was measured at two batch sizes or more; empty without one."""
    measured = _measured_crossings(one.chains)
    rows = {}
    for crossing in one.prediction.crossings:
        seen = measured.get((crossing.model, crossing.kernel, crossing.quantity))
        if seen is not None:
            label = f"{crossing.model} `{crossing.kernel}`, {crossing.quantity}"
            rows[label] = [_predicted_star(crossing), _measured_star(seen)]
    return table("B\\* against `bf16`", ["predicted [95 %]", "measured, by intervals"], rows) if rows else ""


def _measured_crossings(chains: Chains) -> Mapping[tuple[str, str, str], MeasuredCrossing]:
    ratios: dict[tuple[str, str, str], dict[int, Interval]] = defaultdict(dict)
    for cell in cells_of(chains):
        energy = energy_ratio(cell.row, cell.native) if has_energy(cell) else None
        for quantity, ratio in (("time", _time_ratio(cell)), ("energy", energy)):
            if ratio is not None and cell.row.kernel != NATIVE:
                ratios[cell.model, cell.row.kernel, quantity][cell.row.batch_size] = ratio
    return {key: measured_crossing(own) for key, own in ratios.items() if len(own) >= _LEAST_SIZES}


def _time_ratio(cell: Cell) -> Interval | None:
    """Hop time over bf16's: of replayed hops, pair by pair, or without a replay by the intervals of both medians."""
    is_against_native = cell.record.arguments.get("baseline", NATIVE) == NATIVE
    row = cell.row if is_against_native else cell.row.model_copy(update={"cor_tps": None})
    return time_ratio(row, cell.native)


def _predicted_star(crossing: PredictedCrossing) -> str:
    stars = ", ".join(f"{star:.3g}" for star in crossing.b_star)
    if crossing.b_star and crossing.b_star_ci95 is not None:
        stars += " [{:.3g}, {:.3g}]".format(*crossing.b_star_ci95)
    if crossing.confidence < _SURE:
        return f"{stars}; {crossing.answer}" if stars else crossing.answer
    if stars:
        return f"{stars}, loses {crossing.regime}" if crossing.regime in ("above", "below") else stars
    return f"none: {crossing.regime} loses" if crossing.regime in ("never", "always") else crossing.answer


def _measured_star(seen: MeasuredCrossing) -> str:
    parts = [f"between {low} and {high}, {what} above" for low, high, what in seen.brackets]
    if not parts:
        parts = [
            f"{what} at B = {_sizes(sizes)}"
            for what, sizes in (("loses", seen.loses), ("wins", seen.wins))
            if sizes
        ]
        parts = [f"none: {'; '.join(parts)}"] if parts else []
    if seen.unclear:
        parts.append(f"not told apart at B = {_sizes(seen.unclear)}")
    return "; ".join(parts)


def _sizes(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


def _brief(held_out: Sequence[HeldOut], quantity: str) -> str:
    found = [summary for summary in summarise_errors(held_out) if summary.quantity == quantity]
    return (
        f"{found[0].cells}, {found[0].error_share_p50:.1%}, {found[0].error_share_p90:.1%}" if found else "–"
    )


def _is_same_card(one: _Checked) -> bool | None:
    """Whether the fits and the runs that check them were measured on one card."""
    return is_same_card(one.prediction, [record for _, record in one.chains])


def _card(one: _Checked) -> str:
    is_same = _is_same_card(one)
    return (
        "" if is_same is None else ", the card of the fits" if is_same else ", on another card than the fits"
    )


def _stamps(one: _Checked) -> str:
    """When it was predicted, from what, and when it was measured."""
    prediction = one.prediction
    started = sorted(record.created_utc for _, record in one.chains)
    commit = "" if prediction.git_commit is None else f", commit {prediction.git_commit[:10]}"
    count = len(prediction.calibration_runs)
    calibration = f"calibrated by {count} native runs" if count else "not calibrated"
    folders = words(f"`{place_of(path.parent)}`" for path, _ in one.chains)
    return (
        f"Predicted {prediction.created_utc:{_STAMP}} UTC (`{place_of(one.path)}`{commit}; "
        f"engine `{prediction.engine}`, {prediction.context} cached tokens, fits of {prediction.fits}, "
        f"{'carried over' if prediction.is_transferred else 'of this machine'}, {calibration}). "
        f"Measured later by {len(started)} chain runs in {folders}, which started {started[0]:{_STAMP}} to "
        f"{started[-1]:{_STAMP}} UTC, on {words(entry.machine for entry in one.held_out)}{_card(one)}."
    )
