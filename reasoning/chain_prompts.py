"""Token ids of a chain's prompts and recorded solutions."""

from __future__ import annotations

import random
from collections.abc import Sequence

from reasoning.chain_spec import ChainSpec
from reasoning.model import LoadedModel
from reasoning.problems import Problem
from reasoning.prompts import format_prompt
from reasoning.synthetic.generator import synthetic_problems

_EXAMPLES = 8


class ChainPrompts:
    """Prompts of a run, each of the length that it asks for.

    Args:
        spec: the run.
        loaded: its model and tokenizer.

    Raises:
        ValueError: the context is longer than the model's positions.
    """

    def __init__(self, spec: ChainSpec, loaded: LoadedModel) -> None:
        self._context = spec.context
        self._tokenizer = loaded.tokenizer
        self._vocabulary: int = loaded.model.config.vocab_size
        self._positions: int | None = getattr(loaded.model.config, "max_position_embeddings", None)
        self._random = random.Random(spec.seed) if loaded.random_weights else None
        self._filler: list[int] = []
        if spec.context is not None:
            self.check_fits(spec.context, spec.most_tokens)
            self._filler = self._examples(spec) if self._random is None else []
        self._made: dict[str, list[int]] = {}

    def prompt(self, problem: Problem) -> list[int]:
        """Token ids of a problem's prompt, the same at every call."""
        ids = self._made.get(problem.id)
        if ids is None:
            ids = self._made[problem.id] = self._make(problem)
        return ids

    def check_fits(self, prompt_tokens: int, new_tokens: int) -> None:
        """Refuse sequences that are longer than what the model's positions were made for.

        Raises:
            ValueError: they are.
        """
        needed = prompt_tokens + new_tokens - 1
        if self._positions is not None and needed > self._positions:
            raise ValueError(
                f"a prompt of {prompt_tokens} tokens with {new_tokens} new ones needs {needed} positions, "
                f"the model has max_position_embeddings={self._positions}"
            )

    def check_tokens(self, problem: Problem, tokens: Sequence[int]) -> None:
        """Refuse recorded tokens that the model has no embedding for.

        Raises:
            ValueError: a token is outside the vocabulary.
        """
        stranger = next((token for token in tokens if not 0 <= token < self._vocabulary), None)
        if stranger is not None:
            raise ValueError(
                f"the recorded solution of problem {problem.id} has token {stranger}, "
                f"outside the model's vocabulary of {self._vocabulary}"
            )

    def solution(self, problem: Problem) -> list[int]:
        """Token ids of a problem's recorded solution.

        Raises:
            ValueError: it has none, or its tokens do not fit the tokenizer or the model.
        """
        if problem.solution is None:
            raise ValueError(f"replay needs a recorded solution, and problem {problem.id} has none")
        ids: list[int] = self._tokenizer(problem.solution, add_special_tokens=False).input_ids
        if not ids:
            raise ValueError(f"the recorded solution of problem {problem.id} has 0 tokens")
        unknown = self._tokenizer.unk_token_id
        lost = 0 if unknown is None else ids.count(unknown)
        if lost:
            raise ValueError(
                f"the recorded solution of problem {problem.id} does not fit the tokenizer: "
                f"{lost} of its {len(ids)} tokens are unknown to it"
            )
        self.check_tokens(problem, ids)
        return ids

    def _make(self, problem: Problem) -> list[int]:
        ids: list[int] = self._tokenizer(format_prompt(problem.question, problem.options)).input_ids
        if self._context is None:
            return ids
        missing = self._context - len(ids)
        if missing <= 0:
            return ids[-self._context :]
        if self._random is not None:
            return [*(self._random.randrange(self._vocabulary) for _ in range(missing)), *ids]
        filler = self._filler * -(-missing // len(self._filler))
        return [*filler[-missing:], *ids]

    def _examples(self, spec: ChainSpec) -> list[int]:
        """Solved problems other than the run's own."""
        text = ""
        stream = synthetic_problems(spec.seed + 1)
        for _ in range(_EXAMPLES):
            problem = next(stream)
            text += format_prompt(problem.question, problem.options) + (problem.solution or "") + "\n\n"
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids
