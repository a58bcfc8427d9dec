"""How many GPU kernels torch's compiler makes of a function, without a GPU: scheduled for one, never compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

# What the scheduler asks of a device: an H200.
_DEVICE = SimpleNamespace(
    type="cuda",
    index=0,
    name="NVIDIA H200",
    multi_processor_count=132,
    major=9,
    minor=0,
    total_memory=141 * 2**30,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 * 2**20,
    warp_size=32,
    gcnArchName="",
    uuid="0",
)


class _Scheduled(Exception):
    """Ends a compilation before code is written."""


def kernels_made_of(function: Callable[..., object], *arguments: Any) -> int:
    """Count the kernels of one call.

    The function is traced with tensors on the CPU; then its graph is moved to a GPU, and everything up to the fusion of
    loops runs as it would there.

    Args:
        function: as the engine gives it to ``torch.compile``.
        arguments: tensors on the CPU and what else it takes.

    Returns:
        Kernels after fusion; what computes nothing is not counted.
    """
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import compile_fx, config, scheduler
    from torch._inductor.scheduler import NopKernelSchedulerNode, Scheduler

    counts: list[int] = []
    cuda = torch.device("cuda", 0)

    def count(scheduler: Any) -> None:
        counts.append(sum(not isinstance(node, NopKernelSchedulerNode) for node in scheduler.nodes))
        raise _Scheduled

    def on_gpu(graph: Any, inputs: Any, **options: Any) -> Any:
        for node in graph.graph.nodes:
            torch.utils._pytree.tree_map(_moved(cuda), node.meta.get("val"))
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": cuda}
            node.args = tuple(cuda if isinstance(one, torch.device) else one for one in node.args)
        torch.utils._pytree.tree_map(_moved(cuda), inputs)
        return compile_fx.compile_fx_inner(graph, inputs, **options)

    def backend(graph: Any, inputs: Any) -> Any:
        return compile_fx.compile_fx(graph, inputs, inner_compile=on_gpu)

    answers = {
        "get_device_properties": lambda device=None: _DEVICE,
        "get_compute_capability": lambda device=None: 90,
        "current_device": lambda: 0,
        "is_available": lambda: True,
        "is_triton_capable": lambda device=None: True,
        "raise_if_triton_unavailable": lambda device=None: None,
    }
    torch._dynamo.reset()
    with ExitStack() as stack:
        # Torch remembers its answer, which is another one for what else this process compiles.
        stack.enter_context(mock.patch.object(scheduler, "has_triton", lambda: True))
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(CudaInterface, name, staticmethod(answer)))
        worker = staticmethod(answers["get_device_properties"])
        stack.enter_context(mock.patch.object(CudaInterface.Worker, "get_device_properties", worker))
        for name, answer in (
            ("get_device_properties", answers["get_device_properties"]),
            ("get_device_capability", lambda device=None: (9, 0)),
            ("current_device", answers["current_device"]),
        ):
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(compile_fx, "_check_triton_bf16_support", lambda graph: None))
        stack.enter_context(mock.patch.object(Scheduler, "codegen", count))
        stack.enter_context(config.patch(fx_graph_cache=False, fx_graph_remote_cache=False))
        try:
            with torch.no_grad():
                torch.compile(function, fullgraph=True, dynamic=False, backend=backend)(*arguments)
        except Exception:
            if not counts:
                raise
    torch._dynamo.reset()
    return counts[0]


def _moved(device: torch.device) -> Callable[[object], object]:
    def move(value: object) -> object:
        if isinstance(value, Tensor) and hasattr(value, "fake_device"):
            value.fake_device = device
        return value

    return move
