"""Second pass over an export: device time of every range, by the kernels that it launched.

Activities are swept in order of time. A range's state lives from its first activity to its last, so memory holds the
ranges whose work is under way on the device and no more.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from functools import lru_cache

from profiler.nsys_launches import Launches, Path
from profiler.nsys_schema import COPY, GRAPH, Schema
from profiler.range_cost import HELD

CAST, COMP, LINEAR = "tau_cast", "tau_comp", "linear"
ROLES = (CAST, COMP, LINEAR)
_CACHED_RANGES = 10_000
# Stands for what encloses a graph launched outside every range: the whole trace.
_NO_RANGE = -1


@dataclass
class DeviceTotals:
    """Device work of one range, or of all ranges of a path, ns."""

    kernels: int = 0
    device_ns: int = 0
    busy_ns: int = 0
    gap_ns: int = 0
    copy_ns: int = 0
    role_ns: dict[str, int] = field(default_factory=dict)
    role_kernels: int = 0

    def add(self, other: DeviceTotals) -> None:
        """Add another range's figures."""
        self.kernels += other.kernels
        self.device_ns += other.device_ns
        self.busy_ns += other.busy_ns
        self.gap_ns += other.gap_ns
        self.copy_ns += other.copy_ns
        self.role_kernels += other.role_kernels
        for role, ns in other.role_ns.items():
            self.role_ns[role] = self.role_ns.get(role, 0) + ns


@dataclass(slots=True)
class _Live:
    """A range with work under way: its figures so far, and the union of its activities up to ``last``."""

    first: int
    last: int
    busy: int = 0
    left: int = 0
    totals: DeviceTotals = field(default_factory=DeviceTotals)

    def cover(self, start: int, end: int) -> None:
        if end > self.last:
            self.busy += end - (start if start > self.last else self.last)
            self.last = end


@dataclass
class DeviceWork:
    """Result of the pass."""

    by_path: dict[int, DeviceTotals] = field(default_factory=dict)
    captured_in: dict[int, int] = field(default_factory=dict)
    """Ranges of a path that a graph's kernels bring into the range of their launch: how many such launches."""
    hops: dict[int, DeviceTotals] = field(default_factory=dict)
    """By range id."""
    hop_ends: dict[int, int] = field(default_factory=dict)
    """When the device was done with a hop, by range id, ns."""
    outside: DeviceTotals = field(default_factory=DeviceTotals)
    """Launched outside every range."""
    without_call: DeviceTotals = field(default_factory=DeviceTotals)
    """Whose call is not in the trace."""
    whole_graphs: int = 0
    """Graph replays that were traced as one piece."""
    unknown_nodes: int = 0
    """Kernels of graphs whose nodes are not in the trace."""


def graft(launch: Path, capture: Path) -> Path:
    """Where a graph's kernel belongs: the ranges of its capture, inside those of its launch.

    Ranges that both have, such as the hop during which a graph was captured, are not repeated.

    Args:
        launch: ranges around the call that replayed the graph.
        capture: ranges around the call that captured the kernel.

    Returns:
        The path of the innermost range.
    """
    shared = [i for i, name in enumerate(capture) if name in launch]
    return launch + capture[shared[-1] + 1 if shared else 0 :]


def role_of(path: Path) -> str | None:
    """The innermost of ``tau_cast``, ``tau_comp`` and ``linear`` that a path is in; None where the device is held."""
    return None if is_held(path) else next((name for name in reversed(path) if name in ROLES), None)


def is_held(path: Path) -> bool:
    """Whether a path leads to what only keeps the device waiting for the host."""
    return bool(path) and path[-1] == HELD


