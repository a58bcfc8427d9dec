"""The waterfall of replayed hops: from the baseline's hop to a variant's, with an interval for every part.

    reference − saving + exposed cast + other + host = variant

Reference, null and variant are whole hops that ran the same tokens. What null and reference differ by outside the
linear layers (``other``) is taken out of the saving. The linear layers' own times, measured apart, say whether the
parts hold: they must explain the variant's hop within ``TOLERANCE``. Of captured hops these are times of the linears
alone in a graph of their own, and all else of the hop is ``other``: with the cast that the linears alone show instead
of the exposed one, the parts must still add up. Of hops that were not captured they are times by ranges, in a pass that
shows what lies between the ranges as well.

A hop that the host launches kernel by kernel takes longer than its kernels. Saving, exposed cast and other are then the
device's, and ``host`` is by how much more the variant's device waits for the host: launching a cast costs host time,
whatever decoding costs the device. Such a hop can only fail to hold its own device time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from analysis.stats import Interval
from analysis.verdict import Waterfall
from profiler.record import LinearsSample, RangeSample

Places = dict[tuple[int, int, int], float]
"""Seconds by (repeat, batch, hop)."""
Floats = NDArray[np.float64]

TOLERANCE = 0.05
"""Share of the variant's hop that the linear layers' times may fail to explain."""

_MS = 1e3
_DRAWS = 1000
_PARTS = ("reference", "saving", "exposed_cast", "other", "host", "variant")


@dataclass(frozen=True)
class ChainWaterfall:
    """A waterfall of median hops.

    Attributes:
        parts: the times, s.
        intervals: 95 % bootstrap intervals by part, s; empty with fewer than two hops.
        hops: replayed hops that all three kernels share.
        gap_share: (reference + change of the linear layers + other) / variant - 1, other being that of the null kernel
            in captured hops and the variant's own where ranges show it; where the device waits for the host, how far
            its time exceeds the variant's hop over that hop, or 0; None where the linear layers were not timed.
    """

    parts: Waterfall
    intervals: Mapping[str, Interval]
    hops: int
    gap_share: float | None

    @property
    def adds_up(self) -> bool | None:
        """Whether the linear layers' own times explain the variant's hop; None where they were not timed."""
        return None if self.gap_share is None else abs(self.gap_share) <= TOLERANCE

    def as_json(self) -> dict[str, object]:
        """Milliseconds by part with intervals, and the check."""
        fields: dict[str, object] = {}
        for name in _PARTS:
            fields[f"{name}_ms"] = getattr(self.parts, f"{name}_s") * _MS
            if name in self.intervals:
                interval = self.intervals[name].scaled(_MS)
                fields[f"{name}_ms_ci95"] = [interval.low, interval.high]
        return {**fields, "hops": self.hops, "gap_share": self.gap_share, "adds_up": self.adds_up}


def chain_waterfall(
    hops: Sequence[Places],
    ranges: Sequence[Sequence[RangeSample]],
    *,
    alone: Sequence[Sequence[LinearsSample]] = ((), (), ()),
    has_host: bool,
    seed: int,
) -> ChainWaterfall | None:
    """Build the waterfall of a variant.

    Args:
        hops: replayed hop times of the baseline, the null kernel and the variant.
        ranges: their hops with ranges; without ``device_s`` there is no ``other`` and no ``host``.
        alone: their linear layers alone; where all three have them, ranges, which hold captured hops up, do not count.
        has_host: hop times hold waiting for the host, which the device's time of the pass with ranges does not.
        seed: of the intervals.

    Returns:
        The waterfall, or None where one of the three has no hops in common with the others.
    """
    shared = sorted(set(hops[0]) & set(hops[1]) & set(hops[2]))
    if not shared:
        return None
    whole = np.array([[by_place[place] for place in shared] for by_place in hops])
    linear = _linear_times(alone)
    device = _device_times(ranges) if linear is None else None
    found = _parts(np.median(whole, axis=1), _medians(linear), _medians(device), has_host)
    intervals: dict[str, Interval] = {}
    if len(shared) > 1:
        drawn = _parts(_draws(whole, seed), _draws(linear, seed + 1), _draws(device, seed + 1), has_host)
        for name in _PARTS:
            low, high = np.percentile(drawn[name], [2.5, 97.5])
            point = float(found[name])
            intervals[name] = Interval(point, min(float(low), point), max(float(high), point))
    parts = Waterfall(
        *(float(found[name]) for name in ("reference", "saving", "exposed_cast", "host", "other"))
    )
    is_timed = linear is not None or device is not None
    gap = float(found["explained"] / found["variant"] - 1) if is_timed else None
    return ChainWaterfall(parts, intervals, len(shared), gap)


def _linear_times(alone: Sequence[Sequence[LinearsSample]]) -> Floats | None:
    """Linear layers alone [3 kernels, timings]; None where they were not timed."""
    timed = [{(s.repeat, s.batch_index): s.linear_s for s in samples} for samples in alone]
    shared = sorted(set(timed[0]) & set(timed[1]) & set(timed[2]))
    return np.array([[by_place[place] for place in shared] for by_place in timed]) if shared else None


def _device_times(ranges: Sequence[Sequence[RangeSample]]) -> Floats | None:
    """Linear layers and the rest of the hop [2, 3 kernels, hops], s; None where they were not timed together."""
    timed = [
        {
            (s.repeat, s.batch_index, s.hop): (s.linear_s, s.device_s - s.linear_s)
            for s in samples
            if s.device_s
        }
        for samples in ranges
    ]
    shared = sorted(set(timed[0]) & set(timed[1]) & set(timed[2]))
    if not shared:
        return None
    return np.array([[[by_place[p][part] for p in shared] for by_place in timed] for part in range(2)])


def _medians(times: Floats | None) -> Floats | None:
    return None if times is None else np.asarray(np.median(times, axis=-1))


@overload
def _draws(times: Floats, seed: int) -> Floats: ...


@overload
def _draws(times: Floats | None, seed: int) -> Floats | None: ...


def _draws(times: Floats | None, seed: int) -> Floats | None:
    """Medians of resampled hops, the last axis; hops of all kernels are drawn together. [..., draws]."""
    if times is None:
        return None
    count = times.shape[-1]
    random = np.random.default_rng(seed)
    medians = [np.median(times[..., random.integers(0, count, count)], axis=-1) for _ in range(_DRAWS)]
    return np.stack(medians, axis=-1)


def _parts(whole: Floats, alone: Floats | None, device: Floats | None, has_host: bool) -> dict[str, Floats]:
    """The parts from medians: ``whole`` and ``alone`` [3, ...], ``device`` [2, 3, ...].

    Draws of separate passes are independent, so they may be paired in any order.
    """
    reference, null, variant = whole
    nothing = np.zeros_like(whole)
    if has_host and alone is None and device is not None:
        linear, other = device
        waiting = whole - linear - other
        return {
            "reference": reference,
            "saving": linear[0] - linear[1],
            "exposed_cast": linear[2] - linear[1],
            "other": other[2] - other[0],
            "host": waiting[2] - waiting[0],
            "variant": variant,
            "explained": np.maximum(variant, linear[2] + other[2]),
        }
    if alone is not None:
        linear, other = alone, whole - alone
        # What is not linears takes as long beside a kernel as beside its null kernel: the cast of the linears alone
        # is to be the exposed one.
        explained = reference + linear[2] - linear[0] + other[1] - other[0]
    else:
        linear, other = (device[0], device[1]) if device is not None else (nothing, nothing)
        explained = reference + sum((part[2] - part[0] for part in (linear, other)), nothing[0])
    d_other = other[1] - other[0]
    return {
        "reference": reference,
        "saving": reference - null + d_other,
        "exposed_cast": variant - null,
        "other": d_other,
        "host": nothing[0],
        "variant": variant,
        "explained": explained,
    }
