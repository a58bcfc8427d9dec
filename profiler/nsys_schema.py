"""The SQL that reads an export of any version: device activities, calls, NVTX ranges, graph nodes."""

from __future__ import annotations

from profiler.nsys_export import Export

KERNEL, COPY, GRAPH = 0, 1, 2
"""Kinds of device activity: a kernel, a copy or set of memory, a whole CUDA graph traced as one."""

OPEN_NS = (1 << 63) - 1
"""End of a range that was never closed: the program was stopped inside it."""

_KERNELS = ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL")
_COPIES = ("CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET", "CUPTI_ACTIVITY_KIND_MEMCPY2")
_GRAPHS = ("CUPTI_ACTIVITY_KIND_GRAPH_TRACE",)
_CALLS = ("CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_DRIVER")
_NODES = ("CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS")
_RANGES = "NVTX_EVENTS"

_PUSH_POP, _DOMAIN_CREATE = 59, 75
# The thread number fills the lower 24 bits of a global thread id; what is left names the process.
_PROCESS = "({} & ~16777215)"


class Schema:
    """What an export holds, as SQL.

    Args:
        export: an open export.
    """

    def __init__(self, export: Export) -> None:
        self.export = export
        self.kernels = export.first(_KERNELS, "start", "end")
        self.calls = [table for table in _CALLS if export.has(table, "correlationId", "globalTid", "start")]
        self.nodes = export.first(_NODES, "graphNodeId", "globalTid", "start")
        self.has_ranges = export.has(_RANGES, "start", "end", "eventType", "globalTid")
        self.has_graph_traces = export.first(_GRAPHS, "start", "end") is not None
        # Without processes on the device's side, correlation numbers alone have to tell calls apart.
        self.by_process = self.kernels is None or export.has(self.kernels, "globalPid")

    def process(self, thread: str) -> str:
        """The process of a thread, for matching calls with what they started."""
        return _PROCESS.format(thread) if self.by_process else "0"

    def activities(self) -> str | None:
        """SELECT of (process, correlation, node, kind, start, end, device, stream, name); None if there are none."""
        tables = [(self.kernels, KERNEL)] if self.kernels is not None else []
        tables += [(table, COPY) for table in _COPIES if self.export.has(table, "start", "end")]
        tables += [(table, GRAPH) for table in _GRAPHS if self.export.has(table, "start", "end")]
        return " UNION ALL ".join(self._activity(table, kind) for table, kind in tables) or None

    def _activity(self, table: str, kind: int) -> str:
        def column(*names: str, default: str = "NULL") -> str:
            return self.export.column(table, *names, default=default)

        process = column("globalPid", default="0") if self.by_process else "0"
        # "name" held the number of a string in old versions.
        name = column("shortName", "demangledName", "name") if kind == KERNEL else "NULL"
        return (
            f"SELECT {process} AS process, {column('correlationId')} AS correlation, "
            f'{column("graphNodeId")} AS node, {kind} AS kind, start, "end", '
            f"{column('deviceId', default='0')} AS device, {column('streamId', default='0')} AS stream, "
            f"{name} AS name FROM export.{table}"
        )

    def call_rows(self) -> str:
        """SELECT of (thread, start, end, correlation, process) of every runtime and driver call."""
        return " UNION ALL ".join(
            f'SELECT globalTid AS thread, start, "end", correlationId AS correlation, '
            f"{self.process('globalTid')} AS process FROM export.{table}"
            for table in self.calls
        )

    def node_rows(self) -> str:
        """SELECT of (process, node, original, thread, start) of the nodes of CUDA graphs."""
        table = str(self.nodes)
        original = self.export.column(table, "originalGraphNodeId")
        return (
            f"SELECT {self.process('globalTid')} AS process, graphNodeId AS node, {original} AS original, "
            f"globalTid AS thread, start FROM export.{table}"
        )

    def _text(self, alias: str) -> tuple[str, str]:
        """(expression, join) of the text of an NVTX event, which may be a registered string."""
        own = self.export.column(_RANGES, "text")
        number = self.export.column(_RANGES, "textId")
        own = own if own == "NULL" else f"{alias}.{own}"
        if number == "NULL" or not self.export.has("StringIds", "id", "value"):
            return own, ""
        return (
            f"coalesce({own}, registered.value)",
            f"LEFT JOIN export.StringIds registered ON registered.id = {alias}.{number}",
        )

    def domains(self) -> list[tuple[int, int, str]]:
        """(process, number, name) of the NVTX domains that programs made."""
        number = self.export.column(_RANGES, "domainId")
        if number == "NULL":
            return []
        text, join = self._text("n")
        rows = self.export.db.execute(
            f"SELECT {_PROCESS.format('n.globalTid')}, n.{number}, {text} FROM export.{_RANGES} n {join} "
            f"WHERE n.eventType = {_DOMAIN_CREATE} AND n.{number} IS NOT NULL"
        )
        return [(process, domain, str(name)) for process, domain, name in rows]

    def range_rows(self, *, filtered: bool) -> str:
        """SELECT of (thread, start, end, name, payload) of the push/pop ranges.

        Args:
            filtered: only those whose process and domain are in the table ``main.domain``.
        """
        text, join = self._text("n")
        payloads = ("int64Value", "uint64Value", "int32Value", "uint32Value")
        held = [f"n.{name}" for name in payloads if self.export.has(_RANGES, name)]
        payload = f"coalesce({', '.join([*held, 'NULL', 'NULL'])})"
        inside = (
            "AND EXISTS (SELECT 1 FROM main.domain d WHERE d.number = n.domainId "
            f"AND d.process = {_PROCESS.format('n.globalTid')}) "
            if filtered
            else ""
        )
        return (
            "SELECT n.globalTid AS thread, n.start AS start, "
            f'CASE WHEN n."end" >= n.start THEN n."end" ELSE {OPEN_NS} END AS stop, '
            f"{text} AS name, {payload} AS payload FROM export.{_RANGES} n {join} "
            f"WHERE n.eventType = {_PUSH_POP} AND n.start IS NOT NULL {inside}"
        )
