"""The history of held-out errors: every prediction that was ever checked, a line each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import AwareDatetime, ValidationError

from profiler.record import Strict, write_whole

HISTORY = "held_out.jsonl"
Quantity = Literal["hop_s", "energy_j_per_token"]


class HeldOut(Strict):
    """One prediction beside what was measured later."""

    prediction: str
    """Name of the prediction."""
    predicted_utc: AwareDatetime
    """When it was made."""
    is_transferred: bool
    """Whether its fits were those of another GPU."""
    run_id: str
    """The run that checked it."""
    measured_utc: AwareDatetime
    """Start of that run."""
    machine: str
    """Device."""
    model: str
    """Model."""
    kernel: str
    """Kernel."""
    batch_size: int
    """B."""
    mode: str
    """``generate`` or ``replay``."""
    engine: str
    """How hops were launched."""
    quantity: Quantity
    """What was predicted, in the unit of its name."""
    predicted: float
    """The prediction."""
    measured: float
    """The measurement."""
    error_share: float
    """predicted / measured - 1."""
    is_inside_ci95: bool
    """Whether the measurement lies in the predicted interval."""

    @property
    def key(self) -> tuple[str, str, str, str, int, str, str]:
        """What makes it the same check."""
        return (
            self.prediction,
            self.run_id,
            self.model,
            self.kernel,
            self.batch_size,
            self.mode,
            self.quantity,
        )


@dataclass(frozen=True)
class ErrorSummary:
    """Held-out errors of one quantity.

    Attributes:
        quantity: what was predicted.
        cells: how many were checked.
        error_share_p50: median absolute error.
        error_share_p90: 90th percentile of absolute errors.
        inside_share: share of measurements inside the predicted interval.
    """

    quantity: Quantity
    cells: int
    error_share_p50: float
    error_share_p90: float
    inside_share: float


def summarise_errors(held_out: Sequence[HeldOut]) -> list[ErrorSummary]:
    """Return median, 90th percentile and coverage of the errors, by quantity."""
    found = []
    quantities: tuple[Quantity, ...] = ("hop_s", "energy_j_per_token")
    for quantity in quantities:
        own = [entry for entry in held_out if entry.quantity == quantity]
        if own:
            sizes = np.abs([entry.error_share for entry in own])
            found.append(
                ErrorSummary(
                    quantity,
                    len(own),
                    float(np.median(sizes)),
                    float(np.quantile(sizes, 0.9)),
                    sum(entry.is_inside_ci95 for entry in own) / len(own),
                )
            )
    return found


@dataclass(frozen=True)
class ErrorRow:
    """Held-out errors of one kernel on one machine.

    Attributes:
        machine: device.
        is_transferred: whether the fits were those of another GPU.
        engine: how hops were launched.
        kernel: kernel.
        summary: of one quantity.
    """

    machine: str
    is_transferred: bool
    engine: str
    kernel: str
    summary: ErrorSummary


def error_rows(held_out: Sequence[HeldOut]) -> list[ErrorRow]:
    """Return the errors by machine, origin of the fits, engine, kernel and quantity, in the order of the history."""
    groups: dict[tuple[str, bool, str, str], list[HeldOut]] = defaultdict(list)
    for entry in held_out:
        groups[entry.machine, entry.is_transferred, entry.engine, entry.kernel].append(entry)
    return [ErrorRow(*key, summary) for key, own in groups.items() for summary in summarise_errors(own)]


def read_history(path: Path) -> list[HeldOut]:
    """Read the history of held-out errors; a file that is not there is an empty one.

    Raises:
        ValueError: a line is no entry.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            found.append(HeldOut.model_validate_json(line))
        except ValidationError as error:
            raise ValueError(f"{path}, line {number}: {error.errors()[0]['msg']}") from error
    return found


def append_history(path: Path, held_out: Sequence[HeldOut]) -> int:
    """Append to the history what it does not hold yet.

    Returns:
        Entries added.

    Raises:
        ValueError: a line of the history is no entry.
        OSError: the file cannot be written.
    """
    known = {entry.key for entry in read_history(path)}
    new = [entry for entry in held_out if entry.key not in known]
    if new:
        # Whole, so that a line cut short by a full disk cannot spoil every later reading.
        lines = [json.dumps(entry.model_dump(mode="json")) for entry in new]
        before = path.read_text("utf-8") if path.exists() else ""
        write_whole(path, before + "\n".join(lines) + "\n")
    return len(new)
