"""What two runs are compared by: every metric of a record with its spread, keyed so that runs can be matched."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fit_input import energy_rows
from analysis.stats import Interval, bootstrap_ratio
from profiler.record import (
    EnergyRow,
    HopSample,
    KernelSample,
    RunRecord,
    Sample,
    SweepRow,
    VariantResult,
)

Key = tuple[object, ...]
_SPEED = ("faster", "slower")
_AMOUNT = ("less", "more")
_N_BOOT = 1000
_NORMAL = 3.92
# Of a median, from the range that holds 90 % of a normal distribution.
_MEDIAN_SE = 1.2533 / 3.2897


@dataclass(frozen=True)
class Cell:
    """One metric of a run.

    Attributes:
        name: what was measured, in words.
        metric: name with its unit.
        value: the figure.
        samples: what it is the median of; empty where only the figure is stored.
        relative_se: standard error over the figure where there are no samples; None where it is not known.
        lower_is_better: whether less is better.
        words: what an improvement and a regression are called.
    """

    name: str
    metric: str
    value: float
    samples: tuple[float, ...] = ()
    relative_se: float | None = None
    lower_is_better: bool = True
    words: tuple[str, str] = _SPEED

    def ratio_to(self, later: Cell, *, seed: int) -> Interval | None:
        """Return later / self with its interval at 95 %, or None where a spread is missing."""
        if min(len(self.samples), len(later.samples)) > 1:
            return bootstrap_ratio(later.samples, self.samples, seed=seed, n_boot=_N_BOOT)
        if self.relative_se is None or later.relative_se is None or not self.value or not later.value:
            return None
        ratio = later.value / self.value
        width = math.exp(_NORMAL / 2 * math.hypot(self.relative_se, later.relative_se))
        return Interval(ratio, ratio / width, ratio * width)


def cells_of(record: RunRecord, samples: Iterable[Sample]) -> dict[Key, Cell]:
    """Return every metric of a run that can be compared, in the order of its rows.

    Args:
        record: the run.
        samples: its samples.
    """
    if record.kind == "sweep":
        found = _sweep(record, samples)
    elif record.kind == "chain":
        found = _chain(record, samples)
    else:
        found = {}
    for row in energy_rows(record):
        _add_energy(found, row)
    return found


def _sweep(record: RunRecord, samples: Iterable[Sample]) -> dict[Key, Cell]:
    times: dict[Key, list[float]] = defaultdict(list)
    for sample in samples:
        if isinstance(sample, KernelSample) and sample.time_us > 0:
            times[sample.kernel, sample.n, sample.k, sample.m].append(sample.time_us)
    found: dict[Key, Cell] = {}
    for row in record.results:
        if not isinstance(row, SweepRow) or row.time_us_p50 is None:
            continue
        place: Key = (row.kernel, row.n, row.k, row.m)
        found[("time", *place)] = Cell(
            f"{row.kernel} {row.n}x{row.k}, m = {row.m}",
            "time_us_p50",
            row.time_us_p50,
            tuple(times[place]),
            _quantile_se(row.time_us_p50, row.time_us_p05, row.time_us_p95, row.timings),
        )
    derived: Any = record.derived
    for chain in derived.get("launch_chains", []):
        engine = chain.get("engine", "eager")
        place = (engine, chain["launches"], chain["syncs"])
        found[("launches", *place)] = Cell(
            f"{chain['launches']} launches, {engine}, {chain['syncs']} waits",
            "time_us_p50",
            chain["time_us_p50"],
            (),
            _quantile_se(chain["time_us_p50"], chain["time_us_p05"], chain["time_us_p95"], chain["timings"]),
        )
    return found


def _chain(record: RunRecord, samples: Iterable[Sample]) -> dict[Key, Cell]:
    rows = [row for row in record.results if isinstance(row, VariantResult)]
    only = {row.batch_size for row in rows}
    single = next(iter(only)) if len(only) == 1 else None
    hops: dict[Key, list[float]] = defaultdict(list)
    for sample in samples:
        if isinstance(sample, HopSample) and sample.hop_s > 0:
            hops[sample.kernel, sample.batch_size or single, sample.mode].append(sample.hop_s)
    found: dict[Key, Cell] = {}
    for row in rows:
        place = (row.kernel, row.batch_size, row.mode)
        name = f"{row.kernel}, B = {row.batch_size}, {row.mode}"
        own = hops[place]
        if own:
            found[("hop", *place)] = Cell(name, "hop_s_p50", float(np.median(own)), tuple(own))
        elif row.hop_ms_p50:
            found[("hop", *place)] = Cell(
                name, "hop_s_p50", row.hop_ms_p50 / 1e3, (), _interval_se(row.hop_ms_p50, row.hop_ms_p50_ci95)
            )
        if row.energy_j_per_query and not row.energy_is_estimate:
            error = _interval_se(row.energy_j_per_query, row.energy_j_per_query_ci95)
            found[("energy", *place)] = Cell(
                name, "energy_j_per_query", row.energy_j_per_query, (), error, words=_AMOUNT
            )
        for metric in ("weight_bytes", "peak_memory_bytes"):
            value = getattr(row, metric)
            if value:  # counted, not sampled, so it has no noise
                found[(metric, *place)] = Cell(name, metric, float(value), (), 0.0, words=_AMOUNT)
    return found


def _add_energy(found: dict[Key, Cell], row: EnergyRow) -> None:
    value = row.power_w if row.unit == "none" else row.energy_j_per_unit
    if not value or row.energy_is_estimate:
        return
    size = "" if row.n is None else f" {row.n}x{row.k}, m = {row.m}"
    error = _interval_se(value, row.energy_j_per_unit_ci95) if row.unit != "none" else None
    if error is None and row.energy_error_j is not None and row.energy_j:
        error = row.energy_error_j / row.energy_j / 2
    metric = "power_w" if row.unit == "none" else f"energy_j_per_{row.unit}"
    key = ("energy", row.load, row.unit, row.n, row.k, row.m)
    found[key] = Cell(f"{row.load}{size}", metric, value, (), error, words=_AMOUNT)


def _quantile_se(p50: float, p05: float | None, p95: float | None, timings: int) -> float | None:
    if p05 is None or p95 is None or timings < 2:
        return None
    return _MEDIAN_SE * (p95 - p05) / p50 / math.sqrt(timings)


def _interval_se(point: float, ends: Sequence[float] | None) -> float | None:
    return None if ends is None else (ends[1] - ends[0]) / _NORMAL / point
