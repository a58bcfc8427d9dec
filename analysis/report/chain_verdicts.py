"""Verdicts on whole hops of chains: what a variant costs over its baseline and batch sizes, as tables and as cards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.cost_ratio import energy_ratio, time_ratio
from analysis.report.inputs import Inputs, baseline_of, variants_of
from analysis.report.section import MARKS, UNKNOWN, Badge, Card, Table, Tone, listed
from analysis.stats import Interval
from analysis.verdict import THROTTLED, judge_energy, judge_time
from profiler.record import RunRecord, VariantResult

TONES: dict[str, Tone] = {
    "trapped": "bad",
    "not trapped": "good",
    "inconclusive": "warn",
    "not measured": "muted",
    "depends on the batch": "warn",
}
_THROTTLED = f"; {THROTTLED}"


@dataclass(frozen=True)
class JudgedChain:
    """A variant over the batch sizes, and what it costs over its baseline there."""

    kernel: str
    model: str
    machine: str
    rows: Mapping[int, VariantResult]
    time: Mapping[int, Interval]
    energy: Mapping[int, Interval]

    @property
    def times(self) -> Counter[str]:
        """How many batch sizes got which verdict on time."""
        return Counter(row.verdict_time for row in self.rows.values() if row.verdict_time is not None)

    @property
    def is_judged(self) -> bool:
        """Whether there is a verdict at all."""
        return any(row.verdict_time or row.verdict_energy for row in self.rows.values())


def judged_chains(inputs: Inputs, machine: str) -> Iterable[JudgedChain]:
    """Return the variants of a machine's chains."""
    for model, records in inputs.chains(machine).items():
        rows: dict[str, dict[int, VariantResult]] = defaultdict(dict)
        costs: dict[tuple[str, str], dict[int, Interval]] = defaultdict(dict)
        for record in records:
            baseline = baseline_of(record)
            own = variants_of(record)
            for row in own:
                if row.kernel == baseline or row.kernel.startswith("null_"):
                    continue
                native = _row_like(row, own, baseline)
                judged = _judged_later(row, native, record, baseline)
                known = rows[row.kernel].get(row.batch_size)
                if known is not None and _says(judged) < _says(known):
                    continue
                rows[row.kernel][row.batch_size] = judged
                ratios = (("time", time_ratio(row, native)), ("energy", energy_ratio(row, native)))
                for quantity, ratio in ratios:
                    if ratio is not None:
                        costs[row.kernel, quantity][row.batch_size] = ratio
        for kernel, by_batch in rows.items():
            yield JudgedChain(
                kernel, model, machine, by_batch, costs[kernel, "time"], costs[kernel, "energy"]
            )


def _row_like(row: VariantResult, rows: Sequence[VariantResult], kernel: str) -> VariantResult | None:
    same = (r for r in rows if (r.kernel, r.batch_size, r.mode) == (kernel, row.batch_size, row.mode))
    return next(same, None)


def _judged_later(
    row: VariantResult, native: VariantResult | None, record: RunRecord, baseline: str
) -> VariantResult:
    """Return a row that its run did not judge, with verdicts by the intervals of both where hops were fixed."""
    if not record.arguments.get("hops"):
        return row
    found: dict[str, str] = {}
    reasons = [row.verdict_reason] if row.verdict_reason else []
    judgements = []
    if row.verdict_time is None:
        judgements.append(judge_time(time_ratio(row, native), reference=baseline))
    if row.verdict_energy is None:
        judgements.append(judge_energy(energy_ratio(row, native), hli=False, reference=baseline))
    for judgement in judgements:
        if judgement.ratio is not None:
            found[f"verdict_{judgement.quantity}"] = judgement.verdict.value.replace("_", " ")
            reasons.append(("Energy: " if judgement.quantity == "energy" else "") + judgement.reason)
    return row.model_copy(update={**found, "verdict_reason": ". ".join(reasons) or None})


def _says(row: VariantResult) -> int:
    return 2 * (row.verdict_time is not None) + (row.verdict_energy is not None)


def verdict_grids(chains: Sequence[JudgedChain], machine: str) -> Iterable[Table]:
    """Tables of how many times as fast, and as cheap, over the batch sizes."""
    for quantity, title in (
        ("time", "times as fast as the baseline per hop; ✓ faster, ✗ trapped: slower, ≈ not told apart"),
        ("energy", "joules per query over the baseline's; ✓ fewer, ✗ trapped: more, ≈ not told apart"),
    ):
        own = [judged for judged in chains if _verdicts(judged, quantity)]
        sizes = sorted({size for judged in own for size in _verdicts(judged, quantity)})
        if own:
            yield Table(
                f"Whole hops on {machine}, {title}",
                ("model", "kernel", *(f"B = {size}" for size in sizes)),
                tuple(
                    (judged.model, judged.kernel, *(_grid_cell(judged, quantity, size) for size in sizes))
                    for judged in own
                ),
                is_numeric=False,
            )


def _verdicts(judged: JudgedChain, quantity: str) -> dict[int, str]:
    pairs = ((size, getattr(row, f"verdict_{quantity}")) for size, row in judged.rows.items())
    return {size: verdict for size, verdict in pairs if verdict is not None}


def _grid_cell(judged: JudgedChain, quantity: str, size: int) -> str:
    verdict = _verdicts(judged, quantity).get(size)
    if verdict is None:
        return UNKNOWN
    ratio = (judged.time if quantity == "time" else judged.energy).get(size)
    mark = MARKS[TONES[verdict]]
    if ratio is None:
        return f"{mark} {verdict}"
    return f"{mark} {1 / ratio.point if quantity == 'time' else ratio.point:.2f}"


def verdict_card(judged: JudgedChain) -> Card:
    """Return verdicts with their reasons, batch size by batch size."""
    by_batch = judged.rows
    batches = sorted(by_batch)
    time = {b: by_batch[b].verdict_time or "not measured" for b in batches}
    energy = {b: by_batch[b].verdict_energy or "not measured" for b in batches}
    texts = {b: by_batch[b].verdict_reason or _why_not(by_batch[b]) for b in batches}
    throttled = [b for b in batches if _THROTTLED in texts[b]]
    reasons = [
        (f"B = {b}: " if len(batches) > 1 else "") + _sentence(texts[b].replace(_THROTTLED, ""))
        for b in batches
    ]
    if throttled:
        which = "" if len(throttled) == len(batches) else f" at B = {listed(list(map(str, throttled)))}"
        reasons.append(f"The GPU throttled{which}.")
    sizes = "B = " + ", ".join(map(str, batches))
    estimate = any(by_batch[b].energy_is_estimate for b in batches)
    return Card(
        judged.kernel,
        f"{judged.model} on {judged.machine}, {sizes}",
        (
            _badge("time", time.values()),
            _badge("energy, estimate" if estimate else "energy", energy.values()),
        ),
        " ".join(reasons),
    )


def _why_not(row: VariantResult) -> str:
    if row.mode == "generate" and row.cor_tps is None:
        return "not compared on the same hops: run the chain with replayed hops (--ablation 4) or fixed ones (--hops)"
    return "no interval, so no verdict"


def _sentence(text: str) -> str:
    text = f"{text[:1].upper()}{text[1:]}"
    return text if text.endswith(".") else f"{text}."


def _badge(quantity: str, verdicts: Iterable[str]) -> Badge:
    distinct = set(verdicts)
    known = distinct - {"not measured"}
    verdict = "depends on the batch" if len(known) > 1 else next(iter(known or distinct))
    return Badge(quantity, verdict, TONES[verdict])
