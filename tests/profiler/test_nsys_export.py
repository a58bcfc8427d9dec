"""Exports of other versions of nsys, and files that are no exports: a sentence each."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from nsys_builder import CALLS, COPIES, KERNELS, NODES, RANGES, ExportBuilder, thread
from test_nsys import graph_of_two, read, row, unfused_hop

from profiler import nsys_launches
from profiler.nsys_export import Export, reading
from profiler.nsys_trace import read_trace


@pytest.fixture
def export(tmp_path: Path) -> Path:
    builder = ExportBuilder()
    for hop in range(200):
        unfused_hop(builder, 1000 * hop + 1000, first=10 * hop)
    return builder.write(tmp_path / "whole.sqlite")


@pytest.mark.parametrize(
    ("dropped", "expected_cast_ns"),
    [
        ({"textId", "domainId", "int64Value"}, 10),
        ({"graphNodeId"}, 10),
        ({"deviceId", "streamId", "shortName"}, 10),
        ({"globalPid"}, 10),
        ({"correlationId"}, None),
    ],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, set) else "",
)
def test_columns_that_a_version_lacks(
    tmp_path: Path, dropped: set[str], expected_cast_ns: int | None
) -> None:
    builder = ExportBuilder(dropped_columns=dropped)
    unfused_hop(builder, 1000)
    assert read(builder, tmp_path).hops[0].figures.cast_ns == expected_cast_ns


@pytest.mark.parametrize(
    ("now", "then"),
    [
        (KERNELS, "CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL"),
        (CALLS, "CUPTI_ACTIVITY_KIND_DRIVER"),
        (NODES, "CUDA_GRAPH_EVENTS"),
        (COPIES, "CUPTI_ACTIVITY_KIND_MEMCPY2"),
        ("META_DATA_EXPORT", "EXPORT_META_DATA"),
    ],
)
def test_old_names_of_tables(tmp_path: Path, now: str, then: str) -> None:
    builder = ExportBuilder(renamed={now: then})
    cast, _ = graph_of_two(builder)
    builder.range("hop", 1000, 1100)
    builder.call(1, 1010, 1020)
    builder.kernel(1, 1200, 1210, node=cast)
    builder.copy(1, 1300, 1307)
    figures = read(builder, tmp_path).hops[0].figures
    assert (figures.cast_ns, figures.copy_ns) == (10, 7)


@pytest.mark.parametrize("payload", ["uint64Value", "int32Value", "uint32Value"])
def test_payloads_of_any_integer_type(tmp_path: Path, payload: str) -> None:
    builder = ExportBuilder(dropped_columns={"int64Value"})
    builder.range("hop", 0, 100)
    builder.rows[RANGES][0][payload] = 41
    assert read(builder, tmp_path).hops[0].index == 41


def test_a_hop_without_payload_is_counted_by_its_name(tmp_path: Path) -> None:
    builder = ExportBuilder()
    for name in ("hop12", "hop", "hop 3", "hopper"):
        start = 100 * len(builder.rows.get(RANGES, ()))
        builder.range(name, start, start + 50)
    assert [hop.index for hop in read(builder, tmp_path).hops] == [12, None, 3]


def test_without_calls_or_kernels_the_reading_says_so(tmp_path: Path) -> None:
    builder = ExportBuilder()
    unfused_hop(builder, 1000)
    calls = builder.rows.pop(CALLS)
    found = read(builder, tmp_path)
    assert (found.hops[0].figures.kernels, len(calls)) == (0, 3)
    assert found.warnings == ("the trace has no CUDA calls, so no kernel can be given to a range",)
    builder.rows.pop(KERNELS)
    (tmp_path / "t.sqlite").unlink()
    assert "the trace has no kernels" in read(builder, tmp_path).warnings[0]


def test_a_range_without_a_name(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.range(None, 0, 10)
    assert row(read(builder, tmp_path), "(no name)").instances == 1


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty (0 bytes)"),
        (b"text", "is not an SQLite file"),
        (b"\x1f\x8b" + bytes(200), "is not an SQLite file"),
        (b"SQLite format 3\0", "is truncated: 16 bytes of 100"),
    ],
)
def test_files_that_are_no_exports(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_trace(write_bytes(tmp_path / "bad.sqlite", content))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.sqlite"):
        with pytest.raises(ValueError, match="is no file"):
            read_trace(path)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.999])
def test_a_truncated_export(export: Path, share: float) -> None:
    whole = export.read_bytes()
    export.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"truncated: {int(share * len(whole))} bytes of {len(whole)}"):
        read_trace(export)


def test_an_export_whose_pages_are_damaged(export: Path) -> None:
    whole = export.read_bytes()
    half = len(whole) // 2
    export.write_bytes(whole[:4096] + b"\xff" * (half - 4096) + whole[half:])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_trace(export)


def test_an_sqlite_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "books.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE books (title)")
    db.close()
    with pytest.raises(ValueError, match=r"no export of Nsight Systems \(tables: books\)"):
        read_trace(path)


def test_an_sqlite_file_without_tables(tmp_path: Path) -> None:
    path = tmp_path / "nothing.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE books (title)")
        db.execute("DROP TABLE books")
    db.close()
    with pytest.raises(ValueError, match=r"no export of Nsight Systems \(tables: none\)"):
        read_trace(path)


def test_without_nvtx(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.launch(1, 10, 20, 30)
    with pytest.raises(ValueError, match="has no NVTX push/pop ranges; `qt-profile trace` opens them"):
        read(builder, tmp_path)


def test_with_our_domain_but_no_range_in_it(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.domain("qt-profile", 3)
    builder.range("hop", 0, 10)
    with pytest.raises(ValueError, match="no NVTX push/pop ranges in its domain qt-profile"):
        read(builder, tmp_path)


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_an_export_that_is_still_written(export: Path, suffix: str) -> None:
    export.with_name(export.name + suffix).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"is unfinished: whole.sqlite{suffix}"):
        read_trace(export)


def test_too_many_different_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsys_launches, "_MOST_PATHS", 10)
    builder = ExportBuilder()
    for i in range(11):
        builder.range(f"step {i}", 10 * i, 10 * i + 5)
    with pytest.raises(ValueError, match="more than 10 different range paths, such as 'step 10'"):
        read(builder, tmp_path)


def test_a_full_temporary_folder_is_an_error_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="SQLITE_TMPDIR"), reading(tmp_path):
        raise sqlite3.OperationalError("database or disk is full")
    with pytest.raises(sqlite3.OperationalError, match="no such column"), reading(tmp_path):
        raise sqlite3.OperationalError("no such column: x")


def test_a_path_with_characters_of_a_uri(tmp_path: Path) -> None:
    builder = ExportBuilder()
    unfused_hop(builder, 1000)
    file = builder.write(tmp_path / "a ?mode=rw#%41 &.sqlite")
    assert len(read_trace(file).hops) == 1
    assert os.listdir(tmp_path) == [file.name]


def test_states_of_finished_ranges_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds the ranges under way: here never more than the chain, a hop, and one of its parts."""
    from profiler import nsys_device

    most = 0
    add = nsys_device.DevicePass._add

    def watched(self: Any, *arguments: Any) -> None:
        nonlocal most
        add(self, *arguments)
        most = max(most, len(self._live))

    monkeypatch.setattr(nsys_device.DevicePass, "_add", watched)
    builder = ExportBuilder()
    builder.range("chain", 0, 10_000_000)
    for hop in range(300):
        unfused_hop(builder, 1000 * hop + 1000, first=10 * hop)
    found = read(builder, tmp_path)
    assert (len(found.hops), row(found, "chain").figures.kernels) == (300, 900)
    assert 1 <= most <= 3


def test_the_attached_export_refuses_writes(export: Path) -> None:
    with Export(export) as opened, pytest.raises(sqlite3.OperationalError, match="readonly"):
        opened.db.execute("DELETE FROM export.NVTX_EVENTS")


def test_processes_are_told_apart_by_calls_where_kernels_do_not_say(tmp_path: Path) -> None:
    builder = ExportBuilder(dropped_columns={"globalPid"})
    unfused_hop(builder, 1000, on=thread(7), first=1)
    unfused_hop(builder, 1200, on=thread(9), first=11)
    found = read(builder, tmp_path)
    assert [(hop.process, hop.figures.device_ns) for hop in found.hops] == [(7, 60), (9, 60)]
    assert "correlation numbers alone decide" in found.warnings[0]
