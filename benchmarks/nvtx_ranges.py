"""NVTX ranges of a sweep, in the domain ``qt-profile``: the sweep, each shape and m, each variant."""

from __future__ import annotations

from contextlib import AbstractContextManager

from kernels.ranges import NO_RANGES, RangeHook

DOMAIN = "qt-profile"


def nvtx_ranges(*, on_cuda: bool) -> RangeHook:
    """A hook that opens NVTX ranges on a GPU and costs nothing elsewhere.

    Args:
        on_cuda: whether the sweep runs on a GPU.
    """
    if not on_cuda:
        return NO_RANGES
    import nvtx

    def open_range(name: str) -> AbstractContextManager[object]:
        found: AbstractContextManager[object] = nvtx.annotate(message=name, domain=DOMAIN)
        return found

    return open_range
