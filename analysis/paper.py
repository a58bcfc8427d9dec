"""The paper's cost formulas as printed, its printed numbers, and where the two contradict each other.

Equation numbers are those of "The Quantization Trap" (arXiv 2602.13595); Thm 4.6 is in its later version. The
corrected model lives elsewhere: nothing here is used to decide anything.
"""

import json
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from analysis.checks import above_zero, at_least_zero


@dataclass(frozen=True)
class Contradiction:
    """One place where the paper's algebra or numbers speak against its text.

    Attributes:
        key: short name.
        where: the equations and sections concerned.
        statement: what follows, in one or two sentences.
    """

    key: str
    where: str
    statement: str


CONTRADICTIONS: tuple[Contradiction, ...] = (
    Contradiction(
        "batch-threshold-sign",
        "Eq 18, 19, Thm 4.3",
        "Eq 19 gives E_p - E_native = K [phi - alpha (native - p) / B]: below B* the low-bit model is "
        "cheaper and above it dearer, the reverse of Thm 4.3.",
    ),
    Contradiction(
        "native-hardware-limit",
        "Eq 18, section 5",
        "phi -> 0 sends B* = alpha (native - p) / phi to infinity, not to zero as section 5 says.",
    ),
    Contradiction(
        "negative-cor",
        "Eq 8, 9",
        "COR is a ratio of two times in Eq 8 and cannot be negative, yet Eq 9 is for a variant faster "
        "than its reference (printed: -0.03 and -0.46). Eq 9 is casting minus saving; break-even "
        "is at 0, not at 1.",
    ),
    Contradiction(
        "hli-repeats-time",
        "section 3.1 (HLI)",
        "HLI makes energy proportional to latency, so S_SI repeats the throughput that E_SI holds already.",
    ),
    Contradiction(
        "depth-cancels",
        "Eq 19",
        "K cancels from every comparison, so nothing in Eq 19 is specific to long chains.",
    ),
    Contradiction(
        "unbounded-indices",
        "Eq 1, 2, 3, 5",
        "T_SI and E_SI leave [0, 1], and min(1, .) in S_SI gives no credit for savings.",
    ),
    Contradiction(
        "unit-of-s-si",
        "Eq 5",
        "The logarithm depends on the unit of energy and on the carbon intensity: the paper's example gives "
        "0.892 in J and 0.468 in kWh at gamma = 1.",
    ),
    Contradiction(
        "critical-scale-batch",
        "Thm 4.6",
        "N* grows in proportion to B, so by the formula a larger batch widens the trap, while the theorem's "
        "text says that it dissolves it.",
    ),
    Contradiction(
        "h100-int8-energy",
        "sections 4.3 and 4.4",
        "Under HLI equal hops give S_SI = 1 / (1 + COR): the COR of 2.45 printed for INT8 on the H100 gives "
        "0.29, printed is 0.35, so the two variants ran different numbers of hops or one number is wrong.",
    ),
    Contradiction(
        "int8-economy",
        "Eq 3, section 4.3",
        "With the printed COR of 2.45 (eta = 0.29) E_SI is at least 0.45 for any variant that needs no more "
        "memory than its reference; printed is about 0.40.",
    ),
    Contradiction(
        "si-deficit",
        "section 4.3, figure 1",
        "31.1 % is called both the deficit of NF4 against FP16 and the improvement from NF4 to FP16, but a "
        "deficit of 31.1 % is an improvement of 45.1 %.",
    ),
)


def paper_numbers() -> dict[str, Any]:
    """Return the numbers printed in the paper, the content of ``analysis/data/paper.json``."""
    numbers: dict[str, Any] = json.loads(files("analysis").joinpath("data/paper.json").read_text("utf-8"))
    return numbers


def cor_direct(cast_s: float, comp_s: float) -> float:
    """Return the casting overhead ratio tau_cast / tau_comp (Eq 8).

    Args:
        cast_s: time spent decoding, s; at least 0.
        comp_s: time of the linear layers without decoding, s; above 0.

    Raises:
        ValueError: a number out of its range; an exposed cast below 0 is noise and no input for Eq 8.
    """
    at_least_zero(cast_s=cast_s)
    above_zero(comp_s=comp_s)
    return cast_s / comp_s


def cor_tps(tps_ref: float, tps: float) -> float:
    """Return TPS_ref / TPS_p - 1 (Eq 9): the relative slow-down, negative for a variant that is faster.

    Despite its name this is not Eq 8: it equals (exposed cast - saving + host and other) / tau_ref.

    Raises:
        ValueError: a throughput not above 0.
    """
    above_zero(tps_ref=tps_ref, tps=tps)
    return tps_ref / tps - 1


def hli_energy_j(tdp_w: float, duration_s: float, queries: int = 1) -> float:
    """Return the energy per query by Hardware-Latency Integration, TDP * duration / queries, in J.

    Source: the paper, section 3.1.

    This charges the full rated power for the whole time: an estimate from time, not a measurement of energy.

    Raises:
        ValueError: power not above 0, a negative duration, or fewer than 1 query.
    """
    above_zero(tdp_w=tdp_w)
    at_least_zero(duration_s=duration_s)
    if queries < 1:
        raise ValueError(f"queries={queries} is less than 1")
    return tdp_w * duration_s / queries


