"""The problems of a chain run: synthetic ones drawn here, all others read by the loaders."""

from __future__ import annotations

from itertools import islice

from reasoning.chain_spec import DEFAULT_SYNTHETIC_PROBLEMS, SYNTHETIC, ChainMode, ChainSpec
from reasoning.problems import BadLine, Problem, load_problems
from reasoning.synthetic.generator import synthetic_problems


def select_problems(spec: ChainSpec, *, skip_bad: bool = False) -> tuple[list[Problem], tuple[BadLine, ...]]:
    """The problems of a run, and the malformed lines that were skipped.

    Raises:
        ValueError: the source cannot be read or holds no problem; replay of problems without solutions.
    """
    if spec.problems == SYNTHETIC:
        wanted = max(
            spec.problem_count(max(spec.batch_sizes)) or DEFAULT_SYNTHETIC_PROBLEMS, *spec.batch_sizes
        )
        return list(islice(synthetic_problems(spec.seed), spec.limit or wanted)), ()
    loaded = load_problems(spec.problems, limit=spec.limit, skip_bad=skip_bad)
    problems = list(loaded.problems)
    without = sum(p.solution is None for p in problems)
    if spec.mode is ChainMode.REPLAY and without:
        raise ValueError(
            f"replay needs recorded solutions, and {without} of {len(problems)} problems have none"
        )
    return problems, loaded.skipped
