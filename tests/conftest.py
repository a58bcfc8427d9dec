"""Settings of the whole suite: one compute thread, Triton's interpreter without a GPU, skips for GPU tests."""

import os

import pytest

# One thread: two fighting over a shared core wait for each other at every barrier, up to a second a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

GPU_HERE = torch.cuda.is_available()
if not GPU_HERE:
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is no CUDA device, and say so."""
    if not GPU_HERE:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
