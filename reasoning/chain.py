"""The chain runner: multi-hop solutions, decoded with one kernel after another, batch by batch.

Every batch of problems goes through all kernels before the next batch starts, in a rotating order, so that drift of the
machine does not land on one of them. What has been measured survives an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from kernels.registry import Kernel, get_kernel
from profiler.energy import EnergyMeter
from profiler.record import (
    EnergySample,
    HopSample,
    QuerySample,
    Sample,
    VariantResult,
)
from profiler.timing import HopTimer
from reasoning.answers import answer_kind, extract_answer, same_answer
from reasoning.chain_memory import MemoryGauge
from reasoning.chain_spec import ChainMode, ChainSpec
from reasoning.decode import BatchTrace, decode_batch, end_tokens, greedy, pad_token
from reasoning.model import LoadedModel
from reasoning.problems import Problem
from reasoning.prompts import format_prompt
from reasoning.quant_linear import Replacement, add_format, replace_linears
from reasoning.replay import ReplayBatch, Replayer, rotated

Progress = Callable[[float, float, str], None]
"""Called with (work done, work in all, what is running); the unit of work is arbitrary."""

_WARM_UP_HOPS = 3


def no_progress(done: float, total: float, label: str) -> None:
    """Report nothing."""


@dataclass
class ChainOutcome:
    """What a chain run measured, before any figure is derived from it.

    Args:
        rows: one per kernel and mode.
        samples: hops, queries, ranges, agreement, energy windows.
        warnings: what makes the numbers less than they seem.
        interrupted: the run was stopped before its end.
        failure: the error that stopped it, such as a full memory; None where it was the user or nothing.
    """

    rows: list[VariantResult] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    failure: RuntimeError | None = None


@dataclass
class _Totals:
    problems: int = 0
    correct: int = 0
    hops: int = 0
    tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    energy_j: float | None = 0.0
    energy_detail: str = ""
    peak_bytes: int | None = None


class ChainRun:
    """One run of a :class:`ChainSpec` on a loaded model.

    Args:
        spec: what to run.
        loaded: the model; its linears are replaced in place.
        problems: from ``chain_problems.select_problems``.
        meter: measures the energy of every batch.
        progress: told after every batch.

    Raises:
        ValueError: a weight that a format cannot hold, or a kernel that cannot run on the model's device.
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
        self.loaded = loaded
        self.problems = problems
        self.meter = meter
        self.progress = progress
        self.device = loaded.model.device
        self._timer = HopTimer(torch.cuda.synchronize if self.device.type == "cuda" else None)
        self._outcome = ChainOutcome()
        self._totals: dict[tuple[str, ChainMode], _Totals] = {}
        self._generated: dict[int, list[list[int]]] = {}
        self._done = 0.0
        self._end_tokens = end_tokens(loaded.model, loaded.tokenizer)
        self._padding = pad_token(loaded.tokenizer)
        for kernel in spec.all_kernels():
            runs, why = kernel.available(self.device)
            if not runs:
                raise ValueError(f"{kernel.name} cannot run on {self.device}: {why}")
        self._replacement = self._replace()
        self._memory = MemoryGauge(loaded.model, self._replacement)

    def _replace(self) -> Replacement:
        spec = self.spec
        replacement = replace_linears(
            self.loaded.model,
            get_kernel(spec.baseline),
            group_size=self._group_size(get_kernel(spec.baseline)),
            double_quant=self._double_quant(get_kernel(spec.baseline)),
            prequantized=self.loaded.quantized,
        )
        for kernel in spec.all_kernels():
            add_format(
                replacement,
                kernel,
                group_size=self._group_size(kernel),
                double_quant=self._double_quant(kernel),
            )
        return replacement

    def _group_size(self, kernel: Kernel) -> int | None:
        return (
            self.spec.group_size
            if kernel.format is not None and kernel.format.group_size is not None
            else None
        )

    def _double_quant(self, kernel: Kernel) -> bool:
        return self.spec.double_quant and kernel.format is not None and kernel.format.group_size is not None

    def run(self) -> ChainOutcome:
        """Run everything; Ctrl-C or a failing device ends it early and keeps what was measured.

        Raises:
            RuntimeError: the device failed (out of memory, say) before anything was measured.
        """
        try:
            self._warm_up()
            if self.spec.mode is ChainMode.GENERATE:
                self._generate_all()
            if self.spec.ablates:
                self._replay_all()
        except KeyboardInterrupt:
            self._outcome.interrupted = True
            self._outcome.warnings.append("interrupted: the figures cover the batches that were finished")
        except RuntimeError as error:
            if not self._totals:
                raise
            self._outcome.interrupted = True
            self._outcome.failure = error
            self._outcome.warnings.append(
                "stopped by an error: the figures cover the batches that were finished"
            )
        self._outcome.rows = [self._row(name, mode, t) for (name, mode), t in self._totals.items()]
        return self._outcome

    @property
    def _batches(self) -> list[list[Problem]]:
        size = self.spec.batch_size
        return [list(self.problems[i : i + size]) for i in range(0, len(self.problems), size)]

    @property
    def _replay_batches(self) -> list[int]:
        count = len(self._batches)
        if self.spec.mode is ChainMode.GENERATE:
            count = min(count, -(-self.spec.ablation_problems // self.spec.batch_size))
        return list(range(count))

    def _work(self) -> float:
        generate = len(self.problems) * len(self.spec.main_kernels)
        replays = (self.spec.ablation_repeats + 1) * len(self.spec.ablation_kernels)
        replay = sum(len(self._batches[i]) for i in self._replay_batches) * replays
        return generate * (self.spec.mode is ChainMode.GENERATE) + replay * self.spec.ablates

    def _advance(self, work: float, label: str) -> None:
        self._done += work
        self.progress(self._done, self._work(), label)

    def _warm_up(self) -> None:
        """Run every kernel briefly on the first batch, so that compilation and lazy loading are not measured.

        On a GPU the first run of a batch also makes the allocator ask for memory at almost every hop, as the KV cache
        grows; the baseline takes that upon itself before anything is timed.
        """
        self.progress(0.0, self._work(), "warming up")
        for kernel in self.spec.all_kernels():
            self._replacement.use(kernel)
            self._decode(self._batches[0], limit=_WARM_UP_HOPS)
        if self.device.type == "cuda":
            self._replacement.use(get_kernel(self.spec.baseline))
            self._decode(max(self._batches, key=_question_length), limit=self.spec.max_new_tokens)

    def _generate_all(self) -> None:
        names = self.spec.main_kernels
        for index, batch in enumerate(self._batches):
            for name in rotated(names, index):
                self._generate(get_kernel(name), index, batch)
                self._advance(len(batch), f"{name} generates")

    def _generate(self, kernel: Kernel, index: int, batch: list[Problem]) -> None:
        self._replacement.use(kernel)
        self._memory.start(kernel)
        window = self.meter.begin()
        trace = self._decode(batch, limit=self.spec.max_new_tokens)
        reading = self.meter.end(window)
        # Scored before anything is counted, so that an interruption cannot leave a batch half counted.
        queries = [self._query(kernel, p, tokens) for p, tokens in zip(batch, trace.tokens, strict=True)]
        totals = self._totals.setdefault((kernel.name, ChainMode.GENERATE), _Totals())
        self._count(totals, batch, trace)
        totals.peak_bytes = max(totals.peak_bytes or 0, self._memory.peak_bytes(kernel, trace))
        if reading.energy_j is None or totals.energy_j is None:
            totals.energy_j = None
        else:
            totals.energy_j += reading.energy_j
        totals.energy_detail = reading.detail
        size = self.spec.batch_size
        self._outcome.samples.append(
            EnergySample(
                kernel=kernel.name,
                batch_size=size,
                repeat=index,
                queries=len(batch),
                hops=len(trace.hop_s),
                energy_j=reading.energy_j,
                duration_s=reading.duration_s,
                energy_source=reading.source,
                idle_w=reading.idle_w,
            )
        )
        self._add_hops(kernel, ChainMode.GENERATE, 0, index, trace)
        totals.correct += sum(bool(query.correct) for query in queries)
        self._outcome.samples.extend(queries)
        if kernel.name == self.spec.baseline:
            self._generated[index] = trace.tokens

    def _query(self, kernel: Kernel, problem: Problem, tokens: list[int]) -> QuerySample:
        text = self.loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        found = extract_answer(text, answer_kind(problem.answer))
        scored = not self.loaded.random_weights
        return QuerySample(
            kernel=kernel.name,
            batch_size=self.spec.batch_size,
            problem_id=problem.id,
            operations=problem.operations,
            correct=same_answer(found.value, problem.answer) if scored else None,
            expected=str(problem.answer),
            answer=None if found.value is None else str(found.value),
            hops=len(tokens),
            text=text,
        )

    def _replay_all(self) -> None:
        kernels = [get_kernel(name) for name in self.spec.ablation_kernels]
        for index in self._replay_batches:
            batch = self._batches[index]
            solutions = self._solutions(index, batch)
            replayer = Replayer(
                ReplayBatch(index, batch, [self._prompt(p) for p in batch], solutions),
                self.loaded,
                self._replacement,
                self._timer,
                self.spec.batch_size,
            )
            work = float(len(batch) * len(kernels))
            for repeat in range(self.spec.ablation_repeats):
                for name, trace in replayer.timed(kernels).items():
                    key = (name, ChainMode.REPLAY)
                    totals = self._totals.setdefault(key, _Totals(energy_j=None))
                    self._count(totals, batch if repeat == 0 else [], trace)
                    self._add_hops(get_kernel(name), ChainMode.REPLAY, repeat, index, trace)
                self._advance(work, "kernels replay the same hops in turn")
            self._outcome.samples.extend(replayer.with_ranges(kernels, self.spec.baseline))
            self._advance(work, "kernels replay the same hops in turn, with ranges")

    def _solutions(self, index: int, batch: list[Problem]) -> list[list[int]]:
        if self.spec.mode is ChainMode.GENERATE:
            return [tokens[: self.spec.ablation_hops + 1] for tokens in self._generated[index]]
        tokenizer = self.loaded.tokenizer
        end = sorted(self._end_tokens)[:1]
        whole = ([*tokenizer(p.solution, add_special_tokens=False).input_ids, *end] for p in batch)
        return [tokens[: self.spec.max_new_tokens] for tokens in whole]

    def _prompt(self, problem: Problem) -> list[int]:
        ids: list[int] = self.loaded.tokenizer(format_prompt(problem.question, problem.options)).input_ids
        return ids

    def _decode(self, batch: list[Problem], limit: int) -> BatchTrace:
        return decode_batch(
            self.loaded.model,
            [self._prompt(p) for p in batch],
            greedy,
            lengths=[limit] * len(batch),
            end_tokens=self._end_tokens,
            padding=self._padding,
            timer=self._timer,
        )

    def _count(self, totals: _Totals, batch: list[Problem], trace: BatchTrace) -> None:
        totals.problems += len(batch)
        totals.hops += len(trace.hop_s)
        totals.tokens += sum(trace.active)
        totals.prefill_s += trace.prefill_s
        totals.decode_s += sum(trace.hop_s)

    def _add_hops(self, kernel: Kernel, mode: ChainMode, repeat: int, index: int, trace: BatchTrace) -> None:
        for hop, (seconds, active) in enumerate(zip(trace.hop_s, trace.active, strict=True)):
            self._outcome.samples.append(
                HopSample(
                    kernel=kernel.name,
                    batch_size=self.spec.batch_size,
                    mode=mode.value,
                    repeat=repeat,
                    batch_index=index,
                    hop=hop,
                    active=active,
                    tokens=active,
                    hop_s=seconds,
                )
            )

    def _row(self, name: str, mode: ChainMode, totals: _Totals) -> VariantResult:
        kernel = get_kernel(name)
        implementation = kernel.implementation_for(self.device)
        scored = mode is ChainMode.GENERATE and not self.loaded.random_weights and totals.problems > 0
        energy = None if totals.energy_j is None or not totals.problems else totals.energy_j / totals.problems
        return VariantResult(
            kernel=name,
            implementation=kernel.implementation_detail(implementation, self.device),
            mode=mode.value,
            batch_size=self.spec.batch_size,
            problems=totals.problems,
            hops=totals.hops,
            tokens=totals.tokens,
            prefill_s=totals.prefill_s,
            decode_s=totals.decode_s,
            tps=totals.tokens / totals.decode_s if totals.decode_s else None,
            peak_memory_bytes=totals.peak_bytes,
            weight_bytes=self._memory.model_bytes(kernel),
            energy_j_per_query=energy,
            energy_source=self.meter.source if mode is ChainMode.GENERATE else None,
            energy_detail=totals.energy_detail or None,
            accuracy=totals.correct / totals.problems if scored else None,
            correct=totals.correct if scored else None,
            notes=[self._memory.note] if mode is ChainMode.GENERATE else [],
        )


def _question_length(batch: Sequence[Problem]) -> int:
    return max(len(problem.question) for problem in batch)
