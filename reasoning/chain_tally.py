"""Counts and samples of one batch size of a chain, and the rows that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kernels.peers.kernel import find_kernel
from kernels.registry import Kernel
from profiler.energy import EnergyMeter
from profiler.record import HopSample, Sample, VariantResult
from reasoning.chain_backend import ChainBackend, DecodeJob, implementation_of
from reasoning.chain_energy import ChainEnergy
from reasoning.chain_memory import MemoryGauge
from reasoning.chain_prompts import ChainPrompts
from reasoning.chain_spec import ChainMode, ChainSpec
from reasoning.decode import BatchTrace
from reasoning.model import LoadedModel
from reasoning.problems import Problem


@dataclass(frozen=True, eq=False)
class ChainSetup:
    """What every batch size of a run shares.

    Args:
        spec: what to run.
        loaded: the model.
        backend: runs its hops.
        prompts: token ids.
        meter: measures energy.
        end_tokens: tokens that end a solution.
        padding: fed to sequences that have ended.
        advance: told of work done and what is running.
    """

    spec: ChainSpec
    loaded: LoadedModel
    backend: ChainBackend
    prompts: ChainPrompts
    meter: EnergyMeter
    end_tokens: frozenset[int]
    padding: int
    advance: Callable[[float, str], None]

    def job(self, batch: Sequence[Problem], most_tokens: int) -> DecodeJob:
        """Free-running decoding of a batch; with fixed hops no token ends a sequence."""
        prompts = [self.prompts.prompt(problem) for problem in batch]
        ends = self.end_tokens if self.spec.hops is None else frozenset()
        return DecodeJob(prompts, [most_tokens] * len(batch), ends, self.padding)

    def forced(self, batch: Sequence[Problem], solutions: Sequence[Sequence[int]]) -> DecodeJob:
        """Recorded tokens of a batch."""
        prompts = [self.prompts.prompt(problem) for problem in batch]
        return DecodeJob(prompts, [len(s) for s in solutions], frozenset(), self.padding, forced=solutions)


@dataclass
class Totals:
    """What one kernel did in one mode."""

    problems: int = 0
    correct: int = 0
    hops: int = 0
    tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    peak_bytes: int | None = None


@dataclass
class Tally:
    """Counts and samples of one batch size.

    Args:
        setup: the run.
        batch_size: sequences decoded together.
    """

    setup: ChainSetup
    batch_size: int
    totals: dict[tuple[str, ChainMode], Totals] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with nothing measured."""
        self.memory = MemoryGauge(self.setup.backend)
        self.energy = ChainEnergy(self.setup.meter, self.batch_size)

    def of(self, kernel: Kernel, mode: ChainMode) -> Totals:
        """Counts of a kernel and mode."""
        return self.totals.setdefault((kernel.name, mode), Totals())

    def add(
        self, kernel: Kernel, mode: ChainMode, repeat: int, index: int, problems: int, trace: BatchTrace
    ) -> Totals:
        """Count a batch and keep its hops.

        Args:
            kernel: what ran.
            mode: free-running or replayed.
            repeat: of the whole measurement, from 0.
            index: of the batch.
            problems: problems that this adds to those counted before.
            trace: what the batch did.

        Returns:
            The counts, for what else there is to add.
        """
        totals = self.of(kernel, mode)
        totals.problems += problems
        totals.hops += len(trace.hop_s)
        totals.tokens += sum(trace.active)
        totals.prefill_s += trace.prefill_s
        totals.decode_s += sum(trace.hop_s)
        self.samples.extend(
            HopSample(
                kernel=kernel.name,
                batch_size=self.batch_size,
                mode=mode.value,
                repeat=repeat,
                batch_index=index,
                hop=hop,
                active=active,
                tokens=active,
                hop_s=seconds,
            )
            for hop, (seconds, active) in enumerate(zip(trace.hop_s, trace.active, strict=True))
        )
        return totals

    @property
    def is_scored(self) -> bool:
        """Whether answers mean anything: trained weights, and solutions decoded to their end."""
        return not self.setup.loaded.random_weights and self.setup.spec.hops is None

    def rows(self) -> list[VariantResult]:
        """A row per kernel and mode."""
        return [self._row(name, mode, totals) for (name, mode), totals in self.totals.items()]

    def _row(self, name: str, mode: ChainMode, totals: Totals) -> VariantResult:
        kernel, setup = find_kernel(name), self.setup
        implementation, notes = implementation_of(setup.backend, kernel)
        is_free = mode is ChainMode.GENERATE
        scored = is_free and self.is_scored and totals.problems > 0
        counted = VariantResult(
            kernel=name,
            implementation=implementation,
            engine=setup.spec.engine.value,
            captured=setup.backend.is_captured,
            hop_clock=setup.backend.hop_clock,
            context=setup.spec.context,
            mode=mode.value,
            batch_size=self.batch_size,
            problems=totals.problems,
            hops=totals.hops,
            tokens=totals.tokens,
            prefill_s=totals.prefill_s,
            decode_s=totals.decode_s,
            tps=totals.tokens / totals.decode_s if totals.decode_s else None,
            peak_memory_bytes=totals.peak_bytes,
            weight_bytes=setup.backend.model_bytes(kernel),
            accuracy=totals.correct / totals.problems if scored else None,
            correct=totals.correct if scored else None,
            notes=[*([self.memory.note] if is_free else []), *notes],
        )
        if not is_free:
            return counted
        return VariantResult.model_validate(counted.model_dump() | self.energy.row_fields(name))
