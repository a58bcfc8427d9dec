"""N* as chains measured it: between which of the models measured a variant stops losing."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.kernel_kinds import BASELINE
from analysis.report.inputs import Catalogue, Inputs
from analysis.report.section import UNKNOWN, Block, Table, number
from analysis.scale_fits import MeasuredFamily, measured_families

_FOLDED_ABOVE = 12


def measured_blocks(inputs: Inputs, catalogue: Catalogue) -> list[Block]:
    """Return a table with a row per machine, engine, context, kernel and batch size; nothing below two model sizes.

    Args:
        inputs: chains of models of the table.
        catalogue: with the weights of the linear layers of those models.
    """
    weights = {key: model.weights for key, model in catalogue.models.items()}
    families = sorted(measured_families(inputs.records, weights), key=_place)
    if not families:
        return []
    return [
        Table(
            f"N* measured: whole hops against {BASELINE}, by models measured alike; sizes in G weights of linear "
            "layers, told apart by 95 % intervals",
            ("machine", "hops", "kernel", "B", "loses at", "wins at", "unclear", "N* measured"),
            tuple(_row(family) for family in families),
            is_numeric=False,
            is_folded=len(families) > _FOLDED_ABOVE,
        )
    ]


def _place(family: MeasuredFamily) -> tuple[str, str, int, str, str, int]:
    return (
        family.machine,
        family.engine or "",
        family.context or 0,
        family.mode,
        family.kernel,
        family.batch_size,
    )


def _row(family: MeasuredFamily) -> tuple[str, ...]:
    hops = [family.engine] if family.engine else []
    hops += [f"context {family.context}"] if family.context else []
    scale = family.scale
    places = (_sizes(sizes) for sizes in (scale.trapped, scale.free, family.unclear))
    words = (", ".join([*hops, family.mode]), family.kernel, str(family.batch_size))
    return (family.machine, *words, *places, _bracket_words(family))


def _bracket_words(family: MeasuredFamily) -> str:
    scale = family.scale
    if scale.brackets:
        return "; ".join(
            f"between {_giga(low)} and {_giga(high)}, {_giga(size)} by a line between them"
            for low, high, size in scale.brackets
        )
    if family.unclear:
        return "not told by the intervals"
    return f"none: {'wins' if scale.free else 'loses'} at every size measured"


def _sizes(sizes: Sequence[float]) -> str:
    return ", ".join(_giga(size) for size in sizes) or UNKNOWN


def _giga(size: float) -> str:
    return number(size / 1e9)
