"""A range hook that a profiler sees too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kernels.ranges import NO_RANGES, RangeHook
from profiler.nvtx import open_range, ranges_on


class _Shown:
    """A hook inside the ranges that a profiler shows."""

    def __init__(self, hook: RangeHook) -> None:
        self._hook = hook

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with open_range(name), self._hook(name):
            yield


def shown(hook: RangeHook = NO_RANGES) -> RangeHook:
    """A hook and, while a profiler listens, the ranges that it shows around the hook's, once."""
    if not ranges_on() or hook is open_range or isinstance(hook, _Shown):
        return hook
    return open_range if hook is NO_RANGES else _Shown(hook)
