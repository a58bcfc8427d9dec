"""Two runs of the same command: what changed beyond noise, metric by metric, and what differs between the machines.

A change counts where the whole interval of second / first lies on one side of 1 and the estimate is further off than a
tolerance: intervals within a run do not hold what differs from one start of a machine to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from analysis.accuracy import compare_accuracy
from analysis.compare_cells import Cell, cells_of
from analysis.compare_environment import differences
from analysis.stats import Interval
from profiler.record import RunRecord, Sample

DEFAULT_TOLERANCE = 0.03
_SIGNIFICANT = 0.05
_TIMES = ("time_us_p50", "hop_s_p50")
_LEAST_FOR_A_SHIFT = 5
# What must be the same for two runs to have done the same; other arguments choose cells, which are matched one by one.
_SAME_ARGUMENTS = {
    "chain": (
        "device",
        "model",
        "weights",
        "problems",
        "limit",
        "mode",
        "engine",
        "context",
        "hops",
        "max_new_tokens",
        "seed",
        "group_size",
        "double_quant",
        "baseline",
    ),
    "sweep": ("device", "dtype", "group_size"),
    "energy": ("device",),
}


class Outcome(str, Enum):
    """What became of a metric."""

    IMPROVED = "improved"
    REGRESSED = "regressed"
    SAME = "same"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True)
class Change:
    """One metric of both runs.

    Attributes:
        cell: what was measured, in words.
        metric: name with its unit.
        first: of the first run.
        second: of the second.
        ratio: second / first with its interval; None where a run holds no spread, and for accuracies.
        outcome: what became of it.
        word: the outcome in the metric's own word, such as ``slower``.
        reason: what decided, where it was not the ratio.
    """

    cell: str
    metric: str
    first: float
    second: float
    ratio: Interval | None
    outcome: Outcome
    word: str
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        first: name of the first run.
        second: name of the second.
        differences: of the environments, a sentence each; these come first, since they may explain all the rest.
        changes: metric by metric.
        only_first: cells that the second run lacks.
        only_second: cells that the first run lacks.
        tolerance: share below which a change is none.
    """

    first: str
    second: str
    differences: tuple[str, ...]
    changes: tuple[Change, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    tolerance: float

    @property
    def time_shift(self) -> float | None:
        """Median ratio of all times; far from 1 it is the machine that changed, and no kernel. None for few times."""
        ratios = [c.ratio.point for c in self.changes if c.ratio is not None and c.metric in _TIMES]
        return float(np.median(ratios)) if len(ratios) >= _LEAST_FOR_A_SHIFT else None

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Changes for the worse."""
        return tuple(change for change in self.changes if change.outcome is Outcome.REGRESSED)

    @property
    def counts(self) -> dict[str, int]:
        """Changes by outcome."""
        found = Counter(change.outcome.value for change in self.changes)
        return {outcome.value: found[outcome.value] for outcome in Outcome}


def compare_runs(
    first: tuple[RunRecord, Iterable[Sample]],
    second: tuple[RunRecord, Iterable[Sample]],
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    seed: int = 0,
) -> Comparison:
    """Compare two runs of the same command.

    Args:
        first: record and samples of the earlier run.
        second: of the later run.
        tolerance: share below which a change is none.
        seed: of the bootstrap.

    Raises:
        ValueError: runs of different kinds or commands, one that failed, no common cell, or a tolerance outside 0 to 1.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance:g} is not between 0 and 1")
    (one, samples_one), (two, samples_two) = first, second
    _check_same_command(one, two)
    kept_one, kept_two = list(samples_one), list(samples_two)
    cells_one, cells_two = cells_of(one, kept_one), cells_of(two, kept_two)
    common = [key for key in cells_one if key in cells_two]
    if not common:
        raise ValueError(
            f"{one.run_id} and {two.run_id} have 0 cells in common of {len(cells_one)} and {len(cells_two)}"
        )
    changes = [_change(cells_one[key], cells_two[key], tolerance, seed) for key in common]
    changes += _accuracy_changes(kept_one, kept_two)
    return Comparison(
        first=one.run_id,
        second=two.run_id,
        differences=tuple(differences(one, two)),
        changes=tuple(changes),
        only_first=tuple(f"{c.name}: {c.metric}" for key, c in cells_one.items() if key not in cells_two),
        only_second=tuple(f"{c.name}: {c.metric}" for key, c in cells_two.items() if key not in cells_one),
        tolerance=tolerance,
    )


