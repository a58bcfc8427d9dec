"""Pictures of a fit: residuals of every kernel over m, a line per shape."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from analysis.fit_file import FitsFile

_COLUMNS = 3
_PANEL_INCHES = (4.0, 2.6)


def draw_residuals(fits: FitsFile, path: Path) -> None:
    """Draw predicted over observed - 1 of every kernel.

    Args:
        fits: the fits.
        path: PNG or SVG to write.

    Raises:
        ValueError: no kernel has residuals.
    """
    shown = {name: kernel.time for name, kernel in fits.kernels.items() if kernel.time.residuals}
    if not shown:
        raise ValueError(f"none of {len(fits.kernels)} kernels has residuals to draw")
    rows = -(-len(shown) // _COLUMNS)
    size = (_PANEL_INCHES[0] * _COLUMNS, _PANEL_INCHES[1] * rows)
    figure, grid = plt.subplots(
        rows, _COLUMNS, figsize=size, sharex=True, squeeze=False, layout="constrained"
    )
    for axes, (name, fit) in zip(grid.flat, shown.items(), strict=False):
        by_shape: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for point in fit.residuals:
            by_shape[f"{point.n}x{point.k}"].append((point.m, 100 * point.residual_share))
        for shape, points in by_shape.items():
            points.sort()
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=0.8, label=shape)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.axhspan(-10, 10, color="#8c8c8c", alpha=0.15)
        axes.set_xscale("log", base=2)
        axes.set_title(
            f"{name}: |residual| p50 {100 * fit.residual_share_p50:.1f} %, "
            f"p90 {100 * fit.residual_share_p90:.1f} %",
            fontsize=8,
        )
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("residual, %")
    for axes in grid[-1]:
        axes.set_xlabel("m (rows of x)")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    figure.suptitle(f"Fitted call times against measured ones, {fits.machine} (grey band: 10 %)", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
