"""Tables of ``qt-profile fit`` for a machine and a model: bandwidth, energy, host; alpha and phi in joules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from analysis.kernel_kinds import CAST_PREFIX, OWN_PREFIX, ROW_PREFIX

if TYPE_CHECKING:
    from analysis.fit_file import FitsFile
    from analysis.fit_joules import CastJoules
    from analysis.stats import Interval

_UNKNOWN = "not measured"
# Heading, and its end, of parameters that kernels have each.
_BY_KERNEL = {
    CAST_PREFIX: ("e_cast", "per weight"),
    OWN_PREFIX: ("e_own", "per weight"),
    ROW_PREFIX: ("e_row", "per weight and row"),
}
# Name, heading, scale and unit, by parameter.
_MACHINE = {
    "static_w": ("P0, static power", 1.0, "W"),
    "active_w": ("Pa, of a busy device", 1.0, "W"),
    "wait_w": ("Pw, of a waiting kernel", 1.0, "W"),
    "between_w": ("Pb, between linears", 1.0, "W"),
    "j_per_byte": ("e_B, per byte", 1e12, "pJ"),
    "j_per_cached_byte": ("e_C, per byte of a copy in the cache", 1e12, "pJ"),
    "j_per_flop": ("e_F, per operation", 1e12, "pJ"),
    "launch_s": ("h, a launch", 1e6, "µs"),
    "sync_s": ("s, a synchronisation", 1e6, "µs"),
    "graph_s": ("g, between two graphs", 1e6, "µs"),
    "node_s": ("d, an empty kernel of a graph", 1e6, "µs"),
}


def machine_table(fits: FitsFile) -> Table:
    """Return bandwidth, energy and host with their intervals; parts that were not measured say so."""
    table = Table(title=f"{fits.machine} (95 % intervals)", title_justify="left")
    for heading in ("parameter", "value", "unit"):
        table.add_column(heading)
    bandwidth = fits.read_bytes_per_s
    table.add_row("read bandwidth", _UNKNOWN if bandwidth is None else f"{bandwidth / 1e9:,.0f}", "GB/s")
    for name, fit in (("energy", fits.energy), ("host", fits.host)):
        if fit is None:
            table.add_row(name, _UNKNOWN, "")
            continue
        for key, found in fit.parameters.items():
            label, scale, unit = _MACHINE.get(key) or (_of_kernel(key), 1e12, "pJ")
            low, high = (end * scale for end in found.ci95)
            table.add_row(label, f"{found.point * scale:.4g} [{low:.4g}, {high:.4g}]", unit)
    return table


def _of_kernel(key: str) -> str:
    prefix = next(prefix for prefix in _BY_KERNEL if key.startswith(prefix))
    name, per = _BY_KERNEL[prefix]
    return f"{name} of {key.removeprefix(prefix)}, {per}"


def joules_table(model: str, alpha: Interval | None, casts: dict[str, CastJoules | None]) -> Table:
    """Return phi per pass and per row of a model's linear layers by kernel, under their alpha."""
    known = _UNKNOWN if alpha is None else f"{alpha.scaled(1e3)} mJ/bit"
    table = Table(
        title=f"the linear layers of {model} in joules (95 % intervals): alpha {known}; phi, casting them once",
        title_justify="left",
    )
    for heading in ("kernel", "per pass, J", "per row, mJ"):
        table.add_column(heading)
    for kernel, cast in casts.items():
        cells = (_UNKNOWN,) * 2 if cast is None else (str(cast.pass_j), str(cast.row_j.scaled(1e3)))
        table.add_row(kernel, *cells)
    return table
