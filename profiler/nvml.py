"""NVIDIA's management library: the GPUs that this process can see, and their counters.

Nothing is loaded before :meth:`Nvml.open`, so importing this module needs neither a GPU nor a driver.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

POWER_INSTANT = 186
"""NVML's field of the power drawn now, mW; the usual power call averages over 1 s on Ampere and newer."""

VIOLATION_FIELDS: Mapping[str, int] = MappingProxyType(
    {
        "power_cap": 74,
        "thermal": 75,
        "sync_boost": 76,
        "board_limit": 77,
        "reliability": 79,
        "sw_thermal": 269,
        "hw_thermal": 270,
        "hw_power_brake": 271,
    }
)
"""NVML's fields of the time for which clocks were held down since the driver was loaded, ns, by reason."""

_NO_PERMISSION, _GPU_IS_LOST, _RESET_REQUIRED = 4, 15, 16
_VALUE_MEMBERS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal"}


class NvmlUnavailableError(RuntimeError):
    """NVML or one of its counters cannot be used here; the message says why in one sentence."""


class NvmlPermissionError(NvmlUnavailableError):
    """The driver does not let this user read a counter."""


class GpuLostError(NvmlUnavailableError):
    """The GPU fell off the bus or needs a reset."""


class MigError(NvmlUnavailableError):
    """The GPU is split by MIG, so the card's counters count the neighbours' work too."""


@dataclass(frozen=True)
class NvmlGpu:
    """One GPU as NVML names it."""

    handle: Any
    """NVML's own handle."""
    index: int
    """NVML's index (PCI bus order)."""
    name: str
    """Product name, such as ``NVIDIA H200``."""
    uuid: str
    """``GPU-...``, stable over reboots."""


