"""The table of waterfalls: what every part of a replayed hop takes, from committed chain runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.chain_cells import NATIVE, Cell, cells_of, latest, prompts_and_hops, sources_line
from benchmarks.markdown import ends, number, table
from benchmarks.published import Chains, NotPublished

_PARTS = ("reference", "saving", "exposed_cast", "other", "host", "variant")
_COLUMNS = (f"`{NATIVE}`", "− saving", "+ exposed cast", "+ other", "+ host", "the kernel", "off by")


def waterfall_table(chains: Chains) -> str:
    """Waterfalls by model, engine, batch size and kernel, in ms per hop with 95 % intervals.

    Args:
        chains: chain runs with their folders. Each row is from the run that started last; runs with weights other than
            random, or whose linear layers were not timed, are left out.

    Returns:
        The table; a part that an engine does not have is a dash.

    Raises:
        NotPublished: no run with a waterfall.
    """
    cells = [
        cell
        for cell in cells_of(chains, "replay")
        if cell.weights == "random" and _waterfall(cell) is not None
    ]
    found = latest(cells, lambda cell: (cell.model, cell.engine, cell.row.batch_size, cell.row.kernel))
    if not found:
        raise NotPublished("no chain run with random weights and a waterfall")
    models = list(dict.fromkeys(cell.model for cell in found.values()))
    ordered = sorted(found, key=lambda key: (models.index(key[0]), key[1], key[2]))
    rows = {
        f"{model}, `{engine}`, B = {batch}: `{kernel}`": _row(found[model, engine, batch, kernel])
        for model, engine, batch, kernel in ordered
    }
    facts = f"random weights, {prompts_and_hops(found.values())}"
    return (
        f"{table('ms_p50 per replayed hop [95 %]', _COLUMNS, rows)}\n\n{sources_line(found.values(), facts)}"
    )


def _waterfall(cell: Cell) -> Mapping[str, Any] | None:
    by_batch = cell.record.derived.get("by_batch_size")
    at = by_batch.get(str(cell.row.batch_size)) if isinstance(by_batch, Mapping) else None
    falls = at.get("waterfall") if isinstance(at, Mapping) else None
    found = falls.get(cell.row.kernel) if isinstance(falls, Mapping) else None
    return found if isinstance(found, Mapping) and found.get("gap_share") is not None else None


def _row(cell: Cell) -> list[str]:
    figures = _waterfall(cell) or {}
    return [*(_part(figures, name) for name in _PARTS), f"{figures['gap_share']:+.1%}"]


def _part(figures: Mapping[str, Any], name: str) -> str:
    value, interval = figures[f"{name}_ms"], figures.get(f"{name}_ms_ci95")
    if not value and not any(interval or ()):
        return "–"
    return number(value, ".2f") + ends(interval, ".2f")
