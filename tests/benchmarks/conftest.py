import functools

import pytest

from benchmarks import kernel_sweep, sweep
from benchmarks.bandwidth import Bandwidth, measure_bandwidth
from benchmarks.machine import Target


def quick_bandwidth(target: Target) -> Bandwidth:
    return measure_bandwidth(target, samples=3, buffer_bytes=1 << 20)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, and a bandwidth measured on one megabyte."""
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    run_sweep = functools.partial(sweep.run_sweep, bandwidth=quick_bandwidth)
    monkeypatch.setattr(kernel_sweep, "run_sweep", run_sweep)