class Nvml:
    """An initialised NVML with the host's GPUs.

    Args:
        library: the ``pynvml`` module, already initialised.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self.gpus: tuple[NvmlGpu, ...] = tuple(self._gpu(i) for i in range(library.nvmlDeviceGetCount()))
        """Every GPU of the host, in NVML's order."""

    @classmethod
    def open(cls) -> Nvml:
        """Load and initialise NVML.

        Returns:
            The initialised library.

        Raises:
            NvmlUnavailableError: the Python binding or the driver is missing.
        """
        try:
            library = importlib.import_module("pynvml")
        except ImportError as error:
            raise NvmlUnavailableError("the package nvidia-ml-py is not installed") from error
        try:
            library.nvmlInit()
            return cls(library)
        except library.NVMLError as error:
            raise NvmlUnavailableError(f"NVML does not start ({error})") from error

    def visible(self) -> tuple[NvmlGpu, ...]:
        """GPUs in the order in which CUDA numbers them in this process.

        CUDA numbers the fastest GPU first unless told ``CUDA_DEVICE_ORDER=PCI_BUS_ID``; on a host with GPUs
        of one kind that is NVML's order.

        Returns:
            The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible, all where it is not set; like CUDA, the
            list ends at the first entry that names no GPU.

        Raises:
            MigError: an entry is a MIG slice, whose card's counters also count its neighbours.
        """
        text = os.environ.get("CUDA_VISIBLE_DEVICES")
        if text is None:
            return self.gpus
        chosen: list[NvmlGpu] = []
        for entry in (part.strip() for part in text.split(",")):
            gpu = self._entry(entry)
            if gpu is None:
                break
            if gpu in chosen:  # CUDA shows no device at all for a list that names one twice
                return ()
            chosen.append(gpu)
        return tuple(chosen)

    def select(self, gpus: Sequence[int | str] | None) -> tuple[NvmlGpu, ...]:
        """Pick GPUs by CUDA ordinal or UUID.

        Args:
            gpus: CUDA ordinals of this process or UUIDs; None means every visible GPU.

        Returns:
            The GPUs, at least one.

        Raises:
            NvmlUnavailableError: no GPU is visible, or one asked for is not there.
        """
        visible = self.visible()
        if gpus is None:
            chosen = list(visible)
        else:
            chosen = []
            for wanted in gpus:
                matches = (
                    list(visible[wanted : wanted + 1] if wanted >= 0 else ())
                    if isinstance(wanted, int)
                    else [gpu for gpu in self.gpus if gpu.uuid == wanted]
                )
                if not matches:
                    raise NvmlUnavailableError(f"GPU {wanted!r} is not among the {len(visible)} visible GPUs")
                chosen += matches
        if not chosen:
            raise NvmlUnavailableError("no GPU is visible to this process")
        return tuple(chosen)

    def total_energy_j(self, gpu: NvmlGpu) -> float:
        """Energy that a GPU has used since its driver was loaded.

        Args:
            gpu: one of this host's GPUs.

        Returns:
            The counter in joules (NVML counts millijoules).

        Raises:
            NvmlUnavailableError: the GPU has no such counter (before Volta), is lost, or may not be read.
        """
        try:
            return float(self._library.nvmlDeviceGetTotalEnergyConsumption(gpu.handle)) / 1e3
        except self._library.NVMLError as error:
            raise _named(gpu, "energy counter", error) from error

    def power_w(self, gpu: NvmlGpu) -> float:
        """Power that a GPU draws now, not averaged.

        Args:
            gpu: one of this host's GPUs.

        Returns:
            The power in W.

        Raises:
            NvmlUnavailableError: the GPU does not offer it, is lost, or may not be read.
        """
        power_mw = self._fields(gpu, (POWER_INSTANT,), "instantaneous power").get(POWER_INSTANT)
        if power_mw is None:
            raise NvmlUnavailableError(f"{gpu.name} has no readable instantaneous power (Not Supported)")
        return power_mw / 1e3

    def violation_s(self, gpu: NvmlGpu) -> dict[str, float]:
        """Time for which a GPU's clocks were held down since its driver was loaded.

        Args:
            gpu: one of this host's GPUs.

        Returns:
            Seconds by reason; without the reasons that this GPU does not count.
        """
        try:
            counted = self._fields(gpu, tuple(VIOLATION_FIELDS.values()), "violation counters")
        except NvmlUnavailableError:
            return {}
        return {name: counted[key] / 1e9 for name, key in VIOLATION_FIELDS.items() if key in counted}

    def refuse_mig(self, gpu: NvmlGpu) -> None:
        """Refuse a card that is split into MIG slices, however the slice was chosen.

        Args:
            gpu: one of this host's GPUs.

        Raises:
            MigError: MIG is on.
        """
        modes = self.query("nvmlDeviceGetMigMode", gpu)
        if modes is not None and modes[0] == 1:
            raise MigError(
                f"{gpu.name} {gpu.uuid} is split by MIG, and the energy counter is the whole card's"
            )

    def driver_version(self) -> str:
        """Version of the NVIDIA driver."""
        return str(self._library.nvmlSystemGetDriverVersion())

    def query(self, function: str, gpu: NvmlGpu, *arguments: object) -> Any | None:
        """Call an NVML getter by name.

        Args:
            function: such as ``nvmlDeviceGetPowerManagementLimit``.
            gpu: one of this host's GPUs.
            *arguments: what the getter takes after the handle.

        Returns:
            NVML's answer in NVML's unit, or None where this GPU or this binding does not offer it.
        """
        getter: Callable[..., Any] | None = getattr(self._library, function, None)
        if getter is None:
            return None
        try:
            return getter(gpu.handle, *arguments)
        except self._library.NVMLError:
            return None

    def _fields(self, gpu: NvmlGpu, keys: Sequence[int], what: str) -> dict[int, float]:
        """Field values in NVML's unit by key, without those that this GPU does not offer."""
        getter = getattr(self._library, "nvmlDeviceGetFieldValues", None)
        if getter is None:
            raise NvmlUnavailableError(f"this nvidia-ml-py cannot read the {what} of {gpu.name}")
        try:
            values = getter(gpu.handle, list(keys))
        except self._library.NVMLError as error:
            raise _named(gpu, what, error) from error
        return {
            int(value.fieldId): float(getattr(value.value, _VALUE_MEMBERS[int(value.valueType)]))
            for value in values
            if int(value.nvmlReturn) == 0 and int(value.valueType) in _VALUE_MEMBERS
        }

    def _gpu(self, index: int) -> NvmlGpu:
        handle = self._library.nvmlDeviceGetHandleByIndex(index)
        name = self._library.nvmlDeviceGetName(handle)
        return NvmlGpu(handle, index, str(name), str(self._library.nvmlDeviceGetUUID(handle)))

    def _entry(self, entry: str) -> NvmlGpu | None:
        if entry.startswith("MIG-"):
            raise MigError(f"{entry} is a MIG slice, and the energy counter is the whole card's")
        if entry.isdecimal():
            index = int(entry)
            return self.gpus[index] if index < len(self.gpus) else None
        matches = [gpu for gpu in self.gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        return matches[0] if len(matches) == 1 else None


def _named(gpu: NvmlGpu, what: str, error: Exception) -> NvmlUnavailableError:
    code = getattr(error, "value", None)
    if code == _NO_PERMISSION:
        return NvmlPermissionError(f"the {what} of {gpu.name} {gpu.uuid} may not be read ({error})")
    if code in (_GPU_IS_LOST, _RESET_REQUIRED):
        return GpuLostError(f"{gpu.name} {gpu.uuid} is lost ({error})")
    return NvmlUnavailableError(f"{gpu.name} has no readable {what} ({error})")
