"""What runs a chain's hops: the eager Hugging Face forward pass here, captured ones in ``chain_sessions``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook
from kernels.registry import NO_RANGES, Kernel, Weight
from profiler.record_results import HopClockName
from profiler.timing import HopTimer
from reasoning.chain_spec import ChainSpec
from reasoning.decode import BatchTrace, Forced, decode_steps, greedy
from reasoning.engine.event_timer import EventTimer, HopClock
from reasoning.model import LoadedModel
from reasoning.quant_linear import add_format, model_bytes, replace_linears

OnLogits = Callable[[int, Tensor], None]
"""Called with (position, logits [rows, vocabulary]); rows beyond the batch's prompts mean nothing."""


@dataclass(frozen=True)
class DecodeJob:
    """One batch to decode.

    Args:
        prompts: token ids per sequence, none empty.
        lengths: per sequence, the most tokens to add.
        end_tokens: tokens that end a sequence.
        padding: fed to sequences that have ended.
        forced: recorded tokens per sequence to choose whatever the logits say; None lets the logits choose.
    """

    prompts: Sequence[Sequence[int]]
    lengths: Sequence[int]
    end_tokens: frozenset[int]
    padding: int
    forced: Sequence[Sequence[int]] | None = None


class ChainBackend(Protocol):
    """A model with the weights of every format of a run, whose kernel can be switched between hops."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    @property
    def hop_clock(self) -> HopClockName:
        """How hops are timed: ``events`` or ``wall``."""
        ...

    @property
    def is_captured(self) -> bool:
        """Whether a hop is one launch of a CUDA graph."""
        ...

    def prepare(self, batch_size: int, max_len: int, *, in_lockstep: bool) -> None:
        """Get ready for batches of a size, and let go of what others needed.

        Args:
            batch_size: rows of every hop.
            max_len: cache columns of the longest sequence.
            in_lockstep: several kernels will be in the middle of a batch at once.
        """
        ...

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
        """Decode a batch, one step at a time: the prefill, then hops.

        Args:
            kernel: runs the linears.
            job: the batch.
            trace: complete when the iterator ends.
            on_logits: sees the logits of every position.
            ranges: given to the linears; hops then run outside the CUDA graph.
            timer: times the steps; None takes the backend's own.
        """
        ...

    def linear_calls(self, kernel: Kernel, rows: int) -> Callable[[], None]:
        """Return what runs the linears of a hop once, in their order, on random rows and with nothing between them."""
        ...

    @property
    def native_implementation(self) -> str | None:
        """What multiplies by native weights whatever native kernel is named, as a record says it; None: that kernel."""
        ...

    def model_bytes(self, kernel: Kernel) -> int:
        """Bytes of the model's weights as the kernel stores them."""
        ...

    def layout_bytes(self, kernel: Kernel) -> int:
        """Bytes of the layouts that kernels keep beside the weights of this kernel's format."""
        ...

    def sample_weight(self, kernel: Kernel) -> Weight:
        """One of the weights that the kernel multiplies by, which says what was chosen for it."""
        ...

    def widest_native_bytes(self) -> int:
        """Bytes of the largest linear's native weight, which unfused kernels decode into."""
        ...

    def release(self) -> None:
        """Free caches and graphs."""
        ...


def decode(backend: ChainBackend, kernel: Kernel, job: DecodeJob) -> BatchTrace:
    """Decode a whole batch."""
    trace = BatchTrace(tokens=[])
    for _ in backend.steps(kernel, job, trace):
        pass
    return trace


def layouts_of(weights: Iterable[Weight]) -> int:
    """Bytes of the tensors in cached layouts, each counted once; other libraries' weights are their layouts.

    Layouts that hold tensors of the weight itself add nothing by them.
    """
    found: dict[int, int] = {}
    ours = [weight for weight in weights if isinstance(weight, QuantWeight)]
    own = {id(tensor) for weight in ours for tensor in weight.tensors()}
    waiting: list[object] = [layout for weight in ours for layout in weight.repacked.values()]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            found[id(item)] = 0 if id(item) in own else item.nbytes
        elif isinstance(item, QuantWeight) or (is_dataclass(item) and not isinstance(item, type)):
            waiting += [getattr(item, field.name) for field in fields(item)]
        elif isinstance(item, (tuple, list)):
            waiting += item
    return sum(found.values())


def implementation_of(backend: ChainBackend, kernel: Kernel) -> tuple[str, tuple[str, ...]]:
    """What runs a kernel, as a record says it, and what a reader must know of another library's."""
    device = backend.device
    weight = backend.sample_weight(kernel)
    if isinstance(weight, QuantWeight):
        return kernel.implementation_detail(kernel.implementation_for(device), device), ()
    if isinstance(weight, Tensor) and backend.native_implementation is not None:
        return backend.native_implementation, ()
    text = kernel.implementation_detail(kernel.implementation_for(device), device, weight=weight)
    if isinstance(weight, Tensor):
        return text, ()
    return text, tuple(f"{kernel.name}: {note}" for note in weight.notes)


