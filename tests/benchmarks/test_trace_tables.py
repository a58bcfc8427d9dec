"""The table of a traced run, from the JSON that the command printed and the record beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
from published_chain_runs import row, run

from benchmarks import publish, published, trace_tables
from benchmarks.published import NotPublished
from benchmarks.trace_tables import TRACE_FILE, TRACES, published_trace, trace_table
from profiler.record import write_run


def hop(number: int, **changed: Any) -> dict[str, Any]:
    times = {
        "trace_cast_ns": 40_000,
        "trace_comp_ns": 60_000,
        "own_cast_ns": 42_000.0,
        "own_comp_ns": 63_000.0,
    }
    return {"kernel": "unfused_nf4", "batch": 0, "hop": number, "kernels": 5} | times | changed


def stored(folder: Path, number: int, **changed: Any) -> Path:
    path = write_run(folder, run(number, [row("unfused_nf4", 1)], batch_size=1, model="mistral-7b")[1], [])
    against = {"run": path.name, "gap_ns": 1000.0, "range_cost_ns": 3010.0, "hops": [hop(1), hop(2)]}
    trace = {"product_version": "2025.3.2.0", "against": against | changed}
    (path / TRACE_FILE).write_text(json.dumps(trace), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_tables, "PICTURE", tmp_path / "none.png")


def test_a_row_per_hop_with_ratios_and_their_medians(tmp_path: Path) -> None:
    fused = hop(
        1, trace_cast_ns=None, trace_comp_ns=None, own_cast_ns=None, own_comp_ns=None, kernel="fused_nf4"
    )
    slow = hop(2, own_comp_ns=168_000.0, kernels=2_000)
    text = trace_table(stored(tmp_path, 1, hops=[fused, hop(1), slow]))
    lines = text.splitlines()
    assert lines[2] == "| 0.1 | 5 | 40.0 | 60.0 | 42.0 | 63.0 | 1.050 | 1.000 |"
    assert lines[3] == "| 0.2 | 2,000 | 40.0 | 60.0 | 42.0 | 168.0 | 2.100 | 0.100 |"
    assert "`unfused_nf4` of `mistral-7b`, medians of the ratios: 1.575 and 0.550." in text
    assert "Mean gap between two kernels: 1.00 µs. Taken off each range: 3.01 µs." in text
    assert "Nsight Systems 2025.3.2.0; NVIDIA H200; " in lines[-1]
    assert len(lines) == 8


def test_without_gaps_and_cost_the_table_says_less(tmp_path: Path) -> None:
    text = trace_table(stored(tmp_path, 1, gap_ns=None, range_cost_ns=None))
    assert text.splitlines()[2].endswith("| 1.050 | – |")
    assert "medians of the ratios: 1.050.\n" in text
    assert "gap between" not in text and "Taken off" not in text


def test_the_picture_is_shown_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "trace-h200.png"
    monkeypatch.setattr(trace_tables, "PICTURE", picture)
    path = stored(tmp_path, 1)
    assert "![" not in trace_table(path)
    picture.write_bytes(b"\x89PNG")
    assert trace_table(path).endswith("![Two hops of that trace](images/trace-h200.png)")


def test_a_trace_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"its trace\.json is compared with another"):
        trace_table(stored(tmp_path / "a", 1, run="another"))
    fused = hop(1, trace_cast_ns=None)
    with pytest.raises(ValueError, match="0 of 1 hops have tau_cast and tau_comp"):
        trace_table(stored(tmp_path / "b", 1, hops=[fused]))


def test_the_latest_traced_run_is_published_and_is_no_chain_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (published, trace_tables):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    with pytest.raises(NotPublished, match=r"no run with trace\.json under .*/h200/traces"):
        published_trace("h200")
    paths = [stored(tmp_path / "h200" / TRACES, number) for number in (1, 2)]
    assert published_trace("h200") == paths[1]
    (paths[1] / TRACE_FILE).unlink()
    assert published_trace("h200") == paths[0]
    assert published.published_chains("h200") == []


def test_the_page_has_a_place_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = {(path.name, name): make for path, name, make in publish._measured_chains()}
    monkeypatch.setattr(trace_tables, "RESULTS", tmp_path)
    stored(tmp_path / "h200" / TRACES, 1)
    assert "own / (trace + gaps)" in made["traces.md", "trace-h200"]()
    assert "<!-- begin: trace-h200 -->" in (publish.DOCS / "traces.md").read_text(encoding="utf-8")