def b_star(alpha_j_per_bit: float, native_bits: float, bits: float, phi_j: float) -> float:
    """Return the paper's critical batch size alpha * (native_bits - bits) / phi (Eq 10 and 18).

    Args:
        alpha_j_per_bit: energy to move the weights once, per bit of width, J/bit.
        native_bits: the native width.
        bits: the variant's width, below ``native_bits``.
        phi_j: casting energy per hop, J.

    Returns:
        The batch size; infinity for phi_j = 0, where the paper's section 5 says zero. By Eq 19 the variant is
        the cheaper one *below* it.

    Raises:
        ValueError: a number out of its range.
    """
    above_zero(alpha_j_per_bit=alpha_j_per_bit)
    at_least_zero(phi_j=phi_j)
    saved_bits = _saved_bits(native_bits, bits)
    return math.inf if phi_j == 0 else alpha_j_per_bit * saved_bits / phi_j


def energy_model(
    *, hops: int, gamma_j: float, alpha_j_per_bit: float, bits: float, batch_size: float, phi_j: float
) -> float:
    """Return the energy per query K [gamma + alpha p / B + phi] (Eq 19), in J.

    Args:
        hops: K, hops of the query.
        gamma_j: static energy per hop, J.
        alpha_j_per_bit: energy to move the weights once, per bit of width, J/bit.
        bits: p, the width.
        batch_size: B, sequences decoded together.
        phi_j: casting energy per hop, J; 0 for the native format.

    Raises:
        ValueError: a number out of its range.
    """
    above_zero(hops=hops, bits=bits, batch_size=batch_size)
    at_least_zero(gamma_j=gamma_j, alpha_j_per_bit=alpha_j_per_bit, phi_j=phi_j)
    return hops * (gamma_j + alpha_j_per_bit * bits / batch_size + phi_j)


def cor_of_batch(cast_s: float, comp_per_sequence_s: float, batch_size: float) -> float:
    """Return COR(B) = a_cast / (a_comp * B), casting shared by the batch (Eq 21 and 22).

    Args:
        cast_s: a_cast, decoding time per hop, s.
        comp_per_sequence_s: a_comp, compute time per hop and sequence, s.
        batch_size: B.

    Raises:
        ValueError: a number out of its range.
    """
    above_zero(comp_per_sequence_s=comp_per_sequence_s, batch_size=batch_size)
    return cor_direct(cast_s, comp_per_sequence_s * batch_size)


def energy_shared_cast(hops: int, comp_j: float, cast_j: float, batch_size: float) -> float:
    """Return the energy per query K [e_comp + e_cast / B], in J: casting shared, unlike Eq 19 (Eq 23).

    Raises:
        ValueError: a number out of its range.
    """
    above_zero(hops=hops, batch_size=batch_size)
    at_least_zero(comp_j=comp_j, cast_j=cast_j)
    return hops * (comp_j + cast_j / batch_size)


def n_star(
    phi_j: float, b_w: float, batch_size: float, alpha_j_per_bit: float, native_bits: float, bits: float
) -> float:
    """Return the paper's critical model scale phi * B_W * B / (alpha * (native_bits - bits)) (Thm 4.6).

    Args:
        phi_j: casting energy per hop, J.
        b_w: B_W as printed. Its unit is not stated where the theorem is summarised; the result has its unit
            when phi and alpha are in J and J/bit.
        batch_size: B. N* grows with it, while the text says that a larger B dissolves the trap.
        alpha_j_per_bit: J/bit.
        native_bits: the native width.
        bits: the variant's width, below ``native_bits``.

    Raises:
        ValueError: a number out of its range.
    """
    at_least_zero(phi_j=phi_j)
    above_zero(b_w=b_w, batch_size=batch_size, alpha_j_per_bit=alpha_j_per_bit)
    return phi_j * b_w * batch_size / (alpha_j_per_bit * _saved_bits(native_bits, bits))


def dsi_dp(si: float, bits: float, si_ref: float, bits_ref: float) -> float:
    """Return the finite difference (SI_ref - SI) / (bits_ref - bits) of Prop 3.2: a trap above 0.

    Args:
        si: the variant's index.
        bits: its width.
        si_ref: the index at the larger width.
        bits_ref: that width.

    Returns:
        Index per bit. Two bare numbers are no verdict: ``analysis.verdict`` compares intervals.

    Raises:
        ValueError: ``bits_ref`` not above ``bits``, or an index that is not finite.
    """
    if not (math.isfinite(si) and math.isfinite(si_ref)):
        raise ValueError(f"both indices must be finite, got {si} and {si_ref}")
    return (si_ref - si) / _saved_bits(bits_ref, bits)


def _saved_bits(native_bits: float, bits: float) -> float:
    above_zero(bits=bits, native_bits=native_bits)
    if native_bits <= bits:
        raise ValueError(f"native_bits={native_bits} is not above bits={bits}")
    return native_bits - bits
