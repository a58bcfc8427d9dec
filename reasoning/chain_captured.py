"""The chain on our own decoder: a session per kernel and batch size, each hop one CUDA graph where there is CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from kernels.peers.kernel import PeerFailedError, PeerKernel
from kernels.peers.peer import first_line
from kernels.ranges import RangeHook
from kernels.registry import Kernel, Weight
from profiler.record_results import HopClockName
from reasoning.chain_backend import DecodeJob, OnLogits, default_timer, format_settings, layouts_of
from reasoning.chain_spec import ChainSpec
from reasoning.decode import BatchTrace
from reasoning.engine.architecture import read_architecture
from reasoning.engine.decoder import Decoder
from reasoning.engine.event_timer import HopClock
from reasoning.engine.run import Engine, session_steps
from reasoning.engine.session import Session, StepMode, columns_for, layer_math
from reasoning.engine.streamed import StreamedWeights, WantedFormat
from reasoning.model import LoadedModel


class CapturedBackend:
    """A decoder with the weights of every format of a run.

    Args:
        spec: the run; its engine is ``graph`` or ``compile``.
        loaded: the model, whose native weights the decoder shares; streamed, it has quantized ones alone.

    Raises:
        ValueError: an architecture that the decoder does not know, a weight that a format cannot hold, or ``compile``
            on a CPU without a C++ compiler.
    """

    def __init__(self, spec: ChainSpec, loaded: LoadedModel) -> None:
        self._mode = StepMode(spec.engine.value)
        device: torch.device = loaded.model.device
        # Before anything is quantized: a missing compiler is known at once.
        self._math = layer_math(self._mode, device)
        self._decoder = _streamed(spec, loaded) if loaded.reader is not None else _shared(spec, loaded)
        self._engine: Engine | None = None
        self._batch_size = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._decoder.device

    @property
    def hop_clock(self) -> HopClockName:
        """``events`` on a GPU."""
        return "events" if self.device.type == "cuda" else "wall"

    @property
    def is_captured(self) -> bool:
        """Whether a hop is one launch of a CUDA graph: not on a CPU."""
        return self.device.type == "cuda"

    def prepare(self, batch_size: int, max_len: int, *, in_lockstep: bool) -> None:
        """See ``ChainBackend.prepare``; captured steps are kept as long as they fit what comes next."""
        current = self._engine
        if (
            current is not None
            and self._batch_size == batch_size
            and columns_for(current.max_len) == columns_for(max_len)
            and max_len <= current.max_len
            and not (in_lockstep and current.shares_cache)
        ):
            return
        self.release()
        self._batch_size = batch_size
        self._engine = Engine(
            self._decoder, max_len, mode=self._mode, math=self._math, shares_cache=not in_lockstep
        )

    def release(self) -> None:
        """Free caches and graphs."""
        if self._engine is not None:
            self._engine.release()
            self._engine = None

    def steps(
        self,
        kernel: Kernel,
        job: DecodeJob,
        trace: BatchTrace,
        *,
        on_logits: OnLogits | None = None,
        ranges: RangeHook | None = None,
        timer: HopClock | None = None,
    ) -> Iterator[None]:
        """See ``ChainBackend.steps``.

        A batch with fewer prompts than rows is filled up with sequences that end with their first token: a hop always
        runs ``batch_size`` rows.
        """
        session = self._session(kernel)
        prompts = len(job.prompts)
        filled = _filled(job, session.batch_size)
        try:
            yield from session_steps(
                session,
                filled.prompts,
                lengths=filled.lengths,
                end_tokens=filled.end_tokens,
                padding=filled.padding,
                timer=timer or default_timer(self.device),
                trace=trace,
                forced=filled.forced,
                on_logits=on_logits,
                ranges=ranges,
            )
        finally:
            del trace.tokens[prompts:]

    def _session(self, kernel: Kernel) -> Session:
        if self._engine is None:
            raise ValueError(f"{kernel.name} was to decode before prepare() named a batch size, which is 0")
        try:
            return self._engine.session(kernel, self._batch_size)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Which of a library's kernels a CUDA graph can hold is known only when one is asked to.
            if not isinstance(kernel, PeerKernel) or not self.is_captured:
                raise
            raise PeerFailedError(
                f"{kernel.name} could not be captured in a CUDA graph at batch size {self._batch_size} "
                f"({first_line(error)}); --engine eager runs it without"
            ) from error

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


def _filled(job: DecodeJob, rows: int) -> DecodeJob:
    missing = rows - len(job.prompts)
    if missing <= 0:
        return job
    return replace(
        job,
        prompts=[*job.prompts, *[[job.padding]] * missing],
        lengths=[*job.lengths, *[1] * missing],
        forced=None if job.forced is None else [*job.forced, *[[job.padding]] * missing],
    )
