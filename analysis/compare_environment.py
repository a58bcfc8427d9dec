"""What differs between the machines, the software and the state of two runs, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analysis.fit_input import machine_of
from profiler.record import GpuState, RunRecord

_SAME_BANDWIDTH = 0.03
_FIELDS = {
    "cpu_model": "processor",
    "cpu_threads": "logical processors",
    "compute_threads": "compute threads",
    "cpu_governor": "frequency governor",
    "platform": "platform",
    "nvidia_driver": "NVIDIA driver",
    "git_commit": "commit",
    "git_dirty": "uncommitted changes",
}
_GPU_FIELDS = {
    "uuid": "card",
    "power_limit_w": "power limit, W",
    "sm_clock_max_mhz": "highest SM clock, MHz",
    "memory_bytes": "device memory, bytes",
}


def differences(one: RunRecord, two: RunRecord) -> Iterator[str]:
    """Say what differs between the environments of two runs, the machine first."""
    if machine_of(one) != machine_of(two):
        yield f"machine: {machine_of(one)} and {machine_of(two)}"
    gpus = [_gpu(record) for record in (one, two)]
    if gpus[0] is not None and gpus[1] is not None:
        for name, words in _GPU_FIELDS.items():
            yield from _differ(words, getattr(gpus[0], name), getattr(gpus[1], name))
    for name, words in _FIELDS.items():
        yield from _differ(words, getattr(one.environment, name), getattr(two.environment, name))
    versions = [record.environment.versions for record in (one, two)]
    for name in sorted({*versions[0], *versions[1]}):
        yield from _differ(name, versions[0].get(name), versions[1].get(name))
    for record in (one, two):
        if record.status == "interrupted":
            yield f"{record.run_id} was interrupted: it holds what was measured until then"
        for state in record.gpu_states:
            if state.throttled:
                yield f"{record.run_id}: {state.name} was held down by {', '.join(state.throttled)}"
    read = [_read_gb_s(record) for record in (one, two)]
    if read[0] and read[1] and abs(read[1] / read[0] - 1) > _SAME_BANDWIDTH:
        yield f"read bandwidth: {read[0]:,.0f} and {read[1]:,.0f} GB/s, so one of the runs was disturbed"


def _differ(words: str, one: object, two: object) -> Iterator[str]:
    if one != two:
        said = ["none" if value is None else str(value) for value in (one, two)]
        yield f"{words}: {said[0]} and {said[1]}"


def _gpu(record: RunRecord) -> GpuState | None:
    on_gpu = record.environment.gpus and record.arguments.get("device") != "cpu"
    return record.environment.gpus[0] if on_gpu else None


def _read_gb_s(record: RunRecord) -> float | None:
    derived: Any = record.derived.get("read_bandwidth")
    return derived.get("read_gb_s_p50") if isinstance(derived, dict) else None
