"""The table of the paper's own protocol on a machine: its figures as it forms them, beside the counter's joules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.chain_cells import Cell, cells_of, latest, sources_line, words
from benchmarks.markdown import ends, number, table
from benchmarks.published import Chains, NotPublished

_COLUMNS = (
    "hop_ms_p50 [95 %]",
    "TPS",
    "COR (Eq. 9)",
    "J per query, HLI",
    "J per query, counter [95 %]",
    "HLI / counter",
    "S_SI by HLI",
    "S_SI by counter",
)


def paper_table(chains: Chains) -> str:
    """What ``chain --protocol paper`` measured, by model and kernel.

    Args:
        chains: chain runs with their folders. Each row is from the run that started last.

    Raises:
        NotPublished: no run of the protocol.
    """
    cells = [cell for cell in cells_of(chains) if _figures(cell) is not None]
    found = latest(cells, lambda cell: (cell.model, cell.row.kernel))
    if not found:
        raise NotPublished("no chain run with --protocol paper")
    rows = {f"{model} `{kernel}`": _row(cell) for (model, kernel), cell in found.items()}
    weights = words(cell.weights for cell in found.values())
    hops = words(cell.row.hops // cell.row.problems for cell in found.values())
    queries = words(cell.row.problems for cell in found.values())
    facts = f"{weights} weights, {queries} queries of {hops} hops, HLI an estimate: TDP times time"
    return f"{table('model and kernel', _COLUMNS, rows)}\n\n{sources_line(found.values(), facts)}"


def _figures(cell: Cell) -> Mapping[str, Any] | None:
    by_kernel = cell.record.derived.get("paper")
    found = by_kernel.get(cell.row.kernel) if isinstance(by_kernel, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _row(cell: Cell) -> list[str]:
    paper, row = _figures(cell) or {}, cell.row
    hli, counter = paper.get("hli_j_per_query"), paper.get("counter_j_per_query")
    return [
        number(row.hop_ms_p50, ".1f") + ends(row.hop_ms_p50_ci95, ".1f"),
        number(paper.get("tps"), ".1f"),
        number(paper.get("cor_tps"), ".2f"),
        number(hli, ",.0f"),
        number(counter, ",.0f") + ends(row.energy_j_per_query_ci95 if counter else None, ",.0f"),
        number(hli / counter if hli and counter else None, ".1f"),
        number(paper.get("s_si_hli"), ".2f"),
        number(paper.get("s_si_counter"), ".2f"),
    ]
