"""Tables of hop times over models, kernels, batch sizes and engines, from the committed chain runs of a machine."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.chain_cells import (
    NATIVE,
    Cell,
    cells_of,
    latest,
    prompts_and_hops,
    sources_line,
    usual_context,
)
from benchmarks.markdown import table
from benchmarks.published import Chains, NotPublished

_ENGINES = ("eager", "hf_graph", "graph", "compile", "fused")
_ENGINE_KERNELS = (NATIVE, "bnb_nf4", "bnb_int8", "fused_nf4")
_OURS = "fused"


def hop_table(chains: Chains, batch_sizes: Sequence[int]) -> str:
    """Hop time of every model and kernel in the engine ``fused``, random weights, and how much faster than bf16 it is.

    Args:
        chains: chain runs with their folders. Each cell is from the run that started last, its ratio from that run
            alone; prompts much longer or shorter than the model's usual ones are left out.
        batch_sizes: columns; those that nothing was measured at are left out.

    Raises:
        NotPublished: no such run.
    """
    cells = usual_context([cell for cell in _timed(chains) if cell.engine == _OURS])
    found = latest(
        [cell for cell in cells if cell.row.batch_size in batch_sizes],
        lambda cell: (cell.model, cell.row.kernel, cell.row.batch_size),
    )
    if not found:
        raise NotPublished(f"no chain run with engine {_OURS}, random weights and prompts of one length")
    columns = [size for size in batch_sizes if any(key[2] == size for key in found)]
    rows = dict.fromkeys((model, kernel) for model, kernel, _ in found)
    shown = table(
        f"hop_ms_p50 (times as fast as `{NATIVE}`)",
        [f"B = {size}" for size in columns],
        {
            f"{model} `{kernel}`": [_hop(found.get((model, kernel, size))) for size in columns]
            for model, kernel in rows
        },
    )
    alone = sorted({cell.model for cell in found.values() if cell.native is None})
    notes = [f"Without a ratio: runs of {', '.join(alone)} that have no `{NATIVE}`."] if alone else []
    facts = (f"engine `{_OURS}`, random weights, {prompts_and_hops(found.values())}",)
    return "\n\n".join([shown, *notes, sources_line(found.values(), *facts)])


def engine_table(chains: Chains) -> str:
    """Hop time at one sequence by engine, random weights, and how many times that of the engine ``fused`` it is.

    Args:
        chains: chain runs with their folders. Each cell is from the run that started last, one with prompts of the
            model's usual length where there is any. Models measured in one engine alone are left out, and runs whose
            prompts or solutions have lengths of their own.

    Raises:
        NotPublished: no model was measured in two engines.
    """
    cells = _timed(chains)
    found = latest(_one_sequence(cells), _by_engine) | latest(_one_sequence(usual_context(cells)), _by_engine)
    engines_of: dict[str, set[str]] = {}
    for model, _, engine in found:
        engines_of.setdefault(model, set()).add(engine)
    found = {key: cell for key, cell in found.items() if len(engines_of[key[0]]) > 1}
    if not found:
        raise NotPublished("no model with chain runs at B = 1, random weights, in two engines")
    columns = [engine for engine in _ENGINES if any(key[2] == engine for key in found)]
    rows = dict.fromkeys((model, kernel) for model, kernel, _ in found)
    shown = table(
        f"hop_ms_p50 at B = 1 (times that of `{_OURS}`)",
        [f"`{engine}`" for engine in columns],
        {
            f"{model} `{kernel}`": [
                _against(found.get((model, kernel, engine)), found.get((model, kernel, _OURS)))
                for engine in columns
            ]
            for model, kernel in rows
        },
    )
    facts = f"random weights, {prompts_and_hops(found.values())}"
    return f"{shown}\n\n{sources_line(found.values(), facts)}"


def _timed(chains: Chains) -> list[Cell]:
    return [cell for cell in cells_of(chains) if cell.weights == "random" and cell.row.hop_ms_p50 is not None]


def _one_sequence(cells: Sequence[Cell]) -> list[Cell]:
    return [
        cell
        for cell in cells
        if cell.row.batch_size == 1
        and cell.row.kernel in _ENGINE_KERNELS
        and cell.engine in _ENGINES
        and None not in (cell.context, cell.hops)
    ]


def _by_engine(cell: Cell) -> tuple[str, str, str]:
    return cell.model, cell.row.kernel, cell.engine


def _hop(cell: Cell | None) -> str:
    if cell is None or cell.row.hop_ms_p50 is None:
        return "–"
    native = None if cell.native is None else cell.native.hop_ms_p50
    if cell.row.kernel == NATIVE or native is None:
        return _ms(cell.row.hop_ms_p50)
    return f"{_ms(cell.row.hop_ms_p50)} ({native / cell.row.hop_ms_p50:.2f})"


def _against(cell: Cell | None, ours: Cell | None) -> str:
    if cell is None or cell.row.hop_ms_p50 is None:
        return "–"
    if ours is None or not ours.row.hop_ms_p50 or cell.engine == _OURS:
        return _ms(cell.row.hop_ms_p50)
    return f"{_ms(cell.row.hop_ms_p50)} ({cell.row.hop_ms_p50 / ours.row.hop_ms_p50:.1f})"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
