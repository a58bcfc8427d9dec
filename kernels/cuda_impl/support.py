"""Where the CUDA kernels run."""

from __future__ import annotations

import importlib.util
from functools import lru_cache

import torch

_CAPABILITY = (9, 0)


def why_not(device: torch.device | str) -> str:
    """Why the CUDA kernels do not run on a device, in a sentence; empty if they do."""
    on = torch.device(device)
    index = torch.cuda.current_device() if on.index is None else on.index
    return _why_not(index)


@lru_cache(maxsize=16)
def _why_not(index: int) -> str:
    capability = torch.cuda.get_device_capability(index)
    if capability != _CAPABILITY:
        here = ".".join(map(str, capability))
        return f"the cuda kernels need compute capability 9.0 (Hopper), this GPU has {here}"
    if importlib.util.find_spec("cupy") is None:
        return "cupy is not installed (pip install 'qt-profile[gpu]')"
    return ""
