"""Ahead-of-call compilation of small elementwise functions for the CPU.

``torch.compile`` re-checks its guards on every call, which on a CPU costs more than decoding a small weight.
Here a function is traced once with symbolic sizes and compiled by the same compiler (inductor) into a
callable without guards; the caller promises the dtypes, the devices, and which sizes are equal.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=1)
def can_compile() -> bool:
    """Whether inductor finds a C++ compiler and Python's headers."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return shutil.which(compiler) is not None and headers.exists()


def torch_mode(device: torch.device | str = "cpu") -> str:
    """How the ``torch`` kernels decode on a device: ``torch-compiled`` or ``torch-eager``.

    Compiled on a CPU with a C++ compiler unless ``QT_PROFILE_NO_COMPILE=1``; eager elsewhere. Records store
    this, because eager decoding is many times slower.
    """
    if os.environ.get("QT_PROFILE_NO_COMPILE", "0") == "1" or torch.device(device).type != "cpu":
        return "torch-eager"
    return "torch-compiled" if can_compile() else "torch-eager"


def compile_with_dynamic_sizes(
    function: Callable[..., None], examples: Sequence[Tensor]
) -> Callable[..., object]:
    """Compile a function that writes into its last argument.

    Args:
        function: takes tensors only; sizes that are equal in ``examples`` must be equal in every call.
        examples: one tensor per argument; sizes of 0 and 1 are taken as fixed, all others as free. Their
            number of
            elements tells the compiler whether threads pay.

    Returns:
        A callable with the same arguments.
    """
    # Both are imported late: they pull in the whole compiler, which takes seconds.
    from torch._inductor import standalone_compile
    from torch.fx.experimental.proxy_tensor import make_fx

    def traced(*tensors: Tensor) -> tuple[Tensor, ...]:
        function(*tensors)
        return ()

    with torch.inference_mode(False), torch.no_grad():
        graph = make_fx(traced, tracing_mode="symbolic")(*examples)
        fakes: list[Any] = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
        with torch._guards.tracing(torch._guards.TracingContext(fakes[0].fake_mode)):
            return standalone_compile(
                graph,
                fakes,
                dynamic_shapes="from_tracing_context",
                # Follow torch.set_num_threads instead of the number at compile time.
                options={"config_patches": {"cpp.dynamic_threads": True}},
            )
