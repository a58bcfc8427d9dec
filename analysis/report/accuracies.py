"""Accuracy by depth: how often chains of so many operations end right, with intervals and paired tests."""

from __future__ import annotations

from typing import Any

from analysis.accuracy_fit import DepthCount, compare_decay, fit_decay
from analysis.report.colours import styles
from analysis.report.drifts import drift_blocks
from analysis.report.figure import Axis, Figure, Line, Panel, Style
from analysis.report.inputs import Inputs, baseline_of, variants_of
from analysis.report.section import Block, Missing, Section, Table, Words, number, percent, slug
from profiler.record import RunRecord, VariantResult

_SPREAD = 0.5
_ALPHA = 0.05


def accuracy_section(inputs: Inputs) -> Section:
    """Return accuracy by depth of the largest chain of each model and machine."""
    blocks: list[Block] = []
    for machine in inputs.machines:
        for model, records in inputs.chains(machine).items():
            best = max(records, key=lambda record: max((r.problems for r in _rows(record)), default=0))
            if _rows(best):
                blocks += _blocks(best, model, machine)
    if not blocks:
        blocks.append(
            Missing(
                "No chain whose problems know their number of operations was given",
                "qt-profile chain --limit 1000",
            )
        )
    drifts: list[Block] = []
    for machine in inputs.machines:
        for model, records in inputs.chains(machine).items():
            compared = [r for r in records if r.run_id in inputs.samples and inputs.samples[r.run_id].drifts]
            if compared:
                record = max(compared, key=_positions)
                drifts += drift_blocks(record, inputs.samples[record.run_id], model, machine)
    if not drifts:
        drifts.append(
            Missing(
                "No replayed chain that compared logits was given with its samples, so no drift is shown",
                "qt-profile chain --mode replay",
            )
        )
    blocks += drifts
    return Section(
        "accuracy",
        "Accuracy",
        "Accuracy by depth, and drift",
        "Share of problems answered correctly, by the number of arithmetic operations in them; bars are Wilson "
        "intervals at 95 %. Two variants on the same problems are compared by McNemar's exact test. Drift is the "
        "distance of a variant's next-token distributions from the baseline's while both are fed the same solution.",
        tuple(blocks),
    )


def _positions(record: RunRecord) -> int:
    return sum(row.agreement.positions for row in variants_of(record) if row.agreement is not None)


def _rows(record: RunRecord) -> list[VariantResult]:
    """A row per kernel with accuracy by operations: that with the most problems."""
    found: dict[str, VariantResult] = {}
    for row in sorted(variants_of(record), key=lambda row: row.problems):
        if row.accuracy_by_operations:
            found[row.kernel] = row
    order = list(dict.fromkeys(row.kernel for row in variants_of(record)))
    return sorted(found.values(), key=lambda row: order.index(row.kernel))


