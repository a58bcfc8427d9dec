"""First pass over an export: which range launched what, and which was open when a graph node was captured.

A call belongs to the innermost push/pop range of its own thread that encloses it. Threads are swept in order of time,
so memory holds the ranges that are open at once and no more; results go to the temporary database.
"""

from __future__ import annotations

import heapq
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from profiler.nsys_schema import COPY, OPEN_NS, Schema
from profiler.range_cost import HELD

Path = tuple[str, ...]
"""Names of nested ranges, the outermost first."""

HOP_NAME = re.compile(r"hop[ ._-]?(\d*)")
_LAYER_NAME = re.compile(r"layer\.\d+")
_MOST_PATHS = 50_000
_BATCH = 10_000
_RANGE_FIRST, _CALL, _CAPTURE = 0, 1, 2
# Columns have the type of the export's: SQLite searches no index whose column would have to be converted first.
_TABLES = (
    "owner (process INTEGER, correlation INTEGER, range INTEGER, PRIMARY KEY (process, correlation)) WITHOUT ROWID",
    "range (id INTEGER PRIMARY KEY, parent INTEGER, path INTEGER, depth INTEGER, start INTEGER, stop INTEGER, "
    "activities INTEGER)",
    "capture (process INTEGER, root INTEGER, path INTEGER, PRIMARY KEY (process, root)) WITHOUT ROWID",
    "root (process INTEGER, node INTEGER, root INTEGER, PRIMARY KEY (process, node)) WITHOUT ROWID",
    "node (process INTEGER, node INTEGER, original INTEGER, thread INTEGER, start INTEGER)",
    "point (process INTEGER, root INTEGER, thread INTEGER, start INTEGER)",
    "launch (process INTEGER, correlation INTEGER, kernels INTEGER, activities INTEGER, "
    "PRIMARY KEY (process, correlation)) WITHOUT ROWID",
)


class Paths:
    """Numbers the paths of ranges by process, in order of appearance.

    Args:
        fold_layers: whether ``layer.<i>`` goes by the name ``layer.*``.
    """

    def __init__(self, *, fold_layers: bool) -> None:
        self._fold_layers = fold_layers
        self._numbers: dict[tuple[int, Path], int] = {}
        self.known: list[tuple[int, Path]] = []

    def number(self, process: int, path: Path) -> int:
        """The number of a path.

        Raises:
            ValueError: there are more paths than a table can show.
        """
        found = self._numbers.get((process, path))
        if found is None:
            if len(self.known) == _MOST_PATHS:
                raise ValueError(
                    f"the trace has more than {_MOST_PATHS} different range paths, such as {'/'.join(path)!r}; "
                    "a domain of its own for the ranges to be read, and --domain, leave the others out"
                )
            found = self._numbers[process, path] = len(self.known)
            self.known.append((process, path))
        return found

    def below(self, parent: int | None, process: int, name: str) -> int:
        """The number of a range's path under its parent's."""
        if self._fold_layers and _LAYER_NAME.fullmatch(name):
            name = "layer.*"
        return self.number(process, (*(() if parent is None else self.known[parent][1]), name))


@dataclass
class RangeTotals:
    """What the first pass knows about the ranges of one path."""

    instances: int = 0
    wall_ns: int = 0
    launches: int = 0


@dataclass
class HopRange:
    """One hop: a range named ``hop``, or ``hop`` and a number."""

    range_id: int
    path: int
    index: int | None
    start_ns: int
    end_ns: int
    launches: int


@dataclass
class Launches:
    """Result of the pass; owners, ranges and captures are tables of the temporary database."""

    paths: Paths
    totals: dict[int, RangeTotals] = field(default_factory=dict)
    hops: list[HopRange] = field(default_factory=list)


@dataclass
class _Open:
    id: int
    parent: _Open | None
    path: int
    start: int
    end: int
    payload: int | None
    activities: int = 0
    launches: int = 0


def prepare(db: sqlite3.Connection, schema: Schema) -> None:
    """Make the tables of the pass: launches by call, roots of graph nodes, and empty ones for its results."""
    for table in _TABLES:
        db.execute(f"CREATE TABLE {table}")
    activities = schema.activities()
    if activities is None:
        return
    db.execute(
        f"INSERT INTO launch SELECT process, correlation, sum(kind <> {COPY}), count(*) FROM ({activities}) "
        "WHERE correlation IS NOT NULL GROUP BY process, correlation"
    )
    if schema.nodes is not None:
        _find_roots(db, schema, activities)


def _find_roots(db: sqlite3.Connection, schema: Schema, activities: str) -> None:
    """Follow each node that ran to the node it was cloned from, as often as it was cloned."""
    db.execute(f"INSERT INTO node {schema.node_rows()}")
    db.execute("CREATE INDEX node_by_id ON node (process, node)")
    ran = db.execute(f"SELECT DISTINCT process, node FROM ({activities}) WHERE node IS NOT NULL")
    for process, node in ran:
        root, seen = node, {node}
        while True:
            found = db.execute(
                "SELECT original FROM node WHERE process = ? AND node = ? AND original IS NOT NULL LIMIT 1",
                (process, root),
            ).fetchone()
            if found is None or found[0] in seen or not _is_known(db, process, found[0]):
                break
            root = found[0]
            seen.add(root)
        db.execute("INSERT INTO root VALUES (?, ?, ?)", (process, node, root))
    db.execute(
        "INSERT INTO point SELECT r.process, r.root, n.thread, min(n.start) FROM (SELECT DISTINCT process, root "
        "FROM root) r JOIN node n ON n.process = r.process AND n.node = r.root GROUP BY r.process, r.root"
    )


