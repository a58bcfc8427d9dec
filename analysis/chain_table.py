"""The printed form of a chain record: one table of figures, one of accuracy by operations, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.chain_indices import geometric_index
from analysis.chain_summary import generated
from analysis.chain_sweep_table import sweep_table, waterfall_tables
from profiler.record import RunRecord, VariantResult, is_energy_estimate

_UNKNOWN = "–"


def render_chain(record: RunRecord, *, shows_waterfall: bool = False) -> RenderableType:
    """Lay a chain record out for a terminal.

    Args:
        record: a chain record with its derived figures.
        shows_waterfall: also where the time of a hop goes, by variant.

    Returns:
        Something ``rich`` prints.
    """
    rows = [row for row in record.results if isinstance(row, VariantResult)]
    shown = generated(rows)
    if len({row.batch_size for row in shown}) > 1:
        parts: list[RenderableType] = [sweep_table(_title(record), shown)]
    else:
        parts = [_figures(record, shown)]
    if any(row.accuracy_by_operations for row in shown):
        parts.append(_by_operations(shown))
    if shows_waterfall:
        parts.extend(waterfall_tables(record))
    parts.extend(_verdicts(shown))
    notes = dict.fromkeys([*(note for row in shown for note in row.notes), *record.warnings])
    parts.extend(Text(f"note: {note}", style="dim") for note in notes)
    return Group(*parts)


def print_chain(record: RunRecord, console: Console, *, shows_waterfall: bool = False) -> None:
    """Print a chain record; see :func:`render_chain`."""
    console.print(render_chain(record, shows_waterfall=shows_waterfall))


def _figures(record: RunRecord, rows: Sequence[VariantResult]) -> Table:
    table = Table(title=_title(record), title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(row.kernel, justify="right")
    for label, cell in _FIGURES:
        cells = [cell(row) for row in rows]
        if any(text != _UNKNOWN for text in cells):
            table.add_row(label, *cells)
    return table


def _title(record: RunRecord) -> str:
    arguments = record.arguments
    sizes = sorted({row.batch_size for row in record.results if isinstance(row, VariantResult)})
    context, hops = arguments.get("context"), arguments.get("hops")
    return (
        f"{arguments.get('model')} on {_machine(record)}: {arguments.get('problems')}, "
        f"batch {', '.join(map(str, sizes))}, {arguments.get('mode')}, engine {arguments.get('engine')}"
        + (f", context {context}" if context else "")
        + (f", {hops} hops" if hops else "")
    )


def _machine(record: RunRecord) -> str:
    gpus = record.environment.gpus
    if gpus and record.arguments.get("device", "cpu") != "cpu":
        return gpus[0].name
    return f"{record.environment.cpu_model}, {record.environment.compute_threads} threads"


def _number(value: float | None, digits: int = 2) -> str:
    return _UNKNOWN if value is None else f"{value:,.{digits}f}"


def _with_interval(value: float | None, interval: tuple[float, float] | None, digits: int = 2) -> str:
    if value is None or interval is None:
        return _number(value, digits)
    return f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _share(row: VariantResult) -> str:
    if row.accuracy is None or row.accuracy_ci95 is None:
        return "not measured"
    low, high = row.accuracy_ci95
    return f"{row.accuracy:.1%} [{low:.1%}, {high:.1%}]"


def _energy(row: VariantResult) -> str:
    if row.energy_j_per_query is None:
        return "not measured" if row.energy_source == "none" else _UNKNOWN
    estimate = " estimate" if is_energy_estimate(row.energy_source) else ""
    return f"{row.energy_j_per_query:.3g} ({row.energy_source}{estimate})"


def _megabytes(count: int | None) -> str:
    return _UNKNOWN if count is None else f"{count / 1e6:,.1f}"


def _agreement(row: VariantResult) -> str:
    if row.agreement is None:
        return _UNKNOWN
    return f"{row.agreement.top1_share:.2%}, KL {row.agreement.kl_nats_mean:.2g} nats"


_FIGURES: tuple[tuple[str, Callable[[VariantResult], str]], ...] = (
    ("implementation", lambda r: r.implementation),
    ("problems", lambda r: str(r.problems)),
    ("hops", lambda r: f"{r.hops:,}"),
    ("hop_ms_p50", lambda r: _with_interval(r.hop_ms_p50, r.hop_ms_p50_ci95)),
    ("hop_ms_p95", lambda r: _number(r.hop_ms_p95)),
    ("TPS, tokens/s", lambda r: _number(r.tps, 1)),
    ("τ_comp ms_p50, ranges", lambda r: _number(r.comp_ms_p50)),
    ("τ_cast ms_p50, ranges", lambda r: _number(r.cast_ms_p50)),
    ("τ_comp ms_p50, null", lambda r: _number(r.comp_from_null_ms)),
    ("τ_cast ms, fused − null", lambda r: _number(r.cast_from_null_ms)),
    ("COR direct [95 %]", lambda r: _with_interval(r.cor_direct, r.cor_direct_ci95)),
    ("COR TPS [95 %]", lambda r: _with_interval(r.cor_tps, r.cor_tps_ci95)),
    ("weights MB", lambda r: _megabytes(r.weight_bytes)),
    ("peak memory MB", lambda r: _megabytes(r.peak_memory_bytes)),
    ("J per query", _energy),
    ("accuracy [95 %]", _share),
    ("top-1 agreement", _agreement),
    ("T_SI (Eq. 2)", lambda r: _number(r.t_si, 3)),
    ("E_SI (Eq. 3)", lambda r: _number(r.e_si, 3)),
    ("S_SI (linear form)", lambda r: _number(r.s_si, 3)),
    ("SI (Eq. 6)", lambda r: _number(r.si, 3)),
    ("SI geometric (Remark 3.1)", lambda r: _number(geometric_index(r), 3)),
)


def _by_operations(rows: Sequence[VariantResult]) -> Table:
    table = Table(title="correct / problems by number of operations", title_justify="left")
    table.add_column("B", justify="right")
    table.add_column("kernel")
    counts = sorted({operations for row in rows for operations in row.accuracy_by_operations})
    for operations in counts:
        table.add_column(str(operations), justify="right")
    for row in rows:
        groups = row.accuracy_by_operations
        table.add_row(
            str(row.batch_size),
            row.kernel,
            *(f"{groups[c].correct}/{groups[c].n}" if c in groups else _UNKNOWN for c in counts),
        )
    return table


_STYLES = {"trapped": "bold red", "not trapped": "bold green", "inconclusive": "bold yellow"}


def _verdicts(rows: Sequence[VariantResult]) -> list[Text]:
    lines = []
    for row in rows:
        if row.verdict_reason is None:
            continue
        several = len({row.batch_size for row in rows}) > 1
        line = Text(f"{row.kernel}{f' at B = {row.batch_size}' if several else ''}: ")
        for quantity, verdict in (("time", row.verdict_time), ("energy", row.verdict_energy)):
            said = verdict or "not measured"
            line.append(f"{quantity} {said}", style=_STYLES.get(said, ""))
            line.append(", " if quantity == "time" else f". {row.verdict_reason}")
        lines.append(line)
    return lines
