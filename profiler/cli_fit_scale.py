"""N* of ``qt-profile fit``: as the paper prints it and by the model of a hop, a row per kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from profiler.cli_predict_inputs import model_shape

if TYPE_CHECKING:
    from analysis.fit_file import FitsFile
    from analysis.scale import FamilyScale
    from analysis.scale_fits import ScaleRange
    from analysis.stats import Interval

_NOTE = (
    "G weights of linear layers [95 %]. As printed: phi / (alpha (16 - p)) times B_W, whose unit the theorem does not "
    "state; read here as the weights of {model}. Device- and host-bound: with the number of layers of {model}. "
    "Host-bound: below it an eager hop takes longer than reading native weights."
)


def family_of_table(fits: FitsFile, kernel: str) -> FamilyScale:
    """Compare the linear layers of every row of the model table at B = 1, by the fits."""
    from analysis.fit_crossing import fitted_time
    from analysis.kernel_kinds import BASELINE
    from analysis.scale import FamilyPoint, family_scale
    from reasoning.model_table import MODELS

    pair = [fits.kernel(name).time for name in (BASELINE, kernel)]
    points = {}
    for shape in map(model_shape, MODELS):
        times_s = (float(fitted_time(fit, shape.merged).at(1)) for fit in pair)
        points[shape.linear_weights] = FamilyPoint(shape.linear_weights, *times_s)
    return family_scale(list(points.values()))


def n_star_table(fits: FitsFile, model: str, by_model: Mapping[str, FamilyScale]) -> Table:
    """Return the table of N* at B = 1.

    Args:
        fits: of the machine.
        model: row of the model table that phi, alpha and the number of launches are taken for.
        by_model: what the fits say over the model table, by kernel.
    """
    from analysis.scale_fits import device_n_star, host_n_star, printed_n_star

    shape = model_shape(model)
    table = Table(
        title="N* at B = 1", title_justify="left", caption=_NOTE.format(model=model), caption_justify="left"
    )
    for heading in (
        "kernel",
        "as printed (Thm 4.6)",
        "device-bound",
        "host-bound (eager)",
        "by the model over the model table",
    ):
        table.add_column(heading)
    for kernel, scale in by_model.items():
        table.add_row(
            kernel,
            _giga(printed_n_star(fits, kernel, shape.merged)),
            _device_words(device_n_star(fits, kernel, shape.merged)),
            _giga(host_n_star(fits, kernel, shape)),
            _family_words(scale),
        )
    return table


def n_star_json(fits: FitsFile, model: str, by_model: Mapping[str, FamilyScale]) -> dict[str, Any]:
    """Return N* at B = 1 by kernel, in weights: each a point and its 95 % interval.

    JSON has no infinity: ``loses_at_every_size`` stands for it, and an upper end without limit is null.
    """
    from analysis.scale_fits import device_n_star, host_n_star, printed_n_star

    shape = model_shape(model)
    found = {}
    for kernel, scale in by_model.items():
        device = device_n_star(fits, kernel, shape.merged)
        found[kernel] = {
            "printed_over_b_w": ends(printed_n_star(fits, kernel, shape.merged, b_w=1)),
            "printed_weights_b_w_as_weights_of_model": ends(printed_n_star(fits, kernel, shape.merged)),
            "device_bound_weights": [_finite(value) for value in (device.point, device.low, device.high)],
            "device_bound_loses_at_every_size": math.isinf(device.point),
            "host_bound_eager_weights": ends(host_n_star(fits, kernel, shape)),
            "by_model_loses_at_weights": list(scale.trapped),
            "by_model_wins_at_weights": list(scale.free),
            "by_model_weights": [bracket[2] for bracket in scale.brackets],
        }
    return found


def _giga(found: Interval | None) -> str:
    return "not measured" if found is None else str(found.scaled(1e-9))


def _family_words(scale: FamilyScale) -> str:
    if not scale.brackets:
        return "wins at every size" if scale.free else "loses at every size"
    return ", ".join(f"{size / 1e9:.2g} G weights" for _, _, size in scale.brackets)


def _device_words(found: ScaleRange) -> str:
    if found.low == found.high == 0:
        return "wins at every size"
    if math.isinf(found.low):
        return "loses at every size"
    point, low, high = (
        "∞" if math.isinf(value) else f"{value / 1e9:.3g}" for value in (found.point, found.low, found.high)
    )
    return f"{point} [{low}, {high}]"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ends(found: Interval | None) -> list[float] | None:
    """Return point, low and high for JSON."""
    return None if found is None else [found.point, found.low, found.high]
