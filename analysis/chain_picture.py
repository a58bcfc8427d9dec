"""One picture of a chain run: where the hop's time goes, and accuracy by number of operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from analysis.kernel_kinds import NATIVE_KERNELS
from profiler.record import HopSample, RunRecord, Sample, VariantResult

_COLOURS = {"native": "#4c72b0", "null": "#8c8c8c", "fused": "#dd8452", "unfused": "#c44e52"}


def draw_chain(timing: tuple[RunRecord, Iterable[Sample]], accuracy: RunRecord, path: Path) -> None:
    """Draw replayed hop times of one run beside the accuracies of another (or the same) run.

    Args:
        timing: a chain record with replayed hops, and its samples.
        accuracy: a chain record with accuracy by operations.
        path: PNG or SVG to write.

    Raises:
        ValueError: no replayed hops in the first, or no accuracy by operations in the second.
    """
    record, samples = timing
    times: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        if isinstance(sample, HopSample) and sample.mode == "replay":
            times[sample.kernel].append(1e3 * sample.hop_s)
    rows = [r for r in accuracy.results if isinstance(r, VariantResult) and r.accuracy_by_operations]
    if not times or not rows:
        raise ValueError(
            f"{len(times)} kernels have replayed hops and {len(rows)} have accuracy by operations"
        )
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
    _hops(left, record, dict(times))
    _accuracy(right, accuracy, rows)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _machine(record: RunRecord) -> str:
    gpus = record.environment.gpus
    return gpus[0].name if gpus else record.environment.cpu_model.replace("(R)", "").replace(" Processor", "")


def _hops(axes: Axes, record: RunRecord, times: dict[str, list[float]]) -> None:
    order = sorted(times, key=lambda kernel: list(_COLOURS).index(_scheme(kernel)))
    medians = [float(np.median(times[kernel])) for kernel in order]
    quartiles = [np.percentile(times[kernel], [25, 75]) for kernel in order]
    spread = np.array([[m - q[0], q[1] - m] for m, q in zip(medians, quartiles, strict=True)]).T
    axes.bar(order, medians, yerr=spread, capsize=4, color=[_COLOURS[_scheme(kernel)] for kernel in order])
    for place, value in enumerate(medians):
        axes.text(
            place, value / 2, f"{value:.1f}", ha="center", va="center", color="white", fontweight="bold"
        )
    axes.set_ylabel("hop_ms_p50 (bars: quartiles)")
    axes.set_title(
        f"same hops, four kernels ({_machine(record)}, batch {record.arguments.get('batch_size')})",
        fontsize=10,
    )


def _scheme(kernel: str) -> str:
    return "native" if kernel in NATIVE_KERNELS else kernel.partition("_")[0]


def _accuracy(axes: Axes, record: RunRecord, rows: list[VariantResult]) -> None:
    for number, row in enumerate(rows):
        operations = sorted(row.accuracy_by_operations)
        groups = [row.accuracy_by_operations[o] for o in operations]
        shares = [100 * g.correct / g.n for g in groups]
        low = [max(0.0, s - 100 * g.ci95[0]) for s, g in zip(shares, groups, strict=True)]
        high = [max(0.0, 100 * g.ci95[1] - s) for s, g in zip(shares, groups, strict=True)]
        places = [o + 0.12 * (number - (len(rows) - 1) / 2) for o in operations]
        axes.errorbar(
            places, shares, yerr=[low, high], fmt="o", markersize=4, capsize=2, lw=1, label=row.kernel
        )
    axes.set_xticks(sorted(rows[0].accuracy_by_operations))
    axes.set_xlabel("arithmetic operations of the problem")
    axes.set_ylabel("correct, % (bars: Wilson 95 %)")
    axes.set_title(
        f"accuracy of {record.arguments.get('model')}, {rows[0].problems:,} held-out problems", fontsize=10
    )
    axes.legend(fontsize=8, loc="lower left")
