"""Prop. 3.2 as a finite difference: how the Sustainability Index changes from one precision to the next."""

from __future__ import annotations

import re

import numpy as np

from analysis.report.colours import split_name, styles
from analysis.report.figure import Axis, Figure, Line, Mark, Panel
from analysis.report.inputs import ChainSamples, baseline_of
from analysis.report.section import Block, Table, Words, listed, number, slug, with_interval
from analysis.si_draws import DrawnIndex, VariantSamples, draw_index
from analysis.si_policy import divergence
from profiler.record import RunRecord, VariantResult

_NATIVE_BITS = 16
_TRAPS = {True: "trap: SI falls with the precision", False: "no trap: SI rises", None: "inconclusive"}
_SPREAD_BITS = 0.25


def divergence_blocks(
    record: RunRecord,
    rows: dict[str, VariantResult],
    samples: ChainSamples | None,
    model: str,
    machine: str,
) -> list[Block]:
    """Return the slope of the index over precisions, with intervals.

    Args:
        record: the chain.
        rows: its rows with all three indices, by kernel, the baseline among them.
        samples: what its samples say; None where it was given without them.
        model: what it is called on the page.
        machine: where it ran.
    """
    baseline = baseline_of(record)
    reference = rows.get(baseline)
    variants = {
        kernel: row
        for kernel, row in rows.items()
        if kernel != baseline and bits_of(kernel) is not None and reference is not None
        if row.batch_size == reference.batch_size and row.tps and row.peak_memory_bytes
    }
    if reference is None or not reference.tps or not reference.peak_memory_bytes:
        return []
    if not variants or bits_of(baseline) != _NATIVE_BITS:
        return []
    if samples is None:
        return [Words(f"The divergence of Prop. 3.2 needs the samples of {record.run_id}.")]
    drawn = {
        kernel: draw_index(row, reference, _of(samples, row), _of(samples, reference))
        for kernel, row in {baseline: reference, **variants}.items()
    }
    slopes = []
    for low, high in _pairs(list(variants), baseline):
        (slope,) = divergence(
            {
                float(_bits(low)): (drawn[low].point, drawn[low].draws),
                float(_bits(high)): (drawn[high].point, drawn[high].draws),
            }
        )
        interval = slope.si_per_bit
        ends = (interval.low, interval.high)
        slopes.append(
            (
                f"{low} → {high}",
                f"{_bits(low)} → {_bits(high)}",
                with_interval(1e3 * interval.point, (1e3 * ends[0], 1e3 * ends[1])),
                _TRAPS[slope.is_trap],
            )
        )
    fixed = sorted({part for kernel in variants for part in drawn[kernel].fixed})
    blocks: list[Block] = [
        _figure(drawn, baseline, model, machine),
        Table(
            f"Divergence of Prop. 3.2 as a finite difference at B = {reference.batch_size}, {record.run_id}",
            ("kernels", "bits", "∂SI/∂p, 1e-3 per bit [95 %]", "answer"),
            tuple(slopes),
            is_numeric=False,
        ),
    ]
    if fixed:
        blocks.append(
            Words(f"The intervals lack the noise of {listed(fixed)}, which the run measured once.", True)
        )
    return blocks


def bits_of(kernel: str) -> int | None:
    """Return the width of a kernel's codes by its name, 16 for bf16; None where the name does not say."""
    found = re.search(r"(?:bf|fp|nf|int)(\d+)", kernel)
    return None if found is None else int(found[1])


def _bits(kernel: str) -> int:
    return bits_of(kernel) or _NATIVE_BITS


def _of(samples: ChainSamples, row: VariantResult) -> VariantSamples:
    for batch in (row.batch_size, None):
        if (row.kernel, batch) in samples.variants:
            return samples.variants[row.kernel, batch]
    return VariantSamples()


def _pairs(variants: list[str], baseline: str) -> list[tuple[str, str]]:
    """Each variant against the baseline, then neighbouring widths of one scheme."""
    pairs = [(kernel, baseline) for kernel in variants if _bits(kernel) < _NATIVE_BITS]
    pairs += [
        (low, high)
        for low in variants
        for high in variants
        if _bits(low) < _bits(high) < _NATIVE_BITS and split_name(low)[0] == split_name(high)[0]
    ]
    return pairs


def _figure(drawn: dict[str, DrawnIndex], baseline: str, model: str, machine: str) -> Figure:
    look = styles(drawn)
    variants = [kernel for kernel in drawn if kernel != baseline]
    lines = []
    for kernel in variants:
        index = drawn[kernel]
        same = [name for name in variants if _bits(name) == _bits(kernel)]
        shift = _SPREAD_BITS * (same.index(kernel) - (len(same) - 1) / 2)
        low, high = sorted(float(end) for end in _ends(index))
        said = f"{kernel}: SI {with_interval(index.point, (low, high))}"
        lines.append(
            Line(
                kernel,
                (_bits(kernel) + shift, float(_NATIVE_BITS)),
                (index.point, drawn[baseline].point),
                look[kernel],
                (min(low, index.point), drawn[baseline].point),
                (max(high, index.point), drawn[baseline].point),
                hover=(said, f"{baseline}: SI {number(drawn[baseline].point)}"),
            )
        )
    widths = sorted({_bits(kernel) for kernel in drawn})
    panel = Panel(
        "a line that rises to the right is a trap",
        Axis("bits of a weight", ticks=tuple((float(w), str(w)) for w in widths), low=widths[0] - 1, high=17),
        Axis("SI (Eq. 6)"),
        tuple(lines),
        (Mark("y", drawn[baseline].point, "muted", baseline, dash="dot"),),
        height=320,
    )
    return Figure(
        f"divergence-{slug(machine)}-{slug(model)}",
        f"{model} on {machine}: the index over the precision",
        "; ".join(f"{kernel} {number(drawn[kernel].point)}" for kernel in drawn),
        (panel,),
        columns=1,
    )


def _ends(index: DrawnIndex) -> tuple[float, float]:
    low, high = np.quantile(index.draws, (0.025, 0.975))
    return float(low), float(high)
