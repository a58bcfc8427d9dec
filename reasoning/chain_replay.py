"""The ablation of one batch size: recorded tokens, replayed in lockstep by every kernel of the variants' formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kernels.peers.kernel import find_kernel
from reasoning.chain_spec import ChainMode
from reasoning.chain_tally import ChainSetup, Tally
from reasoning.problems import Problem
from reasoning.replay import ReplayBatch, Replayer


class Replay:
    """Replays batches with the kernels of the ablation.

    Args:
        setup: the run.
        tally: receives what is measured.
        batches: problems, batch by batch.
        generated: by batch, the baseline's tokens; None where recorded solutions are replayed.
    """

    def __init__(
        self,
        setup: ChainSetup,
        tally: Tally,
        batches: Sequence[Sequence[Problem]],
        generated: Mapping[int, list[list[int]]] | None,
    ) -> None:
        self._setup = setup
        self._tally = tally
        self._batches = batches
        self._generated = generated

    @property
    def indices(self) -> range:
        """Batches that are replayed."""
        return replayed(self._setup, self._batches, self._tally.batch_size)

    def run(self) -> None:
        """Replay every batch: for times, of the linears alone too, then with ranges and comparisons."""
        setup, tally = self._setup, self._tally
        kernels = [find_kernel(name) for name in setup.spec.ablation_kernels]
        label = f"kernels replay the same hops in turn, batch size {tally.batch_size}"
        for index in self.indices:
            problems = self._batches[index]
            replayer = Replayer(self._batch(index), setup.backend)
            work = float(len(problems) * len(kernels))
            for repeat in range(setup.spec.ablation_repeats):
                for name, trace in replayer.timed(kernels).items():
                    count = len(problems) if repeat == 0 else 0
                    tally.add(find_kernel(name), ChainMode.REPLAY, repeat, index, count, trace)
                setup.advance(work, label)
            tally.samples.extend(replayer.linears_alone(kernels))
            if setup.backend.is_captured:
                tally.samples.extend(replayer.compared(kernels, setup.spec.baseline))
            tally.samples.extend(replayer.with_ranges(kernels, setup.spec.baseline))
            setup.advance(work, f"{label}, with ranges")

    def _batch(self, index: int) -> ReplayBatch:
        problems = self._batches[index]
        solutions = self.solutions(index)
        return ReplayBatch(
            index,
            self._tally.batch_size,
            [problem.id for problem in problems],
            self._setup.forced(problems, solutions),
            [self._lines(solution) for solution in solutions],
        )

    def solutions(self, index: int) -> list[list[int]]:
        """Tokens to force: what the baseline generated, or the problems' recorded solutions."""
        spec = self._setup.spec
        if self._generated is not None:
            return [tokens[: replay_tokens(self._setup)] for tokens in self._generated[index]]
        whole = recorded(self._setup, self._batches[index])
        return [tokens[: spec.most_tokens] for tokens in whole]

    def _lines(self, solution: Sequence[int]) -> list[int]:
        """The solution line (from 0) of every token."""
        lines, line = [], 0
        for token in solution:
            lines.append(line)
            line += self._setup.loaded.tokenizer.decode([token]).count("\n")
        return lines


def replayed(setup: ChainSetup, batches: Sequence[Sequence[Problem]], batch_size: int) -> range:
    """Which batches an ablation replays: all in replay mode, else those of its first problems."""
    count = len(batches)
    if setup.spec.mode is ChainMode.GENERATE:
        count = min(count, -(-setup.spec.ablation_problems // batch_size))
    return range(count)


def replay_tokens(setup: ChainSetup) -> int:
    """Most tokens of a replayed sequence."""
    spec = setup.spec
    if spec.mode is ChainMode.REPLAY or spec.hops is not None:
        return spec.most_tokens
    return min(spec.ablation_hops + 1, spec.most_tokens)


def recorded(setup: ChainSetup, batch: Sequence[Problem]) -> list[list[int]]:
    """Recorded solutions of a batch as tokens, the token that ends a text included.

    Raises:
        ValueError: one that is missing or whose tokens do not fit.
    """
    end = sorted(setup.end_tokens)[:1]
    return [[*setup.prompts.solution(problem), *end] for problem in batch]
