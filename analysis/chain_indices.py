"""The paper's indices of a chain's variant, from its row and the baseline's."""

from __future__ import annotations

from collections.abc import Callable

from analysis.si import EnergyUnit, IndexValue, e_si, s_si_linear, s_si_log, si_geometric, si_linear, t_si
from profiler.record import VariantResult

LOG_UNIT = EnergyUnit.KILOWATT_HOUR
"""Of Eq. 5 here: the unit in which it gives the 0.468 that the paper prints, at gamma = 1."""


def index_fields(row: VariantResult, reference: VariantResult) -> dict[str, object]:
    """T_SI, E_SI, S_SI and SI of a row, as far as they can be formed, with notes on what is unusual.

    Args:
        row: a free-running row with its counts.
        reference: the baseline's.
    """
    trust = _either(t_si, row.accuracy, reference.accuracy)
    economy = None
    if row.tps and reference.tps and row.peak_memory_bytes and reference.peak_memory_bytes:
        economy = e_si(
            tps=row.tps,
            tps_ref=reference.tps,
            peak_vram_bytes=row.peak_memory_bytes,
            peak_vram_ref_bytes=reference.peak_memory_bytes,
        )
    energy = _either(s_si_linear, row.energy_j_per_query, reference.energy_j_per_query)
    notes = list(row.notes)
    if energy is None and row.energy_source == "none":
        energy = _either(s_si_linear, _seconds_per_query(row), _seconds_per_query(reference))
        notes.append("S_SI by HLI with an unknown TDP, which cancels: the ratio of the times per query")
    fields: dict[str, object] = {
        "t_si": None if trust is None else trust.value,
        "e_si": None if economy is None else economy.value,
        "s_si": None if energy is None else energy.value,
    }
    if trust is not None and economy is not None and energy is not None:
        index = si_linear(trust, economy, energy)
        fields["si"] = index.value
        outside = {"T_SI": trust, "E_SI": economy, "S_SI": energy, "SI": index}
        named = [f"{name} {part.value:.3f}" for name, part in outside.items() if not 0 <= part.value <= 1]
        if named:
            notes.append(
                f"{row.kernel}: outside [0, 1], where the paper places the indices: {', '.join(named)}"
            )
    return fields | {"notes": notes}


def geometric_index(row: VariantResult) -> float | None:
    """SI by the geometric policy (Remark 3.1) with the weights of Eq. 6; None where a part is missing or negative."""
    if row.t_si is None or row.e_si is None or row.s_si is None or min(row.t_si, row.e_si, row.s_si) < 0:
        return None
    return si_geometric(row.t_si, row.e_si, row.s_si).value


def log_energy_index(row: VariantResult, reference: VariantResult | None) -> float | None:
    """S_SI by Eq. 5 in :data:`LOG_UNIT`; None unless both rows have joules above 0."""
    if reference is None or not row.energy_j_per_query or not reference.energy_j_per_query:
        return None
    return s_si_log(row.energy_j_per_query, reference.energy_j_per_query, unit=LOG_UNIT).value


def _either(
    index: Callable[[float, float], IndexValue], value: float | None, reference: float | None
) -> IndexValue | None:
    """The index where it can be formed: both measured, the reference not zero."""
    if value is None or not reference or (index is s_si_linear and not value):
        return None
    return index(value, reference)


def _seconds_per_query(row: VariantResult) -> float | None:
    if row.prefill_s is None or row.decode_s is None or not row.problems:
        return None
    return (row.prefill_s + row.decode_s) / row.problems
