"""The table behind ``analysis.power_cap``: calls in energy windows with pauses, at full clocks, and without them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.fit_energy import IDLE, WAIT
from analysis.fit_input import energy_rows
from analysis.power_cap import held_w
from benchmarks.chain_cells import words
from benchmarks.markdown import table
from benchmarks.published import Chains, NotPublished, place_of
from profiler.record import RunRecord

_COLUMNS = ("W at full clocks", "W held at", "µs at full clocks", "µs held", "k")
# A call whose time hardly changes says nothing of the clocks that it would have needed.
_LEAST_STRETCH = 1.02
_STILL = "waits for memory"
# A window counts as held down within this much of the power that capped windows are held at.
_NEAR = 0.02

Load = tuple[str, int, int, int]


@dataclass(frozen=True)
class _Busy:
    """Power and time of a call while it runs."""

    power_w: float
    call_s: float
    pauses: bool


@dataclass(frozen=True)
class _Sweep:
    """Calls of a sweep for a fit."""

    path: Path
    loads: Mapping[Load, _Busy]
    idle_w: float
    cap_w: float

    @property
    def pauses(self) -> bool:
        """Whether pauses kept its calls at full clocks."""
        return any(busy.pauses for busy in self.loads.values())


def power_cap_table(runs: Chains) -> str:
    """Return, by load, power and time of a call at full clocks and under the power cap, and k between the two.

    Args:
        runs: a machine's sweeps with their folders, oldest first. Of those for a fit, one whose windows have pauses is
            compared with one whose windows have none: the latest two of those that tell k of most calls.

    Raises:
        NotPublished: no sweep of either kind, or no load that both hold.
    """
    found: list[_Sweep] = []
    for path, record in runs:
        if record.kind == "sweep" and record.environment.gpus:
            loads, idle_w = _busy(record)
            cap_w = record.environment.gpus[0].power_limit_w
            if loads and idle_w is not None and cap_w is not None:
                found.append(_Sweep(path, loads, idle_w, cap_w))
    pairs = [(free, held) for free in found if free.pauses for held in found if not held.pauses]
    if not pairs:
        raise NotPublished("no sweeps for a fit with and without pauses in their energy windows")
    tables = [(_rows(free, held), free, held) for free, held in pairs]
    rows, free, held = max(
        reversed(tables), key=lambda entry: sum(row[-1] != _STILL for row in entry[0].values())
    )
    if not rows:
        raise NotPublished("no load was measured both at full clocks and held down by the power cap")
    records = dict(runs)
    dates = words(f"{records[sweep.path].created_utc:%Y-%m-%d}" for sweep in (free, held))
    machine = records[free.path].environment.gpus[0].name
    places = f"records `{place_of(free.path)}` and, held down, `{place_of(held.path)}`"
    return f"{table('call', _COLUMNS, rows)}\n\n{machine}, power cap {free.cap_w:.0f} W; {dates}; {places}."


def _rows(free: _Sweep, held: _Sweep) -> dict[str, tuple[str, ...]]:
    """Cells of the table by call, for those that the cap held down."""
    rows: dict[str, tuple[str, ...]] = {}
    for load in sorted(free.loads.keys() & held.loads.keys(), key=lambda load: (load[1], load[0])):
        fast, slow = free.loads[load], held.loads[load]
        if abs(slow.power_w / held_w(free.cap_w) - 1) > _NEAR or fast.power_w <= slow.power_w:
            continue
        stretch = slow.call_s / fast.call_s
        more = math.log((fast.power_w - free.idle_w) / (slow.power_w - free.idle_w))
        rows[f"`{load[0]}` {load[2]}×{load[3]}, m = {load[1]}"] = (
            f"{fast.power_w:.0f}",
            f"{slow.power_w:.0f}",
            f"{1e6 * fast.call_s:.1f}",
            f"{1e6 * slow.call_s:.1f} ({stretch:.2f} times)",
            f"{more / math.log(stretch):.1f}" if stretch >= _LEAST_STRETCH else _STILL,
        )
    return rows


def _busy(record: RunRecord) -> tuple[dict[Load, _Busy], float | None]:
    """Calls of a run by load, pauses taken off at the power of waiting, and that power."""
    rows = [row for row in energy_rows(record) if row.power_w is not None and not row.energy_is_estimate]
    resting = {row.load: row.power_w or 0.0 for row in rows if row.load in (IDLE, WAIT)}
    idle_w = resting.get(WAIT, resting.get(IDLE))
    if idle_w is None:
        return {}, None
    loads = {}
    for row in rows:
        if row.m is None or row.n is None or row.k is None or not row.units or row.energy_j is None:
            continue
        wait_s = row.wait_s or 0.0
        busy_s = row.duration_s - wait_s
        power_w = (row.energy_j - wait_s * idle_w) / busy_s
        loads[row.load, row.m, row.n, row.k] = _Busy(power_w, busy_s / row.units, wait_s > 0)
    return loads, idle_w
