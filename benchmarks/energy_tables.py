"""Tables of energy records in Markdown."""

from __future__ import annotations

from pathlib import Path

from benchmarks.markdown import number, table
from benchmarks.published import source_line
from profiler.record import EnergyRow, load_record


def call_energy_table(path: Path) -> str:
    """Joules per call of every kernel of a record, with intervals, by shape and m, and the ratio to bf16.

    Args:
        path: folder of a record of ``benchmarks.kernel_energy``.
    """
    rows = [row for row in _rows(path) if row.unit == "call" and row.n is not None]
    by_cell = {(row.load, row.n, row.k, row.m): row for row in rows}
    cells = list(dict.fromkeys((row.n, row.k, row.m) for row in rows))
    lines = {}
    for name in dict.fromkeys(row.load for row in rows):
        reference = [by_cell.get(("bf16", *cell)) for cell in cells]
        own = [by_cell.get((name, *cell)) for cell in cells]
        lines[f"`{name}`"] = [_joules(row, bf16) for row, bf16 in zip(own, reference, strict=True)]
    columns = [f"{n}×{k}, m = {m}" for n, k, m in cells]
    return f"{table('mJ per call [95 %] (× bf16)', columns, lines)}\n\n{source_line(load_record(path), path)}"


def meter_table(path: Path) -> str:
    """Counter, polled power and HLI under every load of a record.

    Args:
        path: folder of a record of ``benchmarks.energy_check``.
    """
    lines = {
        row.load: [
            f"{row.windows} × {row.duration_s / row.windows:.1f} s",
            number(row.power_w, ".1f"),
            _percent(None if row.polled_over_counter is None else row.polled_over_counter - 1, signed=True),
            _percent(row.repeat_spread_share),
            number(row.hli_over_counter, ".2f"),
        ]
        for row in _rows(path)
    }
    columns = [
        "windows",
        "W by the counter",
        "polled − counter",
        "spread of the windows' power",
        "HLI / counter",
    ]
    return f"{table('load', columns, lines)}\n\n{source_line(load_record(path), path)}"


def _rows(path: Path) -> list[EnergyRow]:
    return [row for row in load_record(path).results if isinstance(row, EnergyRow)]


def _joules(row: EnergyRow | None, bf16: EnergyRow | None) -> str:
    if row is None or row.energy_j_per_unit is None:
        return "–"
    text = f"{row.energy_j_per_unit * 1e3:.3g}"
    if row.energy_j_per_unit_ci95 is not None:
        text += " [{:.3g}, {:.3g}]".format(*(bound * 1e3 for bound in row.energy_j_per_unit_ci95))
    if row.load != "bf16" and bf16 is not None and bf16.energy_j_per_unit:
        text += f" ({row.energy_j_per_unit / bf16.energy_j_per_unit:.2f})"
    return text


def _percent(value: float | None, *, signed: bool = False) -> str:
    return "–" if value is None else format(value, "+.2%" if signed else ".2%")
