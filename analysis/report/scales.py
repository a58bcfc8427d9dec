"""The N* map: over model size and batch, where a variant's linear layers win and lose, by the fits of each GPU."""

from __future__ import annotations

import math

from analysis.fit_crossing import linear_time
from analysis.fit_file import FitsFile
from analysis.fit_input import BASELINE
from analysis.report.colours import split_name
from analysis.report.figure import Axis, Cells, Figure, Panel
from analysis.report.inputs import Catalogue, Inputs, ModelRow
from analysis.report.section import Block, Missing, Section, Table, Words, number, slug
from analysis.scale import FamilyPoint, family_scale

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROW_PX = 19
# A ratio of 2 either way has the full colour.
_FULL = 1.0


def scale_section(inputs: Inputs, catalogue: Catalogue) -> Section:
    """Return a map per machine with fits, a panel per fused kernel."""
    blocks: list[Block] = []
    models = sorted(catalogue.models.values(), key=lambda model: model.weights)
    batches = [b for b in _BATCHES if b <= catalogue.b_max]
    for fits in inputs.fits:
        kernels = [name for name in fits.kernels if split_name(name)[0] == "fused"]
        if not kernels or BASELINE not in fits.kernels or not models:
            continue
        panels = tuple(_panel(fits, kernel, models, batches) for kernel in kernels)
        at_one = {kernel: _n_star(fits, kernel, models, 1) for kernel in kernels}
        blocks.append(
            Figure(
                f"n-star-{slug(fits.machine)}",
                f"{fits.machine}: speed-up of the linear layers over {BASELINE}, by model and batch",
                f"N* at B = 1: {'; '.join(f'{kernel} {words}' for kernel, words in at_one.items())}.",
                panels,
                columns=2,
            )
        )
        blocks.append(_table(fits, kernels, models, batches))
        blocks.append(
            Words(
                "The map is by the fits of single calls: embedding, output layer, attention and the host are not in "
                f"it. The fits know n and k up to {_largest(fits)}; larger layers are extrapolated."
            )
        )
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
        tuple(blocks),
    )


def _ratio(fits: FitsFile, kernel: str, model: ModelRow, batch: int) -> float:
    native, variant = (
        float(linear_time(fits.kernels[name].time.point().tolist(), model.layers).at(batch))
        for name in (BASELINE, kernel)
    )
    return native / variant


def _panel(fits: FitsFile, kernel: str, models: list[ModelRow], batches: list[int]) -> Panel:
    ratios = [[_ratio(fits, kernel, model, batch) for batch in batches] for model in models]
    cells = Cells(
        tuple(map(str, batches)),
        tuple(f"{model.key}" for model in models),
        tuple(tuple(math.log2(value) for value in row) for row in ratios),
        _FULL,
        tuple(tuple(f"{value:.1f}" for value in row) for row in ratios),
        tuple(
            tuple(
                f"{kernel}, {model.key} ({number(model.weights / 1e9, 2)} G weights), "
                f"B = {batch}: {value:.2f} × {BASELINE}"
                for batch, value in zip(batches, row, strict=True)
            )
            for model, row in zip(models, ratios, strict=True)
        ),
    )
    return Panel(kernel, Axis("B"), Axis(), (cells,), height=90 + _ROW_PX * len(models))


def _n_star(fits: FitsFile, kernel: str, models: list[ModelRow], batch: int) -> str:
    points = {}
    for model in models:
        native, variant = (
            float(linear_time(fits.kernels[name].time.point().tolist(), model.layers).at(batch))
            for name in (BASELINE, kernel)
        )
        points[model.weights] = FamilyPoint(model.weights, native, variant)
    if len(points) < 2:
        return "needs 2 models of different sizes"
    scale = family_scale(list(points.values()))
    if not scale.brackets:
        return "wins at every size" if scale.free else "loses at every size"
    return "changes at " + ", ".join(f"{number(size / 1e9, 2)} G weights" for _, _, size in scale.brackets)


def _table(fits: FitsFile, kernels: list[str], models: list[ModelRow], batches: list[int]) -> Table:
    shown = [batch for batch in batches if batch in (1, 8, 32, 64, 128, 256)]
    return Table(
        f"N* on {fits.machine} over the rows of the model table, by the fits",
        ("kernel", *(f"B = {batch}" for batch in shown)),
        tuple((kernel, *(_n_star(fits, kernel, models, batch) for batch in shown)) for kernel in kernels),
        is_numeric=False,
        is_folded=True,
    )


def _largest(fits: FitsFile) -> str:
    shapes = {(r.n, r.k) for kernel in fits.kernels.values() for r in kernel.time.residuals}
    if not shapes:
        return "what they were made from"
    return f"{max(n for n, _ in shapes):,} and {max(k for _, k in shapes):,}"
