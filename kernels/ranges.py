"""The hook through which kernels name the ranges that a profiler times."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

RangeHook = Callable[[str], AbstractContextManager[object]]

_NOTHING: AbstractContextManager[None] = nullcontext()


def NO_RANGES(name: str) -> AbstractContextManager[None]:
    """A hook that marks nothing; ``name`` is ``tau_cast``, ``tau_comp`` or ``linear``."""
    return _NOTHING
