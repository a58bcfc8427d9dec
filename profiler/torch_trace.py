"""A trace without Nsight Systems: torch.profiler's, which ui.perfetto.dev and chrome://tracing open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from profiler.nvtx import ranges_to


class RecordFunctionSink:
    """Shows ranges as ``record_function`` blocks; the payload follows the name."""

    def __init__(self) -> None:
        self._open = threading.local()

    def push(self, name: str, payload: int | None) -> None:
        """Open a block."""
        from torch.profiler import record_function

        block = record_function(name if payload is None else f"{name} {payload}")
        block.__enter__()
        self._stack().append(block)

    def pop(self) -> None:
        """Close the last block of this thread."""
        self._stack().pop().__exit__(None, None, None)

    def _stack(self) -> list[Any]:
        if not hasattr(self._open, "stack"):
            self._open.stack = []
        stack: list[Any] = self._open.stack
        return stack


@contextmanager
def chrome_trace(target: Path) -> Iterator[None]:
    """Trace the block, its ranges included; what was traced is written however the block ends.

    Args:
        target: a file in Chrome's trace format; one that ends with ``.gz`` is compressed, as both viewers take it.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    traced = profile(activities=activities)
    try:
        with ranges_to(RecordFunctionSink()), traced:
            yield
    finally:
        traced.export_chrome_trace(str(target))
