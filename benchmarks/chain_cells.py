"""Cells of tables that several committed chain runs fill: one kernel at one batch size each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.published import Chains, place_of
from profiler.record import RunRecord, VariantResult
from reasoning.model_table import MODELS

NATIVE = "bf16"
_KERNELS = (NATIVE, "gemv_bf16", "fused_", "unfused_", "native_")
# A cache of another length is other traffic; predictions draw the line there too.
_SAME_CONTEXT = 0.1
_FEW_RECORDS = 2

Key = TypeVar("Key", bound=Hashable)
Word = TypeVar("Word", str, int)


@dataclass(frozen=True)
class Cell:
    """One kernel at one batch size in one chain run.

    Attributes:
        path: folder of the record.
        record: the run.
        row: its hops.
        native: bf16 at the same batch size in the same run; None where the run has none.
    """

    path: Path
    record: RunRecord
    row: VariantResult
    native: VariantResult | None

    @property
    def model(self) -> str:
        """What ``--model`` said."""
        return str(self.record.arguments.get("model"))

    @property
    def engine(self) -> str:
        """How hops were run."""
        return str(self.record.arguments.get("engine"))

    @property
    def weights(self) -> str:
        """``real`` or ``random``."""
        return str(self.record.arguments.get("weights"))

    @property
    def context(self) -> int | None:
        """Tokens of every prompt; None where prompts have lengths of their own."""
        return self._count("context")

    @property
    def hops(self) -> int | None:
        """Hops of every query; None where queries end by themselves."""
        return self._count("hops")

    def _count(self, name: str) -> int | None:
        value = self.record.arguments.get(name)
        return value if isinstance(value, int) else None


def cells_of(chains: Chains, mode: str = "generate") -> list[Cell]:
    """Return the cells of chain runs, in their order.

    Args:
        chains: records with their folders. Of an interrupted run only the batch sizes that it finished count.
        mode: ``generate`` for free-running hops, ``replay`` for replayed ones.
    """
    found = []
    for path, record in chains:
        rows = _finished_rows(record, mode)
        native = {row.batch_size: row for row in rows if row.kernel == NATIVE}
        found += [Cell(path, record, row, native.get(row.batch_size)) for row in rows]
    return found


def latest(cells: Iterable[Cell], key: Callable[[Cell], Key]) -> dict[Key, Cell]:
    """Return one cell per key, that of the run which started last, in the order of models and kernels."""
    oldest_first = sorted(cells, key=lambda cell: cell.record.created_utc)
    found = {key(cell): cell for cell in oldest_first}
    ranked = sorted(
        found.items(), key=lambda item: (_model_rank(item[1].model), _kernel_rank(item[1].row.kernel))
    )
    return dict(ranked)


def usual_context(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells whose prompts are within 10 % of their model's usual length.

    The usual length is that of most kernels and batch sizes, the longest of several. Cells without a fixed length are
    left out.
    """
    measured = {(cell.model, cell.context, cell.row.kernel, cell.row.batch_size) for cell in cells}
    counts = Counter((model, context) for model, context, _, _ in measured if context is not None)
    usual: dict[str, int] = {}
    for model, context in sorted(counts, key=lambda pair: (counts[pair], pair[1])):
        usual[model] = context
    return [
        cell
        for cell in cells
        if cell.context is not None and abs(cell.context / usual[cell.model] - 1) <= _SAME_CONTEXT
    ]


def sources_line(cells: Iterable[Cell], *facts: str) -> str:
    """Return machine, versions, what the cells share, dates, number and place of their records, and throttling.

    Args:
        cells: at least one.
        facts: more to say of all of them, after the versions.
    """
    records = {cell.path: cell.record for cell in cells}
    found = list(records.values())
    machines = [r.environment.gpus[0].name if r.environment.gpus else r.environment.cpu_model for r in found]
    versions = [
        f"{name} {words([r.environment.versions[name] for r in found if name in r.environment.versions])}"
        for name in ("torch", "triton")
        if any(name in r.environment.versions for r in found)
    ]
    dates = words([f"{r.created_utc:%Y-%m-%d}" for r in found])
    parts = [words(machines), ", ".join(versions), *facts, dates, _place(list(records)), *_throttling(found)]
    return "; ".join(parts) + "."


def words(values: Iterable[Word]) -> str:
    """Return distinct values as ``1, 8 and 64``, sorted; at least one."""
    named = [str(value) for value in sorted(set(values))]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def prompts_and_hops(cells: Iterable[Cell]) -> str:
    """Return lengths of prompts and solutions, such as ``prompts of 448 tokens, 64 hops``."""
    found = list(cells)
    contexts = {cell.context for cell in found if cell.context is not None}
    hops = {cell.hops for cell in found if cell.hops is not None}
    prompts = f"prompts of {words(contexts)} tokens" if contexts else "prompts as they are"
    return f"{prompts}, {f'{words(hops)} hops' if hops else 'solutions to their ends'}"


def _finished_rows(record: RunRecord, mode: str) -> list[VariantResult]:
    rows = [r for r in record.results if isinstance(r, VariantResult) and r.mode == mode]
    finished = record.derived.get("batch_sizes_measured")
    if isinstance(finished, list):
        return [row for row in rows if row.batch_size in finished]
    return rows if record.status == "complete" else []


def _model_rank(model: str) -> int:
    keys = list(MODELS)
    return keys.index(model) if model in keys else len(keys)


def _kernel_rank(kernel: str) -> int:
    return next((rank for rank, name in enumerate(_KERNELS) if kernel.startswith(name)), len(_KERNELS))


def _place(paths: Sequence[Path]) -> str:
    if len(paths) <= _FEW_RECORDS:
        return ("record " if len(paths) == 1 else "records ") + words(f"`{place_of(path)}`" for path in paths)
    folders = words(f"`{place_of(path.parent)}`" for path in paths)
    stamps = sorted(path.name.partition("-")[0] for path in paths)
    return f"{len(paths)} chain records of {stamps[0]} to {stamps[-1]} in {folders}"


def _throttling(records: Sequence[RunRecord]) -> list[str]:
    held = [state for record in records for state in record.gpu_states if state.throttled]
    count = sum(any(state.throttled for state in record.gpu_states) for record in records)
    if not count:
        return []
    reasons = {name.replace("_", " ") for state in held for name, s in state.violation_s.items() if s}
    because = f" ({words(reasons)})" if reasons else ""
    share = "" if len(records) == 1 else f" in {count} of {len(records)} runs"
    return [f"clocks were held down{because}{share}"]
