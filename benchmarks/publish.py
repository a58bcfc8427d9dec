"""``python -m benchmarks.publish [--check]``: write the measured tables and the picture from committed records.

Every measured number in README.md and in the model card stands between ``<!-- begin: NAME -->`` and
``<!-- end: NAME -->`` and comes from a run record under ``benchmarks/results``, or for the training from
``training.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from analysis.chain_picture import draw_chain
from benchmarks.accuracy_tables import accuracy_by_batch_table
from benchmarks.chain_tables import accuracy_table, chain_table, training_table
from benchmarks.energy_tables import call_energy_table, meter_table
from benchmarks.hop_tables import engine_table, hop_table
from benchmarks.paper_tables import paper_table
from benchmarks.power_cap_tables import power_cap_table
from benchmarks.prediction_tables import prediction_page, prediction_summary
from benchmarks.published import (
    ROOT,
    NotPublished,
    place_of,
    published_chains,
    published_energy,
    published_for_fit,
    published_predictions,
    published_run,
    published_sweeps,
)
from benchmarks.query_energy_tables import energy_page, energy_summary
from benchmarks.sweep_tables import sweep_page, sweep_summary
from benchmarks.trace_tables import published_trace, trace_table
from benchmarks.waterfall_tables import waterfall_table
from profiler.record import load_record, load_run

PICTURE = ROOT / "docs" / "images" / "chain.png"
DOCS = ROOT / "docs"
CARD = ROOT / "reasoning" / "tiny" / "README.md"
_SUMMARY_MS = (1, 8, 16, 64, 128)
_HOP_BATCH_SIZES = (1, 8, 32, 64, 128)


def blocks() -> dict[Path, dict[str, str]]:
    """Every generated block by file and name; what is left out is said on stderr."""
    cpu, accuracy = published_run("cpu", batch_size=10), published_run("h200", batch_size=500)
    sweeps = published_sweeps("h200")
    found = {
        ROOT / "README.md": {
            "chain-cpu": chain_table(cpu),
            "sweep-h200": sweep_summary(sweeps, _SUMMARY_MS),
        },
        DOCS / "kernels.md": {"sweep-h200": sweep_page(sweeps)},
        DOCS / "measurement.md": {
            "meters-h200": meter_table(published_energy("h200", "energy-check")),
            "calls-h200": call_energy_table(published_energy("h200", "energy-kernels")),
        },
        CARD: {"training": training_table(), "accuracy": accuracy_table(accuracy)},
    }
    for path, name, make in _measured_chains():
        try:
            block = make()
        except NotPublished as missing:
            typer.echo(f"{place_of(path)}: {name} is left as it is: {missing}", err=True)
            continue
        if f"<!-- begin: {name} -->" in path.read_text(encoding="utf-8"):
            found.setdefault(path, {})[name] = block
        else:
            typer.echo(f"{place_of(path)}: {name} has no place, which its marks would give it", err=True)
    return found


def _measured_chains() -> list[tuple[Path, str, Callable[[], str]]]:
    """Blocks of chain runs by file and name: each is there once its runs are committed and its page has the marks."""
    chains = published_chains("h200")
    readme = ROOT / "README.md"

    def checked(make: Callable[..., str]) -> Callable[[], str]:
        return lambda: make(*published_predictions("h200"), chains)

    return [
        (readme, "hops-h200", lambda: hop_table(chains, _HOP_BATCH_SIZES)),
        (readme, "energy-h200", lambda: energy_summary(chains)),
        (readme, "predicted-h200", checked(prediction_summary)),
        (DOCS / "chain.md", "engines-h200", lambda: engine_table(chains)),
        (DOCS / "chain.md", "paper-h200", lambda: paper_table(chains)),
        (DOCS / "chain.md", "waterfall-h200", lambda: waterfall_table(chains)),
        (DOCS / "measurement.md", "energy-h200", lambda: energy_page(chains)),
        (DOCS / "predict.md", "predicted-h200", checked(prediction_page)),
        (DOCS / "predict.md", "capped-h200", lambda: power_cap_table(published_for_fit("h200"))),
        (DOCS / "traces.md", "trace-h200", lambda: trace_table(published_trace("h200"))),
        (CARD, "accuracy-h200", lambda: accuracy_by_batch_table(chains)),
    ]


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
