"""Where the time of a hop goes, from the reference to the fused kernel: what is saved and what is added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from analysis.report.colours import role_of
from analysis.report.figure import Axis, Bars, Figure, Panel
from analysis.report.inputs import Inputs, baseline_of, variants_of
from analysis.report.section import Block, Missing, Section, Table, Words, number, slug
from profiler.record import RunRecord

_SUMS_TO = 0.05
_MOST_PANELS = 9
# (field, label, sign, role): what a step is called, which way it goes, its colour.
_STEPS = (
    ("saving_ms", "smaller weights", -1, "good"),
    ("exposed_cast_ms", "decoding", 1, "bad"),
    ("host_ms", "host", 1, "warn"),
    ("other_ms", "other", 1, "muted"),
)


@dataclass(frozen=True)
class Fall:
    """One waterfall, ms per hop.

    Attributes:
        kernel: the variant.
        batch_size: sequences decoded together.
        figures: by field name.
        intervals: of some of them, likewise.
        run_id: the run that it is from.
    """

    kernel: str
    batch_size: int | None
    figures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    run_id: str


def waterfall_section(inputs: Inputs) -> Section:
    """Return the waterfalls of every chain with an ablation."""
    blocks: list[Block] = []
    for machine in inputs.machines:
        for model, records in inputs.chains(machine).items():
            falls, baseline = _newest(records)
            if falls:
                blocks += _blocks(falls, baseline, model, machine)
    if not blocks:
        blocks.append(
            Missing(
                "No chain with replayed hops of the reference, the fused and the null kernel was given",
                "qt-profile chain --kernel fused_nf4 --ablation 4",
            )
        )
    return Section(
        "waterfall",
        "Waterfall",
        "From the reference to the fused kernel",
        "Median time of the same replayed hops. The null kernel moves the same bytes and does not decode, so the "
        "difference to the reference is what smaller weights save, and the difference to the fused kernel what "
        "decoding adds.",
        tuple(blocks),
    )


def _newest(records: list[RunRecord]) -> tuple[list[Fall], str]:
    """The newest waterfall of each kernel and batch size against the newest baseline, and that baseline."""
    by_record = [(baseline_of(record), falls) for record in records if (falls := list(_falls(record)))]
    if not by_record:
        return [], ""
    baseline = by_record[-1][0]
    found = {(f.kernel, f.batch_size): f for other, falls in by_record if other == baseline for f in falls}
    return sorted(found.values(), key=lambda fall: fall.batch_size or 0), baseline


def _falls(record: RunRecord) -> Iterator[Fall]:
    """The waterfalls of a record, by batch size where it holds several."""
    by_size = record.derived.get("by_batch_size")
    if isinstance(by_size, dict) and by_size:
        for size, derived in by_size.items():
            if isinstance(derived, dict):
                yield from _falls_of(derived.get("waterfall"), int(size), record.run_id)
        return
    sizes = {row.batch_size for row in variants_of(record)}
    only = sizes.pop() if len(sizes) == 1 else None
    yield from _falls_of(record.derived.get("waterfall"), only, record.run_id)


def _falls_of(found: object, batch_size: int | None, run_id: str) -> Iterator[Fall]:
    for kernel, parts in found.items() if isinstance(found, dict) else ():
        is_variant = not str(kernel).startswith("null_")
        if is_variant and isinstance(parts, dict) and {"reference_ms", "variant_ms"} <= parts.keys():
            figures = {name: float(v) for name, v in parts.items() if isinstance(v, (int, float))}
            ends = {
                name.removesuffix("_ci95"): (float(v[0]), float(v[1]))
                for name, v in parts.items()
                if name.endswith("_ci95") and isinstance(v, list) and len(v) == 2
            }
            yield Fall(str(kernel), batch_size, figures, ends, run_id)


def _blocks(falls: list[Fall], baseline: str, model: str, machine: str) -> list[Block]:
    shown = _chosen(falls)
    figure = Figure(
        f"waterfall-{slug(machine)}-{slug(model)}",
        f"{model} on {machine}: time per hop, ms (p50)",
        "; ".join(
            f"{f.kernel}{_at(f)}: {number(f.figures['reference_ms'])} ms to {number(f.figures['variant_ms'])} ms"
            for f in shown
        ),
        tuple(_panel(fall, baseline) for fall in shown),
    )
    blocks: list[Block] = [figure]
    runs = len({fall.run_id for fall in falls})
    if runs > 1:
        blocks.append(Words(f"From {runs} runs: of each kernel and batch size the newest."))
    if len(shown) < len(falls):
        blocks.append(Words(f"{len(shown)} of {len(falls)} are drawn; the table has all of them."))
    blocks.append(_table(falls, baseline))
    blocks += [Words(warning, is_warning=True) for fall in falls for warning in _doubts(fall)]
    return blocks


def _chosen(falls: list[Fall]) -> list[Fall]:
    """Every kernel at the smallest, the middle and the largest batch, as far as panels go."""
    sizes = sorted({fall.batch_size or 0 for fall in falls})
    wanted = {sizes[0], sizes[len(sizes) // 2], sizes[-1]}
    fused = [f for f in falls if f.kernel.startswith("fused_")] or falls
    return [f for f in fused if (f.batch_size or 0) in wanted][:_MOST_PANELS]


def _at(fall: Fall) -> str:
    return "" if fall.batch_size is None else f", B = {fall.batch_size}"


def _panel(fall: Fall, baseline: str) -> Panel:
    figures = fall.figures
    steps = [(baseline, 0.0, figures["reference_ms"], role_of(baseline))]
    level = figures["reference_ms"]
    for field, label, sign, role in _STEPS:
        change = sign * figures.get(field, 0.0)
        if field in figures and (change or field in ("saving_ms", "exposed_cast_ms")):
            # A saving below 0 costs, and a negative cast is noise or hiding: the colour follows the direction.
            tone = ("bad" if change > 0 else "good") if role in ("good", "bad") else role
            name = "null kernel" if field == "saving_ms" and change > 0 else label
            steps.append((name, level, level + change, tone))
            level += change
    steps.append((fall.kernel, 0.0, figures["variant_ms"], role_of(fall.kernel)))
    bars = []
    for place, (label, begin, end, role) in enumerate(steps):
        is_step = 0 < place < len(steps) - 1
        change = end - begin
        text = f"{'+' if is_step and change >= 0 else ''}{number(change, 2 if is_step else 3)}"
        # Bars are drawn upwards, so that the number stands above them whichever way the step goes.
        low, high = sorted((begin, end))
        hover = (f"{label}: {text} ms",)
        bars.append(Bars(label, (float(place),), (high,), role, 0.72, (low,), (), (), (text,), hover, False))
    ticks = tuple((float(i), _wrapped(step[0])) for i, step in enumerate(steps))
    top = max(max(begin, end) for _, begin, end, _ in steps)
    lowest = min(0.0, *(min(begin, end) for _, begin, end, _ in steps))
    return Panel(
        f"{fall.kernel}{_at(fall)}",
        Axis(ticks=ticks, low=-0.6, high=len(steps) - 0.4, has_grid=False),
        Axis("ms per hop", low=1.1 * lowest, high=1.14 * top),
        tuple(bars),
    )


def _wrapped(label: str) -> str:
    return label.replace("_", "\n").replace(" ", "\n")


def _table(falls: list[Fall], baseline: str) -> Table:
    fields = [step for step in _STEPS if any(step[0] in fall.figures for fall in falls)]
    head = ("kernel", "B", f"{baseline}, ms_p50", *(f"{step[1]}, ms" for step in fields), "variant, ms_p50")
    rows = []
    for fall in falls:
        steps = (_step(fall, field, sign) for field, _, sign, _ in fields)
        rows.append(
            (
                fall.kernel,
                number(fall.batch_size),
                number(fall.figures["reference_ms"]),
                *steps,
                number(fall.figures["variant_ms"]),
            )
        )
    return Table("The same in numbers", head, tuple(rows), is_folded=True)


def _step(fall: Fall, field: str, sign: int) -> str:
    """A change in ms with its interval, up or down."""
    if field not in fall.figures:
        return "–"
    change = sign * fall.figures[field]
    text = f"{'+' if change > 0 else ''}{number(change)}"
    if field in fall.intervals:
        low, high = sorted(sign * end for end in fall.intervals[field])
        text += f" [{number(low)}, {number(high)}]"
    return text


def _doubts(fall: Fall) -> Iterator[str]:
    figures = fall.figures
    total = figures["reference_ms"] + sum(sign * figures.get(field, 0.0) for field, _, sign, _ in _STEPS)
    if figures.get("adds_up") == 0:
        yield (
            f"{fall.run_id}, {fall.kernel}{_at(fall)}: the linear layers' own times do not explain the variant's hop "
            f"within {100 * _SUMS_TO:.0f} %."
        )
    off = abs(total - figures["variant_ms"])
    if off > _SUMS_TO * figures["variant_ms"]:
        yield (
            f"{fall.run_id}, {fall.kernel}{_at(fall)}: the steps add up to {number(total)} ms, measured were "
            f"{number(figures['variant_ms'])} ms."
        )
