"""Memory of a chain: the peak of a variant, and how large a batch fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kernels.registry import Kernel, Scheme
from reasoning.chain_backend import ChainBackend
from reasoning.decode import BatchTrace

_ELEMENT_BYTES = 2


class MemoryGauge:
    """Peak memory as if only the running kernel's weights were loaded.

    All variants' weights are resident at once so that they can be interleaved. What a window adds to them is measured;
    the running kernel's own weights, layouts and static cache are counted.

    Args:
        backend: the model with the weights of every format.
    """

    def __init__(self, backend: ChainBackend) -> None:
        self._backend = backend
        self._cuda = backend.device.type == "cuda"
        self._before_bytes = 0

    @property
    def note(self) -> str:
        """How the peak was found."""
        if self._cuda:
            return "peak memory: what the allocator's peak adds, and the running kernel's own weights and layouts"
        return "peak memory: counted from tensors (weights, KV cache, widest decoded weight), not measured"

    def start(self) -> None:
        """Begin a window in which only one kernel runs."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._backend.device)
            self._before_bytes = torch.cuda.memory_allocated(self._backend.device)

    def peak_bytes(self, kernel: Kernel, trace: BatchTrace) -> int:
        """Peak of the window, bytes."""
        own = self._backend.model_bytes(kernel)
        if self._cuda:
            added = torch.cuda.max_memory_allocated(self._backend.device) - self._before_bytes
            static = trace.cache_bytes if self._backend.is_captured else 0
            return added + own + self._backend.layout_bytes(kernel) + static
        decoded = self._backend.widest_native_bytes() if kernel.scheme is Scheme.UNFUSED else 0
        return own + trace.cache_bytes + decoded


@dataclass(frozen=True)
class BatchNeed:
    """What a batch takes beside the weights, by arithmetic.

    Args:
        cache_bytes: KV cache of one sequence.
        prompt_bytes: activations of one sequence's prompt, and its logits.
    """

    cache_bytes: int
    prompt_bytes: int

    @classmethod
    def of(cls, config: Any, columns: int, prompt_tokens: int) -> BatchNeed:
        """Count from a transformers config.

        Args:
            config: of a decoder-only model.
            columns: cache columns of a sequence.
            prompt_tokens: tokens of the longest prompt.
        """
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        cached = 2 * config.num_hidden_layers * kv_heads * head_dim * columns
        # At its widest a layer holds residual, norm, its update, and gate, up and their product.
        wide = 3 * config.hidden_size + 3 * config.intermediate_size
        logits = 3 * config.vocab_size
        return cls(_ELEMENT_BYTES * cached, _ELEMENT_BYTES * (prompt_tokens * wide + logits))

    def needed_bytes(self, batch_size: int, caches: int) -> int:
        """Bytes of a batch while ``caches`` kernels hold a cache each."""
        return batch_size * (caches * self.cache_bytes + self.prompt_bytes)

    def largest_batch(self, free_bytes: int, caches: int) -> int:
        """Most sequences that fit."""
        return max(0, free_bytes) // self.needed_bytes(1, caches)

    def sentence(self, batch_size: int, caches: int, free_bytes: int, device: torch.device) -> str:
        """What was needed, what there is, and the largest batch that fits."""
        return (
            f"batch {batch_size} needs {self.needed_bytes(batch_size, caches) / 1e9:.1f} GB beside the weights "
            f"({caches} KV cache{'s' if caches > 1 else ''} and the prompts' activations), {device} has "
            f"{free_bytes / 1e9:.1f} GB free; by this arithmetic the largest batch that fits is "
            f"{self.largest_batch(free_bytes, caches)}"
        )