class DevicePass:
    """Sweeps the device activities; :meth:`run` does it once.

    Args:
        schema: of the export, after the first pass.
        launches: result of the first pass.
    """

    def __init__(self, schema: Schema, launches: Launches) -> None:
        self._db: sqlite3.Connection = schema.export.db
        self._schema = schema
        self._paths = launches.paths
        self._hops = {hop.range_id for hop in launches.hops}
        self._live: dict[int, _Live] = {}
        # Ranges that exist on the device alone: those of a capture, inside the range of a launch.
        self._grafted: dict[int, dict[int, _Live]] = {}
        self._work = DeviceWork()
        self._chain = lru_cache(_CACHED_RANGES)(self._read_chain)
        self._place = lru_cache(_CACHED_RANGES)(self._find_place)

    def run(self) -> DeviceWork:
        """Add up the activities."""
        for owned, owner, known, capture, kind, start, end in self._db.execute(
            activities_sql(self._schema, "") + " ORDER BY start"
        ):
            self._work.whole_graphs += kind == GRAPH
            self._work.unknown_nodes += not known
            one = DeviceTotals(kernels=int(kind not in (COPY, GRAPH)))
            if kind == COPY:
                one.copy_ns = end - start
            else:
                one.device_ns = end - start
            self._add(owned, owner, capture, start, end, one)
        self._finish_grafted(_NO_RANGE)
        return self._work

    def _add(
        self, owned: int, owner: int | None, capture: int | None, start: int, end: int, one: DeviceTotals
    ) -> None:
        if not owned:
            self._work.without_call.add(one)
            return
        if owner is None and capture is None:
            self._work.outside.add(one)
            return
        chain = () if owner is None else self._chain(owner)
        grafted, role = self._place(chain[0][1] if chain else None, capture)
        if role is not None and one.device_ns:
            one.role_ns[role] = one.device_ns
            one.role_kernels = one.kernels
        for path in grafted:
            states = self._grafted.setdefault(_NO_RANGE if owner is None else owner, {})
            inner = states.get(path)
            if inner is None:
                inner = states[path] = _Live(start, start)
            inner.cover(start, end)
            inner.totals.add(one)
        held = bool(chain) and self._is_held(chain[0][1])
        for depth, (range_id, _, activities) in enumerate(chain):
            live = self._live.get(range_id)
            if live is None:
                live = self._live[range_id] = _Live(start, start, left=activities)
            # What holds the device back is work of its own range alone; of those around it, it is a gap.
            if not (held and depth):
                live.cover(start, end)
            live.left -= 1
        # Sums go to the innermost range, and from there outwards when it is finished.
        for depth, (range_id, _, _) in enumerate(chain):
            live = self._live[range_id]
            if not depth:
                live.totals.add(one)
            if live.left:
                break
            self._finish(chain[depth:])

    def _finish(self, chain: tuple[tuple[int, int, int], ...]) -> None:
        range_id, path, _ = chain[0]
        live = self._live.pop(range_id)
        if len(chain) > 1 and not self._is_held(path):
            self._live[chain[1][0]].totals.add(live.totals)
        self._store(path, live)
        if range_id in self._hops:
            self._work.hops[range_id] = live.totals
            self._work.hop_ends[range_id] = live.last
        self._finish_grafted(range_id)

    def _is_held(self, path: int) -> bool:
        return is_held(self._paths.known[path][1])

    def _finish_grafted(self, range_id: int) -> None:
        for path, inner in self._grafted.pop(range_id, {}).items():
            self._work.captured_in[path] = self._work.captured_in.get(path, 0) + 1
            self._store(path, inner)

    def _store(self, path: int, live: _Live) -> None:
        live.totals.busy_ns = live.busy
        live.totals.gap_ns = live.last - live.first - live.busy
        self._work.by_path.setdefault(path, DeviceTotals()).add(live.totals)

    def _read_chain(self, range_id: int) -> tuple[tuple[int, int, int], ...]:
        """(id, path, activities) of a range and of all that enclose it, the innermost first."""
        parent, path, activities = self._db.execute(
            "SELECT parent, path, activities FROM main.range WHERE id = ?", (range_id,)
        ).fetchone()
        outer = () if parent is None else self._chain(parent)
        return ((range_id, path, activities), *outer)

    def _find_place(self, launch: int | None, capture: int | None) -> tuple[tuple[int, ...], str | None]:
        """(paths that the capture adds inside the launch's range, role)."""
        known = self._paths.known
        outer: Path = () if launch is None else known[launch][1]
        if capture is None:
            return (), role_of(outer)
        process, inner = known[capture]
        if launch is not None:
            process = known[launch][0]
        whole = graft(outer, inner)
        lengths = range(len(outer) + 1, len(whole) + 1)
        return tuple(self._paths.number(process, whole[:n]) for n in lengths), role_of(whole)


def activities_sql(schema: Schema, columns: str) -> str:
    """SELECT of (has a call, range, node is known, path at capture, kind, start, end) and more, by activity.

    Args:
        schema: of an export after the first pass.
        columns: more columns of ``Schema.activities``, each after a comma.
    """
    activities = schema.activities()
    if activities is None:
        return "SELECT 1, NULL, 1, NULL, 0, 0 AS start, 0 WHERE 0"
    return (
        "SELECT o.process IS NOT NULL, o.range, a.node IS NULL OR r.root IS NOT NULL, c.path, a.kind, a.start, "
        f'a."end"{columns} FROM ({activities}) a '
        "LEFT JOIN main.owner o ON o.process = a.process AND o.correlation = a.correlation "
        "LEFT JOIN main.root r ON r.process = a.process AND r.node = a.node "
        "LEFT JOIN main.capture c ON c.process = r.process AND c.root = r.root"
    )
