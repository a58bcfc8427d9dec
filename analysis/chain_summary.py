"""From the samples of a chain run to the figures of its table: hop times, casting, accuracy, indices, verdicts.

Times of variants are compared on replayed hops, where every kernel runs exactly the same tokens; accuracy,
throughput and energy come from free-running generation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.si import IndexValue, caes, e_si, s_si_linear, si_linear, t_si
from analysis.stats import (
    Interval,
    bootstrap_interval,
    bootstrap_ratio,
    discordant_pairs,
    mcnemar_exact,
    quantiles,
    wilson_interval,
)
from analysis.verdict import Verdict, Waterfall, judge_energy, judge_time
from profiler.record import (
    Agreement,
    AgreementSample,
    EnergySample,
    HopSample,
    Proportion,
    QuerySample,
    RangeSample,
    Sample,
    VariantResult,
)

_MS = 1e3
_J_PER_KWH = 3.6e6
_SAMPLES_FOR_AN_INTERVAL = 2


@dataclass(frozen=True)
class ChainSummary:
    """Rows with every figure filled in, and the figures that belong to pairs of variants.

    Attributes:
        rows: the rows that were given, completed.
        derived: JSON-ready figures with units in their names.
    """

    rows: list[VariantResult]
    derived: dict[str, object]


def summarise(
    rows: Sequence[VariantResult],
    samples: Sequence[Sample],
    *,
    baseline: str,
    seed: int,
    grid_kgco2e_per_kwh: float | None = None,
    throttled: bool = False,
) -> ChainSummary:
    """Derive a chain's figures.

    Args:
        rows: one per kernel and mode with what the runner counted.
        samples: all samples of the run.
        baseline: the reference kernel.
        seed: of the bootstrap intervals.
        grid_kgco2e_per_kwh: carbon intensity of the grid for CAES; None leaves CAES out.
        throttled: the GPU lowered its clocks during the run, which the verdicts then say.

    Returns:
        The completed rows in the order given, and the derived figures.
    """
    summary = _Summary(rows, samples, baseline, seed, throttled=throttled).complete()
    if grid_kgco2e_per_kwh is None:
        return summary
    return replace(summary, rows=[_with_caes(row, grid_kgco2e_per_kwh) for row in summary.rows])


def _with_caes(row: VariantResult, grid_kgco2e_per_kwh: float) -> VariantResult:
    """The row with chi = E_q gamma in kgCO2e, E_q in kWh because the intensity is per kWh."""
    if row.energy_j_per_query is None:
        return row
    chi = caes(row.energy_j_per_query / _J_PER_KWH, grid_kgco2e_per_kwh)
    return row.model_copy(update={"caes_kgco2e_per_query": chi})


class _Summary:
    def __init__(
        self,
        rows: Sequence[VariantResult],
        samples: Sequence[Sample],
        baseline: str,
        seed: int,
        *,
        throttled: bool = False,
    ) -> None:
        self._rows = rows
        self._throttled = throttled
        self._baseline = baseline
        self._seed = seed
        self._hops: dict[tuple[str, str], dict[tuple[int, int, int], float]] = defaultdict(dict)
        self._ranges: dict[str, list[RangeSample]] = defaultdict(list)
        self._queries: dict[str, list[QuerySample]] = defaultdict(list)
        self._agreement: dict[str, list[AgreementSample]] = defaultdict(list)
        self._energy: dict[str, list[EnergySample]] = defaultdict(list)
        for sample in samples:
            if isinstance(sample, HopSample):
                place = (sample.repeat, sample.batch_index, sample.hop)
                self._hops[sample.kernel, sample.mode][place] = sample.hop_s
            elif isinstance(sample, RangeSample):
                self._ranges[sample.kernel].append(sample)
            elif isinstance(sample, QuerySample):
                self._queries[sample.kernel].append(sample)
            elif isinstance(sample, AgreementSample):
                self._agreement[sample.kernel].append(sample)
            elif isinstance(sample, EnergySample):
                self._energy[sample.kernel].append(sample)

    def complete(self) -> ChainSummary:
        rows = [self._complete_row(row) for row in self._rows]
        derived: dict[str, object] = {"baseline": self._baseline}
        waterfalls = {}
        pairs = {}
        variants = (row.kernel for row in rows if row.kernel != self._baseline and not _is_null(row.kernel))
        for name in dict.fromkeys(variants):
            waterfall = self._waterfall(name)
            if waterfall is not None:
                waterfalls[name] = {
                    "reference_ms": waterfall.reference_s * _MS,
                    "saving_ms": waterfall.saving_s * _MS,
                    "exposed_cast_ms": waterfall.exposed_cast_s * _MS,
                    "variant_ms": waterfall.variant_s * _MS,
                }
            pair = self._mcnemar(name)
            if pair is not None:
                pairs[name] = pair
        return ChainSummary(rows, derived | {"waterfall": waterfalls, "mcnemar": pairs})

    def _complete_row(self, row: VariantResult) -> VariantResult:
        fields: dict[str, object] = {}
        fields |= self._hop_fields(row)
        fields |= self._cast_fields(row)
        fields |= self._agreement_fields(row)
        fields |= self._accuracy_fields(row)
        if row.mode == "generate":
            fields |= self._index_fields(row)
        if row.kernel != self._baseline and not _is_null(row.kernel):
            fields |= self._verdict_fields(row)
        return VariantResult.model_validate(row.model_dump() | fields)

    def _hop_fields(self, row: VariantResult) -> dict[str, object]:
        times = list(self._hops[row.kernel, row.mode].values())
        if not times:
            return {}
        found = quantiles(times, (0.5, 0.95))
        fields: dict[str, object] = {"hop_ms_p50": found["p50"] * _MS, "hop_ms_p95": found["p95"] * _MS}
        if len(times) >= _SAMPLES_FOR_AN_INTERVAL:
            fields["hop_ms_p50_ci95"] = _ends(bootstrap_interval(times, seed=self._seed).scaled(_MS))
        return fields

    def _cast_fields(self, row: VariantResult) -> dict[str, object]:
        scheme, _, fmt = row.kernel.partition("_")
        fields: dict[str, object] = {}
        if not fmt:
            return fields
        # A native low-bit kernel casts x, not the weight, in ranges of its own.
        is_native = scheme == "native"
        split = self._ranges.get(row.kernel if is_native else f"unfused_{fmt}", [])
        casts = [s.cast_s for s in split if s.cast_s is not None]
        comps = [s.comp_s for s in split if s.comp_s is not None]
        if casts and comps:
            fields["cast_ms_p50"] = float(np.median(casts)) * _MS
            fields["comp_ms_p50"] = float(np.median(comps)) * _MS
        fused, null = (self._linear_s(f"{s}_{fmt}") for s in ("fused", "null"))
        shared = [] if is_native else sorted(fused.keys() & null.keys())
        if shared:
            fused_s, null_s = ([times[place] for place in shared] for times in (fused, null))
            fields["comp_from_null_ms"] = float(np.median(null_s)) * _MS
            fields["cast_from_null_ms"] = (float(np.median(fused_s)) - float(np.median(null_s))) * _MS
        ratio: Interval | None = None
        if scheme in ("unfused", "native") and len(casts) >= _SAMPLES_FOR_AN_INTERVAL:
            ratio = bootstrap_ratio(casts, comps, paired=True, seed=self._seed)
        elif scheme == "fused" and len(shared) >= _SAMPLES_FOR_AN_INTERVAL:
            both = bootstrap_ratio(fused_s, null_s, paired=True, seed=self._seed)
            ratio = Interval(both.point - 1, both.low - 1, both.high - 1)
        if ratio is not None:
            fields |= {"cor_direct": ratio.point, "cor_direct_ci95": _ends(ratio)}
        replayed = self._ratio_to_baseline(row.kernel)
        if replayed is not None:
            fields["cor_tps"] = replayed.point - 1
            fields["cor_tps_ci95"] = (replayed.low - 1, replayed.high - 1)
        return fields

    def _linear_s(self, kernel: str) -> dict[tuple[int, int, int], float]:
        return {(s.repeat, s.batch_index, s.hop): s.linear_s for s in self._ranges.get(kernel, [])}

    def _ratio_to_baseline(self, kernel: str) -> Interval | None:
        """Hop time of a kernel over the baseline's on the same replayed hops."""
        if kernel == self._baseline:
            return None
        mine, reference = self._hops[kernel, "replay"], self._hops[self._baseline, "replay"]
        shared = sorted(mine.keys() & reference.keys())
        if len(shared) < _SAMPLES_FOR_AN_INTERVAL:
            return None
        return bootstrap_ratio(
            [mine[p] for p in shared], [reference[p] for p in shared], paired=True, seed=self._seed
        )

    def _waterfall(self, kernel: str) -> Waterfall | None:
        scheme, _, fmt = kernel.partition("_")
        if scheme == "native":
            return None
        medians = []
        for name in (self._baseline, f"null_{fmt}", kernel):
            times = list(self._hops[name, "replay"].values())
            if not times or not fmt:
                return None
            medians.append(float(np.median(times)))
        return Waterfall.from_times(*medians)

    def _agreement_fields(self, row: VariantResult) -> dict[str, object]:
        compared = self._agreement.get(row.kernel, [])
        if not compared:
            return {}
        return {
            "agreement": Agreement(
                positions=len(compared),
                top1_share=sum(s.top1_same for s in compared) / len(compared),
                kl_nats_mean=sum(s.kl_nats for s in compared) / len(compared),
                logits_rel_error_max=max(s.logits_rel_error for s in compared),
            )
        }

    def _accuracy_fields(self, row: VariantResult) -> dict[str, object]:
        if row.accuracy is None or row.correct is None or row.mode != "generate":
            return {}
        groups: dict[int, list[bool]] = defaultdict(list)
        for query in self._queries.get(row.kernel, []):
            if query.operations is not None and query.correct is not None:
                groups[query.operations].append(query.correct)
        return {
            "accuracy_ci95": _ends(wilson_interval(row.correct, row.problems)),
            "accuracy_by_operations": {
                operations: Proportion(
                    correct=sum(group), n=len(group), ci95=_ends(wilson_interval(sum(group), len(group)))
                )
                for operations, group in sorted(groups.items())
            },
        }

    def _reference(self) -> VariantResult | None:
        return next((r for r in self._rows if r.kernel == self._baseline and r.mode == "generate"), None)

    def _index_fields(self, row: VariantResult) -> dict[str, object]:
        reference = self._reference()
        if reference is None:
            return {}
        trust = _either(t_si, row.accuracy, reference.accuracy)
        economy = None
        if row.tps and reference.tps and row.peak_memory_bytes and reference.peak_memory_bytes:
            economy = e_si(
                tps=row.tps,
                tps_ref=reference.tps,
                peak_vram_bytes=row.peak_memory_bytes,
                peak_vram_ref_bytes=reference.peak_memory_bytes,
            )
        energy = _either(s_si_linear, row.energy_j_per_query, reference.energy_j_per_query)
        notes = list(row.notes)
        if energy is None and row.energy_source == "none":
            energy = _either(s_si_linear, _seconds_per_query(row), _seconds_per_query(reference))
            notes.append("S_SI by HLI with an unknown TDP, which cancels: the ratio of the times per query")
        fields: dict[str, object] = {
            "t_si": None if trust is None else trust.value,
            "e_si": None if economy is None else economy.value,
            "s_si": None if energy is None else energy.value,
        }
        if trust is not None and economy is not None and energy is not None:
            index = si_linear(trust, economy, energy)
            fields["si"] = index.value
            outside = {"T_SI": trust, "E_SI": economy, "S_SI": energy, "SI": index}
            named = [f"{name} {part.value:.3f}" for name, part in outside.items() if not 0 <= part.value <= 1]
            if named:
                notes.append(
                    f"{row.kernel}: outside [0, 1], where the paper places the indices: {', '.join(named)}"
                )
        return fields | {"notes": notes}

    def _verdict_fields(self, row: VariantResult) -> dict[str, object]:
        fields: dict[str, object] = {}
        reasons = []
        ratio = self._ratio_to_baseline(row.kernel)
        if ratio is not None:
            time = judge_time(
                ratio, self._waterfall(row.kernel), reference=self._baseline, throttled=self._throttled
            )
            fields["verdict_time"] = _verdict(time.verdict)
            reasons.append(time.reason)
        energy_ratio = self._energy_ratio(row.kernel) if row.mode == "generate" else None
        if energy_ratio is not None:
            energy = judge_energy(
                energy_ratio,
                hli=row.energy_source == "hli",
                reference=self._baseline,
                throttled=self._throttled,
            )
            fields["verdict_energy"] = _verdict(energy.verdict)
            reasons.append(f"Energy: {energy.reason}")
        return fields | ({"verdict_reason": ". ".join(reasons)} if reasons else {})

    def _energy_ratio(self, kernel: str) -> Interval | None:
        """J per query over the baseline's, paired by batch."""
        mine, reference = (
            {s.repeat: s.energy_j / s.queries for s in self._energy.get(name, []) if s.energy_j}
            for name in (kernel, self._baseline)
        )
        shared = sorted(mine.keys() & reference.keys())
        if len(shared) < _SAMPLES_FOR_AN_INTERVAL:
            return None
        return bootstrap_ratio(
            [mine[i] for i in shared],
            [reference[i] for i in shared],
            statistic=np.mean,
            paired=True,
            seed=self._seed,
        )

    def _mcnemar(self, kernel: str) -> dict[str, object] | None:
        answers = [
            {q.problem_id: q.correct for q in self._queries.get(name, []) if q.correct is not None}
            for name in (self._baseline, kernel)
        ]
        shared = answers[0].keys() & answers[1].keys()
        if not shared:
            return None
        lost, won = discordant_pairs(*({i: a[i] for i in shared} for a in answers))
        return {
            "problems": len(shared),
            "only_baseline": lost,
            "only_variant": won,
            "p_value": mcnemar_exact(lost, won),
        }


def _is_null(kernel: str) -> bool:
    """Whether a kernel's output means nothing, so that it is a tool of the ablation and no variant."""
    return kernel.startswith("null_")


def _verdict(verdict: Verdict) -> str | None:
    return None if verdict is Verdict.NOT_MEASURED else verdict.value.replace("_", " ")


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _either(
    index: Callable[[float, float], IndexValue], value: float | None, reference: float | None
) -> IndexValue | None:
    """The index where it can be formed: both measured, the reference not zero."""
    if value is None or not reference or (index is s_si_linear and not value):
        return None
    return index(value, reference)


def _seconds_per_query(row: VariantResult) -> float | None:
    if row.prefill_s is None or row.decode_s is None or not row.problems:
        return None
    return (row.prefill_s + row.decode_s) / row.problems


def generated(rows: Iterable[VariantResult]) -> list[VariantResult]:
    """The free-running rows, or the replayed ones where nothing ran free."""
    rows = list(rows)
    return [r for r in rows if r.mode == "generate"] or rows
