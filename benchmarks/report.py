"""Shows a sweep to people: tables, reasons and notes on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.machine import Absent
from benchmarks.sweep import SweepOutcome
from benchmarks.table import floors_table, peers_table, reasons_and_notes, tau_table, times_table
from profiler.record import RunRecord, SweepRow

_TABLE_WIDTH = 170


def console() -> Console:
    """Standard output, wide enough for a table where it is no terminal."""
    found = Console(highlight=False, soft_wrap=False)
    return found if found.is_terminal else Console(highlight=False, width=_TABLE_WIDTH)


def show(record: RunRecord, outcome: SweepOutcome, path: Path | None, pictures: Sequence[Path]) -> None:
    """Print what a sweep measured and where it was stored.

    Args:
        record: the run's record.
        outcome: what was measured.
        path: folder of the run; None where it could not be written.
        pictures: files that were drawn.
    """
    out = console()
    if outcome.rows:
        out.print(times_table(outcome.rows))
    if outcome.tau:
        out.print(tau_table(outcome.tau))
        out.print(
            "unfused: tau_cast and tau_comp are ranges, or the cast alone and the rest of the call; "
            "fused: tau_comp = t(null), tau_cast = t(fused) - t(null); native: tau_cast is quantizing x"
        )
    if any(row.best_peer for row in outcome.rows):
        out.print(peers_table(outcome.rows))
    if outcome.bandwidth is not None:
        bandwidth = outcome.bandwidth
        out.print(
            f"measured here in this run: read {bandwidth.read_gb_s_p50:,.1f} GB/s, "
            f"copy {bandwidth.copy_gb_s_p50:,.1f} GB/s (p50 of {len(bandwidth.read_s)} each)"
        )
    for line in [*reasons_and_notes(outcome.rows), *_more_warnings(record, outcome)]:
        out.print(line)
    if outcome.interrupted:
        out.print(
            f"interrupted: {len(outcome.rows)} rows were kept; --resume with the run's folder continues"
        )
    for picture in pictures:
        out.print(f"picture: {picture}")
    if path is not None:
        out.print(f"run: {path}")


def show_absent(absent: Absent, rows: Sequence[SweepRow]) -> None:
    """Print traffic and floors on a GPU that is not here.

    Args:
        absent: the GPU that was named, and what is here.
        rows: rows without times.
    """
    out = console()
    out.print(absent.sentence)
    out.print(floors_table(rows))
    out.print(
        "Traffic follows from the shapes; a floor is traffic over the vendor's bandwidth, and no time. "
        f"Predicted times come from `qt-profile predict` and runs measured on {absent.spec.name}."
    )


def _more_warnings(record: RunRecord, outcome: SweepOutcome) -> list[str]:
    """Warnings that neither a row's reason nor a row's note says."""
    said = {note for row in outcome.rows for note in row.notes}
    reasons = [row.not_measured for row in outcome.rows if row.not_measured]
    return [
        text
        for text in record.warnings
        if not any(text.endswith(f"rows: {note}") for note in said)
        and not any(text.endswith(reason) for reason in reasons)
    ]
