"""The table of a trace beside the run that was traced, in Markdown.

A traced run lies under ``traces`` of its machine's results, since its hops are slower than others': ``trace.json`` is
what ``qt-profile trace read --against RUN --json`` printed, its hops and ranges left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.published import RESULTS, ROOT, NotPublished, place_of, source_line
from profiler.record import list_runs, load_record
from profiler.timing import median

TRACES, TRACE_FILE = "traces", "trace.json"
PICTURE = ROOT / "docs" / "images" / "trace-h200.png"
_RATIOS = ("own / trace", "own / (trace + gaps)")


def published_trace(folder: str) -> Path:
    """The latest committed run of a machine that was traced.

    Raises:
        NotPublished: there is none.
    """
    place = RESULTS / folder / TRACES
    runs = [path for path in list_runs(place) if (path / TRACE_FILE).is_file()]
    if not runs:
        raise NotPublished(f"no run with {TRACE_FILE} under {place_of(place)}")
    return max(runs, key=lambda path: path.name)


def trace_table(path: Path) -> str:
    """Every hop of the kernel that decodes apart: kernels by the trace, ranges by the run, and their ratio.

    Args:
        path: a traced run with its ``trace.json``.

    Raises:
        ValueError: the trace was compared with another run, or has no hop with ``tau_cast`` and ``tau_comp``.
    """
    trace = json.loads((path / TRACE_FILE).read_text(encoding="utf-8"))
    compared = trace.get("against") or {}
    if compared.get("run") != path.name:
        raise ValueError(f"{place_of(path)}: its {TRACE_FILE} is compared with {compared.get('run')}")
    hops = [hop for hop in compared["hops"] if None not in (hop["trace_cast_ns"], hop["trace_comp_ns"])]
    if not hops:
        raise ValueError(f"{place_of(path)}: 0 of {len(compared['hops'])} hops have tau_cast and tau_comp")
    gap_ns = compared["gap_ns"]
    columns = ["kernels", *(f"{who} {tau} µs" for who in ("trace", "own") for tau in ("τ_cast", "τ_comp"))]
    shown = table(
        "batch.hop", [*columns, *_RATIOS], {f"{h['batch']}.{h['hop']}": _cells(h, gap_ns) for h in hops}
    )
    medians = [f"{median([_ratio(hop, 0.0) for hop in hops]):.3f}"]
    if gap_ns is not None:
        medians.append(f"{median([_ratio(hop, gap_ns) for hop in hops]):.3f}")
    record = load_record(path)
    said = f"`{hops[0]['kernel']}` of `{record.arguments['model']}`, medians of the ratios: {' and '.join(medians)}."
    if gap_ns is not None:
        said += f" Mean gap between two kernels: {gap_ns / 1e3:.2f} µs."
    if compared["range_cost_ns"] is not None:
        said += f" Taken off each range: {compared['range_cost_ns'] / 1e3:.2f} µs."
    version = f"Nsight Systems {trace['product_version']}; " if trace.get("product_version") else ""
    picture = ["", f"![Two hops of that trace](images/{PICTURE.name})"] if PICTURE.is_file() else []
    return "\n".join([shown, "", said, "", version + source_line(record, path), *picture])


def _cells(hop: dict[str, Any], gap_ns: float | None) -> list[str]:
    times = (hop[f"{who}_{part}_ns"] for who in ("trace", "own") for part in ("cast", "comp"))
    with_gaps = "–" if gap_ns is None else f"{_ratio(hop, gap_ns):.3f}"
    return [
        f"{hop['kernels']:,}",
        *(f"{ns / 1e3:,.1f}" for ns in times),
        f"{_ratio(hop, 0.0):.3f}",
        with_gaps,
    ]


def _ratio(hop: dict[str, Any], gap_ns: float) -> float:
    """Sum of the run's times over that of the trace's kernels with a gap ahead of each."""
    trace_ns = hop["trace_cast_ns"] + hop["trace_comp_ns"] + hop["kernels"] * gap_ns
    return float((hop["own_cast_ns"] + hop["own_comp_ns"]) / trace_ns)
