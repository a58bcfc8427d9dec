"""Tables of sweep records, and the speeds that the committed H200 sweep must show."""

import math
from datetime import datetime, timezone

import pytest

from benchmarks import published
from benchmarks.published import published_sweeps, shapes_of
from benchmarks.sweep_tables import floor_table, speedup_table, sweep_page, sweep_summary
from profiler.environment import capture_environment
from profiler.record import RunRecord, SweepRow, load_record, write_run

LARGE, MIDDLE, SQUARE, FLAT, SMALL = (28672, 4096), (4096, 14336), (4096, 4096), (6144, 1024), (1024, 3072)
# Least speed-up over bf16 by kernel, shape and m.
SPEEDUPS = {
    ("fused_nf4", LARGE): {1: 2.6, 16: 2.0, 64: 1.2, 128: 0.95},
    ("fused_nf4", MIDDLE): {1: 2.5, 16: 2.0, 64: 1.2, 128: 0.95},
    ("fused_nf4", SQUARE): {1: 2.0, 16: 1.8, 64: 1.0},
    ("fused_nf4", SMALL): {1: 1.6, 16: 1.5, 64: 1.2},
    ("fused_nf4", FLAT): {1: 1.4, 16: 1.3, 64: 1.0},
    ("fused_int8", LARGE): {16: 1.7, 64: 1.4, 128: 1.0},
    ("fused_int8", MIDDLE): {16: 1.6, 64: 1.3, 128: 1.0},
    ("fused_int8", SMALL): {1: 1.9, 16: 1.5, 64: 1.2},
    ("fused_int8", FLAT): {1: 1.5, 16: 1.2, 64: 1.0},
    ("native_fp8", LARGE): {1: 1.6, 16: 1.6, 64: 1.6, 128: 1.6},
}
SPEEDUPS |= {("fused_fp8", shape): bars for (name, shape), bars in SPEEDUPS.items() if name == "fused_int8"}
SPEEDUPS |= {
    ("fused_fp4", shape): {m: bar for m, bar in bars.items() if m > 1}
    for (name, shape), bars in SPEEDUPS.items()
    if name == "fused_nf4"
}
# Least share of the floor at m = 1: bytes of the layout (4.25 or 8 bits per weight) over the measured read bandwidth.
FLOORS = {
    ("fused_nf4", LARGE): (4.25, 0.65),
    ("fused_fp4", LARGE): (4.25, 0.75),
    ("fused_int8", LARGE): (8.0, 0.88),
    ("fused_fp8", LARGE): (8.0, 0.88),
    ("fused_int8", MIDDLE): (8.0, 0.78),
    ("fused_fp8", MIDDLE): (8.0, 0.78),
}


def row(kernel, m, time_us, **fields):
    base = {"n": 64, "k": 32, "gate": "passed", "timings": 3}
    return SweepRow(kernel=kernel, m=m, time_us_p50=time_us, **(base | fields))


@pytest.fixture
def record():
    rows = [
        row("bf16", 1, 20.0),
        row("fused_nf4", 1, 5.0, speedup_p50=4.0, weight_floor_share=0.5),
        row("null_nf4", 1, 4.0, gate="no meaning"),
        row("bnb_nf4", 1, 10.0, speedup_p50=2.0),
        row("fused_nf4", 8, 50.0, speedup_p50=0.5),
        SweepRow(kernel="missing", m=1, n=64, k=32, not_measured="it does not import"),
        row("bf16", 1, 7.0, n=8),
    ]
    return RunRecord(
        run_id="20260101T000000Z-sweep",
        kind="sweep",
        status="complete",
        created_utc=datetime(2026, 1, 1, tzinfo=timezone.utc),
        command=[],
        environment=capture_environment([]),
        arguments={},
        results=rows,
    )


