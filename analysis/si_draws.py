"""Bootstrap draws of the Sustainability Index, from a chain's answers, hops and energy windows.

Problems are drawn alike for every kernel, since all answered the same ones; hops are drawn on their own, and energy as
Student's distribution has it for the ratio of windows measured side by side.
Memory has no noise. What was measured once, such as a single energy window, stays as it is and is named.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from analysis.fit_solver import Floats
from analysis.si import e_si, si_linear
from profiler.record import EnergySample, HopSample, QuerySample, Sample, VariantResult

DRAWS = 400
_LEAST = 2
_MANY = 2000
"""Hops from which on the throughput of drawn ones is normal for all that 400 draws show."""


@dataclass(frozen=True)
class VariantSamples:
    """What a free-running variant at one batch size was measured by.

    Attributes:
        answers: whether each problem was answered correctly.
        hops: tokens and seconds of each hop.
        joules: J per query of each energy window.
    """

    answers: dict[str, bool] = field(default_factory=dict)
    hops: list[tuple[int, float]] = field(default_factory=list)
    joules: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DrawnIndex:
    """An index with draws of it.

    Attributes:
        point: SI by Eq. 6 from the rows.
        draws: [d].
        fixed: parts that were measured once, so that the draws lack their noise.
    """

    point: float
    draws: Floats
    fixed: tuple[str, ...]


def collect_samples(samples: Iterable[Sample]) -> dict[tuple[str, int | None], VariantSamples]:
    """Group samples by kernel and batch size, None in a run with one."""
    found: dict[tuple[str, int | None], VariantSamples] = defaultdict(VariantSamples)
    for sample in samples:
        own = found[sample.kernel, sample.batch_size]
        if isinstance(sample, QuerySample) and sample.correct is not None:
            own.answers.setdefault(sample.problem_id, sample.correct)
        elif isinstance(sample, HopSample) and sample.mode == "generate":
            own.hops.append((sample.tokens, sample.hop_s))
        elif isinstance(sample, EnergySample) and sample.energy_j:
            own.joules[sample.repeat] = sample.energy_j / sample.queries
    return dict(found)


def draw_index(
    row: VariantResult,
    reference: VariantResult,
    own: VariantSamples,
    of_reference: VariantSamples,
    *,
    seed: int = 0,
) -> DrawnIndex:
    """Draw the index of a variant against its reference.

    Args:
        row: the variant, with throughput, memory and its three indices.
        reference: the baseline at the same batch size.
        own: samples of the variant.
        of_reference: samples of the baseline.
        seed: the same for all variants, so that they share the problems drawn.

    Raises:
        ValueError: the row has no index, or throughput or memory is missing.
    """
    if row.t_si is None or row.e_si is None or row.s_si is None:
        raise ValueError(f"{row.kernel} lacks an index: T {row.t_si}, E {row.e_si}, S {row.s_si}")
    sizes = (row.tps, reference.tps, row.peak_memory_bytes, reference.peak_memory_bytes)
    if not all(sizes):
        raise ValueError(f"{row.kernel} lacks throughput or memory: {sizes}")
    tps, tps_ref, memory, memory_ref = (float(size or 0) for size in sizes)
    fixed = []
    trust = _trust(own.answers, of_reference.answers, seed)
    if trust is None:
        fixed.append("trust")
        trust = np.full(DRAWS, row.t_si)
    ratios = [_around_one(v.hops, seed + 1 + i) for i, v in enumerate((own, of_reference))]
    if any(ratio is None for ratio in ratios):
        fixed.append("throughput")
    speeds = [np.ones(DRAWS) if ratio is None else ratio for ratio in ratios]
    energy = _energy(own.joules, of_reference.joules, seed + 3)
    if energy is None:
        fixed.append("energy")
        energy = np.full(DRAWS, row.s_si)
    values = [
        si_linear(
            float(t),
            e_si(
                tps=tps * float(mine),
                tps_ref=tps_ref * float(other),
                peak_vram_bytes=memory,
                peak_vram_ref_bytes=memory_ref,
            ),
            float(s),
        ).value
        for t, mine, other, s in zip(trust, *speeds, energy, strict=True)
    ]
    return DrawnIndex(si_linear(row.t_si, row.e_si, row.s_si).value, np.array(values), tuple(fixed))


def _trust(own: Mapping[str, bool], reference: Mapping[str, bool], seed: int) -> Floats | None:
    shared = sorted(own.keys() & reference.keys())
    if len(shared) < _LEAST or not any(reference[name] for name in shared):
        return None
    right = np.array([[side[name] for name in shared] for side in (own, reference)], dtype=np.float64)
    places = np.random.default_rng(seed).integers(0, len(shared), (DRAWS, len(shared)))
    mine, other = (side[places].mean(axis=1) for side in right)
    # A draw without a single right answer of the reference has no ratio; half an answer stands for none.
    drawn: Floats = mine / np.maximum(other, 0.5 / len(shared))
    return drawn


def _around_one(hops: list[tuple[int, float]], seed: int) -> Floats | None:
    """Throughput of drawn hops over that of all."""
    if len(hops) < _LEAST:
        return None
    tokens, seconds = np.array(hops, dtype=np.float64).T
    random = np.random.default_rng(seed)
    if len(hops) >= _MANY:
        # By each hop's part in the ratio of sums, to first order.
        parts = tokens / tokens.sum() - seconds / seconds.sum()
        around: Floats = 1 + random.standard_normal(DRAWS) * math.sqrt(len(hops)) * parts.std()
        return around
    drawn = []
    for _ in range(DRAWS):
        places = random.integers(0, len(hops), len(hops))
        drawn.append(tokens[places].sum() / seconds[places].sum())
    ratios: Floats = np.array(drawn) * seconds.sum() / tokens.sum()
    return ratios


def _energy(own: Mapping[int, float], reference: Mapping[int, float], seed: int) -> Floats | None:
    shared = sorted(own.keys() & reference.keys())
    if len(shared) < _LEAST:
        return None
    logs = np.log([reference[i] / own[i] for i in shared])
    # Resampling 2 or 3 windows gives nothing beyond them: Student's distribution knows how few they are.
    off = np.random.default_rng(seed).standard_t(len(shared) - 1, DRAWS)
    drawn: Floats = np.exp(logs.mean() + off * np.std(logs, ddof=1) / math.sqrt(len(shared)))
    return drawn
