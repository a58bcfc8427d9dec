"""Stored predictions against runs made later: errors of every cell, and B* beside the measured one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.crossing import MeasuredCrossing
from analysis.fit_crossing import measured_by_chain
from analysis.fit_input import cards_of, machine_of
from analysis.predict_file import PredictedCell, PredictedCrossing, Prediction
from analysis.predict_history import HeldOut, Quantity
from profiler.record import RunRecord, VariantResult

# A prediction is of hops, and a window holds the prompts too: of its joules they get the share of their time.
_MOST_PROMPT_SHARE = 0.1
# A cache of another length is other traffic, and another question.
_SAME_CONTEXT = 0.1


@dataclass(frozen=True)
class CrossingCheck:
    """A predicted B* beside the measured one.

    Attributes:
        model: model.
        kernel: variant.
        predicted: crossings by the estimates.
        brackets: measured neighbours between which the verdict changes, and what the variant does above.
        agrees: whether both lose at the same end of the measured grid and cross within one step of it, or neither
            crosses; None where the measured intervals decide at fewer than 2 batch sizes.
    """

    model: str
    kernel: str
    predicted: tuple[float, ...]
    brackets: tuple[tuple[int, int, str], ...]
    agrees: bool | None


_TIME = "%Y-%m-%d %H:%M:%S"
_MOST_NAMED = 3


@dataclass(frozen=True)
class Check:
    """A prediction checked.

    Attributes:
        held_out: every cell that a run measured.
        crossings: B* of models and kernels with a batch sweep.
        skipped: what was not compared, and why, a sentence each.
        is_same_card: whether the runs were made on the GPU of the fits; None where that is not known.
    """

    held_out: list[HeldOut]
    crossings: list[CrossingCheck]
    skipped: list[str]
    is_same_card: bool | None = None


def check_prediction(prediction: Prediction, records: Sequence[RunRecord]) -> Check:
    """Compare a stored prediction with chain runs.

    Args:
        prediction: as it was stored.
        records: chain runs. One that started before the prediction was made, on another machine, with another engine or
            another length of cache is left out, and said.

    Raises:
        ValueError: no run can check it; the sentence says why of each.
    """
    cells = {(c.model, c.kernel, c.batch_size): c for c in prediction.cells}
    held_out: list[HeldOut] = []
    skipped: list[str] = []
    used = []
    # Rows that check nothing, by why, then run.
    uncompared: dict[str, dict[str, int]] = defaultdict(dict)
    unfit: dict[str, list[str]] = defaultdict(list)
    early = [record for record in records if _is_early(prediction, record)]
    for record in records:
        if len(early) > 1 and _is_early(prediction, record):
            continue
        reason = _unfit(prediction, record)
        if reason is not None:
            unfit[reason].append(record.run_id)
            continue
        unknown = calibrated = compared = 0
        for row in record.results:
            if not isinstance(row, VariantResult):
                continue
            cell = cells.get((str(record.arguments.get("model")), row.kernel, row.batch_size))
            if cell is None:
                unknown += not row.kernel.startswith("null_")
            elif cell.calibrated:
                calibrated += 1
            else:
                found = list(_compare(prediction, record, row, cell))
                held_out += found
                compared += len(found)
        if compared or calibrated:
            used.append(record)
        if unknown:
            uncompared["were not predicted"][record.run_id] = unknown
        if calibrated:
            uncompared["belong to what calibrated the prediction"][record.run_id] = calibrated
    skipped += [f"{_runs(list(own))}: {sum(own.values())} rows {why}" for why, own in uncompared.items()]
    skipped += [f"{_runs(names)} {reason}" for reason, names in unfit.items()]
    if len(early) > 1:
        skipped.append(_early_sentence(prediction, early))
    if not held_out:
        raise ValueError(
            f"{len(records)} runs hold 0 cells that {prediction.name} predicted: "
            + ("; ".join(skipped) or "no run")
        )
    return Check(held_out, _check_crossings(prediction, used), skipped, is_same_card(prediction, used))


def is_same_card(prediction: Prediction, records: Sequence[RunRecord]) -> bool | None:
    """Whether runs were made on the GPU of a prediction's fits, all of them; None where that is not known."""
    cards = set(cards_of(records))
    return cards <= set(prediction.fit_cards) if cards and prediction.fit_cards else None


def _unfit(prediction: Prediction, record: RunRecord) -> str | None:
    if record.kind != "chain":
        return f"is a record of kind {record.kind}, not of a chain"
    if record.status == "failed":
        return f"failed: {record.error}"
    if machine_of(record) != prediction.machine and not _same_arch(prediction, record):
        return f"ran on {machine_of(record)}, the prediction is for {prediction.machine}"
    if _is_early(prediction, record):
        return (
            f"started at {record.created_utc:{_TIME}} UTC, before the prediction of "
            f"{prediction.created_utc:{_TIME}} UTC: it is not held out"
        )
    engine = record.arguments.get("engine", "eager")
    if engine != prediction.engine:
        return f"ran with engine={engine}, the prediction is for {prediction.engine}"
    columns = other_context(record, prediction.context)
    if columns is not None:
        return f"read {columns} cached tokens per hop on average, the prediction is for {prediction.context}"
    return None


