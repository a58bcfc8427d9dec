"""Backends of the engines that run transformers' forward pass, on small random models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from engine_models import PROMPTS, random_model

from kernels.registry import Kernel, get_kernel
from reasoning.chain_backend import ChainBackend, DecodeJob
from reasoning.chain_hf_graph import HFGraphBackend
from reasoning.chain_spec import ChainSpec, Engine
from reasoning.decode import BatchTrace
from reasoning.model import LoadedModel

SPEC = ChainSpec(kernels=("fused_int8",), engine=Engine.HF_GRAPH)
BF16, INT8 = get_kernel("bf16"), get_kernel("fused_int8")
LENGTHS = [9, 5, 12]
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("qwen3", {}),
    ("qwen2.5", {}),
    ("mistral", {}),
    ("mistral", {"sliding_window": 64}),
    ("llama-3", {}),
    ("qwen3-yarn", {}),
    ("llama-biases", {}),
]


def made(
    family: str = "qwen3", dtype: torch.dtype = torch.float32, device: str = "cpu", **sizes: Any
) -> LoadedModel:
    """A loaded model; the same arguments give the same weights."""
    return LoadedModel(random_model(family, dtype, device, **sizes), None, "made", "folder")


def static_backend(loaded: LoadedModel, max_len: int = 40, *, in_lockstep: bool = False) -> HFGraphBackend:
    """A backend that is ready for batches of ``PROMPTS``."""
    backend = HFGraphBackend(SPEC, loaded)
    backend.prepare(len(PROMPTS), max_len, in_lockstep=in_lockstep)
    return backend


def job_of(**settings: Any) -> DecodeJob:
    """A ragged batch."""
    return DecodeJob(
        **{"prompts": PROMPTS, "lengths": LENGTHS, "end_tokens": frozenset(), "padding": 0} | settings
    )


@contextmanager
def silent(name: str) -> Iterator[None]:
    """Ranges that nobody looks at."""
    yield


def logits_of(backend: ChainBackend, kernel: Kernel, job: DecodeJob, **how: Any) -> torch.Tensor:
    """Logits [position, sequence, vocabulary] of a batch."""
    seen: list[torch.Tensor] = []

    def watch(position: int, logits: torch.Tensor) -> None:
        seen.append(logits.clone())

    for _ in backend.steps(kernel, job, BatchTrace(tokens=[]), on_logits=watch, **how):
        pass
    return torch.stack(seen)
