"""What a trace says about its ranges: by hand from a real export, and from small ones made here."""

import gzip
import os
from pathlib import Path

import pytest
from nsys_builder import GRAPHS, ExportBuilder, process, thread

from profiler.nsys_device import graft, role_of
from profiler.nsys_trace import RangeRow, TraceReading, read_trace

REAL = Path(__file__).parent / "data" / "hopper_nvtx_graph.sqlite.gz"


@pytest.fixture
def real(tmp_path: Path) -> Path:
    file = tmp_path / "hopper.sqlite"
    file.write_bytes(gzip.decompress(REAL.read_bytes()))
    return file


def read(builder: ExportBuilder, folder: Path, **settings: object) -> TraceReading:
    return read_trace(builder.write(folder / "t.sqlite"), **settings)  # type: ignore[arg-type]


def row(reading: TraceReading, path: str, process_number: int | None = None) -> RangeRow:
    (found,) = (r for r in reading.rows if "/".join(r.path) == path and process_number in (None, r.process))
    return found


def unfused_hop(builder: ExportBuilder, at: int, *, on: int = thread(7), first: int = 1) -> None:
    """A hop of 100 ns: a cast of 10 ns, a product of 20 ns, and 30 ns of another kernel."""
    builder.range("hop", at, at + 100, on=on)
    builder.range("tau_cast", at + 5, at + 15, on=on)
    builder.range("tau_comp", at + 20, at + 30, on=on)
    builder.launch(first, at + 6, at + 40, at + 50, on=on)
    builder.launch(first + 1, at + 21, at + 50, at + 70, on=on)
    builder.launch(first + 2, at + 40, at + 75, at + 105, on=on)


def test_a_real_export_by_hand(real: Path) -> None:
    reading = read_trace(real)
    taus = [(hop.index, hop.figures.cast_ns, hop.figures.comp_ns) for hop in reading.hops]
    assert taus == [(0, 5952, 5696), (1, 5920, 5472), (2, 5664, 5504)]
    graph = row(reading, "graph")
    assert (graph.figures.kernels, graph.figures.device_ns, graph.figures.launches) == (2, 9728, 1)
    assert graph.figures.gap_ns == 288
    assert row(reading, "hop1/tau_cast").figures.kernels == 2
    assert [hop.figures.cor_direct for hop in reading.hops] == [5952 / 5696, 5920 / 5472, 5664 / 5504]
    # Three kernels ran before and after the ranges: the random weights, and the captures' helpers.
    assert (reading.outside.kernels, reading.outside.device_ns) == (3, 5376 + 1024 + 832)
    assert (reading.product_version, reading.gpus, reading.domain) == ("2025.3.2.0", ("NVIDIA H200",), "all")
    assert reading.warnings == ()


def test_the_export_is_never_written_to(real: Path) -> None:
    before = real.read_bytes()
    real.chmod(0o444)
    real.parent.chmod(0o555)
    try:
        read_trace(real)
        assert os.listdir(real.parent) == [real.name]
    finally:
        real.parent.chmod(0o755)
    assert real.read_bytes() == before


def test_figures_of_a_hop(tmp_path: Path) -> None:
    builder = ExportBuilder()
    unfused_hop(builder, 1000)
    reading = read(builder, tmp_path)
    figures = row(reading, "hop").figures
    assert (figures.launches, figures.kernels, figures.wall_ns) == (3, 3, 100)
    assert (figures.device_ns, figures.busy_ns, figures.gap_ns) == (60, 60, 5)
    assert (figures.cast_ns, figures.comp_ns, figures.cor_direct) == (10, 20, 0.5)
    assert figures.host_bound_share == 5 / 65
    assert row(reading, "hop/tau_cast").figures.comp_ns is None
    assert [r.path[-1] for r in reading.rows] == ["hop", "tau_cast", "tau_comp"]


