"""Verdicts: is a variant trapped, in time and in energy, and why. Intervals decide, not numbers."""

import math
from dataclasses import dataclass, fields
from enum import Enum

from analysis.stats import Interval

# Changes below this share of the reference hop are left out of the sentence.
_NEGLIGIBLE = 1e-3
THROTTLED = "the GPU throttled during this run"
"""Ends the reason of a verdict where clocks were held down."""


class Verdict(str, Enum):
    """What a ratio of costs says about a variant."""

    TRAPPED = "trapped"
    NOT_TRAPPED = "not_trapped"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not_measured"


@dataclass(frozen=True)
class Waterfall:
    """Where the time of a hop went, from the reference to the variant; all in s per hop.

    Attributes:
        reference_s: the reference's hop.
        saving_s: what the smaller weights save, t(reference) - t(null); negative where the kernel without
            decoding is slower than the reference. Where the device waits for the host, of device time.
        exposed_cast_s: what decoding adds, t(fused) - t(null); measured, so noise can make it negative. Likewise.
        host_s: change of the time in which the device waits for the host.
        other_s: change of the device time outside the linear layers.
    """

    reference_s: float
    saving_s: float
    exposed_cast_s: float
    host_s: float = 0.0
    other_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that are no times."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value):
                raise ValueError(f"{field.name}={value} is not finite")
        if self.reference_s <= 0:
            raise ValueError(f"reference_s={self.reference_s} is not above 0")

    @classmethod
    def from_times(
        cls, reference_s: float, null_s: float, fused_s: float, *, host_s: float = 0.0, other_s: float = 0.0
    ) -> "Waterfall":
        """Build the waterfall of replayed chains, which run the same hops with three kernels.

        Args:
            reference_s: hop time of the reference, s.
            null_s: hop time of the kernel that loads the codes and does not decode them, s.
            fused_s: hop time of the variant, s.
            host_s: the part of null - reference that is waiting for the host, s; taken out of the saving.
            other_s: the part of null - reference that lies outside the linear layers, s; likewise.

        Returns:
            A waterfall that ends at ``fused_s``.
        """
        saving_s = reference_s - null_s + host_s + other_s
        return cls(reference_s, saving_s, fused_s - null_s, host_s, other_s)

    @property
    def variant_s(self) -> float:
        """The variant's hop, s: where the waterfall ends."""
        return self.reference_s - self.saving_s + self.exposed_cast_s + self.host_s + self.other_s

    @property
    def cor_tps(self) -> float:
        """TPS_ref / TPS_p - 1 (the paper's Eq 9) = (exposed cast - saving + host + other) / tau_ref."""
        return (self.exposed_cast_s - self.saving_s + self.host_s + self.other_s) / self.reference_s


@dataclass(frozen=True)
class Judgement:
    """A verdict on one quantity with its reason.

    Attributes:
        quantity: ``time`` or ``energy``.
        verdict: what the interval says.
        ratio: variant / reference; None where it was not measured.
        reason: one sentence for people.
        independent: False where the figure repeats another one (energy by HLI repeats time).
    """

    quantity: str
    verdict: Verdict
    ratio: Interval | None
    reason: str
    independent: bool = True


def decide(ratio: Interval | None) -> Verdict:
    """Compare the interval of variant / reference with 1.

    Args:
        ratio: cost of the variant over cost of the reference; None where either was not measured.

    Returns:
        ``trapped`` where the whole interval lies above 1, ``not_trapped`` where it lies below,
        ``inconclusive`` where it holds 1.

    Raises:
        ValueError: a bare number, which has no verdict.
    """
    if ratio is None:
        return Verdict.NOT_MEASURED
    if not isinstance(ratio, Interval):
        raise ValueError(f"a verdict needs an Interval, got {type(ratio).__name__}")
    if ratio.low > 1:
        return Verdict.TRAPPED
    return Verdict.NOT_TRAPPED if ratio.high < 1 else Verdict.INCONCLUSIVE


