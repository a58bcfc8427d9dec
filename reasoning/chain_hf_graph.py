"""The chain on Hugging Face's own forward pass with a static cache, each hop one CUDA graph where there is CUDA.

It tells what of an eager hop is the host's, and what the kernels of Hugging Face's layers take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from kernels.peers.peer import first_line
from kernels.registry import Kernel
from reasoning.chain_backend import ReplacedModel
from reasoning.chain_sessions import SessionBackend, Sessions
from reasoning.chain_spec import ChainSpec
from reasoning.engine.session import Session, columns_for
from reasoning.model import LoadedModel
from reasoning.static_forward import StaticForward, StaticKeysValues, StaticSession

_ATTENTION = "sdpa"


class HFGraphBackend(ReplacedModel, SessionBackend):
    """A Hugging Face model whose linears are replaced and whose hops are captured.

    Args:
        spec: the run; its kernels' formats are quantized here.
        loaded: the model; its linears are replaced in place.

    Raises:
        ValueError: a model whose forward pass a CUDA graph cannot hold, or a weight that a format cannot hold.
    """

    def __init__(self, spec: ChainSpec, loaded: LoadedModel) -> None:
        # Before anything is quantized: that takes long.
        check_static(loaded.model)
        super().__init__(spec, loaded)

    def _make_sessions(self, max_len: int, *, shares_cache: bool) -> Sessions:
        return _StaticSessions(StaticForward(self), max_len, shares_cache)

    def _capture_failure(self, kernel: Kernel, error: RuntimeError) -> Exception | None:
        failure = super()._capture_failure(kernel, error)
        return failure or ValueError(
            f"transformers' forward pass of a {self.model.config.model_type!r} model could not be captured in a CUDA "
            f"graph with {kernel.name} at batch size {self._batch_size} ({first_line(error)}); --engine eager runs it"
        )


def check_static(model: Any) -> None:
    """Refuse models whose forward pass is known to read the device's numbers on the host, or to need another cache.

    Raises:
        ValueError: such a model, and why.
    """
    why = _why_not_static(model)
    if why:
        raise ValueError(f"--engine hf_graph: {why}; --engine eager runs it")


def _why_not_static(model: Any) -> str:
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer, StaticSlidingWindowLayer

    config = model.config
    if not getattr(model, "_can_compile_fullgraph", False):
        return f"transformers runs a {config.model_type!r} model on no static cache"
    attention = config._attn_implementation
    if attention != _ATTENTION:
        return f"attention {attention!r} is not {_ATTENTION!r}, whose mask may be given as a tensor"
    for kind in _rope_types(getattr(config, "rope_parameters", None)):
        if "dynamic" in kind:
            return f"rope_type={kind!r} reads the positions on the host at every hop"
    kinds = {type(layer) for layer in StaticCache(config=config, max_cache_len=1).layers}
    strange = sorted(kind.__name__ for kind in kinds - {StaticLayer, StaticSlidingWindowLayer})
    if strange:
        return f"its cache has layers of a kind that holds no keys and values by column: {strange[0]}"
    return ""


def _rope_types(parameters: Any) -> Iterator[str]:
    """Kinds of rotary embedding in a config: one for all layers, or one by kind of layer."""
    if isinstance(parameters, dict):
        if isinstance(parameters.get("rope_type"), str):
            yield parameters["rope_type"]
        for value in parameters.values():
            yield from _rope_types(value)


class _StaticSessions:
    """Sessions on one model, with a cache each or one cache by batch size."""

    def __init__(self, forward: StaticForward, max_len: int, shares_cache: bool) -> None:
        self.max_len = max_len
        self.shares_cache = shares_cache
        self._forward = forward
        self._sessions: dict[tuple[str, int], StaticSession] = {}
        self._caches: dict[int, StaticKeysValues] = {}

    def session(self, kernel: Kernel, batch_size: int) -> Session:
        key = (kernel.name, batch_size)
        if key not in self._sessions:
            cache = self._caches.get(batch_size)
            if cache is None:
                cache = StaticKeysValues(self._forward.model, batch_size, columns_for(self.max_len))
            if self.shares_cache:
                self._caches[batch_size] = cache
            # What another kernel's last batch has left could leave no column for the hops before the capture.
            cache.clear()
            self._sessions[key] = StaticSession(self._forward, kernel, batch_size, self.max_len, cache)
        return self._sessions[key]

    def release(self) -> None:
        self._sessions.clear()
        self._caches.clear()
        if self._forward.device.type == "cuda":
            # A graph's private pool goes back to the device only when the allocator is told to let go of it.
            torch.cuda.empty_cache()