def test_overlapping_kernels_are_busy_once(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.range("hop", 0, 100)
    builder.call(1, 10, 11)
    builder.call(2, 20, 21)
    builder.kernel(1, 200, 300, stream=1)
    builder.kernel(2, 250, 280, stream=2)
    builder.copy(2, 290, 320)
    figures = row(read(builder, tmp_path), "hop").figures
    assert (figures.device_ns, figures.busy_ns, figures.gap_ns, figures.copy_ns) == (130, 120, 0, 30)
    assert (figures.kernels, figures.launches) == (2, 2)


def test_only_ranges_of_the_calling_thread_that_enclose_the_call(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.range("other thread", 0, 1000, on=thread(7, 2))
    builder.range("start and end", 0, 1000, kind=60)
    builder.range("hop", 100, 200)
    builder.range("too short", 140, 150)
    builder.call(1, 145, 160)
    builder.kernel(1, 300, 310)
    builder.launch(2, 201, 400, 440)
    reading = read(builder, tmp_path)
    assert row(reading, "hop").figures.device_ns == 10
    assert row(reading, "hop/too short").figures.device_ns == 0
    assert (reading.outside.kernels, reading.outside.device_ns) == (1, 40)


def test_a_range_that_was_never_closed_reaches_to_the_end(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.range("chain", 0, None)
    builder.range("hop", 10, 20)
    builder.launch(1, 15, 100, 110)
    builder.launch(2, 50, 120, 150)
    chain = row(read(builder, tmp_path), "chain").figures
    assert (chain.device_ns, chain.wall_ns) == (40, 50)


def test_processes_with_equal_correlation_numbers(tmp_path: Path) -> None:
    builder = ExportBuilder()
    unfused_hop(builder, 1000, on=thread(7))
    unfused_hop(builder, 1003, on=thread(9))
    builder.launch(9, 1050, 2000, 2001, on=thread(9))
    reading = read(builder, tmp_path)
    assert [(hop.process, hop.figures.device_ns) for hop in reading.hops] == [(7, 60), (9, 61)]
    assert row(reading, "hop/tau_cast", 9).figures.device_ns == 10
    assert {r.process for r in reading.rows} == {7, 9}


def test_only_our_domain_is_read_where_there_is_one(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.domain("qt-profile", 3, registered=True)
    builder.domain("NCCL", 4)
    builder.domain("NCCL", 3, on=thread(9))
    builder.range("hop", 0, 100, domain=3, payload=5, registered=True)
    builder.range("all reduce", 10, 50, domain=4)
    builder.range("another process's 3", 10, 50, domain=3, on=thread(9))
    builder.launch(1, 20, 200, 210)
    reading = read(builder, tmp_path)
    assert [r.path for r in reading.rows] == [("hop",)]
    assert (reading.domain, reading.hops[0].index, reading.hops[0].figures.kernels) == ("qt-profile", 5, 1)
    file = tmp_path / "t.sqlite"
    assert row(read_trace(file, domain="all"), "hop/all reduce").figures.kernels == 1
    assert len(read_trace(file, domain="NCCL").rows) == 2
    with pytest.raises(ValueError, match="no NVTX domain 'cublas'; its domains: NCCL, qt-profile"):
        read_trace(file, domain="cublas")


def graph_of_two(builder: ExportBuilder, *, with_clones: int = 2) -> tuple[int, int]:
    """A cast and a product captured in their ranges during a warm-up; returns the nodes that run."""
    builder.range("chain", 0, 10_000)
    builder.range("capture", 10, 90)
    builder.range("layer.0", 11, 89)
    builder.range("tau_cast", 20, 40)
    builder.range("tau_comp", 50, 70)
    nodes = (1 << 32, (1 << 32) + 1)
    builder.node(nodes[0], 30)
    builder.node(nodes[1], 60)
    for copy in range(2, 2 + with_clones):
        clones = (copy << 32, (copy << 32) + 1)
        for clone, original in zip(clones, nodes, strict=True):
            # nsys writes the making of a clone first, without its original.
            builder.node(clone, 100 * copy)
            builder.node(clone, 100 * copy, original)
        nodes = clones
    return nodes


def test_graph_kernels_belong_to_the_ranges_of_their_capture(tmp_path: Path) -> None:
    builder = ExportBuilder()
    cast, comp = graph_of_two(builder)
    for hop in range(2):
        at = 1000 * (hop + 1)
        builder.range("hop", at, at + 500, payload=hop)
        builder.call(hop + 1, at + 10, at + 20)
        builder.kernel(hop + 1, at + 100, at + 110 + hop, node=cast)
        builder.kernel(hop + 1, at + 150, at + 190, node=comp)
    reading = read(builder, tmp_path)
    taus = [(hop.index, hop.figures.cast_ns, hop.figures.comp_ns) for hop in reading.hops]
    assert taus == [(0, 10, 40), (1, 11, 40)]
    inside = row(reading, "chain/hop/capture/layer.*/tau_cast")
    assert (inside.instances, inside.figures.kernels, inside.figures.device_ns) == (2, 2, 21)
    assert (inside.figures.wall_ns, inside.figures.launches) == (None, 0)
    hops = row(reading, "chain/hop").figures
    assert (hops.launches, hops.kernels, hops.gap_ns) == (2, 4, 40 + 39)
    # What was captured did not run then.
    assert row(reading, "chain/capture/layer.*/tau_cast").figures.kernels == 0
    assert reading.warnings == ()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_clones_of_clones(tmp_path: Path, steps: int) -> None:
    builder = ExportBuilder()
    cast, _ = graph_of_two(builder, with_clones=steps)
    builder.range("hop", 1000, 1100)
    builder.call(1, 1010, 1020)
    builder.kernel(1, 1200, 1210, node=cast)
    assert read(builder, tmp_path).hops[0].figures.cast_ns == 10


def test_a_circle_of_clones_ends(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.range("hop", 0, 100)
    builder.node(1, 10, 2)
    builder.node(2, 10, 1)
    builder.call(1, 20, 21)
    builder.kernel(1, 50, 60, node=1)
    assert read(builder, tmp_path).hops[0].figures.device_ns == 10


def test_a_graph_launched_outside_every_range_still_has_its_capture(tmp_path: Path) -> None:
    builder = ExportBuilder()
    cast, comp = graph_of_two(builder)
    builder.call(1, 20_000, 20_001)
    builder.kernel(1, 20_100, 20_110, node=cast)
    builder.kernel(1, 20_120, 20_150, node=comp)
    reading = read(builder, tmp_path)
    assert row(reading, "chain/capture/layer.*/tau_cast").figures.cast_ns == 10
    chain = row(reading, "chain").figures
    assert (chain.cast_ns, chain.comp_ns, chain.gap_ns) == (10, 30, 10)
    assert reading.outside.kernels == 0


def test_a_graph_whose_capture_was_not_traced(tmp_path: Path) -> None:
    builder = ExportBuilder()
    unfused_hop(builder, 1000)
    builder.call(9, 1090, 1091)
    builder.kernel(9, 2000, 2040, node=77)
    reading = read(builder, tmp_path)
    assert reading.hops[0].figures.device_ns == 100
    assert "1 kernels of CUDA graphs belong to the range of the replay" in reading.warnings[0]


def test_graphs_traced_as_one_piece(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.range("hop", 0, 100)
    builder.call(1, 10, 11)
    builder.add(
        GRAPHS, start=50, end=90, deviceId=0, streamId=7, correlationId=1, globalPid=process(7), graphId=3
    )
    reading = read(builder, tmp_path)
    figures = reading.hops[0].figures
    assert (figures.device_ns, figures.kernels, figures.launches) == (40, 0, 1)
    assert "traced as one piece" in reading.warnings[0]


@pytest.mark.parametrize(
    ("launch", "capture", "path"),
    [
        ("graph", "", "graph"),
        ("chain/hop", "chain/capture/layer.1/tau_cast", "chain/hop/capture/layer.1/tau_cast"),
        ("chain/query/hop", "chain/warm_up/hop/layer.1", "chain/query/hop/layer.1"),
        ("hop", "hop", "hop"),
        ("a", "b/tau_comp", "a/b/tau_comp"),
    ],
)
def test_graft(launch: str, capture: str, path: str) -> None:
    grafted = graft(tuple(launch.split("/")), tuple(capture.split("/")) if capture else ())
    assert "/".join(grafted) == path


def test_the_innermost_role_counts() -> None:
    assert role_of(("hop", "linear", "tau_cast")) == "tau_cast"
    assert role_of(("hop", "layer.0")) is None


def test_layers_add_up_unless_asked_for(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.range("hop", 0, 100)
    for layer in range(3):
        builder.range(f"layer.{layer}", 10 + 20 * layer, 25 + 20 * layer)
        builder.launch(layer + 1, 12 + 20 * layer, 200 + 20 * layer, 210 + 20 * layer)
    assert row(read(builder, tmp_path), "hop/layer.*").instances == 3
    apart = read_trace(tmp_path / "t.sqlite", layers=True)
    assert row(apart, "hop/layer.2").figures.device_ns == 10
    # The gaps between layers are the hop's, not the layers'.
    assert (row(apart, "hop").figures.gap_ns, row(apart, "hop/layer.2").figures.gap_ns) == (20, 0)


def test_fused_kernels_by_their_null_twins(tmp_path: Path) -> None:
    builder = ExportBuilder()
    correlation = 0
    for hop in range(3):
        for kernel, length in (("fused_nf4", 30), ("null_nf4", 20), ("fused_fp4", 25)):
            at = 1000 * correlation + 1000
            correlation += 1
            builder.range(kernel, at, at + 500)
            builder.range("hop", at + 1, at + 499, payload=hop)
            builder.range("linear", at + 2, at + 200)
            builder.launch(2 * correlation, at + 10, at + 300, at + 300 + length + hop)
            builder.launch(2 * correlation + 1, at + 250, at + 400, at + 450)
    (only,) = read(builder, tmp_path).ablations
    assert (only.kernel, only.hops, only.comp_ns_mean, only.cast_ns_mean) == ("fused_nf4", 3, 21.0, 10.0)


def test_kernels_without_a_call(tmp_path: Path) -> None:
    builder = ExportBuilder()
    unfused_hop(builder, 1000)
    builder.kernel(77, 3000, 3500)
    builder.kernel(None, 4000, 4500)
    reading = read(builder, tmp_path)
    assert reading.hops[0].figures.device_ns == 60
    assert reading.warnings == ("2 kernels (0.001 ms) belong to no range: their launch is not in the trace",)
