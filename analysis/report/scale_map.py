"""One map of N*: how many times faster a variant's linear layers are than the native ones, by model and batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from analysis.call_time import Deviations
from analysis.fit_crossing import linear_time
from analysis.hop_cost import Cost
from analysis.kernel_kinds import BASELINE
from analysis.report.figure import Axis, Cells, Panel
from analysis.report.inputs import ModelRow
from analysis.report.section import number
from analysis.scale import FamilyPoint, family_scale

Times = Mapping[str, "KernelTime"]
_ROW_PX = 19
# A ratio of 2 either way has the full colour.
_FULL = 1.0


class KernelTime:
    """The time of a kernel's linear layers, worked out once per model.

    Args:
        parameters: estimates of its fit.
        deviations: of measured calls from it.
    """

    def __init__(self, parameters: Sequence[float], deviations: Deviations) -> None:
        self._fit = (parameters, deviations)
        self._known: dict[str, Cost] = {}

    def of(self, model: ModelRow) -> Cost:
        """Return the time of a model's linear layers over the batch, s."""
        if model.key not in self._known:
            self._known[model.key] = linear_time(*self._fit, model.layers)
        return self._known[model.key]


def scale_panel(
    title: str, times: Times, kernel: str, models: Sequence[ModelRow], batches: Sequence[int]
) -> Panel:
    """Draw the map of one kernel on one machine.

    Args:
        title: of the panel.
        times: of the kernel and the baseline.
        kernel: the variant.
        models: from the smallest on.
        batches: columns.
    """
    ratios = [_ratios(times, kernel, model, batches) for model in models]
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
    return Panel(title, Axis("B"), Axis(), (cells,), height=90 + _ROW_PX * len(models))


def n_star_words(times: Times, kernel: str, models: Sequence[ModelRow], batch: int) -> str:
    """Say between which sizes of the models the verdict changes at a batch size."""
    points = {}
    for model in models:
        native, variant = (float(times[n].of(model).at(batch)) for n in (BASELINE, kernel))
        points[model.weights] = FamilyPoint(model.weights, native, variant)
    if len(points) < 2:
        return "needs 2 models of different sizes"
    scale = family_scale(list(points.values()))
    if not scale.brackets:
        return "wins at every size" if scale.free else "loses at every size"
    return "changes at " + ", ".join(f"{number(size / 1e9, 2)} G weights" for _, _, size in scale.brackets)


def _ratios(times: Times, kernel: str, model: ModelRow, batches: Sequence[int]) -> list[float]:
    native, variant = (times[name].of(model) for name in (BASELINE, kernel))
    return [float(native.at(batch)) / float(variant.at(batch)) for batch in batches]
