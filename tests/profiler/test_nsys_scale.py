"""Reading a long trace searches its temporary tables, so its time grows with the number of kernels alone."""

import re
import time
from pathlib import Path

from nsys_builder import ExportBuilder

from profiler.nsys_device import activities_sql
from profiler.nsys_picture import draw_timeline
from profiler.nsys_trace import OpenTrace, open_trace

KERNELS_PER_HOP = 100


def export(path: Path, kernels: int) -> Path:
    """Hops of launches; every tenth kernel is a graph's, captured ahead of the hops."""
    builder = ExportBuilder()
    builder.node(5, 10)
    builder.node(6, 12, 5)
    builder.range("capture", 0, 20)
    for number in range(kernels):
        at = 1000 + 40 * number
        if number % KERNELS_PER_HOP == 0:
            builder.range("hop", at - 10, at + 40 * KERNELS_PER_HOP - 11, payload=number // KERNELS_PER_HOP)
        builder.call(number, at, at + 1)
        builder.kernel(number, at + 5, at + 25, node=None if number % 10 else 6)
    return builder.write(path)


def plan(trace: OpenTrace, sql: str) -> list[str]:
    db = trace.schema.export.db
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")]


def test_activities_search_the_temporary_tables(tmp_path: Path) -> None:
    with open_trace(export(tmp_path / "t.sqlite", 500)) as trace:
        steps = plan(trace, activities_sql(trace.schema, ""))
    for table in "orc":
        (step,) = (s for s in steps if re.match(rf"(SCAN|SEARCH) {table}\b", s))
        # AUTOMATIC: an index of its own for one query, which a plan makes where it cannot use the table's.
        assert step.startswith("SEARCH") and "AUTOMATIC" not in step, steps


def test_a_column_of_another_type_would_scan(tmp_path: Path) -> None:
    """What the test above is there to find, so that it is known to find it."""
    with open_trace(export(tmp_path / "t.sqlite", 500)) as trace:
        db = trace.schema.export.db
        db.execute(
            "CREATE TABLE untyped (process TEXT, correlation TEXT, range, PRIMARY KEY (process, correlation))"
        )
        sql = activities_sql(trace.schema, "").replace("main.owner", "main.untyped")
        (step,) = (s for s in plan(trace, sql) if re.match(r"(SCAN|SEARCH) o\b", s))
    assert step.startswith("SCAN") or "AUTOMATIC" in step


def test_a_hundred_thousand_kernels_are_read_in_linear_time(tmp_path: Path) -> None:
    took_s = {}
    for kernels in (10_000, 100_000):
        file = export(tmp_path / f"{kernels}.sqlite", kernels)
        start_s = time.process_time()
        with open_trace(file) as trace:
            took_s[kernels] = time.process_time() - start_s
            assert len(trace.reading.hops) == kernels // KERNELS_PER_HOP
            assert all(hop.figures.kernels == KERNELS_PER_HOP for hop in trace.reading.hops)
            if kernels == 10_000:
                draw_timeline(trace, tmp_path / "t.png")
    assert took_s[100_000] < 30
    assert took_s[100_000] < 30 * took_s[10_000]
