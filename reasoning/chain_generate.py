"""Free-running generation of one batch size: every block of batches goes through all kernels before the next starts.

The order rotates, so that drift of the machine does not land on one kernel. A block is one batch, or as many as fill an
energy window of the meter.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernels.peers.kernel import find_kernel
from kernels.registry import Kernel
from profiler.nvtx import open_range
from profiler.record import QuerySample
from reasoning.answers import answer_kind, extract_answer, same_answer
from reasoning.chain_backend import decode
from reasoning.chain_spec import ChainMode
from reasoning.chain_tally import ChainSetup, Tally
from reasoning.decode import BatchTrace
from reasoning.problems import Problem
from reasoning.replay import rotated


class Generation:
    """Generates with the baseline and the variants.

    Args:
        setup: the run.
        tally: receives what is measured.
        batches: problems, batch by batch.
    """

    def __init__(self, setup: ChainSetup, tally: Tally, batches: Sequence[Sequence[Problem]]) -> None:
        self._setup = setup
        self._tally = tally
        self._batches = batches
        self.baseline_tokens: dict[int, list[list[int]]] = {}
        """By batch, what the baseline generated."""

    def run(self) -> None:
        """Decode every batch with every kernel."""
        names = self._setup.spec.main_kernels
        blocks: list[range] = []
        start = 0
        while start < len(self._batches):
            block: range | None = None
            for name in rotated(names, len(blocks)):
                block = self._block(find_kernel(name), start, block)
                self._setup.advance(
                    sum(len(self._batches[index]) for index in block),
                    f"{name} generates, batch size {self._tally.batch_size}",
                )
            blocks.append(block or range(start, len(self._batches)))
            start = blocks[-1].stop
        # A meter that reads any window as exactly as a long one has nothing to gain from more of them.
        if self._tally.energy.least_s:
            self._more_windows(names, blocks)

    def decode(self, kernel: Kernel, index: int, most_tokens: int) -> BatchTrace:
        """Decode one batch."""
        with open_range("query"), open_range(kernel.name):
            return decode(self._setup.backend, kernel, self._setup.job(self._batches[index], most_tokens))

    def _more_windows(self, names: Sequence[str], blocks: Sequence[range]) -> None:
        """Repeat the blocks until every kernel has the windows that an interval needs."""
        turn, energy = len(blocks), self._tally.energy
        while turn < self._setup.spec.energy_windows:
            block = blocks[turn % len(blocks)]
            for name in rotated(names, turn):
                kernel = find_kernel(name)
                window = energy.open()
                hops = self._pass_over(kernel, block)
                while window.is_short:
                    self._pass_over(kernel, block)
                    window.passes += 1
                problems = sum(len(self._batches[index]) for index in block)
                self._tally.samples.append(
                    energy.add(name, window, window.close(), problems=problems, hops=hops)
                )
                self._setup.advance(
                    0.0, f"{name} fills an energy window, batch size {self._tally.batch_size}"
                )
            turn += 1

    def _pass_over(self, kernel: Kernel, block: range) -> int:
        """Decode a block's batches for their energy alone; returns the hops."""
        most = self._setup.spec.most_tokens
        return sum(len(self.decode(kernel, index, most).hop_s) for index in block)

    def _block(self, kernel: Kernel, start: int, block: range | None) -> range:
        """Decode a block of batches within one energy window.

        Args:
            kernel: what decodes.
            start: the block's first batch.
            block: the batches; None to take as many as fill the window, or all that are left.

        Returns:
            The block, for the other kernels.
        """
        tally = self._tally
        tally.memory.start()
        window = tally.energy.open()
        traces: list[BatchTrace] = []
        for index in block or range(start, len(self._batches)):
            traces.append(self.decode(kernel, index, self._setup.spec.most_tokens))
            if block is None and not window.is_short:
                break
        block = range(start, start + len(traces))
        while window.is_short:
            self._pass_over(kernel, block)
            window.passes += 1
        reading = window.close()
        # Scored before anything is counted, so that an interruption cannot leave a block half counted.
        batches = [self._batches[index] for index in block]
        answers = [
            [self._query(kernel, p, tokens) for p, tokens in zip(batch, trace.tokens, strict=True)]
            for batch, trace in zip(batches, traces, strict=True)
        ]
        tally.samples.append(
            tally.energy.add(
                kernel.name,
                window,
                reading,
                problems=sum(len(batch) for batch in batches),
                hops=sum(len(trace.hop_s) for trace in traces),
            )
        )
        for index, batch, trace, queries in zip(block, batches, traces, answers, strict=True):
            totals = tally.add(kernel, ChainMode.GENERATE, 0, index, len(batch), trace)
            totals.peak_bytes = max(totals.peak_bytes or 0, tally.memory.peak_bytes(kernel, trace))
            totals.correct += sum(bool(query.correct) for query in queries)
            tally.samples.extend(queries)
            if kernel.name == self._setup.spec.baseline:
                self.baseline_tokens[index] = trace.tokens
        return block

    def _query(self, kernel: Kernel, problem: Problem, tokens: list[int]) -> QuerySample:
        text = self._setup.loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        found = extract_answer(text, answer_kind(problem.answer))
        return QuerySample(
            kernel=kernel.name,
            batch_size=self._tally.batch_size,
            problem_id=problem.id,
            operations=problem.operations,
            correct=same_answer(found.value, problem.answer) if self._tally.is_scored else None,
            expected=str(problem.answer),
            answer=None if found.value is None else str(found.value),
            hops=len(tokens),
            text=text,
        )