def _blocks(record: RunRecord, model: str, machine: str) -> list[Block]:
    rows = _rows(record)
    look = styles(row.kernel for row in rows)
    lines = []
    for place, row in enumerate(rows):
        depths = sorted(row.accuracy_by_operations)
        groups = [row.accuracy_by_operations[depth] for depth in depths]
        shift = _SPREAD * (place - (len(rows) - 1) / 2) / max(1, len(rows))
        lines.append(
            Line(
                row.kernel,
                tuple(depth + shift for depth in depths),
                tuple(100 * g.correct / g.n for g in groups),
                Style(look[row.kernel].role, "none" if len(rows) > 1 else "solid", look[row.kernel].marker),
                tuple(100 * g.ci95[0] for g in groups),
                tuple(100 * g.ci95[1] for g in groups),
                hover=tuple(
                    f"{row.kernel}, {d} operations: {g.correct} of {g.n}"
                    for d, g in zip(depths, groups, strict=True)
                ),
            )
        )
    lines += _decays(rows)
    lows = [value for line in lines for value in line.low if value is not None]
    depths = sorted({depth for row in rows for depth in row.accuracy_by_operations})
    ticks = tuple((float(depth), str(depth)) for depth in depths)
    panel = Panel(
        f"{max(row.problems for row in rows):,} problems",
        Axis("arithmetic operations of the problem", ticks=ticks, low=depths[0] - 0.6, high=depths[-1] + 0.6),
        Axis("correct, %", low=max(0.0, 5 * (min(lows) // 5) - 5), high=101),
        tuple(lines),
        height=340,
    )
    figure = Figure(
        f"accuracy-{slug(machine)}-{slug(model)}",
        f"{model} on {machine}: accuracy by depth",
        "; ".join(f"{row.kernel} {percent(row.accuracy)}" for row in rows),
        (panel,),
        columns=1,
    )
    blocks: list[Block] = [figure, _table(record, rows)]
    blocks += [Words(text) for text in _against_baseline(record)]
    decays = _decay_table(record, rows)
    return [*blocks, decays] if decays is not None else blocks


def _counts(row: VariantResult) -> list[DepthCount]:
    return [DepthCount(depth, g.correct, g.n) for depth, g in sorted(row.accuracy_by_operations.items())]


def _depths(row: VariantResult) -> list[int]:
    return sorted(row.accuracy_by_operations)


def _decays(rows: list[VariantResult]) -> list[Line]:
    """The fitted a q^d of each kernel."""
    look = styles(row.kernel for row in rows)
    lines = []
    for row in rows:
        counts = _counts(row)
        if len(counts) < 2:
            continue
        fit = fit_decay(counts)
        depths = tuple(float(count.depth) for count in counts)
        style = Style(look[row.kernel].role, "solid", "none", 1.4)
        lines.append(Line(row.kernel, depths, tuple(100 * fit.at(d) for d in depths), style, is_named=False))
    return lines


def _decay_table(record: RunRecord, rows: list[VariantResult]) -> Table | None:
    """What the likelihoods say: a loss with every operation, a constant one, or none."""
    baseline = next((row for row in rows if row.kernel == baseline_of(record)), None)
    lines = []
    for row in rows:
        counts = _counts(row)
        if len(counts) < 2:
            continue
        fit = fit_decay(counts)
        falls = "falls with depth" if fit.compounds else "does not fall with depth beyond noise"
        compared = "–"
        if (
            baseline is not None
            and row is not baseline
            and {*row.accuracy_by_operations} == {*baseline.accuracy_by_operations}
        ):
            compared = compare_decay(_counts(baseline), counts).sentence
        lines.append(
            (
                row.kernel,
                str(fit.a),
                f"{fit.q.point:.4f} [{fit.q.low:.4f}, {fit.q.high:.4f}]",
                falls,
                compared,
            )
        )
    if not lines:
        return None
    head = (
        "kernel",
        "a",
        "q, left by an operation",
        f"by itself (p < {_ALPHA:g})",
        f"against {baseline_of(record)}",
    )
    return Table(
        "P(correct | depth) = a·q^depth, the lines of the figure", head, tuple(lines), is_numeric=False
    )


def _table(record: RunRecord, rows: list[VariantResult]) -> Table:
    pairs = _pairs(record, rows)
    lines = []
    for row in rows:
        ends = row.accuracy_ci95
        share = percent(row.accuracy)
        if ends is not None:
            share += f" [{percent(ends[0])}, {percent(ends[1])}]"
        pair = pairs.get(row.kernel)
        cells = ("–",) * 3
        if pair is not None:
            cells = (
                number(pair.get("only_baseline")),
                number(pair.get("only_variant")),
                number(pair.get("p_value"), 2),
            )
        agreement = "–" if row.agreement is None else percent(row.agreement.top1_share, 2)
        lines.append((row.kernel, f"{row.problems:,}", share, *cells, agreement))
    baseline = baseline_of(record)
    head = (
        "kernel",
        "problems",
        "accuracy [95 %]",
        f"only {baseline} right",
        "only it right",
        "McNemar p",
        "top-1 agreement",
    )
    return Table(f"Against {baseline} on the same problems, {record.run_id}", head, tuple(lines))


def _pairs(record: RunRecord, rows: list[VariantResult]) -> dict[str, dict[str, Any]]:
    """McNemar's tests by kernel, at the batch size of each row."""
    derived: Any = record.derived
    found = {}
    for row in rows:
        own = (derived.get("by_batch_size") or {}).get(str(row.batch_size), derived)
        pair = (own.get("mcnemar") or {}).get(row.kernel)
        if isinstance(pair, dict):
            found[row.kernel] = pair
    return found


def _against_baseline(record: RunRecord) -> list[str]:
    known: dict[str, float] = {
        k: float(p["p_value"])
        for k, p in _pairs(record, _rows(record)).items()
        if isinstance(p.get("p_value"), (int, float))
    }
    if not known:
        return []
    differ = [f"{kernel} (p = {number(p, 2)})" for kernel, p in known.items() if p < _ALPHA]
    if not differ:
        return [f"No variant of {len(known)} differs from {baseline_of(record)} at p < {_ALPHA:g}."]
    return [f"Different from {baseline_of(record)} at p < {_ALPHA:g}: {', '.join(differ)}."]
