"""Table of accuracy over kernels and batch sizes, from the committed chain runs of a machine."""

from __future__ import annotations

from benchmarks.chain_cells import NATIVE, Cell, cells_of, latest, sources_line
from benchmarks.markdown import table
from benchmarks.published import Chains, NotPublished

_MODEL, _ENGINE = "tiny", "fused"
_ALPHA = 0.05


def accuracy_by_batch_table(chains: Chains) -> str:
    """Correct answers of ``tiny`` by kernel and batch size in the engine ``fused``, each paired with bf16.

    Args:
        chains: chain runs with their folders. Each cell is from the run with the most problems, the one that started
            last of several; its McNemar test is against that run's bf16 on the same problems.

    Raises:
        NotPublished: no such run.
        ValueError: a run's McNemar test is no number from 0 to 1.
    """
    scored = [
        cell
        for cell in cells_of(chains)
        if (cell.model, cell.engine, cell.weights) == (_MODEL, _ENGINE, "real")
        and cell.row.accuracy is not None
    ]
    most: dict[tuple[str, int], int] = {}
    for cell in scored:
        most[_key(cell)] = max(cell.row.problems, most.get(_key(cell), 0))
    found = latest([cell for cell in scored if cell.row.problems == most[_key(cell)]], _key)
    if not found:
        raise NotPublished(f"no chain run of {_MODEL} with engine {_ENGINE} that was scored")
    sizes = sorted({size for _, size in found})
    shown = table(
        "kernel",
        [text for size in sizes for text in (f"B = {size}: correct [Wilson 95 %]", "McNemar p")],
        {
            f"`{kernel}`": [text for size in sizes for text in _cells(found.get((kernel, size)))]
            for kernel in dict.fromkeys(kernel for kernel, _ in found)
        },
    )
    facts = f"engine `{_ENGINE}`, greedy decoding, held-out structures"
    return "\n\n".join([shown, _differences(list(found.values())), sources_line(found.values(), facts)])


def _key(cell: Cell) -> tuple[str, int]:
    return cell.row.kernel, cell.row.batch_size


def _cells(cell: Cell | None) -> tuple[str, str]:
    if cell is None or cell.row.correct is None:
        return "–", "–"
    text = f"{cell.row.correct:,}/{cell.row.problems:,}"
    if cell.row.accuracy_ci95 is not None:
        text += " [{:.1%}, {:.1%}]".format(*cell.row.accuracy_ci95)
    p_value = _p_value(cell)
    return text, "–" if p_value is None else _small(p_value)


def _differences(cells: list[Cell]) -> str:
    """Which kernels differ from bf16 when as many tests were made as there are (Bonferroni)."""
    tested = [(cell, p_value) for cell in cells if (p_value := _p_value(cell)) is not None]
    if not tested:
        return f"No kernel was paired with `{NATIVE}`."
    bound = _ALPHA / len(tested)
    named = [
        f"`{cell.row.kernel}` at B = {cell.row.batch_size}" for cell, p_value in tested if p_value < bound
    ]
    return (
        f"Of {len(tested)} paired tests against `{NATIVE}`, below p = {_ALPHA:g} / {len(tested)} = {bound:.3g}: "
        f"{', '.join(named) or 'none'}."
    )


def _p_value(cell: Cell) -> float | None:
    derived = cell.record.derived
    if derived.get("baseline") != NATIVE:
        return None
    by_size = derived.get("by_batch_size")
    own = by_size.get(str(cell.row.batch_size)) if isinstance(by_size, dict) else derived
    pairs = own.get("mcnemar") if isinstance(own, dict) else None
    pair = pairs.get(cell.row.kernel) if isinstance(pairs, dict) else None
    value = pair.get("p_value") if isinstance(pair, dict) else None
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{cell.record.run_id}: p_value={value!r} of {cell.row.kernel} is not from 0 to 1")
    return float(value)


def _small(value: float) -> str:
    if value < 1e-4:
        return "< 0.0001"
    # Enough decimals to tell a p near the bound from the bound.
    return f"{value:.{2 if value >= 0.1 else 4}f}"
