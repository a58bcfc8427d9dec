"""The paper's Sustainability Index as a picture: the three indices, the Pareto front, what the weights decide."""

from __future__ import annotations

import math

from analysis.chain_indices import LOG_UNIT, geometric_index, log_energy_index
from analysis.report.colours import styles
from analysis.report.divergences import divergence_blocks
from analysis.report.figure import Axis, Figure, Label, Line, Panel, Style
from analysis.report.inputs import Inputs, baseline_of, variants_of
from analysis.report.section import Block, Missing, Section, Table, Words, listed, number, percent, slug
from analysis.si_policy import Indices, pareto_front, weight_sensitivity
from profiler.record import RunRecord, VariantResult

_CORNERS = (("trust", 90.0), ("economy", 210.0), ("energy", 330.0))
_RINGS = 4


def index_section(inputs: Inputs) -> Section:
    """Return the indices of every chain that has all three."""
    blocks: list[Block] = []
    for machine in inputs.machines:
        for model, records in inputs.chains(machine).items():
            record = max(reversed(records), key=lambda one: len(_indexed(variants_of(one))))
            rows = _indexed(variants_of(record))
            if len(rows) > 1:
                blocks += _blocks(record, rows, model, machine)
                own = inputs.samples.get(record.run_id)
                blocks += divergence_blocks(record, rows, own, model, machine)
    if not blocks:
        blocks.append(
            Missing(
                "No chain with accuracy, memory, throughput and energy of two variants was given",
                "qt-profile chain --model tiny --kernel fused_nf4",
            )
        )
    return Section(
        "si",
        "SI",
        "Sustainability Index and Pareto front",
        "T_SI (Eq. 2), E_SI (Eq. 3) and S_SI of the paper, each against the reference at 1. The paper places them in "
        "[0, 1]; its formulas leave that range, and values are shown as they come out. Figures, front, weightings and "
        f"both SI take the linear S_SI. The log form (Eq. 5) depends on the unit: it is taken in {LOG_UNIT.value} at "
        "γ = 1, which gives the paper's example; of energies far below that unit it is the linear form cut off at 1.",
        tuple(blocks),
    )


def _indexed(rows: list[VariantResult]) -> dict[str, VariantResult]:
    """Rows with all three indices at the smallest batch that has them."""
    found: dict[str, VariantResult] = {}
    for row in sorted(rows, key=lambda row: row.batch_size):
        if None not in (row.t_si, row.e_si, row.s_si):
            found.setdefault(row.kernel, row)
    return found


def _blocks(record: RunRecord, rows: dict[str, VariantResult], model: str, machine: str) -> list[Block]:
    indices = {
        k: Indices(max(0, r.t_si or 0), max(0, r.e_si or 0), max(0, r.s_si or 0)) for k, r in rows.items()
    }
    front = pareto_front(indices)
    linear, geometric = (weight_sensitivity(indices, is_geometric=chosen).wins for chosen in (False, True))
    figure = Figure(
        f"si-{slug(machine)}-{slug(model)}",
        f"{model} on {machine}: trust, economy, energy",
        f"On the Pareto front: {listed(front)}.",
        (
            _radar(indices),
            _scatter(indices, front, "economy", "E_SI, economy"),
            _scatter(indices, front, "energy", "S_SI, energy"),
        ),
    )
    table = Table(
        "Indices; SI with the weights (0.34, 0.33, 0.33)",
        (
            "kernel",
            "T_SI",
            "E_SI",
            "S_SI, linear",
            f"S_SI, log, {LOG_UNIT.value}",
            "SI, linear",
            "SI, geometric",
        ),
        tuple(
            (
                kernel,
                number(row.t_si),
                number(row.e_si),
                number(row.s_si),
                number(log_energy_index(row, _reference(record, row))),
                number(row.si),
                number(geometric_index(row)),
            )
            for kernel, row in rows.items()
        ),
    )
    weightings = Table(
        "Share of all weightings at which each variant comes first",
        ("kernel", "SI, linear", "SI, geometric", "on the front"),
        tuple(
            (k, percent(linear[k], 0), percent(geometric[k], 0), "yes" if k in front else "no") for k in rows
        ),
    )
    blocks: list[Block] = [figure, table, weightings]
    if any(row.energy_is_estimate for row in rows.values()):
        blocks.append(
            Words(
                "Energy is rated power times time (HLI), so S_SI repeats E_SI's throughput and is no evidence.",
                True,
            )
        )
    return blocks


def _reference(record: RunRecord, row: VariantResult) -> VariantResult | None:
    """The baseline's row that the indices of this one were formed against."""
    wanted = (baseline_of(record), row.batch_size, row.mode)
    return next((r for r in variants_of(record) if (r.kernel, r.batch_size, r.mode) == wanted), None)


def _radar(indices: dict[str, Indices]) -> Panel:
    look = styles(indices)
    reach = max(max(v.trust, v.economy, v.energy) for v in indices.values()) or 1.0
    ring = max(0.25, math.ceil(4 * reach / _RINGS) / 4)
    full = ring * _RINGS
    items = [
        Line(
            f"{ring * i:g}",
            *_polygon((ring * i,) * 3),
            Style("grid", "solid", "none", 1),
            is_named=False,
            is_closed=True,
        )
        for i in range(1, _RINGS + 1)
    ]
    for name, value in indices.items():
        said = tuple(f"{name}, {corner}: {number(getattr(value, corner))}" for corner, _ in _CORNERS)
        x, y = _polygon((value.trust, value.economy, value.energy))
        items.append(
            Line(name, x, y, Style(look[name].role, look[name].dash, "circle", 2), hover=said, is_closed=True)
        )
    labels = [
        Label(0, 1.1 * full, "trust"),
        Label(-0.92 * full, -0.68 * full, "economy"),
        Label(0.92 * full, -0.68 * full, "energy"),
    ]
    labels += [Label(0.05 * full, ring * i, f"{ring * i:g}", anchor="left") for i in range(1, _RINGS + 1)]
    axis = Axis(low=-1.3 * full, high=1.3 * full, is_hidden=True)
    return Panel(
        "three indices",
        axis,
        Axis(low=-0.85 * full, high=1.25 * full, is_hidden=True),
        tuple(items),
        (),
        tuple(labels),
        is_square=True,
    )


def _polygon(values: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    angles = [math.radians(angle) for _, angle in _CORNERS]
    return (
        tuple(v * math.cos(a) for v, a in zip(values, angles, strict=True)),
        tuple(v * math.sin(a) for v, a in zip(values, angles, strict=True)),
    )


def _scatter(indices: dict[str, Indices], front: tuple[str, ...], field: str, title: str) -> Panel:
    look = styles(indices)
    items = []
    for name, value in indices.items():
        x, y = getattr(value, field), value.trust
        said = f"{name}: {title} {number(x)}, T_SI {number(y)}" + (", on the front" if name in front else "")
        style = Style(look[name].role, "none", look[name].marker)
        items.append(Line(name, (x,), (y,), style, hover=(said,), is_hollow=name not in front))
    xs, ys = [getattr(v, field) for v in indices.values()], [v.trust for v in indices.values()]
    return Panel(
        f"trust over {field} (hollow: beaten)",
        _around(title, xs),
        _around("T_SI, trust", ys),
        tuple(items),
    )


def _around(title: str, values: list[float]) -> Axis:
    pad = 0.15 * (max(values) - min(values)) or 0.05
    return Axis(title, low=min(values) - pad, high=max(values) + pad)
