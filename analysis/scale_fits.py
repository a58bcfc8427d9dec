"""N* from fits, as the paper prints it and by the model of a hop, and N* between models that were measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cost_ratio import time_ratio
from analysis.fit_crossing import Layer, layer_sizes
from analysis.fit_file import FitsFile
from analysis.fit_input import machine_of
from analysis.fit_joules import NATIVE_BITS, printed_with
from analysis.fit_solver import Floats, interval_of
from analysis.fit_time import TIME_PARAMETERS
from analysis.kernel_kinds import BASELINE
from analysis.model_shape import DTYPE_BYTES, HopEngine, ModelShape
from analysis.paper import n_star
from analysis.predict_hop import launches
from analysis.scale import FamilyPoint, FamilyScale, family_scale, n_star_device, n_star_host
from analysis.stats import Interval
from profiler.record import RunRecord, VariantResult

_TAIL = 2.5
_LAUNCH, _PASS = (TIME_PARAMETERS.index(name) for name in ("launch_s", "pass_s_per_weight"))


@dataclass(frozen=True)
class ScaleRange:
    """N* with the 95 % range of its draws, in weights.

    Attributes:
        point: 0 where the variant wins at every size, infinite where it loses at every size.
        low: lower end, at most the point.
        high: upper end, at least the point; may be infinite.
    """

    point: float
    low: float
    high: float


def printed_n_star(
    fits: FitsFile, kernel: str, layers: Sequence[Layer], *, b_w: float | None = None
) -> Interval | None:
    """Return N* = phi B_W B / (alpha (16 - p)) as the paper prints it (Thm 4.6), fitted phi and alpha, at m = B = 1.

    It decides nothing. The unit of B_W is not stated; phi over alpha (16 - p) has none, so N* has that of B_W. The
    default is the one reading in which N* is a number of weights and agrees with Eq. 18: B_W is the number of weights
    that alpha is of, and at N = N*, phi held, the printed B* is 1. The theorem takes phi as given, but the fitted one
    grows with the weights decoded, so N* grows with the model that is asked for.

    Args:
        fits: of the machine.
        kernel: the variant.
        layers: linear layers of the model asked for; phi and alpha are those of a hop through them.
        b_w: B_W; None for the weights of the layers, 1 for the bare factor.

    Returns:
        N* in the unit of B_W; None where energy, casting, bandwidth or the width of the codes was not measured, and
        where alpha is 0 in the estimates or in a draw.

    Raises:
        ValueError: the fits lack the kernel, or B_W is not above 0.
    """
    _, weights, _ = layer_sizes(layers)

    def star(alpha: float, phi: float, bits: int) -> float:
        scale = weights if b_w is None else b_w
        return n_star(phi, scale, 1, alpha, NATIVE_BITS, bits) if alpha > 0 else math.inf

    return printed_with(fits, kernel, layers, star)


def device_n_star(fits: FitsFile, kernel: str, layers: Sequence[Layer]) -> ScaleRange:
    """Return N* at B = 1 where the device is the limit, by the fitted fixed time of a call and time of a pass.

    delta D is the difference of ``launch_s`` times the calls of a hop, saved is that of ``pass_s_per_weight``. So the
    number of calls is that of the model asked for while its weights grow, every matrix is wide enough to be read at
    full speed (pass n k above depth k), a row's own arithmetic and traffic do not count, and neither do the deviations
    of measured calls, attention and the host.

    Args:
        fits: of the machine.
        kernel: the variant.
        layers: linear layers of the model asked for, each a call; their sizes do not matter.

    Returns:
        N* in weights of linear layers.

    Raises:
        ValueError: the fits lack the kernel or the baseline.
    """
    calls, _, _ = layer_sizes(layers)

    def star(own: Floats, native: Floats) -> float:
        saved = float(native[_PASS] - own[_PASS])
        found = n_star_device(
            delta_fixed_s=calls * float(own[_LAUNCH] - native[_LAUNCH]),
            saved_s_per_weight=max(saved, 0.0),
            cast_s_per_weight=max(-saved, 0.0),
        )
        # Not -0.0.
        return float(found) + 0.0

    own, native = (fits.kernel(name).time for name in (kernel, BASELINE))
    draws = [star(a, b) for a, b in zip(own.all_draws(), native.all_draws(), strict=True)]
    return _range(star(own.point(), native.point()), draws)


def host_n_star(fits: FitsFile, kernel: str, model: ModelShape) -> Interval | None:
    """Return N* at B = 1 of a variant that is launched kernel by kernel and waits for its host.

    H = launches of an eager hop of the model times h, and a synchronisation. N* are the weights that are read in that
    time at the measured bandwidth, 2 bytes each: below it an eager hop takes longer than reading the native weights
    would, however little the variant reads. A native hop launched kernel by kernel waits for the host too, so this is
    where the variant loses to native weights that do not wait, as from a CUDA graph.

    Args:
        fits: of the machine.
        kernel: the variant.
        model: its layers say how many kernels a hop launches; they stay while its weights grow.

    Returns:
        N* in weights; None where launches or bandwidth were not measured.
    """
    host, bandwidth = fits.host, fits.read_bytes_per_s
    if host is None or bandwidth is None:
        return None
    count = launches(model, kernel, HopEngine.EAGER)

    def star(row: Floats) -> float:
        named = dict(zip(host.parameters, map(float, row), strict=True))
        host_s = count * named["launch_s"] + named.get("sync_s", 0.0)
        return float(n_star_host(bytes_per_s=bandwidth, host_s=host_s, native_bytes_per_weight=DTYPE_BYTES))

    return interval_of(star(host.point()), np.array([star(row) for row in host.all_draws()]))


@dataclass(frozen=True)
class MeasuredFamily:
    """Models of different sizes that were measured alike.

    Attributes:
        machine: GPU, or CPU.
        engine: how hops were launched; None where the runs do not say.
        context: tokens of every prompt; None where prompts have lengths of their own.
        mode: ``generate`` or ``replay``.
        kernel: the variant.
        batch_size: B.
        points: hop times of the models, s, from the smallest on.
        unclear: sizes at which the intervals do not tell the variant from bf16.
        scale: where it loses and wins among the other sizes, and the brackets of N* between them.
    """

    machine: str
    engine: str | None
    context: int | None
    mode: str
    kernel: str
    batch_size: int
    points: tuple[FamilyPoint, ...]
    unclear: tuple[float, ...]
    scale: FamilyScale


_Key = tuple[str, str | None, int | None, str, str, int]


def measured_families(records: Sequence[RunRecord], weights: Mapping[str, int]) -> list[MeasuredFamily]:
    """Return the families that chains measured, each of 2 or more models of different size.

    A variant is compared with bf16 of the same run, mode and batch size, by ``hop_ms_p50``; its interval decides
    whether a size counts as lost or won. Of a model that was measured twice alike the newest run counts.

    Args:
        records: runs; those that are no chains say nothing here.
        weights: weights of linear layers by key of the model table; other models are left out.
    """
    found: dict[_Key, dict[int, tuple[FamilyPoint, bool]]] = defaultdict(dict)
    for record in sorted(records, key=lambda one: one.created_utc):
        size = weights.get(str(record.arguments.get("model")))
        rows = [row for row in record.results if isinstance(row, VariantResult)]
        native = {(row.mode, row.batch_size): row for row in rows if row.kernel == BASELINE}
        for row in rows:
            reference = native.get((row.mode, row.batch_size))
            if size is None or reference is None or row is reference or row.kernel.startswith("null_"):
                continue
            if row.hop_ms_p50 and reference.hop_ms_p50:
                point = FamilyPoint(size, reference.hop_ms_p50 / 1e3, row.hop_ms_p50 / 1e3)
                found[_key(record, row)][size] = (point, _is_clear(row, reference, point))
    return [_family(key, by_size) for key, by_size in found.items() if len(by_size) > 1]


def _key(record: RunRecord, row: VariantResult) -> _Key:
    engine, context = record.arguments.get("engine"), record.arguments.get("context")
    return (
        machine_of(record),
        None if engine is None else str(engine),
        context if isinstance(context, int) else None,
        row.mode,
        row.kernel,
        row.batch_size,
    )


def _is_clear(row: VariantResult, native: VariantResult, point: FamilyPoint) -> bool:
    """Whether the interval of the ratio lies on the side of 1 that the medians say."""
    ratio = time_ratio(row, native)
    if ratio is None:
        return False
    return ratio.low > 1 if point.variant_s > point.native_s else ratio.high < 1


def _family(key: _Key, by_size: Mapping[int, tuple[FamilyPoint, bool]]) -> MeasuredFamily:
    ordered = [by_size[size] for size in sorted(by_size)]
    clear = [point for point, is_clear in ordered if is_clear]
    return MeasuredFamily(
        *key,
        points=tuple(point for point, _ in ordered),
        unclear=tuple(point.weights for point, is_clear in ordered if not is_clear),
        scale=family_scale(clear) if len(clear) > 1 else _of_few(clear),
    )


def _of_few(clear: Sequence[FamilyPoint]) -> FamilyScale:
    """One size that is told apart, or none: no bracket."""
    lost = tuple(point.weights for point in clear if point.variant_s > point.native_s)
    return FamilyScale(lost, tuple(p.weights for p in clear if p.weights not in lost), ())


def _range(point: float, draws: Sequence[float]) -> ScaleRange:
    # No interpolation between draws: between two infinite ones it gives no number.
    low = float(np.percentile(draws, _TAIL, method="lower"))
    high = float(np.percentile(draws, 100 - _TAIL, method="higher"))
    return ScaleRange(point, min(low, point), max(high, point))