def judge_time(
    ratio: Interval | None,
    waterfall: Waterfall | None = None,
    *,
    reference: str = "bf16",
    throttled: bool = False,
) -> Judgement:
    """Judge the hop time of a variant.

    Args:
        ratio: hop time of the variant over that of the reference.
        waterfall: where the difference comes from; None where the ablation was not run.
        reference: name of the reference kernel.
        throttled: the GPU lowered its clocks during the run.

    Returns:
        Verdict and reason, such as ``slower than bf16 by 1.8x [1.7, 1.9]: decoding costs 3.1 ms per hop and
        the smaller weights save 0.2 ms``.
    """
    causes = "" if ratio is None or waterfall is None else f": {_causes(waterfall)}"
    sentence = _comparison(ratio, reference, "slower than", "faster than") + causes
    return Judgement("time", decide(ratio), ratio, sentence + _throttling(ratio, throttled))


def judge_energy(
    ratio: Interval | None,
    *,
    hli: bool,
    reference: str = "bf16",
    throttled: bool = False,
) -> Judgement:
    """Judge the energy of a variant.

    Args:
        ratio: energy of the variant over that of the reference, for the same work.
        hli: the energies are HLI estimates (rated power times time) and not read from a counter.
        reference: name of the reference kernel.
        throttled: the GPU lowered its clocks during the run.

    Returns:
        Verdict and reason; with ``hli`` the reason says that it repeats the time verdict.
    """
    sentence = _comparison(ratio, reference, "dearer than", "cheaper than")
    if hli and ratio is not None:
        sentence += (
            "; this is rated power times time (HLI): "
            "it repeats the time verdict and is no independent evidence"
        )
    return Judgement("energy", decide(ratio), ratio, sentence + _throttling(ratio, throttled), not hli)


def _comparison(ratio: Interval | None, reference: str, worse: str, better: str) -> str:
    verdict = decide(ratio)
    if ratio is None:
        return "not measured"
    if verdict is Verdict.INCONCLUSIVE:
        return f"not distinguishable from {reference}: {_times(ratio)}"
    if verdict is Verdict.TRAPPED:
        return f"{worse} {reference} by {_times(ratio)}"
    # Below 1 the inverse is what people say: 0.5 is "faster by 2x".
    return f"{better} {reference} by {_times(_inverse(ratio))}"


def _inverse(ratio: Interval) -> Interval:
    if ratio.low <= 0:
        raise ValueError(f"a ratio of costs is above 0, but its interval begins at {ratio.low:g}")
    return Interval(1 / ratio.point, 1 / ratio.high, 1 / ratio.low, ratio.confidence)


def _times(ratio: Interval) -> str:
    """Print with the fewest decimals that tell the ends from each other and from 1."""
    digits, shown = 0, ""
    while digits < 4:
        digits += 1
        low, high = f"{ratio.low:.{digits}f}", f"{ratio.high:.{digits}f}"
        shown = f"{ratio.point:.{digits}f}x [{low}, {high}]"
        if low != high and f"{1:.{digits}f}" not in (low, high):
            break
    return shown


def _causes(waterfall: Waterfall) -> str:
    cast_s, saving_s = waterfall.exposed_cast_s, waterfall.saving_s
    if cast_s >= 0:
        parts = [f"decoding costs {_ms(cast_s)} per hop"]
    else:
        parts = [f"decoding is hidden ({_ms(cast_s)} per hop)"]
    if saving_s >= 0:
        parts[0] += f" and the smaller weights save {_ms(saving_s)}"
    else:
        parts[0] += f" and the kernel without it is {_ms(-saving_s)} slower than the reference"
    changes = (
        ("waiting for the host", waterfall.host_s),
        ("work outside the linear layers", waterfall.other_s),
    )
    for name, change_s in changes:
        if abs(change_s) >= _NEGLIGIBLE * waterfall.reference_s:
            parts.append(f"{name} {'adds' if change_s > 0 else 'saves'} {_ms(abs(change_s))}")
    return ", ".join(parts)


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return (
        f"{milliseconds:.1f} ms" if abs(milliseconds) >= 1 or milliseconds == 0 else f"{milliseconds:.2g} ms"
    )


def _throttling(ratio: Interval | None, throttled: bool) -> str:
    return f"; {THROTTLED}" if throttled and ratio is not None else ""
