"""Figures of a chain's variants at one batch size: hop times, casting, agreement, accuracy, indices, verdicts.

Times of variants are compared on replayed hops, where every kernel runs exactly the same tokens; without a replay, on
generated ones where their number is fixed, which differ in their tokens alone. Accuracy, throughput and energy come
from free-running generation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from analysis.chain_drift import energy_ends, widened
from analysis.chain_indices import index_fields
from analysis.chain_ranges import range_notes
from analysis.chain_waterfall import ChainWaterfall, Places, chain_waterfall
from analysis.cost_ratio import energy_ratio, ratio_of_windows
from analysis.kernel_kinds import NATIVE_KERNELS
from analysis.stats import (
    Interval,
    bootstrap_interval,
    bootstrap_ratio,
    discordant_pairs,
    mcnemar_exact,
    quantiles,
    wilson_interval,
)
from analysis.verdict import Verdict, judge_energy, judge_time
from profiler.record import (
    Agreement,
    AgreementSample,
    EnergySample,
    HopSample,
    LinearsSample,
    Proportion,
    QuerySample,
    RangeSample,
    Sample,
    VariantResult,
)

_MS = 1e3
_SAMPLES_FOR_AN_INTERVAL = 2
_SCHEMES = ("unfused", "fused", "null", "native")


class BatchFigures:
    """Derives the figures of one batch size.

    Args:
        rows: one per kernel and mode with what the runner counted.
        samples: all samples of this batch size.
        baseline: the reference kernel.
        seed: of the bootstrap intervals.
        throttled: the GPU lowered its clocks during the run, which the verdicts then say.
        host_paced: hop times hold waiting for the host: an eager run on a GPU.
        fixed_hops: every sequence decodes the same number of hops, whatever its tokens.
    """

    def __init__(
        self,
        rows: Sequence[VariantResult],
        samples: Sequence[Sample],
        baseline: str,
        seed: int,
        *,
        throttled: bool = False,
        host_paced: bool = False,
        fixed_hops: bool = False,
    ) -> None:
        self._rows = rows
        self._fixed_hops = fixed_hops
        self._host_paced = host_paced
        self._throttled = throttled
        self._baseline = baseline
        self._seed = seed
        self._hops: dict[tuple[str, str], Places] = defaultdict(dict)
        self._waterfalls: dict[str, ChainWaterfall | None] = {}
        self._ranges: dict[str, list[RangeSample]] = defaultdict(list)
        self._alone: dict[str, list[LinearsSample]] = defaultdict(list)
        self._queries: dict[str, list[QuerySample]] = defaultdict(list)
        self._agreement: dict[str, list[AgreementSample]] = defaultdict(list)
        self._energy: dict[str, list[EnergySample]] = defaultdict(list)
        for sample in samples:
            if isinstance(sample, HopSample):
                place = (sample.repeat, sample.batch_index, sample.hop)
                self._hops[sample.kernel, sample.mode][place] = sample.hop_s
            elif isinstance(sample, RangeSample):
                self._ranges[sample.kernel].append(sample)
            elif isinstance(sample, LinearsSample):
                self._alone[sample.kernel].append(sample)
            elif isinstance(sample, QuerySample):
                self._queries[sample.kernel].append(sample)
            elif isinstance(sample, AgreementSample):
                self._agreement[sample.kernel].append(sample)
            elif isinstance(sample, EnergySample):
                self._energy[sample.kernel].append(sample)

    def rows(self) -> list[VariantResult]:
        """The rows in the order given, completed."""
        return [self._complete_row(row) for row in self._rows]

    def derived(self) -> dict[str, object]:
        """Figures that belong to pairs of variants, JSON-ready: ``waterfall`` and ``mcnemar`` by kernel."""
        names = dict.fromkeys(
            row.kernel for row in self._rows if row.kernel != self._baseline and not _is_null(row.kernel)
        )
        falls = {name: self._waterfall(name) for name in names}
        pairs = {name: self._mcnemar(name) for name in names}
        return {
            "waterfall": {name: fall.as_json() for name, fall in falls.items() if fall is not None},
            "mcnemar": {name: pair for name, pair in pairs.items() if pair is not None},
        }

    def _complete_row(self, row: VariantResult) -> VariantResult:
        fields: dict[str, object] = {}
        fields |= self._hop_fields(row)
        fields |= self._cast_fields(row)
        fields |= self._agreement_fields(row)
        fields |= self._accuracy_fields(row)
        fields |= self._energy_fields(row)
        if row.mode == "replay":
            found = range_notes(self._ranges.get(row.kernel, []))
            fields["notes"] = list(dict.fromkeys([*row.notes, *found]))
        if row.mode == "generate":
            reference = next(
                (r for r in self._rows if r.kernel == self._baseline and r.mode == "generate"), None
            )
            fields |= {} if reference is None else index_fields(row, reference)
        if row.kernel != self._baseline and not _is_null(row.kernel):
            fields |= self._verdict_fields(row)
        return VariantResult.model_validate(row.model_dump() | fields)

    def _energy_fields(self, row: VariantResult) -> dict[str, object]:
        if row.mode != "generate":
            return {}
        ends = energy_ends(row, self._hops[row.kernel, row.mode])
        return {} if ends is None else {"energy_j_per_query_ci95": ends}

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
        fields: dict[str, object] = {}
        replayed = self._ratio_to_baseline(row.kernel)
        if replayed is not None:
            fields["cor_tps"] = replayed.point - 1
            fields["cor_tps_ci95"] = (replayed.low - 1, replayed.high - 1)
        scheme, fmt = _scheme_and_format(row.kernel)
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
        return fields

    def _linear_s(self, kernel: str) -> Places:
        """Times of all linear layers: alone, where they were timed so, else by ranges."""
        if self._alone:
            return {(s.repeat, s.batch_index, 0): s.linear_s for s in self._alone.get(kernel, [])}
        return {(s.repeat, s.batch_index, s.hop): s.linear_s for s in self._ranges.get(kernel, [])}

    def _ratio_to_baseline(self, kernel: str) -> Interval | None:
        """Hop time of a kernel over the baseline's on the same hops: replayed, or generated in a fixed number."""
        if kernel == self._baseline:
            return None
        for mode in ("replay", "generate") if self._fixed_hops else ("replay",):
            mine, reference = self._hops[kernel, mode], self._hops[self._baseline, mode]
            shared = sorted(mine.keys() & reference.keys())
            if len(shared) >= _SAMPLES_FOR_AN_INTERVAL:
                found = bootstrap_ratio(
                    [mine[p] for p in shared], [reference[p] for p in shared], paired=True, seed=self._seed
                )
                is_apart = self._host_paced and mode == "generate"
                return widened(found, mine, reference) if is_apart else found
        return None

    def _waterfall(self, kernel: str) -> ChainWaterfall | None:
        scheme, fmt = _scheme_and_format(kernel)
        if scheme == "native" or not fmt:
            return None
        if kernel not in self._waterfalls:
            names = (self._baseline, f"null_{fmt}", kernel)
            self._waterfalls[kernel] = chain_waterfall(
                [self._hops[name, "replay"] for name in names],
                [self._ranges.get(name, []) for name in names],
                alone=[self._alone.get(name, []) for name in names],
                has_host=self._host_paced,
                seed=self._seed,
            )
        return self._waterfalls[kernel]

    def _linear_change(self, kernel: str) -> str:
        """Of another library's kernel, the change of its linear layers: decoding less what smaller weights save."""
        mine, reference = self._linear_s(kernel), self._linear_s(self._baseline)
        shared = sorted(mine.keys() & reference.keys())
        if kernel in NATIVE_KERNELS or _scheme_and_format(kernel)[1] or not shared:
            return ""
        change_ms = _MS * float(
            np.median([mine[p] for p in shared]) - np.median([reference[p] for p in shared])
        )
        return (
            f": its linear layers take {abs(change_ms):.2g} ms {'more' if change_ms > 0 else 'less'}, "
            "decoding less what smaller weights save, which nothing tells apart"
        )

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

    def _verdict_fields(self, row: VariantResult) -> dict[str, object]:
        fields: dict[str, object] = {}
        reasons = []
        ratio = self._ratio_to_baseline(row.kernel)
        fall = self._waterfall(row.kernel)
        if ratio is not None:
            time = judge_time(
                ratio,
                None if fall is None else fall.parts,
                reference=self._baseline,
                throttled=self._throttled,
            )
            fields["verdict_time"] = _verdict(time.verdict)
            reasons.append(time.reason + self._linear_change(row.kernel))
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
        """J per query over the baseline's: paired by window, or with one of each all that both intervals allow."""
        mine, reference = (
            {s.repeat: s for s in self._energy.get(name, []) if s.energy_j}
            for name in (kernel, self._baseline)
        )
        shared = sorted(mine.keys() & reference.keys())
        if len(shared) < _SAMPLES_FOR_AN_INTERVAL:
            return self._ratio_of_single_windows(kernel)
        return ratio_of_windows([mine[i] for i in shared], [reference[i] for i in shared])

    def _ratio_of_single_windows(self, kernel: str) -> Interval | None:
        rows = {row.kernel: row for row in self._rows if row.mode == "generate"}
        if kernel not in rows or self._baseline not in rows:
            return None
        own, native = (
            row.model_copy(update=self._energy_fields(row)) for row in (rows[kernel], rows[self._baseline])
        )
        return energy_ratio(own, native)

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


def _scheme_and_format(kernel: str) -> tuple[str, str]:
    """Scheme and format of one of our kernels; empty of native ones and of other libraries', without a null twin."""
    scheme, _, fmt = kernel.partition("_")
    return (scheme, fmt) if scheme in _SCHEMES else ("", "")


def _is_null(kernel: str) -> bool:
    """Whether a kernel's output means nothing, so that it is a tool of the ablation and no variant."""
    return kernel.startswith("null_")


def _verdict(verdict: Verdict) -> str | None:
    return None if verdict is Verdict.NOT_MEASURED else verdict.value.replace("_", " ")


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high
