"""Reads a trace of Nsight Systems: what every NVTX range cost on the device, τ_cast, τ_comp and COR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from profiler.nsys_device import CAST, COMP, DevicePass, DeviceTotals, DeviceWork
from profiler.nsys_export import Export, reading
from profiler.nsys_launches import Launches, LaunchPass, prepare
from profiler.nsys_schema import Schema
from profiler.nvtx import DOMAIN

ALL_DOMAINS = "all"


@dataclass(frozen=True)
class Figures:
    """Sums over one range or several, inner ranges included."""

    launches: int
    """Calls that started kernels; the replay of a CUDA graph is one."""
    kernels: int
    """Kernels that ran."""
    wall_ns: int | None
    """Host time from the start to the end of the ranges; None where they exist on the device alone."""
    device_ns: int
    """Sum of the kernels' durations."""
    busy_ns: int
    """Time in which at least one kernel, copy or set of the range ran: below ``device_ns`` where they overlap."""
    gap_ns: int
    """Time between a range's first and last activity in which none of its activities ran."""
    copy_ns: int
    """Sum of the durations of copies and sets of memory."""
    cast_ns: int | None
    """Device time inside ``tau_cast``; None without kernels in such a range."""
    comp_ns: int | None
    """Device time inside ``tau_comp``; None without kernels in such a range."""
    linear_ns: int | None
    """Device time inside ``tau_cast``, ``tau_comp`` and ``linear``; None without kernels in any of them."""
    linear_kernels: int
    """Kernels that ran in it."""

    @property
    def cor_direct(self) -> float | None:
        """τ_cast / τ_comp; None where either is missing."""
        return None if self.cast_ns is None or not self.comp_ns else self.cast_ns / self.comp_ns

    @property
    def host_bound_share(self) -> float | None:
        """Gaps over gaps and busy time: how much of it the device waited for the host; None without activities."""
        span_ns = self.gap_ns + self.busy_ns
        return self.gap_ns / span_ns if span_ns else None


@dataclass(frozen=True)
class RangeRow:
    """All ranges of one name inside ranges of the same names, in one process."""

    process: int
    """Process number."""
    path: tuple[str, ...]
    """Names from the outermost range to this one."""
    instances: int
    """How often the range was opened; for ranges of a capture, how many launches brought them in."""
    figures: Figures
    """Sums over the instances."""


@dataclass(frozen=True)
class HopRow:
    """One hop."""

    process: int
    """Process number."""
    path: tuple[str, ...]
    """Names from the outermost range to the hop."""
    index: int | None
    """Payload of the range, else the number in its name."""
    start_ns: int
    """Start on the host, on the trace's clock."""
    figures: Figures
    """Of this hop."""


@dataclass(frozen=True)
class AblationRow:
    """τ of a fused kernel by its null twin in the same surroundings; per hop, because a fused kernel has no ranges."""

    process: int
    """Process number."""
    kernel: str
    """The fused kernel."""
    within: tuple[str, ...]
    """Ranges around both kernels' ranges."""
    hops: int
    """Hops of the fused kernel."""
    comp_ns_mean: float
    """τ_comp: device time of the null kernel's linears per hop."""
    cast_ns_mean: float
    """τ_cast: device time of the fused kernel's linears per hop, less τ_comp."""


@dataclass(frozen=True)
class TraceReading:
    """What a trace says."""

    path: Path
    """The export."""
    product_version: str | None
    """Version of nsys that made it."""
    gpus: tuple[str, ...]
    """GPUs of the machine."""
    domain: str
    """NVTX domain whose ranges were read, or ``all``."""
    rows: tuple[RangeRow, ...]
    """By process, in order of first appearance."""
    hops: tuple[HopRow, ...]
    """In order of time."""
    ablations: tuple[AblationRow, ...]
    """Fused kernels whose null twin was traced beside them."""
    outside: Figures
    """Launched outside every range."""
    warnings: tuple[str, ...]
    """What makes the figures less than they seem."""


