"""``python -m benchmarks.publish [--check]``: write the measured tables and the picture from committed records.

Every measured number in README.md and in the model card stands between ``<!-- begin: NAME -->`` and
``<!-- end: NAME -->`` and comes from a run record under ``benchmarks/results``, or for the training from
``training.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from analysis.chain_picture import draw_chain
from benchmarks.sweep_tables import floor_table, shapes_of, speedup_table
from profiler.record import RunRecord, VariantResult, list_runs, load_record, load_run

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "images" / "chain.png"
CARD = ROOT / "reasoning" / "tiny" / "README.md"


def published_run(folder: str, *, batch_size: int) -> Path:
    """The committed chain run of a machine at a batch size, the latest where there are several.

    Raises:
        ValueError: there is none.
    """
    runs = [
        path
        for path in list_runs(RESULTS / folder)
        if load_record(path).arguments.get("batch_size") == batch_size
    ]
    if not runs:
        raise ValueError(f"no chain run with batch_size={batch_size} under {RESULTS.name}/{folder}")
    return max(runs, key=lambda path: path.name)


def published_sweep(folder: str) -> Path:
    """The committed sweep of a machine with the most rows, the latest where several have as many.

    Raises:
        ValueError: there is none.
    """
    runs = [path for path in list_runs(RESULTS / folder) if load_record(path).kind == "sweep"]
    if not runs:
        raise ValueError(f"no sweep under {RESULTS.name}/{folder}")
    return max(runs, key=lambda path: (len(load_record(path).results), path.name))


def sweep_tables(path: Path, *, largest_only: bool) -> str:
    """Times of a sweep by shape, and the share of the bandwidth floor at one row of x."""
    record = load_record(path)
    shapes = shapes_of(record)
    parts = [speedup_table(record, shape) for shape in (shapes[:1] if largest_only else shapes)]
    return "\n\n".join([*parts, floor_table(record, 1), _source(record, path)])


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
    return "\n".join([*lines, "", *verdicts, "", _source(record, path)])


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
    return "\n".join([*lines, "", _source(record, path)])


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


def _source(record: RunRecord, path: Path) -> str:
    environment = record.environment
    machine = environment.gpus[0].name if environment.gpus else environment.cpu_model
    if not environment.gpus:
        machine += f", {environment.compute_threads} thread" + "s" * (environment.compute_threads > 1)
    versions = ", ".join(
        f"{name} {environment.versions[name]}" for name in ("torch", "triton") if name in environment.versions
    )
    batch = f"batch {record.arguments['batch_size']}; " if record.kind == "chain" else ""
    return (
        f"{machine}; {versions}; {batch}{record.created_utc:%Y-%m-%d}; "
        f"record `{path.relative_to(ROOT).as_posix()}`."
    )


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


def blocks() -> dict[Path, dict[str, str]]:
    """Every generated block by file and name."""
    cpu, h200 = published_run("cpu", batch_size=10), published_run("h200", batch_size=1)
    accuracy = published_run("h200", batch_size=500)
    return {
        ROOT / "README.md": {"chain-cpu": chain_table(cpu), "chain-h200": chain_table(h200)},
        CARD: {"training": training_table(), "accuracy": accuracy_table(accuracy)},
    }


def with_blocks(text: str, named: dict[str, str]) -> str:
    """Put each block between its two marks.

    Raises:
        ValueError: a mark is missing.
    """
    for name, block in named.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the text lacks the marks {begin} and {end}")
        text = f"{before}{begin}\n{block}\n{end}{after}"
    return text


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a table is out of date.")
    ] = False,
) -> None:
    """Write the generated blocks and the picture, or check the blocks."""
    stale = []
    for path, named in blocks().items():
        text = path.read_text(encoding="utf-8")
        wanted = with_blocks(text, named)
        if wanted != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(wanted, encoding="utf-8")
    if check:
        if stale:
            typer.echo(f"out of date: {', '.join(stale)}; run python -m benchmarks.publish", err=True)
            raise typer.Exit(1)
        return
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    draw_chain(
        load_run(published_run("cpu", batch_size=10)),
        load_record(published_run("h200", batch_size=500)),
        PICTURE,
    )
    typer.echo(f"wrote {', '.join(stale) or 'nothing new'} and {PICTURE.relative_to(ROOT).as_posix()}")


if __name__ == "__main__":
    typer.run(main)
