"""Single calls: the roofline, and speed-up over rows of x against bf16 and other libraries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from analysis.kernel_kinds import BASELINE, GEMV
from analysis.report.colours import is_peer, split_name, styles
from analysis.report.figure import Axis, Figure, Line, Mark, Panel, Style
from analysis.report.inputs import Catalogue, Inputs
from analysis.report.section import Block, Missing, Section, Table, Words, number, slug
from analysis.report.ticks import decades, powers_of_two
from profiler.record import SweepRow

_MOST_SHAPES = 6
_COMMAND = "qt-profile sweep --peers"


def roofline_section(inputs: Inputs, catalogue: Catalogue) -> Section:
    """Return rooflines of each machine's sweeps, a panel per shape."""
    blocks: list[Block] = []
    for machine in inputs.machines:
        rows = [r for r in _timed(inputs, machine) if r.gb_s and r.flops and r.bytes_moved]
        rows = [r for r in rows if split_name(r.kernel)[0] != "unfused"]
        if rows:
            blocks += _rooflines(rows, inputs, machine, catalogue)
    if not blocks:
        blocks.append(Missing("No sweep was given", _COMMAND))
    return Section(
        "roofline",
        "Roofline",
        "Roofline",
        "Each point is a call: operations per byte moved, by the traffic model, against the rate reached. The "
        "sloped roof is the read bandwidth measured in the same run, the flat one the vendor's dense bf16 peak, which "
        "kernels that multiply in 8 bits may pass. "
        "Points of a line are m = 1, 2, 4 and so on, from the left.",
        tuple(blocks),
    )


def _rooflines(rows: list[SweepRow], inputs: Inputs, machine: str, catalogue: Catalogue) -> list[Block]:
    sweeps = inputs.of_kind("sweep", machine)
    reads = [_read_gb_s(record.derived) for record in sweeps]
    read = next((value for value in reversed(reads) if value), None)
    arch = next((row.arch for row in rows if row.arch), None)
    gpu = catalogue.gpus.get(arch or "")
    ours = [row for row in rows if not is_peer(row.kernel)]
    shapes, note = _shapes(ours)
    look = styles(row.kernel for row in ours)
    panels = []
    for n, k in shapes:
        own = [row for row in ours if (row.n, row.k) == (n, k)]
        lines = [
            _roof_line(own, kernel, look[kernel]) for kernel in look if any(r.kernel == kernel for r in own)
        ]
        xs = [x for line in lines for x in line.x]
        ys = [y for line in lines for y in line.y if y]
        low, high = min(xs) / 1.5, max(xs) * 1.5
        items = [*lines]
        if read:
            peak = (gpu.flops_per_s.get("bf16") or float("inf")) / 1e12 if gpu else float("inf")
            knee = peak / (read * 1e-3)
            bends = sorted({low, high, *([knee] if low < knee < high else [])})
            roof = tuple(min(read * 1e-3 * x, peak) for x in bends)
            name = f"read bandwidth {read:,.0f} GB/s" + (f", bf16 peak {peak:,.0f} TFLOP/s" if gpu else "")
            items.insert(0, Line(name, tuple(bends), roof, Style("ink", "solid", "none", 1.6)))
            ys += [y for y in roof]
        panels.append(
            Panel(
                f"n={n:,} k={k:,}",
                Axis("FLOP per byte", True, decades(xs)[::1], low, high),
                Axis("TFLOP/s", True, decades(ys), min(ys) / 1.4, max(ys) * 1.5),
                tuple(items),
            )
        )
    figure = Figure(
        f"roofline-{slug(machine)}",
        f"Roofline of {machine}",
        "Operations per byte against TFLOP/s, " + _best_share(ours),
        tuple(panels),
    )
    blocks: list[Block] = [figure]
    blocks += [Words(note)] if note else []
    blocks.append(_share_table(ours, shapes))
    if gpu is None:
        blocks.append(
            Words(f"The hardware table lacks {machine}, so no arithmetic peak is drawn.", is_warning=True)
        )
    return blocks


