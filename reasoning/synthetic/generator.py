"""Streams of synthetic problems, split by structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from random import Random

from reasoning.problems import Problem
from reasoning.synthetic.graph import MAX_OPERATIONS, is_test_structure, sample_graph
from reasoning.synthetic.language import Story, tell

GENERATOR_VERSION = 1


class Split(Enum):
    """Which structures a stream draws from."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True)
class SyntheticProblem:
    """One problem with its identity: split, seed, index and number of operations."""

    id: str
    operations: int
    story: Story


def generate(
    split: Split, seed: int, *, operations: tuple[int, ...] | None = None
) -> Iterator[SyntheticProblem]:
    """An endless, reproducible stream of problems of one split.

    Args:
        split: structures of the train or of the test side of the split.
        seed: two streams with different seeds are independent; the same seed gives the same stream.
        operations: numbers of operations to go through in turn, 1 to 10 each by default.

    Yields:
        Problems whose number of operations cycles through ``operations``, so that any prefix is balanced.

    Raises:
        ValueError: an operation count outside 1 to ``MAX_OPERATIONS``.
    """
    counts = operations or tuple(range(1, MAX_OPERATIONS + 1))
    rng = Random(f"qt-profile/{GENERATOR_VERSION}/{split.value}/{seed}")
    want_test = split is Split.TEST
    index = 0
    while True:
        count = counts[index % len(counts)]
        graph = sample_graph(rng, count)
        while is_test_structure(graph) is not want_test:
            graph = sample_graph(rng, count)
        yield SyntheticProblem(f"{split.value}-{seed}-{index}", count, tell(rng, graph))
        index += 1


def synthetic_problems(seed: int, *, operations: tuple[int, ...] | None = None) -> Iterator[Problem]:
    """An endless stream of held-out problems in the form that every problem source has; see :func:`generate`."""
    for problem in generate(Split.TEST, seed, operations=operations):
        yield Problem(
            id=problem.id,
            question=problem.story.question,
            answer=Decimal(problem.story.answer),
            solution=problem.story.solution,
            operations=problem.operations,
            source="synthetic",
            steps=problem.operations,
        )
