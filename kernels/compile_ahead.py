"""Compiles what calls are going to launch before the first of them, on all cores.

The CUDA kernels are compiled by configuration, format and null twin, hundreds of them in a large sweep. A sweep or
a session knows them beforehand; one call after another would compile them one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from kernels.quant_weight import QuantWeight
from kernels.registry import Kernel, Weight
from kernels.traffic import Scheme


def compile_ahead(
    calls: Iterable[tuple[Kernel, Weight, int]], *, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Fill the cache of machine code.

    What does not compile fails with its reason where it is used. Triton's and torch's kernels compile at their first
    call, as ever.

    Args:
        calls: kernel, weight [n, k] and rows of x; those that the CUDA kernels do not run are left out.
        dtype: dtype of x.
    """
    ours = {
        (kernel.name, w.shape, w.group_size, m): (kernel, w, m)
        for kernel, w, m in calls
        if isinstance(w, QuantWeight) and kernel.implementation_for(w.device) == "cuda"
    }
    if not ours:
        return
    from kernels.cuda_impl import build, linear

    build.compile_ahead(
        text
        for kernel, w, m in ours.values()
        for text in linear.sources(w, m, dtype, is_null=kernel.scheme is Scheme.NULL)
    )
