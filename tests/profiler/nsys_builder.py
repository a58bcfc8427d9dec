"""Builds small exports as nsys would: tables appear with their first row, and only the columns that a version has."""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PUSH_POP, START_END, DOMAIN_CREATE = 59, 60, 75
KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
CALLS = "CUPTI_ACTIVITY_KIND_RUNTIME"
COPIES = "CUPTI_ACTIVITY_KIND_MEMCPY"
GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
NODES = "CUDA_GRAPH_NODE_EVENTS"
RANGES = "NVTX_EVENTS"


def process(number: int) -> int:
    return (1 << 48) + (number << 24)


def thread(process_number: int, thread_number: int = 1) -> int:
    return process(process_number) + thread_number


@dataclass
class ExportBuilder:
    """Rows by table; times are ns."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    dropped_columns: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    strings: dict[str, int] = field(default_factory=dict)

    def add(self, table: str, **columns: Any) -> None:
        self.rows.setdefault(table, []).append(columns)

    def text(self, value: str) -> int:
        return self.strings.setdefault(value, len(self.strings) + 1)

    def range(
        self,
        name: str | None,
        start: int,
        end: int | None,
        *,
        on: int = thread(7),
        payload: int | None = None,
        domain: int = 0,
        registered: bool = False,
        kind: int = PUSH_POP,
    ) -> None:
        self.add(
            RANGES,
            start=start,
            end=end,
            eventType=kind,
            globalTid=on,
            text=None if registered or name is None else name,
            textId=self.text(name) if registered and name is not None else None,
            domainId=domain,
            int64Value=payload,
        )

    def domain(self, name: str, number: int, *, on: int = thread(7), registered: bool = False) -> None:
        self.range(name, 0, None, on=on, domain=number, registered=registered, kind=DOMAIN_CREATE)

    def call(self, correlation: int, start: int, end: int, *, on: int = thread(7)) -> None:
        self.add(
            CALLS,
            start=start,
            end=end,
            globalTid=on,
            correlationId=correlation,
            nameId=self.text("cudaLaunchKernel"),
        )

    def kernel(
        self,
        correlation: int | None,
        start: int,
        end: int,
        *,
        of: int = process(7),
        node: int | None = None,
        stream: int = 7,
    ) -> None:
        self.add(
            KERNELS,
            start=start,
            end=end,
            deviceId=0,
            streamId=stream,
            correlationId=correlation,
            globalPid=of,
            shortName=self.text("kernel"),
            graphNodeId=node,
        )

    def launch(self, correlation: int, called: int, start: int, end: int, *, on: int = thread(7)) -> None:
        """A call of 1 ns at ``called`` and its kernel."""
        self.call(correlation, called, called + 1, on=on)
        self.kernel(correlation, start, end, of=on & ~0xFFFFFF)

    def copy(self, correlation: int, start: int, end: int, *, of: int = process(7)) -> None:
        self.add(
            COPIES, start=start, end=end, deviceId=0, streamId=7, correlationId=correlation, globalPid=of
        )

    def node(self, node: int, at: int, original: int | None = None, *, on: int = thread(7)) -> None:
        self.add(NODES, start=at, end=at, globalTid=on, graphNodeId=node, originalGraphNodeId=original)

    def write(self, path: Path) -> Path:
        db = sqlite3.connect(path)
        tables = dict(self.rows)
        tables["StringIds"] = [{"id": number, "value": text} for text, number in self.strings.items()]
        tables["META_DATA_EXPORT"] = [{"name": "EXPORT_PRODUCT_VERSION", "value": "2025.3.2.0"}]
        for table, rows in tables.items():
            name = self.renamed.get(table, table)
            columns = [
                column
                for column in (rows or [{"id": 0, "value": ""}])[0]
                if column not in self.dropped_columns
            ]
            # Typed as nsys types them: a comparison of columns of different types searches no index.
            types = {
                c: "TEXT" if any(isinstance(r.get(c), str) for r in rows) else "INTEGER" for c in columns
            }
            quoted = ", ".join(f'"{column}" {types[column]}' for column in columns)
            db.execute(f"CREATE TABLE {name} ({quoted})")
            db.executemany(
                f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})",
                [[row[column] for column in columns] for row in rows],
            )
        db.commit()
        db.close()
        return path
