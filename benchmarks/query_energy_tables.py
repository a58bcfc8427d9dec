"""Tables of energy per query over kernels and batch sizes, and which kernels are trapped, from committed chain runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.cost_ratio import energy_ratio
from analysis.verdict import Verdict, decide
from benchmarks.chain_cells import NATIVE, Cell, cells_of, latest, sources_line
from benchmarks.markdown import table
from benchmarks.published import Chains, NotPublished

_WHAT = {
    Verdict.TRAPPED: f"Trapped in energy (more J than `{NATIVE}`, the whole interval of the ratio above 1)",
    Verdict.NOT_TRAPPED: "Not trapped (the whole interval below 1)",
    Verdict.INCONCLUSIVE: "Not told apart",
    Verdict.NOT_MEASURED: "Not judged, for want of an interval",
}


@dataclass(frozen=True)
class _Work:
    """What a query is; only energies of the same work stand in one table."""

    model: str
    engine: str
    weights: str
    context: int | None
    hops: int


def energy_page(chains: Chains) -> str:
    """Energy per query of every model, engine and length that was measured, a table each with its verdicts.

    Args:
        chains: chain runs with their folders. Those whose energy windows were not filled, or whose joules are an
            estimate, are left out.

    Raises:
        NotPublished: no such run.
    """
    return "\n\n".join(_section(work, cells) for work, cells in _by_work(chains).items())


def energy_summary(chains: Chains) -> str:
    """For every engine the table of its longest queries, with its verdicts.

    Args:
        chains: as ``energy_page`` takes them.

    Raises:
        NotPublished: no such run.
    """
    chosen: dict[str, tuple[_Work, list[Cell]]] = {}
    for work, cells in _by_work(chains).items():
        other = chosen.get(work.engine)
        if other is None or (work.hops, len(cells)) > (other[0].hops, len(other[1])):
            chosen[work.engine] = (work, cells)
    return "\n\n".join(_section(work, cells) for work, cells in chosen.values())


def has_energy(cell: Cell) -> bool:
    """Whether a cell has measured joules of windows that were filled."""
    windows = cell.record.arguments.get("energy_windows")
    is_filled = isinstance(windows, int) and windows > 0
    return is_filled and cell.row.energy_j_per_query is not None and not cell.row.energy_is_estimate


def verdict_sentences(cells: Sequence[Cell]) -> str:
    """Say with which kernels, and at which B, a query takes more energy than with bf16, and with which less.

    Args:
        cells: of the same work.
    """
    sizes: dict[Verdict, dict[str, list[int]]] = {verdict: {} for verdict in _WHAT}
    for cell in sorted(cells, key=lambda cell: cell.row.batch_size):
        if cell.row.kernel != NATIVE:
            named = sizes[decide(energy_ratio(cell.row, cell.native))]
            named.setdefault(cell.row.kernel, []).append(cell.row.batch_size)
    sentences = []
    for verdict, what in _WHAT.items():
        kernels = [f"`{name}` at B = {', '.join(map(str, own))}" for name, own in sizes[verdict].items()]
        if kernels:
            sentences.append(f"{what}: {'; '.join(kernels)}.")
        elif verdict is Verdict.TRAPPED:
            sentences.append(f"{what}: no kernel.")
    return " ".join(sentences)


def _by_work(chains: Chains) -> dict[_Work, list[Cell]]:
    cells = [cell for cell in cells_of(chains) if has_energy(cell) and cell.hops is not None]
    found: dict[_Work, list[Cell]] = {}
    for (work, _, _), cell in latest(cells, lambda c: (_work(c), c.row.kernel, c.row.batch_size)).items():
        found.setdefault(work, []).append(cell)
    if not found:
        raise NotPublished("no chain run with a fixed number of hops and measured, filled energy windows")
    return found


def _work(cell: Cell) -> _Work:
    return _Work(cell.model, cell.engine, cell.weights, cell.context, cell.hops or 0)


def _section(work: _Work, cells: Sequence[Cell]) -> str:
    by_key = {(cell.row.kernel, cell.row.batch_size): cell for cell in cells}
    columns = sorted({size for _, size in by_key})
    shown = table(
        f"{work.model}, engine `{work.engine}`: J per query of {work.hops} hops [95 %] (ratio to `{NATIVE}`)",
        [f"B = {size}" for size in columns],
        {
            f"`{kernel}`": [_joules(by_key.get((kernel, size))) for size in columns]
            for kernel in dict.fromkeys(kernel for kernel, _ in by_key)
        },
    )
    sources = ", ".join(sorted({str(cell.row.energy_source) for cell in cells}))
    prompt = "prompts as they are" if work.context is None else f"a prompt of {work.context} tokens"
    windows = {cell.record.arguments.get("energy_windows") for cell in cells}
    alone = (
        ", one window each, with intervals by its ticks and the drift of its hops" if windows == {1} else ""
    )
    facts = f"{work.weights} weights, {prompt} included, energy by `{sources}`{alone}"
    return "\n\n".join([shown, verdict_sentences(cells), sources_line(cells, facts)])


def _joules(cell: Cell | None) -> str:
    if cell is None or cell.row.energy_j_per_query is None:
        return "–"
    text = _number(cell.row.energy_j_per_query)
    if cell.row.energy_j_per_query_ci95 is not None:
        low, high = cell.row.energy_j_per_query_ci95
        text += f" [{_number(low)}, {_number(high)}]"
    native = None if cell.native is None else cell.native.energy_j_per_query
    if cell.row.kernel == NATIVE or not native:
        return text
    return f"{text} ({cell.row.energy_j_per_query / native:.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
