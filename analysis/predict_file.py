"""Stored predictions: what was predicted, when, from which fits, so that runs made later can check it."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from profiler.record import Strict, write_whole

Ends = tuple[float, float]


class PredictedMemory(Strict):
    """Memory at one batch size, bytes."""

    weight_bytes: int
    """Linears with their scales, embedding and output layer."""
    layout_bytes: int
    """Copies of quantized weights in the kernels' order."""
    kv_bytes: int
    """KV cache of the batch."""
    total_bytes: int
    """Everything, activations and what context and libraries take included."""
    fits: bool | None
    """Whether it fits; None where the device's memory is not known."""
    largest_batch: int | None
    """The largest batch that fits; None where the device's memory is not known."""


class PredictedCell(Strict):
    """One model, kernel and batch size."""

    model: str
    """Key of the model table."""
    kernel: str
    """Registry name."""
    batch_size: Annotated[int, Field(ge=1)]
    """Sequences decoded together."""
    hop_s: float
    """Time of a hop, s."""
    hop_s_ci95: Ends
    """Its interval over the fits' draws; what the model of a hop leaves out is not in it."""
    tps: float
    """Tokens per second, whole batch."""
    tps_ci95: Ends
    """Its interval."""
    time_ratio: float
    """Time of the hop over that of bf16."""
    time_ratio_ci95: Ends
    """Its interval."""
    verdict_time: str
    """``trapped``, ``not_trapped`` or ``inconclusive`` against bf16."""
    energy_j_per_token: float | None
    """Energy per token, J; None where no energy was fitted."""
    energy_j_per_token_ci95: Ends | None
    """Its interval."""
    energy_j_per_query: float | None
    """Energy per query of the hops given, J."""
    energy_ratio_ci95: Ends | None
    """Interval of its ratio to bf16."""
    verdict_energy: str
    """The same for energy; ``not_measured`` where none was fitted."""
    memory: PredictedMemory
    """What it takes of memory."""
    calibrated: bool = False
    """Whether a native run of this model and kernel calibrated the prediction, so that it is held out no more."""

    held_down_share: float = 0.0
    """By how much the card's power cap lengthens the hop, of its time at full clocks; 0 in files from before."""

    @property
    def power_w(self) -> float | None:
        """Mean power of a hop, W; None where no energy was fitted."""
        return None if self.energy_j_per_token is None else self.energy_j_per_token * self.tps


class PredictedCrossing(Strict):
    """Where a kernel loses to bf16 over the batch."""

    model: str
    """Key of the model table."""
    kernel: str
    """Registry name."""
    quantity: Literal["time", "energy"]
    """What is compared."""
    answer: str
    """In words."""
    regime: str
    """``never``, ``always``, ``below``, ``above`` or ``band``, by the estimates."""
    confidence: float
    """Share of draws in that regime."""
    loses: list[Ends]
    """Intervals of B in which it loses."""
    b_star: list[float]
    """Crossings by the estimates."""
    b_star_ci95: Ends | None
    """Interval of the first."""


class PredictedScale(Strict):
    """Above which model size a kernel wins, over the rows of the model table."""

    kernel: str
    """Registry name."""
    batch_size: int
    """B."""
    n_star: list[float]
    """Sizes, in weights, at which the verdict changes."""
    n_star_ci95: Ends | None
    """Interval of the first, over the draws that change at all; None where none does."""
    trapped_models: int
    """Rows of the table that lose."""
    free_models: int
    """Rows that do not."""


class Prediction(Strict):
    """Everything that one command predicted."""

    schema_version: Literal[1] = 1
    """Layout of this file."""
    created_utc: AwareDatetime
    """When it was predicted, UTC; runs that check it were started later."""
    git_commit: str | None
    """Commit of the source tree that predicted."""
    command: list[str]
    """Command line."""
    machine: str
    """Device that is predicted."""
    arch: str | None
    """Its key of the hardware table."""
    source: str
    """Whether the fits are of this machine or carried over, in a sentence."""
    is_transferred: bool
    """Whether they are carried over."""
    fits: str
    """Machine and time of the fits."""
    fit_runs: list[str]
    """Runs behind the fits."""
    fit_cards: list[str] = []
    """GPUs that they ran on, by UUID; empty where the fits do not say."""
    engine: str
    """How a hop is launched."""
    context: int
    """Cached tokens that every row reads."""
    hops: int
    """Hops of a query."""
    calibration_runs: list[str]
    """Native end-to-end runs that calibrated the time between linears; empty where none did."""
    calibration_residual_share_p50: float | None
    """Median error of those runs after calibration."""
    cells: Annotated[list[PredictedCell], Field(min_length=1)]
    """By model, kernel and batch size."""
    crossings: list[PredictedCrossing]
    """B*."""
    scales: list[PredictedScale]
    """N*."""
    warnings: list[str]
    """What makes the numbers less than they seem."""

    @property
    def name(self) -> str:
        """Name that a history knows it by."""
        words = re.sub(r"[^a-z0-9]+", "-", (self.arch or self.machine).lower()).strip("-")
        return f"{self.created_utc.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{words}"


def check_new(path: Path) -> None:
    """Raise ValueError where there is a file already: a stored prediction would lose its time stamp."""
    if path.exists():
        raise ValueError(f"{path} exists: a stored prediction is not overwritten, name another file")


def write_prediction(path: Path, prediction: Prediction) -> None:
    """Write a prediction, whole or not at all.

    Raises:
        ValueError: there is a prediction already, which would lose its time stamp.
        OSError: the file cannot be written.
    """
    check_new(path)
    write_whole(path, prediction.model_dump_json(indent=1) + "\n")


def read_prediction(path: Path) -> Prediction:
    """Read a prediction.

    Raises:
        ValueError: it cannot be read or is none, in one sentence.
    """
    try:
        return Prediction.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{path} is no prediction: {place}: {first['msg']}") from error


def now_utc() -> datetime:
    """Return the time of a prediction; with microseconds, since a run may start within the same second."""
    return datetime.now(timezone.utc)
