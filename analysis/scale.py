"""N*: the model size above which a variant no longer loses, by the model of a hop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from analysis.checks import above_zero, at_least_zero

Number = float | Fraction


def n_star_device(
    *,
    delta_fixed_s: Number,
    saved_s_per_weight: Number,
    cast_s_per_weight: Number = 0,
    batch_size: Number = 1,
    row_s: Number = 0,
    row_s_per_weight: Number = 0,
) -> Number:
    """Return N* = (delta D + B rho_0 L h) / (s - a_w - B rho_1) where the device is the limit.

    Args:
        delta_fixed_s: delta D, fixed device time that the variant adds, s; negative where it needs less.
        saved_s_per_weight: s, saved bytes per weight over bandwidth, s.
        cast_s_per_weight: a_w, exposed casting of a pass per weight, s.
        batch_size: B.
        row_s: rho_0 L h, row cost that does not grow with the weights, s per row.
        row_s_per_weight: rho_1, row cost per weight, s.

    Returns:
        Number of weights; infinite where a pass saves no more than it adds (always for unfused kernels), 0 where
        the variant wins at every size.

    Raises:
        ValueError: a batch not above 0, or a negative cost.
    """
    above_zero(batch_size=float(batch_size))
    at_least_zero(
        saved_s_per_weight=float(saved_s_per_weight),
        cast_s_per_weight=float(cast_s_per_weight),
        row_s=float(row_s),
        row_s_per_weight=float(row_s_per_weight),
    )
    added = delta_fixed_s + batch_size * row_s
    gained = saved_s_per_weight - cast_s_per_weight - batch_size * row_s_per_weight
    if gained <= 0:
        return math.inf if added > 0 or gained < 0 else 0
    return max(added / gained, 0 * added)


def n_star_host(*, bytes_per_s: Number, host_s: Number, native_bytes_per_weight: Number) -> Number:
    """Return N* = bandwidth * H / (bytes per native weight) where the variant waits for its host, at B = 1.

    Below it the native hop is shorter than the host needs to launch the variant's.

    Args:
        bytes_per_s: read bandwidth.
        host_s: H of the variant, s per hop.
        native_bytes_per_weight: 2 for bf16.

    Raises:
        ValueError: a bandwidth or size not above 0, or a negative time.
    """
    above_zero(bytes_per_s=float(bytes_per_s), native_bytes_per_weight=float(native_bytes_per_weight))
    at_least_zero(host_s=float(host_s))
    return bytes_per_s * host_s / native_bytes_per_weight


@dataclass(frozen=True)
class FamilyPoint:
    """One model of a family.

    Attributes:
        weights: number of weights, N.
        native_s: cost of the native hop.
        variant_s: cost of the variant's hop, in the same unit.
    """

    weights: float
    native_s: float
    variant_s: float


@dataclass(frozen=True)
class FamilyScale:
    """Where a family of models leaves the trap.

    Attributes:
        trapped: sizes at which the variant loses, rising.
        free: sizes at which it does not.
        brackets: neighbouring sizes between which that changes, and the size at which the difference, linear
            between them, is 0.
    """

    trapped: tuple[float, ...]
    free: tuple[float, ...]
    brackets: tuple[tuple[float, float, float], ...]


def family_scale(points: Sequence[FamilyPoint]) -> FamilyScale:
    """Return where the members of a model family, measured or predicted, stop losing.

    Raises:
        ValueError: fewer than 2 members, or 2 of one size.
    """
    ordered = sorted(points, key=lambda point: point.weights)
    sizes = [point.weights for point in ordered]
    if len(ordered) < 2 or len(set(sizes)) < len(sizes):
        raise ValueError(f"a family needs 2 or more models of different sizes, got {sizes}")
    gaps = [point.variant_s - point.native_s for point in ordered]
    brackets = []
    for i in range(len(ordered) - 1):
        if (gaps[i] > 0) != (gaps[i + 1] > 0):
            share = gaps[i] / (gaps[i] - gaps[i + 1])
            brackets.append((sizes[i], sizes[i + 1], sizes[i] + share * (sizes[i + 1] - sizes[i])))
    return FamilyScale(
        trapped=tuple(size for size, gap in zip(sizes, gaps, strict=True) if gap > 0),
        free=tuple(size for size, gap in zip(sizes, gaps, strict=True) if gap <= 0),
        brackets=tuple(brackets),
    )
