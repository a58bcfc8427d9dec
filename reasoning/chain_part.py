"""One batch size of a chain: its batches, caches, warm-up, generation and replay."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.peers.kernel import find_kernel
from profiler.nvtx import open_range
from profiler.record import Sample, VariantResult
from reasoning.chain_backend import decode
from reasoning.chain_generate import Generation
from reasoning.chain_memory import BatchNeed
from reasoning.chain_replay import Replay, recorded, replay_tokens, replayed
from reasoning.chain_spec import ChainMode, Engine
from reasoning.chain_tally import ChainSetup, Tally
from reasoning.decode import BatchTrace
from reasoning.engine.session import columns_for
from reasoning.meta_model import free_bytes
from reasoning.problems import Problem
from reasoning.replay import ReplayBatch, Replayer

_WARM_UP_TOKENS = 3


class BatchSizePart:
    """What a run does at one batch size.

    Args:
        setup: the run.
        batch_size: sequences decoded together.
        problems: the run's problems, of which this batch size takes as many as it needs.

    Raises:
        ValueError: a sequence that is longer than the model's positions, or a recorded solution that does not fit.
    """

    def __init__(self, setup: ChainSetup, batch_size: int, problems: Sequence[Problem]) -> None:
        self._setup = setup
        self.batch_size = batch_size
        self.tally = Tally(setup, batch_size)
        taken = list(problems[: setup.spec.problem_count(batch_size)])
        self._batches = [taken[i : i + batch_size] for i in range(0, len(taken), batch_size)]
        self._prompt_tokens = max(len(setup.prompts.prompt(problem)) for problem in taken)
        if setup.spec.mode is ChainMode.REPLAY:
            longest = max(len(ids) for batch in self._batches for ids in recorded(setup, batch))
            self._most_tokens = min(longest, setup.spec.most_tokens)
        else:
            self._most_tokens = setup.spec.most_tokens
        # A chain's limit is the most that a solution may take, so only fixed lengths are known to be needed.
        if setup.spec.hops is not None or setup.spec.mode is ChainMode.REPLAY:
            setup.prompts.check_fits(self._prompt_tokens, self._most_tokens)
        self._replayed = replayed(setup, self._batches, batch_size) if setup.spec.ablates else range(0)

    @property
    def work(self) -> float:
        """Problems decoded, all kernels and repeats together."""
        spec = self._setup.spec
        generated = sum(len(batch) for batch in self._batches) * len(spec.main_kernels)
        times = (spec.ablation_repeats + 1) * len(spec.ablation_kernels)
        again = sum(len(self._batches[i]) for i in self._replayed) * times
        return float(generated * (spec.mode is ChainMode.GENERATE) + again)

    @property
    def warnings(self) -> list[str]:
        """What makes this batch size's figures less than they seem."""
        last = len(self._batches[-1])
        if last == self.batch_size:
            return []
        return [
            f"batch size {self.batch_size}: the last batch has {last} problems"
            + (", and hops of full width" if self._setup.spec.engine is not Engine.EAGER else "")
        ]

    def shortage(self) -> str | None:
        """Why this batch size does not fit the memory, by arithmetic; None where it should."""
        device = self._setup.backend.device
        here = free_bytes(device)
        if here is None:
            return None
        need, caches = self._need, self._most_caches
        if need.needed_bytes(self.batch_size, caches) <= here:
            return None
        return need.sentence(self.batch_size, caches, here, device)

    def explain_shortage(self) -> str:
        """What this batch size needed, what there is now, and how large a batch fits."""
        device = self._setup.backend.device
        return self._need.sentence(self.batch_size, self._most_caches, free_bytes(device) or 0, device)

    def run(self) -> None:
        """Generate and replay; what is measured goes into ``tally`` batch by batch."""
        spec = self._setup.spec
        generation = None
        if spec.mode is ChainMode.GENERATE:
            generation = Generation(self._setup, self.tally, self._batches)
            self._setup.backend.prepare(self.batch_size, self._generate_len, in_lockstep=False)
            self.warm_up(spec.main_kernels)
            with open_range("generate"):
                generation.run()
        if self._replayed:
            tokens = None if generation is None else generation.baseline_tokens
            replay = Replay(self._setup, self.tally, self._batches, tokens)
            self._setup.backend.prepare(self.batch_size, self._replay_len, in_lockstep=True)
            self._warm_up_replay(replay)
            with open_range("replay"):
                replay.run()

    def warm_up(self, names: Sequence[str]) -> None:
        """Run kernels briefly on the first batch, so that compilation and lazy loading are not measured.

        On a GPU the first run of an eager batch also makes the allocator ask for memory at almost every hop, as the KV
        cache grows; the baseline takes that upon itself before anything is timed.
        """
        setup = self._setup
        setup.advance(0.0, f"warming up, batch size {self.batch_size}")
        with open_range("warm_up"):
            for name in names:
                self._decode(name, self._batches[0], min(_WARM_UP_TOKENS, setup.spec.most_tokens))
            if setup.backend.device.type == "cuda" and setup.spec.engine is Engine.EAGER:
                longest = max(self._batches, key=_question_length)
                self._decode(setup.spec.baseline, longest, setup.spec.most_tokens)

    def _warm_up_replay(self, replay: Replay) -> None:
        """Let each kernel force a few tokens, which makes its captured step."""
        setup = self._setup
        setup.advance(0.0, f"warming up the replay, batch size {self.batch_size}")
        batch = self._batches[0]
        tokens = [solution[:_WARM_UP_TOKENS] for solution in replay.solutions(0)]
        job = setup.forced(batch, tokens)
        steps = [[0] * len(row) for row in tokens]
        first = ReplayBatch(0, self.batch_size, [problem.id for problem in batch], job, steps)
        with open_range("warm_up"):
            Replayer(first, setup.backend).timed([find_kernel(n) for n in setup.spec.ablation_kernels])

    def _decode(self, name: str, batch: Sequence[Problem], most_tokens: int) -> BatchTrace:
        with open_range("query"), open_range(name):
            return decode(self._setup.backend, find_kernel(name), self._setup.job(batch, most_tokens))

    @property
    def _generate_len(self) -> int:
        return self._prompt_tokens + self._most_tokens - 1

    @property
    def _replay_len(self) -> int:
        return self._prompt_tokens + min(replay_tokens(self._setup), self._most_tokens) - 1

    @property
    def _most_caches(self) -> int:
        """Kernels that hold a cache at once."""
        return len(self._setup.spec.ablation_kernels) if self._replayed else 1

    @property
    def _need(self) -> BatchNeed:
        columns = self._replay_len if self._replayed else self._generate_len
        return BatchNeed.of(self._setup.loaded.model.config, columns_for(columns), self._prompt_tokens)

    def rows(self) -> list[VariantResult]:
        """A row per kernel and mode that has been measured."""
        return self.tally.rows()

    def samples(self) -> list[Sample]:
        """Everything that has been measured."""
        return self.tally.samples


def _question_length(batch: Sequence[Problem]) -> int:
    return max(len(problem.question) for problem in batch)
