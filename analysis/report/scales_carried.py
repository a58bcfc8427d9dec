"""N* on GPUs that were not measured: the fits carried over by the hardware table, as ``qt-profile predict`` does it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from analysis.fit_file import FitsFile
from analysis.kernel_kinds import BASELINE
from analysis.predict_machine import Machine, transferred
from analysis.report.figure import Figure
from analysis.report.inputs import Catalogue, ModelRow
from analysis.report.scale_map import KernelTime, Times, n_star_words, scale_panel
from analysis.report.section import Block, Table, Words, slug

_SHOWN = (1, 8, 32, 64, 128, 256)


def carried_blocks(
    fits: FitsFile,
    kernels: Sequence[str],
    models: Sequence[ModelRow],
    batches: Sequence[int],
    catalogue: Catalogue,
    measured: Collection[str | None],
) -> list[Block]:
    """Return maps and a table of every GPU of the hardware table that has no fits of its own.

    Args:
        fits: of the GPU that was measured.
        kernels: fused kernels of the fits; the maps are of the first, the table is of all.
        models: from the smallest on.
        batches: batch sizes.
        catalogue: with the hardware table.
        measured: keys of GPUs that have fits.

    Returns:
        Nothing for a machine that the table lacks; a sentence where its fits cannot be carried over.
    """
    origin = catalogue.gpus.get(fits.arch or "")
    others = [gpu for key, gpu in catalogue.gpus.items() if key not in measured]
    if origin is None or not others:
        return []
    try:
        machines = [transferred(fits, origin, gpu) for gpu in others]
    except ValueError as error:
        return [Words(f"N* of other GPUs is not predicted: {error}.", True)]
    shown = [batch for batch in batches if batch in _SHOWN]
    times = {machine.name: _times(machine) for machine in machines}
    first = next((kernel for kernel in kernels if kernel.endswith("_nf4")), kernels[0])
    panels = tuple(
        scale_panel(machine.name, times[machine.name], first, models, shown)
        for machine in machines
        if first in machine.kernels
    )
    rows = tuple(
        (machine.name, kernel, *(n_star_words(times[machine.name], kernel, models, batch) for batch in shown))
        for machine in machines
        for kernel in kernels
        if kernel in machine.kernels
    )
    note = (
        f"Predicted, not measured: the efficiencies fitted on {fits.machine} are applied to the bandwidth and the peak "
        f"of each GPU, launches and latencies are kept. A kernel tuned for {fits.machine} may do worse elsewhere, "
        "and no number here knows by how much."
    )
    blocks: list[Block] = [Words(note, True)]
    if panels:
        blocks.append(
            Figure(
                f"n-star-carried-{slug(fits.machine)}",
                f"{first} over {BASELINE} on other GPUs: predicted, not measured",
                "; ".join(f"{machine.name}: {_at_one(machine, first, models)}" for machine in machines),
                panels,
                columns=3,
            )
        )
    title = f"N* on GPUs that were not measured, carried over from {fits.machine}: predicted, not measured"
    head = ("GPU", "kernel", *(f"B = {batch}" for batch in shown))
    return [*blocks, Table(title, head, rows, is_numeric=False, is_folded=True)]


def _times(machine: Machine) -> Times:
    return {
        name: KernelTime(list(map(float, kernel.time.rows[0])), kernel.deviations)
        for name, kernel in machine.kernels.items()
    }


def _at_one(machine: Machine, kernel: str, models: Sequence[ModelRow]) -> str:
    return n_star_words(_times(machine), kernel, models, 1) if kernel in machine.kernels else "cannot run it"
