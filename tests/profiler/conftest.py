"""A fake NVML, a clock that only moves when told, and a small legal record."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from profiler.record import (
    AgreementSample,
    EnergySample,
    Environment,
    HopSample,
    KernelSample,
    QuerySample,
    RangeSample,
    RunRecord,
    Sample,
    VariantResult,
    new_run_id,
)


class FakeNvmlError(Exception):
    pass


@dataclass
class FakeClock:
    """Seconds that pass only by sleeping."""

    now_s: float = 0.0

    def ns(self) -> int:
        return round(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class FakeNvml:
    """Stands in for the module ``pynvml``: GPUs that draw constant power, read in ticks of 100 ms."""

    clock: FakeClock
    names: list[str]
    power_w: list[float] = field(default_factory=lambda: [300.0, 100.0, 100.0, 100.0])
    tick_s: float = 0.1
    has_counter: bool = True
    starts: bool = True
    NVMLError = FakeNvmlError

    def nvmlInit(self) -> None:
        if not self.starts:
            raise FakeNvmlError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.names[handle]

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}{handle}aa-0000"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.has_counter:
            raise FakeNvmlError("Not Supported")
        ticks = int(self.clock.now_s / self.tick_s + 1e-6) if self.tick_s else 0
        return round(1e3 * self.power_w[handle] * ticks * self.tick_s)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=80 << 30)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 650_000

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        raise FakeNvmlError("Not Supported")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now_s=100.03)


@pytest.fixture
def install_nvml(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Callable[..., FakeNvml]:
    def install(*names: str, **settings: Any) -> FakeNvml:
        fake = FakeNvml(clock, list(names), **settings)
        monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return fake

    return install


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture(autouse=True)
def no_tdp_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QT_PROFILE_TDP_W", raising=False)


@pytest.fixture
def make_record() -> Callable[..., RunRecord]:
    def make(**changes: Any) -> RunRecord:
        created = datetime(2026, 1, 31, 12, 0, 5, tzinfo=timezone.utc)
        variant = VariantResult(
            kernel="fused_nf4",
            implementation="torch",
            mode="replay",
            batch_size=1,
            problems=3,
            hops=7,
            tokens=7,
        )
        fields: dict[str, Any] = {
            "run_id": new_run_id("chain tiny", created),
            "kind": "chain",
            "status": "complete",
            "created_utc": created,
            "command": ["qt-profile", "chain"],
            "environment": Environment(
                captured_utc=created, platform="test", cpu_model="test", cpu_threads=1, compute_threads=1
            ),
            "arguments": {"model": "tiny", "batch": [1, 8]},
            "results": [variant],
        }
        return RunRecord(**{**fields, **changes})

    return make


@pytest.fixture
def samples() -> list[Sample]:
    return [
        HopSample(
            kernel="fused_nf4", mode="replay", repeat=0, batch_index=0, hop=0, active=2, tokens=2, hop_s=0.25
        ),
        QuerySample(kernel="fused_nf4", problem_id="p/1", correct=True, expected="18", answer="18.", hops=3),
        RangeSample(
            kernel="unfused_nf4", repeat=0, batch_index=0, hop=0, linear_s=0.2, cast_s=0.15, comp_s=0.05
        ),
        AgreementSample(
            kernel="fused_nf4", problem_id="p/1", hop=2, kl_nats=0.0, top1_same=True, logits_rel_error=1e-3
        ),
        EnergySample(
            kernel="fused_nf4", repeat=0, queries=4, energy_j=None, duration_s=5.5, energy_source="none"
        ),
        KernelSample(kernel="bf16", batch_size=1, m=1, n=7, k=5, repeat=0, time_us=3.5),
    ]