def test_a_table_has_ours_and_peers_by_m(record) -> None:
    lines = speedup_table(record, (64, 32)).splitlines()
    assert lines[0] == "| 64×32, time_us_p50 (× bf16) | m = 1 | m = 8 |"
    assert lines[2:] == [
        "| `bf16` | 20.0 | – |",
        "| `fused_nf4` | 5.00 (4.00) | 50.0 (0.50) |",
        "| `bnb_nf4` | 10.0 (2.00) | – |",
    ]


def test_shares_of_the_floor_by_shape(record) -> None:
    assert shapes_of(record) == [(64, 32), (8, 32)]
    records = {shape: record for shape in shapes_of(record)}
    assert floor_table(records, 1).splitlines()[2:] == ["| `bf16` | – | – |", "| `fused_nf4` | 50% | – |"]


def test_every_shape_is_shown_from_its_fullest_and_latest_sweep(record, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match="no sweep under"):
        published_sweeps("m")
    for day, results in ((1, record.results), (2, record.results[:2]), (3, record.results)):
        changed = record.model_copy(update={"run_id": f"2026010{day}T000000Z-sweep", "results": results})
        write_run(tmp_path / "m", changed, [])
    assert {shape: path.name[:8] for shape, path in published_sweeps("m").items()} == {
        (64, 32): "20260103",
        (8, 32): "20260103",
    }
    monkeypatch.setattr(published, "ROOT", tmp_path)
    by_shape = published_sweeps("m")
    summary = sweep_summary(by_shape, [1, 8]).splitlines()
    assert summary[0] == "| × bf16 at 64×32 | m = 1 | m = 8 |"
    assert summary[2:4] == ["| `fused_nf4` | 4.00 | 0.50 |", "| `bnb_nf4` | 2.00 | – |"]
    assert "record `m/20260103T000000Z-sweep`" in summary[-1]
    assert sweep_page(by_shape).count("20260103T000000Z-sweep") == 1


@pytest.fixture(scope="module")
def h200():
    return {shape: load_record(path) for shape, path in published_sweeps("h200").items()}


def times(records, shape):
    rows = [r for r in records[shape].results if (r.n, r.k) == shape and r.time_us_p50 is not None]
    return {(r.kernel, r.m): r for r in rows}


@pytest.mark.parametrize(("name", "shape"), SPEEDUPS)
def test_the_h200_record_is_as_fast_as_promised(name, shape, h200) -> None:
    found = times(h200, shape)
    slow = {
        m: found[name, m].speedup_p50
        for m, bar in SPEEDUPS[name, shape].items()
        if found[name, m].speedup_p50 < bar
    }
    assert not slow, f"{name} {shape}: {slow} below {SPEEDUPS[name, shape]}"


@pytest.mark.parametrize(("name", "shape"), FLOORS)
def test_the_h200_record_reaches_its_share_of_the_floor(name, shape, h200) -> None:
    bits, bar = FLOORS[name, shape]
    read_gb_s = h200[shape].derived["read_bandwidth"]["read_gb_s_p50"]
    floor_us = math.prod(shape) * bits / 8 / read_gb_s / 1e3
    assert floor_us / times(h200, shape)[name, 1].time_us_p50 >= bar


@pytest.mark.parametrize("shape", [LARGE, MIDDLE, SQUARE, FLAT, SMALL])
def test_fused_kernels_of_the_h200_record_beat_their_twins_and_their_peers(shape, h200) -> None:
    found = times(h200, shape)
    fused = [(name, m) for name, m in found if name.startswith("fused_")]
    assert {m for _, m in fused} == {1, 2, 4, 8, 16, 32, 64, 128, 256}
    for name, m in fused:
        mine = found[name, m]
        assert mine.time_us_p50 < found[name.replace("fused", "unfused"), m].time_us_p50, (name, m)
        if mine.best_peer_speedup_p50 is not None:
            assert mine.best_peer_speedup_p50 >= 0.97, (name, m, mine.best_peer)
    for m in {m for _, m in fused}:
        assert found["fused_fp4", m].time_us_p50 <= 1.02 * found["fused_nf4", m].time_us_p50, m