@dataclass(frozen=True)
class OpenTrace:
    """A trace whose temporary tables are still there, for pictures of it."""

    reading: TraceReading
    schema: Schema
    launches: Launches
    hop_ends: Mapping[int, int]
    """When the device was done with a hop, by the hop's range id, ns."""


def read_trace(path: Path, *, domain: str | None = None, layers: bool = False) -> TraceReading:
    """Read an export; see :func:`open_trace`."""
    with open_trace(path, domain=domain, layers=layers) as trace:
        return trace.reading


@contextmanager
def open_trace(path: Path, *, domain: str | None = None, layers: bool = False) -> Iterator[OpenTrace]:
    """Read an export in bounded memory; the file itself is never written to.

    A kernel belongs to the innermost push/pop range around the call that launched it, on the thread that called. One
    that a CUDA graph launched belongs to the range that was open when it was captured, inside the range of the replay.

    Args:
        path: made by ``nsys export --type sqlite``.
        domain: NVTX domain, or ``all``; by default ``qt-profile`` where the trace has it, else all.
        layers: keep ``layer.<i>`` apart instead of adding them up as ``layer.*``.

    Yields:
        The trace.

    Raises:
        ValueError: the file is no such export, empty, truncated, damaged or without NVTX ranges, or has no such domain.
        OSError: the temporary folder is full.
    """
    with Export(path) as export, reading(path):
        schema = Schema(export)
        chosen = _choose_domain(schema, domain)
        _refuse_without_ranges(schema, chosen)
        export.db.execute("BEGIN")
        prepare(export.db, schema)
        launches = LaunchPass(schema, fold_layers=not layers, filtered=chosen != ALL_DOMAINS).run()
        work = DevicePass(schema, launches).run()
        reading_of = _reading(export, schema, launches, work, chosen)
        yield OpenTrace(reading_of, schema, launches, work.hop_ends)


def _choose_domain(schema: Schema, wanted: str | None) -> str:
    """Fill the table ``main.domain`` and return the domain's name."""
    schema.export.db.execute("CREATE TABLE main.domain (process INTEGER, number INTEGER)")
    if not schema.has_ranges or wanted == ALL_DOMAINS:
        return ALL_DOMAINS
    found = schema.domains()
    chosen = [(process, number) for process, number, name in found if name == (wanted or DOMAIN)]
    if not chosen:
        if wanted is None:
            return ALL_DOMAINS
        names = ", ".join(sorted({name for *_, name in found})) or "none"
        raise ValueError(f"{schema.export.path} has no NVTX domain {wanted!r}; its domains: {names}")
    schema.export.db.executemany("INSERT INTO main.domain VALUES (?, ?)", chosen)
    return wanted or DOMAIN


def _refuse_without_ranges(schema: Schema, domain: str) -> None:
    if schema.has_ranges:
        rows = schema.range_rows(filtered=domain != ALL_DOMAINS)
        if schema.export.db.execute(f"SELECT 1 FROM ({rows}) LIMIT 1").fetchone() is not None:
            return
    inside = "" if domain == ALL_DOMAINS else f" in its domain {domain}"
    raise ValueError(
        f"{schema.export.path} has no NVTX push/pop ranges{inside}; `qt-profile trace` opens them, "
        "nsys profile records them with -t cuda,nvtx"
    )


def _reading(
    export: Export, schema: Schema, launches: Launches, work: DeviceWork, domain: str
) -> TraceReading:
    rows = tuple(
        sorted(
            _rows(launches, work), key=lambda row: row.process
        )  # stable: order of appearance within a process
    )
    return TraceReading(
        path=export.path,
        product_version=export.meta("EXPORT_PRODUCT_VERSION"),
        gpus=tuple(export.gpus()),
        domain=domain,
        rows=rows,
        hops=tuple(_hops(launches, work)),
        ablations=tuple(_ablations(rows, launches, work)),
        outside=_figures(work.outside, launches=0, wall_ns=None),
        warnings=tuple(_warnings(schema, work)),
    )