def _is_known(db: sqlite3.Connection, process: int, node: int) -> bool:
    row = db.execute("SELECT 1 FROM node WHERE process = ? AND node = ? LIMIT 1", (process, node)).fetchone()
    return row is not None


_Event = tuple[int, int, int, int, tuple[Any, ...]]
"""thread, start, what it is, minus end (so that outer ranges come first), the rest."""


def _events(db: sqlite3.Connection, schema: Schema, *, filtered: bool) -> Iterator[_Event]:
    ranges = db.execute(
        f"SELECT thread, start, stop, name, payload FROM ({schema.range_rows(filtered=filtered)}) "
        "ORDER BY thread, start, stop DESC"
    )
    streams: list[Iterator[_Event]] = [
        (
            (thread, start, _RANGE_FIRST, -stop, (name, payload))
            for thread, start, stop, name, payload in ranges
        )
    ]
    if schema.calls:
        # Where two calls share a number, the one that began first encloses the other.
        calls = db.execute(
            'SELECT c.thread, min(c.start), c."end", l.process, l.correlation, l.kernels, l.activities '
            f"FROM ({schema.call_rows()}) c JOIN launch l ON l.process = c.process "
            "AND l.correlation = c.correlation GROUP BY l.process, l.correlation ORDER BY 1, 2"
        )
        streams.append((t, start, _CALL, -stop, tuple(rest)) for t, start, stop, *rest in calls)
    points = db.execute("SELECT thread, start, process, root FROM point ORDER BY thread, start")
    streams.append((t, start, _CAPTURE, -start, tuple(rest)) for t, start, *rest in points)
    return heapq.merge(*streams, key=lambda event: event[:4])


class LaunchPass:
    """Sweeps the threads; :meth:`run` does it once.

    Args:
        schema: of the export; :func:`prepare` has run.
        fold_layers: see :class:`Paths`.
        filtered: only ranges of the domains in the table ``main.domain``.
    """

    def __init__(self, schema: Schema, *, fold_layers: bool, filtered: bool) -> None:
        self._db = schema.export.db
        self._schema = schema
        self._filtered = filtered
        self._result = Launches(Paths(fold_layers=fold_layers))
        self._stack: list[_Open] = []
        self._next_id = 1
        self._owners: list[tuple[object, ...]] = []
        self._ranges: list[tuple[object, ...]] = []
        self._last_ns = 0

    def run(self) -> Launches:
        """Fill the tables ``owner``, ``range`` and ``capture``.

        Raises:
            ValueError: too many different paths.
        """
        now: int | None = None
        for thread, start, kind, minus_end, rest in _events(self._db, self._schema, filtered=self._filtered):
            if thread != now:
                self._close_until(None)
                now = thread
            self._close_until(start)
            self._last_ns = max(start, self._last_ns)
            if kind == _RANGE_FIRST:
                self._push(thread, start, -minus_end, *rest)
                continue
            frame = self._enclosing(-minus_end)
            if kind == _CALL:
                self._own(frame, *rest)
            else:
                process, root = rest
                path = None if frame is None else frame.path
                self._db.execute("INSERT OR IGNORE INTO capture VALUES (?, ?, ?)", (process, root, path))
        self._close_until(None)
        self._flush()
        self._result.hops.sort(key=lambda hop: hop.start_ns)
        return self._result

    def _push(self, thread: int, start: int, end: int, name: object, payload: object) -> None:
        parent = self._enclosing(end)
        process = (thread >> 24) & 0xFFFFFF
        path = self._result.paths.below(
            None if parent is None else parent.path, process, "(no name)" if name is None else str(name)
        )
        number = payload if isinstance(payload, int) else None
        self._stack.append(_Open(self._next_id, parent, path, start, end, number))
        self._next_id += 1

    def _enclosing(self, end: int) -> _Open | None:
        # What is on the stack began before; from an outer range of another domain it may end too soon.
        for frame in reversed(self._stack):
            if frame.end >= end:
                return frame
        return None

    def _own(
        self, frame: _Open | None, process: int, correlation: int, kernels: int, activities: int
    ) -> None:
        self._owners.append((process, correlation, None if frame is None else frame.id))
        if frame is not None:
            frame.activities += activities
            frame.launches += bool(kernels)
        if len(self._owners) >= _BATCH:
            self._flush()

    def _close_until(self, time_ns: int | None) -> None:
        while self._stack and (time_ns is None or self._stack[-1].end < time_ns):
            self._close(self._stack.pop())

    def _close(self, frame: _Open) -> None:
        if frame.end == OPEN_NS:
            frame.end = max(self._last_ns, frame.start)
        path = self._result.paths.known[frame.path][1]
        if frame.parent is not None:
            frame.parent.activities += frame.activities
            frame.parent.launches += frame.launches if path[-1] != HELD else 0
        totals = self._result.totals.setdefault(frame.path, RangeTotals())
        totals.instances += 1
        totals.wall_ns += frame.end - frame.start
        totals.launches += frame.launches
        hop = HOP_NAME.fullmatch(path[-1])
        if hop is not None:
            index = int(hop[1]) if frame.payload is None and hop[1] else frame.payload
            self._result.hops.append(
                HopRange(frame.id, frame.path, index, frame.start, frame.end, frame.launches)
            )
        if frame.activities or hop is not None:
            parent = None if frame.parent is None else frame.parent.id
            self._ranges.append(
                (frame.id, parent, frame.path, len(path), frame.start, frame.end, frame.activities)
            )
        if len(self._ranges) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._db.executemany("INSERT OR IGNORE INTO owner VALUES (?, ?, ?)", self._owners)
        self._db.executemany("INSERT INTO range VALUES (?, ?, ?, ?, ?, ?, ?)", self._ranges)
        self._owners.clear()
        self._ranges.clear()
