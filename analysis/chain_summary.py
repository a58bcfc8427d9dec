"""From the samples of a chain run to the figures of its table, batch size by batch size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.chain_figures import BatchFigures
from analysis.si import caes
from profiler.record import Sample, VariantResult

_J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class ChainSummary:
    """Rows with every figure filled in, and the figures that belong to pairs of variants.

    Attributes:
        rows: the rows that were given, completed.
        derived: JSON-ready figures with units in their names: ``baseline``, ``by_batch_size``, and, of a run with one
            batch size, what is in there.
        by_batch_size: the same by batch size alone.
    """

    rows: list[VariantResult]
    derived: dict[str, object]
    by_batch_size: dict[str, dict[str, object]]


def summarise(
    rows: Sequence[VariantResult],
    samples: Sequence[Sample],
    *,
    baseline: str,
    seed: int,
    grid_kgco2e_per_kwh: float | None = None,
    throttled: bool = False,
    host_paced: bool = False,
    fixed_hops: bool = False,
) -> ChainSummary:
    """Derive a chain's figures.

    Args:
        rows: one per batch size, kernel and mode with what the runner counted.
        samples: all samples of the run; those without a batch size belong to every one.
        baseline: the reference kernel.
        seed: of the bootstrap intervals.
        grid_kgco2e_per_kwh: carbon intensity of the grid for CAES; None leaves CAES out.
        throttled: the GPU lowered its clocks during the run, which the verdicts then say.
        host_paced: hop times hold waiting for the host: an eager run on a GPU.
        fixed_hops: every sequence decodes the same number of hops, so that generated ones are compared too.

    Returns:
        The completed rows in the order given, and the derived figures.
    """
    sizes = list(dict.fromkeys(row.batch_size for row in rows))
    done: dict[int, list[VariantResult]] = {}
    by_size: dict[str, dict[str, object]] = {}
    for size in sizes:
        figures = BatchFigures(
            [row for row in rows if row.batch_size == size],
            [sample for sample in samples if sample.batch_size in (None, size)],
            baseline,
            seed,
            throttled=throttled,
            host_paced=host_paced,
            fixed_hops=fixed_hops,
        )
        done[size] = figures.rows()
        by_size[str(size)] = figures.derived()
    completed = [done[row.batch_size].pop(0) for row in rows]
    if grid_kgco2e_per_kwh is not None:
        completed = [_with_caes(row, grid_kgco2e_per_kwh) for row in completed]
    return ChainSummary(completed, derived_of(baseline, by_size), by_size)


def derived_of(baseline: str, by_size: dict[str, dict[str, object]]) -> dict[str, object]:
    """Put the figures of batch sizes together.

    Args:
        baseline: the reference kernel.
        by_size: figures by batch size, as a string.

    Returns:
        What a record's ``derived`` holds.
    """
    only = next(iter(by_size.values())) if len(by_size) == 1 else {}
    return {"baseline": baseline, **only, "by_batch_size": by_size}


def _with_caes(row: VariantResult, grid_kgco2e_per_kwh: float) -> VariantResult:
    """The row with chi = E_q gamma in kgCO2e, E_q in kWh because the intensity is per kWh."""
    if row.energy_j_per_query is None:
        return row
    chi = caes(row.energy_j_per_query / _J_PER_KWH, grid_kgco2e_per_kwh)
    return row.model_copy(update={"caes_kgco2e_per_query": chi})


def generated(rows: Iterable[VariantResult]) -> list[VariantResult]:
    """The free-running rows, or the replayed ones where nothing ran free."""
    rows = list(rows)
    return [r for r in rows if r.mode == "generate"] or rows
