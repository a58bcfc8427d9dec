"""What run records are built from: the strict base model, ranged numbers, the environment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

EnergySource = Literal["nvml_counter", "nvml_polled", "rapl", "hli", "fake", "none"]
"""Where joules come from: ``nvml_counter``, ``nvml_polled`` and ``rapl`` are measured, ``hli`` is TDP x time."""


def is_energy_estimate(source: EnergySource | None) -> bool:
    """Tell whether joules from this source are no measurement.

    Args:
        source: where the joules come from; None where there are none.

    Returns:
        True for ``hli`` and ``fake``.
    """
    return source in ("hli", "fake")


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    if low > high:
        raise ValueError(f"interval is upside down: low={low:g} is above high={high:g}")
    return interval


NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Interval = Annotated[tuple[float, float], AfterValidator(_ordered)]
ShareInterval = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
JsonDict = dict[str, JsonValue]


class Strict(BaseModel):
    """A frozen model that refuses unknown fields, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class GpuState(Strict):
    """One GPU at the moment the environment was captured."""

    index: Count
    """CUDA ordinal in the measuring process."""
    name: str
    """Product name that NVML reports."""
    uuid: str
    """NVML's identifier of the card."""
    arch: str | None = None
    """Key of the hardware table; None when the table lacks this GPU."""
    memory_bytes: Count | None = None
    """Device memory, bytes."""
    power_limit_w: NonNegative | None = None
    """Enforced power limit, W."""
    power_limit_default_w: NonNegative | None = None
    """Power limit as shipped, W."""
    sm_clock_mhz: Count | None = None
    """SM clock at capture, MHz."""
    sm_clock_max_mhz: Count | None = None
    """Highest SM clock, MHz."""
    memory_clock_mhz: Count | None = None
    """Memory clock at capture, MHz."""
    temperature_c: int | None = None
    """GPU temperature at capture, degrees Celsius."""
    clocks_event_reasons: Count | None = None
    """NVML's bit mask of why clocks were held down at capture."""
    ecc_enabled: bool | None = None
    """Whether memory errors are corrected; None where the GPU cannot or does not say."""
    mig_enabled: bool | None = None
    """Whether the card is split by MIG; None where the GPU cannot or does not say."""
    persistence_enabled: bool | None = None
    """Whether the driver keeps the GPU initialised between programs; None where it does not say."""


class Environment(Strict):
    """The machine and software that a run was measured on; holds no user name, host name or home folder."""

    captured_utc: AwareDatetime
    """When the environment was captured, UTC."""
    command: list[str] = []
    """Command line; home and working folder are shortened to ``~`` and ``.``."""
    platform: str
    """Operating system, kernel release and C library."""
    cpu_model: str
    """Model name of the processor."""
    cpu_sockets: PositiveCount = 1
    """Physical processor packages."""
    cpu_cores: PositiveCount | None = None
    """Physical cores over all packages."""
    cpu_threads: PositiveCount
    """Logical processors of the machine."""
    cpu_virtual: bool = False
    """Whether a hypervisor is present."""
    cpu_governor: str | None = None
    """Frequency governor of the first core; None when unreadable."""
    memory_bytes: Count | None = None
    """Host memory, bytes."""
    compute_threads: PositiveCount
    """Threads that PyTorch computes with, or, where it is not loaded, processors this process may use."""
    gpus: list[GpuState] = []
    """GPUs visible to the process, in CUDA's order."""
    nvidia_driver: str | None = None
    """NVIDIA driver version."""
    versions: dict[str, str] = {}
    """Version of Python and of each installed distribution that matters to a measurement."""
    git_commit: str | None = None
    """Commit of the source tree; None when it is not a checkout."""
    git_dirty: bool | None = None
    """Whether the source tree differs from that commit; None when it is not a checkout."""
