"""Peak memory of a variant: measured on a GPU, counted from tensors on a CPU."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from kernels.registry import Kernel, Scheme
from reasoning.decode import BatchTrace
from reasoning.quant_linear import Replacement, model_bytes


class MemoryGauge:
    """Peak memory as if only the running kernel's weights were loaded.

    All variants' weights are resident at once so that they can be interleaved; the others' are subtracted.

    Args:
        model: the model with its linears replaced.
        replacement: the replaced layers.
    """

    def __init__(self, model: PreTrainedModel, replacement: Replacement) -> None:
        self._model = model
        self._replacement = replacement
        self._cuda = model.device.type == "cuda"
        self._resident = 0

    @property
    def note(self) -> str:
        """How the peak was found."""
        if self._cuda:
            return "peak memory: allocator's peak, less the weights of the kernels that did not run"
        return "peak memory: counted from tensors (weights, KV cache, widest decoded weight), not measured"

    def model_bytes(self, kernel: Kernel) -> int:
        """Bytes of the model's weights as the kernel stores them."""
        return model_bytes(self._model, self._replacement, kernel)

    def start(self, kernel: Kernel) -> None:
        """Begin a window in which only ``kernel`` runs."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._model.device)
            self._resident = self._resident_bytes()

    def peak_bytes(self, kernel: Kernel, trace: BatchTrace) -> int:
        """Peak of the window, bytes."""
        own = self.model_bytes(kernel)
        if self._cuda:
            peak: int = torch.cuda.max_memory_allocated(self._model.device)
            return peak - self._resident + own
        layers = self._replacement.replaced.values()
        decoded: int = max(layer.dense.nbytes for layer in layers) if kernel.scheme is Scheme.UNFUSED else 0
        return own + trace.cache_bytes + decoded

    def _resident_bytes(self) -> int:
        """Bytes of the model with every format's weights."""
        dense = {id(t): t.nbytes for t in (*self._model.parameters(), *self._model.buffers())}
        layers = self._replacement.replaced.values()
        total: int = sum(dense.values()) + sum(w.nbytes for layer in layers for w in layer.quantized.values())
        return total
