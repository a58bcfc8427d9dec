"""The chain runner: multi-hop solutions at one batch size after another, with several kernels that take turns.

What has been measured survives an interruption, and a batch size that does not fit the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from profiler.energy import EnergyMeter
from profiler.gpu_watch import GpuWatch, throttling_sentence
from profiler.nvtx import mark_layers, open_range
from profiler.record import GpuRunState, Sample, VariantResult
from reasoning.chain_backend import ChainBackend, EagerBackend
from reasoning.chain_captured import CapturedBackend
from reasoning.chain_energy import meter_for
from reasoning.chain_hf_graph import HFGraphBackend
from reasoning.chain_part import BatchSizePart
from reasoning.chain_prompts import ChainPrompts
from reasoning.chain_spec import ChainMode, ChainSpec, Engine
from reasoning.chain_tally import ChainSetup
from reasoning.decode import end_tokens, pad_token
from reasoning.model import LoadedModel
from reasoning.problems import Problem

Progress = Callable[[float, float, str], None]
"""Called with (work done, work in all, what is running); the unit of work is arbitrary."""


def no_progress(done: float, total: float, label: str) -> None:
    """Report nothing."""


@dataclass
class ChainOutcome:
    """What a chain run measured, before any figure is derived from it.

    Args:
        rows: one per batch size, kernel and mode.
        samples: hops, queries, ranges, agreement, energy windows.
        warnings: what makes the numbers less than they seem.
        measured: batch sizes that were finished.
        not_measured: batch sizes that do not fit the memory, and why.
        interrupted: the run was stopped before its end.
        failure: the error that stopped it or left a batch size out, such as a full memory; None where it was the user
            or nothing.
        gpu_states: the GPU before and after, and for how long its clocks were held down; empty on a CPU.
    """

    rows: list[VariantResult] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    measured: list[int] = field(default_factory=list)
    not_measured: dict[int, str] = field(default_factory=dict)
    interrupted: bool = False
    failure: Exception | None = None
    gpu_states: list[GpuRunState] = field(default_factory=list)


def check_kernels(spec: ChainSpec, device: torch.device | str) -> None:
    """Refuse kernels that cannot run on a device, or not with the engine.

    Raises:
        ValueError: one of them, and why.
    """
    for kernel in spec.all_kernels():
        runs, why = kernel.available(device)
        if not runs:
            raise ValueError(f"{kernel.name} cannot run on {device}: {why}")
    if spec.engine is not Engine.EAGER and torch.device(device).type == "cuda" and spec.why_not_captured:
        raise ValueError(f"--engine {spec.engine.value}: {spec.why_not_captured}; --engine eager runs it")


class ChainRun:
    """One run of a :class:`ChainSpec` on a loaded model.

    Args:
        spec: what to run.
        loaded: the model; with the engines that run transformers' forward pass its linears are replaced in place.
        problems: from ``chain_problems.select_problems``.
        meter: measures the energy of every block of batches.
        progress: told after every batch.

    Raises:
        ValueError: a weight that a format cannot hold, a kernel that cannot run on the model's device, an architecture
            that the engine does not know, or sequences that the model has no positions or tokens for.
    """

    def __init__(
        self,
        spec: ChainSpec,
        loaded: LoadedModel,
        problems: Sequence[Problem],
        meter: EnergyMeter,
        progress: Progress = no_progress,
    ) -> None:
        self.spec = spec
        self.progress = progress
        self.meter = meter_for(spec, meter)
        self._outcome = ChainOutcome()
        self._done = 0.0
        device: torch.device = loaded.model.device
        check_kernels(spec, device)
        prompts = ChainPrompts(spec, loaded)
        self._setup = ChainSetup(
            spec,
            loaded,
            self._make_backend(loaded),
            prompts,
            self.meter,
            end_tokens(loaded.model, loaded.tokenizer),
            pad_token(loaded.tokenizer),
            self._advance,
        )
        self._parts = [BatchSizePart(self._setup, size, problems) for size in spec.batch_sizes]

    def _make_backend(self, loaded: LoadedModel) -> ChainBackend:
        if not self.spec.engine.runs_transformers:
            return CapturedBackend(self.spec, loaded)
        is_eager = self.spec.engine is Engine.EAGER
        backend = EagerBackend(self.spec, loaded) if is_eager else HFGraphBackend(self.spec, loaded)
        mark_layers(loaded.model)
        return backend

    def run(self) -> ChainOutcome:
        """Run everything; Ctrl-C or a failing device ends it early and keeps what was measured.

        A batch size that the memory is too small for is left out, and those that still fit are measured.

        Raises:
            RuntimeError: the device failed (out of memory, say) before anything was measured.
        """
        outcome = self._outcome
        # The CUDA context is alive by now, and nothing has run yet.
        watch = GpuWatch.open() if self._setup.backend.device.type == "cuda" else None
        try:
            if self.spec.mode is ChainMode.GENERATE:
                self._advance(0.0, "idle power")
                self.meter.measure_idle()
            with open_range("chain"):
                for part in self._parts:
                    self._run_part(part)
        except KeyboardInterrupt:
            outcome.interrupted = True
            outcome.warnings.append("interrupted: the figures cover the batches that were finished")
        except RuntimeError as error:
            if not any(part.rows() for part in self._parts):
                raise
            outcome.interrupted = True
            outcome.failure = error
            outcome.warnings.append("stopped by an error: the figures cover the batches that were finished")
        for part in self._parts:
            outcome.rows += part.rows()
            outcome.samples += part.samples()
            outcome.warnings += part.warnings if part.rows() else []
        if not outcome.rows and outcome.failure is not None:
            raise outcome.failure
        if watch is not None:
            outcome.gpu_states = watch.states()
            throttled = throttling_sentence(outcome.gpu_states)
            outcome.warnings += [] if throttled is None else [throttled]
        if self._setup.backend.device.type == "cuda" and self.spec.why_not_captured:
            outcome.warnings.append(f"engine eager: {self.spec.why_not_captured}")
        if self.spec.engine is not Engine.EAGER and not self._setup.backend.is_captured:
            outcome.warnings.append(
                f"engine {self.spec.engine.value}: nothing was captured, there are no CUDA graphs on a CPU; "
                "the same steps ran one by one"
            )
        return outcome

    def _run_part(self, part: BatchSizePart) -> None:
        """Run one batch size, or say why its memory does not suffice."""
        shortage = part.shortage()
        if shortage is None:
            try:
                part.run()
            except torch.OutOfMemoryError as error:
                self._setup.backend.release()
                shortage = f"{part.explain_shortage()} (torch: {str(error).strip().splitlines()[0]})"
        if shortage is None:
            self._outcome.measured.append(part.batch_size)
            return
        self._outcome.not_measured[part.batch_size] = shortage
        self._outcome.interrupted = True
        on_cpu = self._setup.backend.device.type == "cpu"
        self._outcome.failure = MemoryError(shortage) if on_cpu else torch.OutOfMemoryError(shortage)
        self._outcome.warnings.append(f"not measured to the end: {shortage}")

    def _work(self) -> float:
        return sum(part.work for part in self._parts)

    def _advance(self, work: float, label: str) -> None:
        self._done += work
        self.progress(self._done, self._work(), label)