def decide_change(ratio: Interval | None, tolerance: float, *, lower_is_better: bool = True) -> Outcome:
    """Judge second / first.

    Args:
        ratio: with its interval; None where it has none.
        tolerance: share below which a change is none.
        lower_is_better: whether a ratio below 1 is an improvement.

    Returns:
        ``same`` where the whole interval is within the tolerance of 1, ``ambiguous`` where the interval holds 1 and
        more than the tolerance, where it does not hold 1 but the estimate is within the tolerance, or where there is
        no interval.
    """
    if ratio is None:
        return Outcome.AMBIGUOUS
    if 1 - tolerance <= ratio.low and ratio.high <= 1 + tolerance:
        return Outcome.SAME
    if ratio.low > 1 and ratio.point > 1 + tolerance:
        return Outcome.REGRESSED if lower_is_better else Outcome.IMPROVED
    if ratio.high < 1 and ratio.point < 1 - tolerance:
        return Outcome.IMPROVED if lower_is_better else Outcome.REGRESSED
    return Outcome.AMBIGUOUS


def _check_same_command(one: RunRecord, two: RunRecord) -> None:
    if one.kind != two.kind:
        raise ValueError(
            f"{one.run_id} is a record of kind {one.kind} and {two.run_id} of kind {two.kind}: nothing is comparable"
        )
    for record in (one, two):
        if record.status == "failed":
            raise ValueError(f"{record.run_id} failed and holds no results: {record.error}")
    missing = object()
    for name in _SAME_ARGUMENTS[one.kind]:
        values = [record.arguments.get(name, missing) for record in (one, two)]
        # A setting that an older command did not have yet had its default then.
        if missing not in values and values[0] != values[1]:
            raise ValueError(
                f"the runs are of different commands: {name} is {values[0]} in {one.run_id} and {values[1]} in "
                f"{two.run_id}"
            )


def _change(one: Cell, two: Cell, tolerance: float, seed: int) -> Change:
    ratio = one.ratio_to(two, seed=seed)
    outcome = decide_change(ratio, tolerance, lower_is_better=one.lower_is_better)
    reason = "" if ratio is not None else "no spread is known, so a difference cannot be told from noise"
    return Change(
        cell=one.name,
        metric=one.metric,
        first=one.value,
        second=two.value,
        ratio=ratio,
        outcome=outcome,
        word=_word(outcome, one.words),
        reason=reason,
    )


def _accuracy_changes(one: Sequence[Sample], two: Sequence[Sample]) -> list[Change]:
    changes = []
    for (kernel, batch), test in sorted(compare_accuracy(one, two).items(), key=str):
        both = test.problems - test.only_first - test.only_second
        difference = test.only_second - test.only_first
        if test.p_value < _SIGNIFICANT:
            outcome = Outcome.IMPROVED if difference > 0 else Outcome.REGRESSED
        else:
            outcome = Outcome.SAME if test.only_first == test.only_second == 0 else Outcome.AMBIGUOUS
        changes.append(
            Change(
                cell=kernel if batch is None else f"{kernel}, B = {batch}",
                metric="changed answers",
                first=float(test.only_first),
                second=float(test.only_second),
                ratio=None,
                outcome=outcome,
                word=_word(outcome, ("better", "worse")),
                reason=f"{both} of {test.problems} problems answered alike; right only in the first {test.only_first}, "
                f"only in the second {test.only_second}, McNemar p = {test.p_value:.2g}",
            )
        )
    return changes


def _word(outcome: Outcome, words: tuple[str, str]) -> str:
    named = {Outcome.IMPROVED: words[0], Outcome.REGRESSED: words[1]}
    return named.get(outcome, outcome.value)