def _read_gb_s(derived: Mapping[str, object]) -> float | None:
    bandwidth = derived.get("read_bandwidth")
    value = bandwidth.get("read_gb_s_p50") if isinstance(bandwidth, dict) else None
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def _roof_line(rows: Sequence[SweepRow], kernel: str, style: Style) -> Line:
    own = sorted((row for row in rows if row.kernel == kernel), key=lambda row: row.m)
    return Line(
        kernel,
        tuple((row.flops or 0) / (row.bytes_moved or 1) for row in own),
        tuple((row.flops or 0) / (row.time_us_p50 or 1) * 1e-6 for row in own),
        style,
        hover=tuple(
            f"{kernel}, m = {row.m}: {number(row.time_us_p50)} µs, {number(row.gb_s)} GB/s" for row in own
        ),
    )


def _best_share(rows: Sequence[SweepRow]) -> str:
    first = [row for row in rows if row.m == min(r.m for r in rows) and row.read_bandwidth_share]
    best = max(first, key=lambda row: row.read_bandwidth_share or 0, default=None)
    if best is None:
        return "bandwidth was not measured in the run."
    share = 100 * (best.read_bandwidth_share or 0)
    return f"the best at m = {best.m} is {best.kernel} with {share:.0f} % of the measured read bandwidth."


def _share_table(rows: Sequence[SweepRow], shapes: Sequence[tuple[int, int]]) -> Table:
    least = min(row.m for row in rows)
    by_cell = {(row.kernel, row.n, row.k): row for row in rows if row.m == least}
    kernels = list(dict.fromkeys(row.kernel for row in rows))

    def cell(kernel: str, n: int, k: int) -> str:
        row = by_cell.get((kernel, n, k))
        if row is None or row.read_bandwidth_share is None:
            return "–"
        return f"{number(row.time_us_p50)} µs, {100 * row.read_bandwidth_share:.0f} %"

    return Table(
        f"Time (p50) and share of the measured read bandwidth at m = {least}",
        ("kernel", *(f"{n:,}×{k:,}" for n, k in shapes)),
        tuple((kernel, *(cell(kernel, n, k) for n, k in shapes)) for kernel in kernels),
        is_folded=True,
    )


def speedup_section(inputs: Inputs) -> Section:
    """Return speed-up over m, a figure per width of the weights."""
    blocks: list[Block] = []
    for machine in inputs.machines:
        rows = [row for row in _timed(inputs, machine) if row.speedup_p50]
        for bits in sorted({row.bits for row in rows if row.bits and row.bits < 16}):
            shown = [row for row in rows if row.bits == bits or row.kernel == GEMV]
            blocks += _speedups(shown, bits, machine)
    if not blocks:
        blocks.append(Missing("No sweep with a baseline was given", _COMMAND))
    elif not any(is_peer(row.kernel) for m in inputs.machines for row in _timed(inputs, m)):
        blocks.append(Missing("No other library's kernels were timed", _COMMAND))
    return Section(
        "speedup",
        "Speed-up",
        f"Speed-up over {BASELINE}, and against other libraries",
        f"Median time of {BASELINE} over that of the kernel, timed interleaved with cold weights; above 1 is "
        "faster. Dashed lines are other libraries and kernels that quantize x; bars are 95 % intervals.",
        tuple(blocks),
    )


