"""The chain runner: multi-hop solutions, decoded with one kernel after another, batch by batch.

Every block of batches goes through all kernels before the next block starts, in a rotating order, so that drift of the
machine does not land on one of them. A block is one batch, or as many as fill an energy window of the meter. What has
been measured survives an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from kernels.registry import Kernel, get_kernel
from profiler.energy import EnergyMeter
from profiler.gpu_watch import GpuWatch, throttling_sentence
from profiler.nvtx import mark_layers, open_range
from profiler.record import (
    GpuRunState,
    HopSample,
    QuerySample,
    Sample,
    VariantResult,
)
from profiler.timing import HopTimer
from reasoning.answers import answer_kind, extract_answer, same_answer
from reasoning.chain_energy import ChainEnergy
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
        gpu_states: the GPU before and after, and for how long its clocks were held down; empty on a CPU.
    """

    rows: list[VariantResult] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    failure: RuntimeError | None = None
    gpu_states: list[GpuRunState] = field(default_factory=list)


@dataclass
class _Totals:
    problems: int = 0
    correct: int = 0
    hops: int = 0
    tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    peak_bytes: int | None = None


class ChainRun:
    """One run of a :class:`ChainSpec` on a loaded model.

    Args:
        spec: what to run.
        loaded: the model; its linears are replaced in place.
        problems: from ``chain_problems.select_problems``.
        meter: measures the energy of every block of batches.
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
        self.progress = progress
        self._energy = ChainEnergy(meter, spec.batch_size, fills_windows=spec.energy_windows > 0)
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
        mark_layers(loaded.model)
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
        # The CUDA context is alive by now, and nothing has run yet.
        watch = GpuWatch.open() if self.device.type == "cuda" else None
        try:
            if self.spec.mode is ChainMode.GENERATE and self.spec.energy_windows:
                self.progress(0.0, self._work(), "idle power")
                self._energy.meter.measure_idle()
            with open_range("chain"):
                with open_range("warm_up"):
                    self._warm_up()
                if self.spec.mode is ChainMode.GENERATE:
                    with open_range("generate"):
                        self._generate_all()
                if self.spec.ablates:
                    with open_range("replay"):
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
        if watch is not None:
            self._outcome.gpu_states = watch.states()
            throttled = throttling_sentence(self._outcome.gpu_states)
            self._outcome.warnings += [] if throttled is None else [throttled]
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
        blocks: list[range] = []
        start = 0
        while start < len(self._batches):
            block: range | None = None
            for name in rotated(names, len(blocks)):
                block = self._generate(get_kernel(name), start, block)
                self._advance(sum(len(self._batches[index]) for index in block), f"{name} generates")
            blocks.append(block or range(start, len(self._batches)))
            start = blocks[-1].stop
        # A meter that reads any window as exactly as a long one has nothing to gain from more of them.
        if self._energy.least_s:
            self._more_windows(names, blocks)

    def _more_windows(self, names: Sequence[str], blocks: Sequence[range]) -> None:
        """Repeat the blocks until every kernel has the windows that an interval needs."""
        turn = len(blocks)
        while turn < self.spec.energy_windows:
            block = blocks[turn % len(blocks)]
            for name in rotated(names, turn):
                self._replacement.use(get_kernel(name))
                window = self._energy.open()
                hops = self._pass_over(block)
                while window.is_short:
                    self._pass_over(block)
                    window.passes += 1
                problems = sum(len(self._batches[index]) for index in block)
                sample = self._energy.add(name, window, window.close(), problems=problems, hops=hops)
                self._outcome.samples.append(sample)
                self.progress(self._done, self._work(), f"{name} fills an energy window")
            turn += 1

    def _pass_over(self, block: range) -> int:
        """Decode a block's batches for their energy alone; returns the hops."""
        return sum(len(self._decode(self._batches[i], self.spec.max_new_tokens).hop_s) for i in block)

    def _generate(self, kernel: Kernel, start: int, block: range | None) -> range:
        """Decode a block of batches within one energy window.

        Args:
            kernel: what decodes.
            start: the block's first batch.
            block: the batches; None to take as many as fill the window, or all that are left.

        Returns:
            The block, for the other kernels.
        """
        self._replacement.use(kernel)
        self._memory.start(kernel)
        window = self._energy.open()
        traces: list[BatchTrace] = []
        for index in block or range(start, len(self._batches)):
            traces.append(self._decode(self._batches[index], limit=self.spec.max_new_tokens))
            if block is None and not window.is_short:
                break
        block = range(start, start + len(traces))
        while window.is_short:
            self._pass_over(block)
            window.passes += 1
        reading = window.close()
        # Scored before anything is counted, so that an interruption cannot leave a block half counted.
        batches = [self._batches[index] for index in block]
        answers = [
            [self._query(kernel, p, tokens) for p, tokens in zip(batch, trace.tokens, strict=True)]
            for batch, trace in zip(batches, traces, strict=True)
        ]
        totals = self._totals.setdefault((kernel.name, ChainMode.GENERATE), _Totals())
        sample = self._energy.add(
            kernel.name,
            window,
            reading,
            problems=sum(len(batch) for batch in batches),
            hops=sum(len(trace.hop_s) for trace in traces),
        )
        self._outcome.samples.append(sample)
        for index, batch, trace, queries in zip(block, batches, traces, answers, strict=True):
            self._count(totals, batch, trace)
            totals.peak_bytes = max(totals.peak_bytes or 0, self._memory.peak_bytes(kernel, trace))
            self._add_hops(kernel, ChainMode.GENERATE, 0, index, trace)
            totals.correct += sum(bool(query.correct) for query in queries)
            self._outcome.samples.extend(queries)
            if kernel.name == self.spec.baseline:
                self._generated[index] = trace.tokens
        return block

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
                    totals = self._totals.setdefault(key, _Totals())
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
        with open_range("query"), open_range(self._replacement.running):
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
        counted = VariantResult(
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
            accuracy=totals.correct / totals.problems if scored else None,
            correct=totals.correct if scored else None,
            notes=[self._memory.note] if mode is ChainMode.GENERATE else [],
        )
        if mode is not ChainMode.GENERATE:
            return counted
        return VariantResult.model_validate(counted.model_dump() | self._energy.row_fields(name))


def _question_length(batch: Sequence[Problem]) -> int:
    return max(len(problem.question) for problem in batch)
