"""RAPL: the energy counters of x86 processor packages in ``/sys/class/powercap``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")

READ_PERMISSION_FIX = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
"""Command that lets users read the counters until the next boot (they have been root's since 2020)."""


class RaplUnavailableError(RuntimeError):
    """RAPL cannot be read here; the message says why in one sentence."""


@dataclass(frozen=True)
class RaplZone:
    """One counter."""

    folder: Path
    """Its folder in powercap."""
    name: str
    """Its name, such as ``package-0`` or ``dram``."""
    max_energy_range_j: float
    """The counter starts again from 0 after this many joules."""

    def read_j(self) -> float:
        """Read the counter, J.

        Raises:
            RaplUnavailableError: it may not be read.
        """
        return _read_j(self.folder / "energy_uj")

    def difference_j(self, start_j: float, end_j: float) -> float:
        """Energy between two readings, with at most one new start from 0 between them.

        Args:
            start_j: first reading, J.
            end_j: second reading, J.

        Returns:
            The energy, J.
        """
        return end_j - start_j if end_j >= start_j else end_j - start_j + self.max_energy_range_j


def find_zones(powercap: Path = POWERCAP) -> tuple[RaplZone, ...]:
    """Find the counters whose sum is the processors' energy: every package, and memory beside it.

    A package's own figure holds its cores; ``psys``, where it exists, holds the packages again, so neither
    ``core``, ``uncore`` nor ``psys`` is added.

    Args:
        powercap: folder in the form of ``/sys/class/powercap``.

    Returns:
        At least one zone.

    Raises:
        RaplUnavailableError: there is none, or they may not be read.
    """
    zones = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        name = _read(folder / "name")
        if re.fullmatch(r"package-\d+|dram", name):
            zones.append(RaplZone(folder, name, _read_j(folder / "max_energy_range_uj")))
    if not any(zone.name.startswith("package-") for zone in zones):
        raise RaplUnavailableError(f"{powercap} has no RAPL package (usual for virtual machines)")
    for zone in zones:
        zone.read_j()
    return tuple(zones)


def _read_j(file: Path) -> float:
    text = _read(file)
    if not text.isdecimal():
        raise RaplUnavailableError(f"{file} holds {text!r} where microjoules are expected")
    return int(text) / 1e6


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except PermissionError as error:
        raise RaplUnavailableError(f"{file} may not be read: {READ_PERMISSION_FIX}") from error
    except OSError as error:
        raise RaplUnavailableError(f"{file} cannot be read ({error.strerror or error})") from error
