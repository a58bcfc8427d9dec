"""What the linears of a hop take in their order beside the sum of their calls, from hops of a few layers.

A sweep times calls of one shape one behind the other. In a hop shapes take turns: the next call finds another kernel
ahead of it, whose end it may or may not hide. The logarithm of observed over the sum, by the widths of a layer and the
batch size, is carried to other models as the residuals of calls are (``analysis.call_time``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.fit_crossing import Layer, fitted_time
from analysis.fit_file import KernelFit, Residual
from analysis.kernel_kinds import BASELINE, GEMV, GEMV_ROWS, NATIVE_KERNELS


@dataclass(frozen=True)
class HopLinears:
    """The linears of a hop, timed alone in their order.

    Attributes:
        batch_size: B.
        hidden: width of the residual stream.
        intermediate: width inside the feed-forward block.
        layers: linears of the decoder layers, by the kernel.
        head: the output layer, which is native.
        time_s: median time on the device, s.
    """

    batch_size: int
    hidden: int
    intermediate: int
    layers: tuple[Layer, ...]
    head: Layer
    time_s: float


def linear_residuals(
    kernel: str, hops: Sequence[HopLinears], kernels: Mapping[str, KernelFit]
) -> list[Residual]:
    """Return what linears in their order differ from the sum of their calls.

    Args:
        kernel: runs them, except the output layer.
        hops: its linears.
        kernels: fits by kernel, of which the baseline is one.

    Returns:
        One for each hop: B as m, the widths of a layer as n and k, and the sum less observed over the sum. Empty where
        the kernel was not fitted.
    """
    if kernel not in kernels:
        return []
    found = []
    for hop in hops:
        has_gemv = GEMV in kernels and hop.batch_size <= GEMV_ROWS
        native = GEMV if has_gemv else BASELINE
        own = native if kernel in NATIVE_KERNELS else kernel
        sums_s = fitted_time(kernels[own].time, hop.layers).plus(
            fitted_time(kernels[native].time, (hop.head,))
        )
        sum_s = float(sums_s.at(hop.batch_size))
        found.append(
            Residual(
                m=hop.batch_size,
                n=hop.intermediate,
                k=hop.hidden,
                observed=hop.time_s,
                residual_share=(sum_s - hop.time_s) / sum_s,
            )
        )
    return found
