"""The chain on our own decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from kernels.registry import Kernel, Weight, get_kernel
from reasoning.chain_backend import format_settings, layouts_of
from reasoning.chain_sessions import SessionBackend, Sessions
from reasoning.chain_spec import ChainSpec
from reasoning.engine.architecture import read_architecture
from reasoning.engine.decoder import Decoder
from reasoning.engine.run import Engine
from reasoning.engine.session import StepMode, layer_math
from reasoning.engine.streamed import StreamedWeights, WantedFormat
from reasoning.model import LoadedModel


class CapturedBackend(SessionBackend):
    """A decoder with the weights of every format of a run.

    Args:
        spec: the run; its engine is ``graph``, ``compile`` or ``fused``.
        loaded: the model, whose native weights the decoder shares; streamed, it has quantized ones alone.

    Raises:
        ValueError: an architecture that the decoder does not know, a weight that a format cannot hold, ``compile`` on
            a CPU without a C++ compiler, or ``fused`` where there are no Triton kernels.
    """

    def __init__(self, spec: ChainSpec, loaded: LoadedModel) -> None:
        self._mode = StepMode(spec.engine.value)
        device: torch.device = loaded.model.device
        # Before anything is quantized: a missing compiler is known at once.
        self._math = layer_math(self._mode, device)
        self._decoder = _streamed(spec, loaded) if loaded.reader is not None else _shared(spec, loaded)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._decoder.device

    @property
    def native_implementation(self) -> str | None:
        """The engine's own product with native weights; None where it leaves them to the kernel."""
        if self._math.native_linear is F.linear:
            return None
        return get_kernel("gemv_bf16").implementation_detail(
            "triton", self.device, weight=self._decoder.embedding
        )

    def _make_sessions(self, max_len: int, *, shares_cache: bool) -> Sessions:
        return Engine(self._decoder, max_len, mode=self._mode, math=self._math, shares_cache=shares_cache)

    def linear_calls(self, kernel: Kernel, rows: int) -> Callable[[], None]:
        """See ``ChainBackend.linear_calls``."""
        return self._decoder.linear_calls(kernel, rows, self._math.native_linear)

    def model_bytes(self, kernel: Kernel) -> int:
        """Bytes of the model's weights as the kernel stores them."""
        return self._decoder.weight_bytes(kernel) + self._decoder.other_bytes

    def layout_bytes(self, kernel: Kernel) -> int:
        """Bytes of the layouts that kernels keep beside the weights of this kernel's format."""
        if kernel.weight_key is None:
            return 0
        return layouts_of(w for linear in self._decoder.linears for w in linear.weights(kernel))

    def sample_weight(self, kernel: Kernel) -> Weight:
        """The first layer's q/k/v weight."""
        return self._decoder.layers[0].qkv.weights(kernel)[0]

    def widest_native_bytes(self) -> int:
        """Bytes of the largest merged linear's native weight."""
        size = self._decoder.embedding.element_size()
        layers = (linear for layer in self._decoder.layers for linear in layer.linears)
        return max(size * linear.shape[0] * linear.shape[1] for linear in layers)


def _shared(spec: ChainSpec, loaded: LoadedModel) -> Decoder:
    """A decoder that shares the loaded model's native weights."""
    decoder = Decoder.from_model(loaded.model, loaded.quantized)
    for kernel in spec.all_kernels():
        group_size, double_quant = format_settings(spec, kernel)
        decoder.add_format(kernel, group_size=group_size, double_quant=double_quant)
    return decoder


def _streamed(spec: ChainSpec, loaded: LoadedModel) -> Decoder:
    """A decoder of quantized weights alone, layer by layer."""
    if loaded.reader is None or not spec.streams:
        raise ValueError(
            f"{len(spec.all_kernels())} kernels, one of them native, cannot run on streamed weights"
        )
    formats = {
        kernel.format.name: WantedFormat(kernel.format, *format_settings(spec, kernel))
        for kernel in spec.all_kernels()
        if kernel.format is not None
    }
    source = StreamedWeights(loaded.reader.read, loaded.reader.names, list(formats.values()))
    return Decoder.build(read_architecture(loaded.model.config), source)