def _speedups(rows: list[SweepRow], bits: int, machine: str) -> list[Block]:
    shapes, note = _shapes(rows)
    kernels = sorted(dict.fromkeys(row.kernel for row in rows), key=_order)
    look = styles(kernels)
    top = max(row.speedup_p50 or 0 for row in rows)
    panels = []
    for n, k in shapes:
        own = [row for row in rows if (row.n, row.k) == (n, k)]
        ms = sorted({row.m for row in own})
        lines = tuple(
            _speed_line(own, kernel, look[kernel])
            for kernel in kernels
            if any(r.kernel == kernel for r in own)
        )
        ends = (0.85 * ms[0], 1.18 * ms[-1])
        panels.append(
            Panel(
                f"n={n:,} k={k:,}",
                Axis("m, rows of x", True, _spread(ms), *ends),
                Axis("times bf16's speed", low=0, high=1.08 * max(top, 1.0)),
                lines,
                (Mark("y", 1.0, "bf16", dash="solid"),),
            )
        )
    best = max((row for row in rows if row.bits == bits), key=lambda row: row.speedup_p50 or 0)
    figure = Figure(
        f"speedup-{slug(machine)}-{bits}bit",
        f"{bits}-bit weights on {machine}: speed-up over {BASELINE}",
        f"Largest: {best.kernel} with {number(best.speedup_p50)} at m = {best.m}, n = {best.n}, k = {best.k}.",
        tuple(panels),
    )
    return [figure, *([Words(note)] if note else []), _speed_table(rows, kernels, bits)]


def _order(kernel: str) -> tuple[int, str]:
    scheme = split_name(kernel)[0]
    return (("fused", "native", "unfused", "null").index(scheme) if scheme else 4, kernel)


def _spread(ms: Sequence[int]) -> tuple[tuple[float, str], ...]:
    """Ticks at the measured rows, thinned where many stand close."""
    return powers_of_two(ms)


def _speed_line(rows: Sequence[SweepRow], kernel: str, style: Style) -> Line:
    own = sorted((row for row in rows if row.kernel == kernel), key=lambda row: row.m)
    ends = [row.speedup_ci95 or (row.speedup_p50 or 0.0,) * 2 for row in own]
    return Line(
        kernel,
        tuple(float(row.m) for row in own),
        tuple(row.speedup_p50 for row in own),
        style,
        tuple(low for low, _ in ends),
        tuple(high for _, high in ends),
        hover=tuple(
            f"{kernel}, m = {row.m}: {number(row.speedup_p50)} × {BASELINE}, {number(row.time_us_p50)} µs"
            for row in own
        ),
    )


def _speed_table(rows: Sequence[SweepRow], kernels: Iterable[str], bits: int) -> Table:
    lines = []
    for kernel in kernels:
        for row in sorted((r for r in rows if r.kernel == kernel), key=lambda r: (r.n * r.k, r.m)):
            peer = "–"
            if row.best_peer and row.best_peer_speedup_p50:
                peer = f"{number(row.best_peer_speedup_p50)} × {row.best_peer}"
            share = "–" if row.weight_floor_share is None else f"{100 * row.weight_floor_share:.0f} %"
            lines.append(
                (
                    kernel,
                    f"{row.n:,}×{row.k:,}",
                    str(row.m),
                    number(row.time_us_p50),
                    number(row.speedup_p50),
                    peer,
                    share,
                )
            )
    head = ("kernel", "n×k", "m", "time_us_p50", "speed-up", "against the best peer", "of the weight floor")
    return Table(f"{bits}-bit weights in numbers", head, tuple(lines), is_folded=True)


def _timed(inputs: Inputs, machine: str) -> list[SweepRow]:
    """Rows whose result means something."""
    return [row for row in inputs.cells(machine).values() if row.gate == "passed"]


def _shapes(rows: Sequence[SweepRow]) -> tuple[list[tuple[int, int]], str]:
    """The largest shapes, the smallest of them first, and what to say where some are left out."""
    found = sorted({(row.n, row.k) for row in rows}, key=lambda shape: shape[0] * shape[1])
    if len(found) <= _MOST_SHAPES:
        return found, ""
    return found[-_MOST_SHAPES:], f"The {_MOST_SHAPES} largest of {len(found)} shapes are drawn."