def _figures(totals: DeviceTotals, *, launches: int, wall_ns: int | None) -> Figures:
    return Figures(
        launches=launches,
        kernels=totals.kernels,
        wall_ns=wall_ns,
        device_ns=totals.device_ns,
        busy_ns=totals.busy_ns,
        gap_ns=totals.gap_ns,
        copy_ns=totals.copy_ns,
        cast_ns=totals.role_ns.get(CAST),
        comp_ns=totals.role_ns.get(COMP),
        linear_ns=sum(totals.role_ns.values()) if totals.role_ns else None,
        linear_kernels=totals.role_kernels,
    )


def _rows(launches: Launches, work: DeviceWork) -> Iterator[RangeRow]:
    for number in _in_order(launches):
        process, path = launches.paths.known[number]
        opened = launches.totals.get(number)
        brought = work.captured_in.get(number, 0)
        if opened is None and not brought:
            continue
        figures = _figures(
            work.by_path.get(number, DeviceTotals()),
            launches=0 if opened is None else opened.launches,
            wall_ns=None if opened is None else opened.wall_ns,
        )
        yield RangeRow(process, path, (0 if opened is None else opened.instances) + brought, figures)


def _in_order(launches: Launches) -> list[int]:
    """Numbers of the paths, each below its parent, otherwise in order of appearance."""
    known = launches.paths.known
    first = {key: number for number, key in enumerate(known)}
    return sorted(
        first.values(),
        key=lambda n: [first.get((known[n][0], known[n][1][: i + 1]), n) for i in range(len(known[n][1]))],
    )


def _hops(launches: Launches, work: DeviceWork) -> Iterator[HopRow]:
    for hop in launches.hops:
        process, path = launches.paths.known[hop.path]
        totals = work.hops.get(hop.range_id, DeviceTotals())
        figures = _figures(totals, launches=hop.launches, wall_ns=hop.end_ns - hop.start_ns)
        yield HopRow(process, path, hop.index, hop.start_ns, figures)


def _ablations(rows: tuple[RangeRow, ...], launches: Launches, work: DeviceWork) -> Iterator[AblationRow]:
    """Compare ``.../fused_X/hop`` with ``.../null_X/hop``."""
    by_key = {(row.process, row.path): row for row in rows if row.instances}
    numbers = {key: number for number, key in enumerate(launches.paths.known)}

    def linear_ns(key: tuple[int, tuple[str, ...]]) -> float:
        return sum(work.by_path[numbers[key]].role_ns.values()) / by_key[key].instances

    for (process, path), row in by_key.items():
        if len(path) < 2 or path[-1] != "hop" or not path[-2].startswith("fused_"):
            continue
        kernel, within = path[-2], path[:-2]
        twin = (process, (*within, "null_" + kernel.removeprefix("fused_"), "hop"))
        if twin not in by_key or not {numbers[twin], numbers[process, path]} <= work.by_path.keys():
            continue
        comp_ns = linear_ns(twin)
        cast_ns = linear_ns((process, path)) - comp_ns
        yield AblationRow(process, kernel, within, row.instances, comp_ns, cast_ns)


def _warnings(schema: Schema, work: DeviceWork) -> Iterator[str]:
    if schema.kernels is None and not schema.has_graph_traces:
        yield "the trace has no kernels: nothing ran on a GPU, or it was made without -t cuda"
    elif not schema.calls:
        yield "the trace has no CUDA calls, so no kernel can be given to a range"
    lost = work.without_call
    if lost.kernels and schema.calls:
        lost_ms = lost.device_ns / 1e6
        yield f"{lost.kernels} kernels ({lost_ms:.3f} ms) belong to no range: their launch is not in the trace"
    if not schema.by_process:
        yield "the trace does not say which process a kernel belongs to: correlation numbers alone decide"
    if work.whole_graphs:
        yield (
            f"{work.whole_graphs} graph replays were traced as one piece: their kernels are not counted, their time "
            "belongs to the range of the replay (--cuda-graph-trace=node tells the kernels apart)"
        )
    if work.unknown_nodes:
        yield (
            f"{work.unknown_nodes} kernels of CUDA graphs belong to the range of the replay: "
            "their capture is not in the trace"
        )