def format_settings(spec: ChainSpec, kernel: Kernel) -> tuple[int | None, bool]:
    """Group size and double quantization of a kernel's format, as far as it has groups."""
    grouped = kernel.format is not None and kernel.format.group_size is not None
    return (spec.group_size, spec.double_quant) if grouped else (None, False)


class ReplacedModel:
    """A Hugging Face model whose linears run any kernel of a run.

    Args:
        spec: the run; its kernels' formats are quantized here.
        loaded: the model; its linears are replaced in place.

    Raises:
        ValueError: a weight that a format cannot hold.
    """

    def __init__(self, spec: ChainSpec, loaded: LoadedModel) -> None:
        self.model: Any = loaded.model
        baseline, *others = spec.all_kernels()
        group_size, double_quant = format_settings(spec, baseline)
        self._replacement = replace_linears(
            self.model,
            baseline,
            group_size=group_size,
            double_quant=double_quant,
            prequantized=loaded.quantized,
        )
        self._running = baseline
        for kernel in others:
            group_size, double_quant = format_settings(spec, kernel)
            add_format(self._replacement, kernel, group_size=group_size, double_quant=double_quant)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def native_implementation(self) -> str | None:
        """None: a native kernel runs as it is."""
        return None

    @contextmanager
    def running(self, kernel: Kernel, ranges: RangeHook | None = None) -> Iterator[None]:
        """Let the linears run a kernel in this block, and report their ranges; None or ``NO_RANGES`` reports none."""
        if kernel is not self._running:
            self._replacement.use(kernel)
            self._running = kernel
        if ranges is None or ranges is NO_RANGES:
            yield
            return
        self._replacement.time_ranges(ranges)
        try:
            yield
        finally:
            self._replacement.time_ranges(NO_RANGES)

    def linear_calls(self, kernel: Kernel, rows: int) -> Callable[[], None]:
        """See ``ChainBackend.linear_calls``; linears that were not replaced are left out."""
        layers = list(self._replacement.replaced.values())
        x = {
            k: torch.randn(rows, 1, k, device=self.device, dtype=layers[0].dense.dtype)
            for k in {layer.shape[1] for layer in layers}
        }

        def call() -> None:
            with self.running(kernel):
                for layer in layers:
                    layer(x[layer.shape[1]])

        return call

    def model_bytes(self, kernel: Kernel) -> int:
        """Bytes of the model's weights as the kernel stores them."""
        return model_bytes(self.model, self._replacement, kernel)

    def layout_bytes(self, kernel: Kernel) -> int:
        """Bytes of the layouts that kernels keep beside the weights of this kernel's format."""
        key = kernel.weight_key
        if key is None:
            return 0
        return layouts_of(layer.quantized[key] for layer in self._replacement.replaced.values())

    def sample_weight(self, kernel: Kernel) -> Weight:
        """The first replaced layer's weight."""
        layer = next(iter(self._replacement.replaced.values()))
        key = kernel.weight_key
        return layer.dense if key is None else layer.quantized[key]

    def widest_native_bytes(self) -> int:
        """Bytes of the largest linear's native weight."""
        widest: int = max(layer.dense.nbytes for layer in self._replacement.replaced.values())
        return widest


class EagerBackend(ReplacedModel):
    """The Hugging Face forward pass kernel by kernel, with a cache that grows."""

    @property
    def hop_clock(self) -> HopClockName:
        """``wall``: the host is part of an eager hop."""
        return "wall"

    @property
    def is_captured(self) -> bool:
        """Never."""
        return False

    def prepare(self, batch_size: int, max_len: int, *, in_lockstep: bool) -> None:
        """Nothing: the cache grows with the batch."""

    def release(self) -> None:
        """Nothing."""

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
        """See :meth:`ChainBackend.steps`."""
        steps = decode_steps(
            self.model,
            job.prompts,
            greedy if job.forced is None else Forced(job.forced, self.device),
            lengths=job.lengths,
            end_tokens=job.end_tokens,
            padding=job.padding,
            timer=timer or HopTimer(torch.cuda.synchronize if self.device.type == "cuda" else None),
            trace=trace,
            on_logits=on_logits,
        )
        while True:
            with self.running(kernel, ranges):
                if next(steps, _ENDED) is _ENDED:
                    return
            yield


_ENDED = object()


def default_timer(device: torch.device) -> HopClock:
    """Events on a GPU, the clock on a CPU, where work is done when the call returns."""
    return EventTimer() if device.type == "cuda" else HopTimer()
