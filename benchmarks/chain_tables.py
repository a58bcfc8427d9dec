"""Tables of chain records and of the training of ``tiny``, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.published import ROOT, source_line
from profiler.record import RunRecord, VariantResult, load_record


def chain_table(path: Path) -> str:
    """A chain record as a Markdown table with its machine, date and verdict."""
    record = load_record(path)
    rows = _rows(record)
    lines = [
        "| | " + " | ".join(f"`{row.kernel}`" for row in rows) + " |",
        "|---|" + "---:|" * len(rows),
    ]
    for label, cell in _FIGURES:
        lines.append(f"| {label} | " + " | ".join(cell(row) for row in rows) + " |")
    verdicts = [f"`{row.kernel}`: {row.verdict_reason}." for row in rows if row.verdict_reason]
    return "\n".join([*lines, "", *verdicts, "", source_line(record, path)])


def accuracy_table(path: Path) -> str:
    """Accuracy by number of operations of every kernel of a record, and the paired test against the baseline."""
    record = load_record(path)
    rows = _rows(record)
    counts = sorted(rows[0].accuracy_by_operations)
    lines = [
        "| kernel | all [Wilson 95 %] | " + " | ".join(map(str, counts)) + " | McNemar p |",
        "|---|---:|" + "---:|" * (len(counts) + 1),
    ]
    pairs = record.derived.get("mcnemar")
    for row in rows:
        groups = [row.accuracy_by_operations[count] for count in counts]
        pair = pairs.get(row.kernel) if isinstance(pairs, dict) else None
        p_value = f"{pair['p_value']:.2f}" if isinstance(pair, dict) else "–"
        cells = [_accuracy(row), *(f"{group.correct}/{group.n}" for group in groups), p_value]
        lines.append(f"| `{row.kernel}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", source_line(record, path)])


def training_table() -> str:
    """What ``training.json`` says of the training of ``tiny``."""
    told = json.loads((ROOT / "reasoning" / "tiny" / "training.json").read_text())
    plan, log = told["plan"], told["loss_log"]
    losses = ", ".join(
        f"{entry['loss']:.4f} at {entry['step']:,}" for entry in log if entry["step"] % 1000 == 0
    )
    facts = {
        "parameters": f"{told['parameters']:,}",
        "steps": f"{plan['steps']:,} of {plan['rows']} rows of {told['row_tokens']} tokens",
        "tokens seen": f"{told['tokens_seen']:,}",
        "peak learning rate": f"{plan['learning_rate']:g}, warm-up {plan['warmup_steps']} steps, last 40 % linear to 0",
        "weight decay": f"{plan['weight_decay']:g} (matrices)",
        "solution-token loss at step": f"{losses}, {log[-1]['loss']:.4f} at {log[-1]['step']:,} (last)",
        "machine": f"{told['gpu']}, torch {told['torch']}, {told['elapsed_s']:.0f} s",
        "seed, generator version": f"{plan['seed']}, {told['generator_version']}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def _rows(record: RunRecord) -> list[VariantResult]:
    return [r for r in record.results if isinstance(r, VariantResult) and r.mode == "generate"]


def _ms(value: float | None, interval: tuple[float, float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if interval is None else f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _accuracy(row: VariantResult) -> str:
    if row.accuracy is None or row.accuracy_ci95 is None:
        return "not measured"
    return f"{row.accuracy:.1%} [{row.accuracy_ci95[0]:.1%}, {row.accuracy_ci95[1]:.1%}]"


def _energy(row: VariantResult) -> str:
    if row.energy_j_per_query is None:
        return "not measured"
    return f"{row.energy_j_per_query:.3g} ({row.energy_source})"


_FIGURES: Sequence[tuple[str, Callable[[VariantResult], str]]] = (
    ("hop_ms_p50 [95 %]", lambda r: _ms(r.hop_ms_p50, r.hop_ms_p50_ci95)),
    ("tokens per second", lambda r: _ms(r.tps)),
    ("τ_comp, τ_cast ms_p50 by unfused ranges", lambda r: f"{_ms(r.comp_ms_p50)}, {_ms(r.cast_ms_p50)}"),
    (
        "τ_comp, τ_cast ms by null, fused − null",
        lambda r: f"{_ms(r.comp_from_null_ms)}, {_ms(r.cast_from_null_ms)}",
    ),
    ("COR TPS (Eq. 9) on identical hops [95 %]", lambda r: _ms(r.cor_tps, r.cor_tps_ci95)),
    ("weights, MB", lambda r: "–" if r.weight_bytes is None else f"{r.weight_bytes / 1e6:.1f}"),
    ("J per query", _energy),
    ("accuracy [Wilson 95 %]", _accuracy),
    ("SI (Eq. 6)", lambda r: _ms(r.si)),
)
