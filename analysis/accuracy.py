"""Accuracy of variants: by depth, and between variants on the same problems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.accuracy_drift import Drift, drift_of
from analysis.accuracy_fit import Decay, DecayComparison, DepthCount, compare_decay, fit_decay
from analysis.stats import (
    Interval,
    discordant_pairs,
    mcnemar_exact,
    wilson_interval,
)
from profiler.record import AgreementSample, QuerySample, Sample

Key = tuple[str, int | None]
_LEAST_PROBLEMS = 2


@dataclass(frozen=True)
class McNemar:
    """Two variants on the same problems.

    Attributes:
        problems: answered by both.
        only_first: only the first (the baseline, or the earlier run) has right.
        only_second: only the second has right.
        p_value: exact, two-sided.
    """

    problems: int
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class DepthAccuracy:
    """Accuracy at one depth.

    Attributes:
        count: correct answers of how many.
        accuracy: with its Wilson interval.
        against: the baseline on the same problems; None for the baseline.
    """

    count: DepthCount
    accuracy: Interval
    against: McNemar | None


@dataclass(frozen=True)
class VariantAccuracy:
    """Everything that a run says of a variant's accuracy.

    Attributes:
        kernel: its name.
        batch_size: of the run; None where it has one.
        accuracy: of all problems, with its Wilson interval; None where nothing was scored.
        by_depth: by arithmetic operations, where problems say how many they have.
        decay: a q^depth; None with fewer than 2 depths.
        against: the baseline on the same problems; None for the baseline.
        fragility: whether the loss against the baseline is constant or compounds; None with fewer than 2 depths.
        drift: of the logits in replay; None where logits were not compared.
    """

    kernel: str
    batch_size: int | None
    accuracy: Interval | None
    by_depth: tuple[DepthAccuracy, ...]
    decay: Decay | None
    against: McNemar | None
    fragility: DecayComparison | None
    drift: Drift | None


@dataclass(frozen=True)
class AccuracyReport:
    """Accuracy of all variants of a run.

    Attributes:
        baseline: what the others are compared with.
        variants: the baseline first.
        notes: what could not be compared, and why.
    """

    baseline: str
    variants: tuple[VariantAccuracy, ...]
    notes: tuple[str, ...]


def accuracy_report(samples: Iterable[Sample], *, baseline: str, seed: int = 0) -> AccuracyReport:
    """Say all that a chain run's samples say of accuracy.

    Args:
        samples: of the run; scored queries and agreements are used.
        baseline: the reference kernel.
        seed: of the bootstrap over problems.

    Returns:
        A row per kernel and batch size.

    Raises:
        ValueError: no scored query and no agreement.
    """
    queries, agreements = _split(samples)
    keys = sorted({*queries, *agreements}, key=lambda key: (key[0] != baseline, key[0], key[1] or 0))
    if not keys:
        raise ValueError(
            "an accuracy needs scored queries or compared logits, and the samples hold 0 of them"
        )
    notes: list[str] = []
    variants = []
    for key in keys:
        kernel, batch_size = key
        reference = None
        if kernel != baseline and key in queries:
            reference = queries.get((baseline, batch_size))
            if reference is None:
                notes.append(f"{kernel}: no answers of {baseline} to compare with")
            elif reference.keys() != queries[key].keys():
                count = len(reference.keys() ^ queries[key].keys())
                notes.append(f"{kernel}: {count} problems were answered by only one of it and {baseline}")
                reference = None
        variants.append(_variant(key, queries.get(key, {}), reference, agreements.get(key, []), seed, notes))
    return AccuracyReport(baseline, tuple(variants), tuple(notes))


def compare_accuracy(first: Iterable[Sample], second: Iterable[Sample]) -> dict[Key, McNemar]:
    """Compare the answers of two runs, kernel by kernel, on the problems that both asked.

    Args:
        first: samples of the earlier run.
        second: samples of the later run.

    Returns:
        McNemar's exact test by kernel and batch size; those without a common problem are left out.
    """
    one, two = _split(first)[0], _split(second)[0]
    found = {}
    for key in one.keys() & two.keys():
        common = one[key].keys() & two[key].keys()
        if common:
            found[key] = _mcnemar(
                {i: one[key][i].correct is True for i in common},
                {i: two[key][i].correct is True for i in common},
            )
    return found


def _split(
    samples: Iterable[Sample],
) -> tuple[dict[Key, dict[str, QuerySample]], dict[Key, list[AgreementSample]]]:
    queries: dict[Key, dict[str, QuerySample]] = defaultdict(dict)
    agreements: dict[Key, list[AgreementSample]] = defaultdict(list)
    for sample in samples:
        key = (sample.kernel, sample.batch_size)
        if isinstance(sample, QuerySample) and sample.correct is not None:
            # Greedy decoding answers a repeated problem the same way; the first answer counts.
            queries[key].setdefault(sample.problem_id, sample)
        elif isinstance(sample, AgreementSample):
            agreements[key].append(sample)
    return dict(queries), dict(agreements)


def _variant(
    key: Key,
    answers: Mapping[str, QuerySample],
    reference: Mapping[str, QuerySample] | None,
    agreements: Sequence[AgreementSample],
    seed: int,
    notes: list[str],
) -> VariantAccuracy:
    counts = _counts(answers)
    fragility = None
    if reference is not None and len(counts) > 1:
        fragility = compare_decay(_counts(reference), counts)
    if answers and len(counts) < _LEAST_PROBLEMS:
        notes.append(f"{key[0]}: {len(counts)} depths, no decay can be fitted to fewer than 2")
    correct = sum(answer.correct is True for answer in answers.values())
    return VariantAccuracy(
        kernel=key[0],
        batch_size=key[1],
        accuracy=wilson_interval(correct, len(answers)) if answers else None,
        by_depth=tuple(
            DepthAccuracy(
                count, wilson_interval(count.correct, count.n), _at_depth(answers, reference, count.depth)
            )
            for count in counts
        ),
        decay=fit_decay(counts) if len(counts) > 1 else None,
        against=None if reference is None else _mcnemar(_right(reference), _right(answers)),
        fragility=fragility,
        drift=drift_of(agreements, seed=seed) if agreements else None,
    )


def _counts(answers: Mapping[str, QuerySample]) -> list[DepthCount]:
    by_depth: dict[int, list[bool]] = defaultdict(list)
    for answer in answers.values():
        if answer.operations is not None:
            by_depth[answer.operations].append(answer.correct is True)
    return [DepthCount(depth, sum(right), len(right)) for depth, right in sorted(by_depth.items())]


def _at_depth(
    answers: Mapping[str, QuerySample], reference: Mapping[str, QuerySample] | None, depth: int
) -> McNemar | None:
    if reference is None:
        return None
    chosen = [name for name, answer in answers.items() if answer.operations == depth]
    return _mcnemar(*({name: side[name].correct is True for name in chosen} for side in (reference, answers)))


def _right(answers: Mapping[str, QuerySample]) -> dict[str, bool]:
    return {name: answer.correct is True for name, answer in answers.items()}


def _mcnemar(first: Mapping[str, bool], second: Mapping[str, bool]) -> McNemar:
    only_first, only_second = discordant_pairs(first, second)
    return McNemar(len(first), only_first, only_second, mcnemar_exact(only_first, only_second))
