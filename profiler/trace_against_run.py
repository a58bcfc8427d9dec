"""Compares a trace with the run record of the command it traced: device time of the linears by both, hop by hop.

A run times the linears by ranges of its own (:class:`profiler.record.RangeSample`), in a replay that a trace shows as
``timed_ranges``. The same launches seen by Nsight Systems are the proof of those times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from profiler.nsys_trace import Figures, HopRow, TraceReading
from profiler.range_cost import RANGE_COST, TWO_KERNELS
from profiler.record import RangeSample, RecordError, load_run
from profiler.timing import median

_PASS = ("timed_ranges", "query")
_NS = 1e9
_NONE = "–"
_Pass = dict[int, Any]


@dataclass(frozen=True)
class HopPair:
    """The linears of one hop by the trace and by the run, ns.

    Attributes:
        kernel: what ran the linears.
        batch: pass over a batch, from 0, in the order in which they ran.
        hop: hop of the batch, from 0.
        kernels: device kernels that the trace has in the linears.
        trace_cast_ns: durations of the kernels in ``tau_cast``; None without such ranges.
        trace_comp_ns: of those in ``tau_comp``; None without such ranges.
        trace_linear_ns: of all kernels in the linears.
        own_cast_ns: the run's figures of the same.
        own_comp_ns: see ``own_cast_ns``.
        own_linear_ns: see ``own_cast_ns``.
    """

    kernel: str
    batch: int
    hop: int
    kernels: int
    trace_cast_ns: int | None
    trace_comp_ns: int | None
    trace_linear_ns: int
    own_cast_ns: float | None
    own_comp_ns: float | None
    own_linear_ns: float

    @property
    def ratio(self) -> float:
        """The run's time over the durations of the trace's kernels."""
        return self.own_linear_ns / self.trace_linear_ns

    def ratio_with_gaps(self, gap_ns: float) -> float:
        """The run's time over durations and a gap ahead of each kernel, which the run's time holds."""
        return self.own_linear_ns / (self.trace_linear_ns + self.kernels * gap_ns)


@dataclass(frozen=True)
class Comparison:
    """All hops that a trace and a run share.

    Attributes:
        run: the run's folder.
        gap_ns: mean gap between two kernels that follow each other, from the measurement of the ranges' cost; None
            where the trace has none.
        range_cost_ns: what the run has taken off each range; None where it has taken nothing.
        hops: by kernel, in order of time.
    """

    run: Path
    gap_ns: float | None
    range_cost_ns: float | None
    hops: tuple[HopPair, ...]

    def ratios_p50(self) -> dict[str, tuple[float, float | None]]:
        """Medians by kernel: the ratio, and the ratio with gaps, None where the gap is not known."""
        return {
            kernel: (
                median([pair.ratio for pair in pairs]),
                None if self.gap_ns is None else median([p.ratio_with_gaps(self.gap_ns) for p in pairs]),
            )
            for kernel, pairs in self._by_kernel().items()
        }

    def as_json(self) -> dict[str, Any]:
        """Times in ns, ratios of every hop and their medians."""
        return {
            "run": self.run.name,
            "gap_ns": self.gap_ns,
            "range_cost_ns": self.range_cost_ns,
            "ratio_p50": {kernel: both[0] for kernel, both in self.ratios_p50().items()},
            "ratio_with_gaps_p50": {kernel: both[1] for kernel, both in self.ratios_p50().items()},
            "hops": [asdict(pair) | {"ratio": pair.ratio} for pair in self.hops],
        }

    def _by_kernel(self) -> dict[str, list[HopPair]]:
        found: dict[str, list[HopPair]] = {}
        for pair in self.hops:
            found.setdefault(pair.kernel, []).append(pair)
        return found


def compare_with_run(reading: TraceReading, run: Path) -> Comparison:
    """Match the hops of a trace's ``timed_ranges`` with a run's range samples.

    Args:
        reading: of the trace.
        run: folder of the run that was traced.

    Returns:
        The comparison; hops that only one of the two has are left out.

    Raises:
        ValueError: the run cannot be read or has no range samples, the trace has no such hops, they have no kernel in
            common, or not the same number of batches.
    """
    samples = _range_samples(run)
    if not samples:
        raise ValueError(
            f"{run} has 0 samples of ranges to compare {reading.path} with; a chain with --ablation has them"
        )
    traced, own = _traced_passes(reading.hops), _own_passes(samples)
    if not traced:
        raise ValueError(
            f"{reading.path} has {len(reading.hops)} hops, none of them with kernels in the linears and inside "
            f"{'/'.join(_PASS)}, where {run} timed its ranges"
        )
    shared = [kernel for kernel in own if kernel in traced]
    if not shared:
        raise ValueError(
            f"{reading.path} shows {', '.join(traced)}, {run} has timed {', '.join(own)}: no kernel in common"
        )
    pairs: list[HopPair] = []
    for kernel in shared:
        if len(traced[kernel]) != len(own[kernel]):
            raise ValueError(
                f"{reading.path} shows {len(traced[kernel])} batches of {kernel}, {run} has timed {len(own[kernel])}"
            )
        both = zip(traced[kernel], own[kernel], strict=True)
        for batch, (figures, timed) in enumerate(both):
            pairs += [_pair(kernel, batch, hop, figures[hop], timed[hop]) for hop in timed if hop in figures]
    if not pairs:
        raise ValueError(f"{reading.path} and {run} have no hop of {', '.join(shared)} in common")
    costs = {sample.range_cost_s for sample in samples if sample.range_cost_s}
    cost_ns = median([cost * _NS for cost in costs]) if costs else None
    return Comparison(run, _gap_ns(reading), cost_ns, tuple(pairs))


def _range_samples(run: Path) -> list[RangeSample]:
    """Read a run; one that cannot be read is a bad argument here."""
    try:
        samples = load_run(run)[1]
    except RecordError as error:
        raise ValueError(str(error)) from error
    return [sample for sample in samples if isinstance(sample, RangeSample)]


def _pair(kernel: str, batch: int, hop: int, figures: Figures, own: RangeSample) -> HopPair:
    return HopPair(
        kernel=kernel,
        batch=batch,
        hop=hop,
        kernels=figures.linear_kernels,
        trace_cast_ns=figures.cast_ns,
        trace_comp_ns=figures.comp_ns,
        trace_linear_ns=figures.linear_ns or 0,
        own_cast_ns=None if own.cast_s is None else own.cast_s * _NS,
        own_comp_ns=None if own.comp_s is None else own.comp_s * _NS,
        own_linear_ns=own.linear_s * _NS,
    )


def _traced_passes(hops: Iterable[HopRow]) -> dict[str, list[_Pass]]:
    """Figures by hop, of every batch in turn, by kernel; a batch of one hop is none, since it is never compared."""
    found: dict[str, list[_Pass]] = defaultdict(list)
    last: dict[str, int] = {}
    for hop in hops:
        if hop.path[-4:-2] != _PASS or hop.index is None or not hop.figures.linear_ns:
            continue
        kernel = hop.path[-2]
        if kernel not in last or hop.index <= last[kernel]:
            found[kernel].append({})
        found[kernel][-1][hop.index] = hop.figures
        last[kernel] = hop.index
    several = {kernel: [one for one in passes if len(one) > 1] for kernel, passes in found.items()}
    return {kernel: passes for kernel, passes in several.items() if passes}


def _own_passes(samples: Iterable[RangeSample]) -> dict[str, list[_Pass]]:
    found: dict[str, dict[tuple[int | None, int], _Pass]] = defaultdict(dict)
    for sample in samples:
        place = (sample.batch_size, sample.batch_index)
        found[sample.kernel].setdefault(place, {})[sample.hop] = sample
    return {kernel: list(passes.values()) for kernel, passes in found.items()}


def _gap_ns(reading: TraceReading) -> float | None:
    """Mean gap of the pairs of kernels in the measurement of the ranges' cost; a gap per pair."""
    rows = [row for row in reading.rows if row.path[-2:] == (RANGE_COST, TWO_KERNELS)]
    gaps = sum(row.figures.kernels - row.instances for row in rows)
    return sum(row.figures.gap_ns for row in rows) / gaps if gaps > 0 else None


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a row per hop and the medians."""
    console.print(hop_table(comparison.hops))
    gap = "" if comparison.gap_ns is None else f", a gap between kernels {_us(comparison.gap_ns)} µs"
    cost = comparison.range_cost_ns
    taken = "nothing was taken off the ranges" if cost is None else f"taken off each range {_us(cost)} µs"
    console.print(f"{comparison.run.name}: {taken}{gap}", soft_wrap=True)
    for kernel, (ratio, with_gaps) in comparison.ratios_p50().items():
        gaps = "" if with_gaps is None else f", own / (trace + gaps) {with_gaps:.3f}"
        console.print(f"{kernel}: own / trace {ratio:.3f}{gaps}, medians of the hops", soft_wrap=True)


def hop_table(pairs: Sequence[HopPair]) -> Table:
    """A row per hop: the trace's figures, the run's, and the ratio of the linears."""
    table = Table(title="linears of one hop, by the trace and by the run's own ranges", title_justify="left")
    table.add_column("kernel", overflow="fold")
    figures = ("cast_us", "comp_us", "linear_us")
    columns = [f"{who}_{name}" for who in ("trace", "own") for name in figures]
    for heading in ("batch", "hop", "kernels", *columns, "own/trace"):
        table.add_column(heading, justify="right")
    for pair in pairs:
        table.add_row(
            pair.kernel,
            str(pair.batch),
            str(pair.hop),
            f"{pair.kernels:,}",
            _us(pair.trace_cast_ns),
            _us(pair.trace_comp_ns),
            _us(pair.trace_linear_ns),
            _us(pair.own_cast_ns),
            _us(pair.own_comp_ns),
            _us(pair.own_linear_ns),
            f"{pair.ratio:.3f}",
        )
    return table


def _us(ns: float | None) -> str:
    return _NONE if ns is None else f"{ns / 1e3:,.2f}"
