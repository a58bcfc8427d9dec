"""N*: where a variant wins and loses over model size and batch, measured, and by the fits of each GPU."""

from __future__ import annotations

from analysis.call_time import Deviations
from analysis.fit_file import FitsFile
from analysis.kernel_kinds import BASELINE
from analysis.report.colours import split_name
from analysis.report.figure import Figure
from analysis.report.inputs import Catalogue, Inputs, ModelRow
from analysis.report.scale_map import KernelTime, Times, n_star_words, scale_panel
from analysis.report.scales_carried import carried_blocks
from analysis.report.scales_measured import measured_blocks
from analysis.report.section import Block, Missing, Section, Table, Words, slug

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def scale_section(inputs: Inputs, catalogue: Catalogue) -> Section:
    """Return what was measured over models, and a map per machine with fits, a panel per fused kernel."""
    blocks: list[Block] = []
    models = sorted(catalogue.models.values(), key=lambda model: model.weights)
    batches = [b for b in _BATCHES if b <= catalogue.b_max]
    for fits in inputs.fits:
        kernels = [name for name in fits.kernels if split_name(name)[0] == "fused"]
        if not kernels or BASELINE not in fits.kernels or not models:
            continue
        times = {
            name: KernelTime(list(map(float, kernel.time.point())), Deviations.of(kernel.time.residuals))
            for name, kernel in fits.kernels.items()
        }
        panels = tuple(scale_panel(kernel, times, kernel, models, batches) for kernel in kernels)
        at_one = {kernel: n_star_words(times, kernel, models, 1) for kernel in kernels}
        blocks.append(
            Figure(
                f"n-star-{slug(fits.machine)}",
                f"{fits.machine}: speed-up of the linear layers over {BASELINE}, by model and batch",
                f"N* at B = 1: {'; '.join(f'{kernel} {words}' for kernel, words in at_one.items())}.",
                panels,
                columns=2,
            )
        )
        blocks.append(_table(fits, times, kernels, models, batches))
        blocks.append(
            Words(
                "The map is by the fits of single calls: embedding, output layer, attention and the host are not in "
                f"it. The fits know n and k up to {_largest(fits)}; larger layers are extrapolated."
            )
        )
        measured = {other.arch for other in inputs.fits}
        blocks += carried_blocks(fits, kernels, models, batches, catalogue, measured)
    if not blocks:
        blocks.append(
            Missing("No fits were given", "qt-profile fit RUN, then give its file to qt-profile report")
        )
    return Section(
        "scale",
        "N*",
        "N*, model size against batch",
        "Green cells win, red ones lose; the number is how many times faster than the native layers. N* is where "
        "a column changes colour.",
        (*measured_blocks(inputs, catalogue), *blocks),
    )


def _table(
    fits: FitsFile, times: Times, kernels: list[str], models: list[ModelRow], batches: list[int]
) -> Table:
    shown = [batch for batch in batches if batch in (1, 8, 32, 64, 128, 256)]
    return Table(
        f"N* on {fits.machine} over the rows of the model table, by the fits",
        ("kernel", *(f"B = {batch}" for batch in shown)),
        tuple(
            (kernel, *(n_star_words(times, kernel, models, batch) for batch in shown)) for kernel in kernels
        ),
        is_numeric=False,
        is_folded=True,
    )


def _largest(fits: FitsFile) -> str:
    shapes = {(r.n, r.k) for kernel in fits.kernels.values() for r in kernel.time.residuals}
    if not shapes:
        return "what they were made from"
    return f"{max(n for n, _ in shapes):,} and {max(k for _, k in shapes):,}"