def _is_early(prediction: Prediction, record: RunRecord) -> bool:
    return record.kind == "chain" and record.created_utc <= prediction.created_utc


def _early_sentence(prediction: Prediction, early: Sequence[RunRecord]) -> str:
    times = sorted(record.created_utc for record in early)
    return (
        f"{_runs([record.run_id for record in early])} started at {times[0]:{_TIME}} to {times[-1]:{_TIME}} UTC, "
        f"before the prediction of {prediction.created_utc:{_TIME}} UTC: they are not held out"
    )


def _runs(names: Sequence[str]) -> str:
    """Name a run, or count several and name the first."""
    if len(names) == 1:
        return names[0]
    others = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{len(names)} runs ({', '.join(names[:_MOST_NAMED])}{others})"


def _same_arch(prediction: Prediction, record: RunRecord) -> bool:
    gpus = record.environment.gpus if record.arguments.get("device") != "cpu" else []
    return prediction.arch is not None and bool(gpus) and gpus[0].arch == prediction.arch


def other_context(record: RunRecord, tokens: int) -> int | None:
    """Return what a run's hops read of the cache on average where that is not about as much as the tokens given.

    Args:
        record: a chain run; one with fixed lengths reads its prompt and on average half of what it adds.
        tokens: cached tokens of a prediction.

    Returns:
        None where they are within 10 %, and where the run's sequences have lengths of their own.
    """
    context, hops = record.arguments.get("context"), record.arguments.get("hops")
    if not isinstance(context, int) or not isinstance(hops, int):
        return None
    columns = context + (hops + 1) // 2
    return columns if abs(columns / tokens - 1) > _SAME_CONTEXT else None


def _compare(
    prediction: Prediction, record: RunRecord, row: VariantResult, cell: PredictedCell
) -> Iterable[HeldOut]:
    measured: list[tuple[Quantity, float, tuple[float, float], float | None]] = [
        ("hop_s", cell.hop_s, cell.hop_s_ci95, None if row.hop_ms_p50 is None else row.hop_ms_p50 / 1e3)
    ]
    if cell.energy_j_per_token is not None and cell.energy_j_per_token_ci95 is not None:
        joules = _joules_per_token(record, row)
        measured.append(("energy_j_per_token", cell.energy_j_per_token, cell.energy_j_per_token_ci95, joules))
    for quantity, predicted, (low, high), value in measured:
        if not value:
            continue
        yield HeldOut(
            prediction=prediction.name,
            predicted_utc=prediction.created_utc,
            is_transferred=prediction.is_transferred,
            run_id=record.run_id,
            measured_utc=record.created_utc,
            machine=machine_of(record),
            model=cell.model,
            kernel=cell.kernel,
            batch_size=cell.batch_size,
            mode=row.mode,
            engine=prediction.engine,
            quantity=quantity,
            predicted=predicted,
            measured=value,
            error_share=predicted / value - 1,
            is_inside_ci95=low <= value <= high,
        )


def _joules_per_token(record: RunRecord, row: VariantResult) -> float | None:
    """Joules of a hop and sequence; None where windows were not filled, or where much of them went into prompts."""
    if row.energy_j_per_query is None or row.energy_is_estimate or not row.tokens:
        return None
    if record.arguments.get("energy_windows") == 0:
        return None
    prompts_s, hops_s = row.prefill_s or 0.0, row.decode_s or 0.0
    share = prompts_s / (prompts_s + hops_s) if prompts_s else 0.0
    if share > _MOST_PROMPT_SHARE:
        return None
    return (1 - share) * row.energy_j_per_query * row.problems / row.tokens


def _check_crossings(prediction: Prediction, records: Sequence[RunRecord]) -> list[CrossingCheck]:
    measured = measured_by_chain(records)
    found = []
    for crossing in prediction.crossings:
        seen = measured.get((crossing.model, crossing.kernel))
        if seen is None or crossing.quantity != "time":
            continue
        grid = sorted({*seen.loses, *seen.wins, *seen.unclear})
        decided = len(seen.loses) + len(seen.wins)
        agrees = None if decided < 2 else _agrees(crossing, seen, grid)
        found.append(
            CrossingCheck(crossing.model, crossing.kernel, tuple(crossing.b_star), seen.brackets, agrees)
        )
    return found


def _agrees(crossing: PredictedCrossing, seen: MeasuredCrossing, grid: Sequence[int]) -> bool:
    brackets = seen.brackets
    loses_first = brackets[0][2] == "wins" if brackets else bool(seen.loses)
    if loses_first != any(low <= grid[0] <= high for low, high in crossing.loses):
        return False
    stars = [b for b in crossing.b_star if grid[0] < b < grid[-1]]
    if len(stars) != len(brackets):
        return False
    for star, (low, high, _) in zip(stars, brackets, strict=True):
        below, above = grid[max(0, grid.index(low) - 1)], grid[min(len(grid) - 1, grid.index(high) + 1)]
        if not below <= star <= above:
            return False
    return True
