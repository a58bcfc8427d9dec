"""The problems of a chain run: synthetic ones drawn here, an earlier run's, all others read by the loaders."""

from __future__ import annotations

from itertools import islice

from reasoning.chain_recorded import is_run, problems_of_run
from reasoning.chain_spec import DEFAULT_SYNTHETIC_PROBLEMS, PAPER, SYNTHETIC, ChainMode, ChainSpec
from reasoning.problems import BadLine, Problem, ProblemFormat, load_problems, recorded_solutions
from reasoning.synthetic.generator import synthetic_problems

_PAPER_FORMATS = (ProblemFormat.GSM8K, ProblemFormat.RECORDED, ProblemFormat.MATHQA)


def select_problems(spec: ChainSpec, *, skip_bad: bool = False) -> tuple[list[Problem], tuple[BadLine, ...]]:
    """The problems of a run, and the malformed lines that were skipped.

    Raises:
        ValueError: the source cannot be read or holds no problem; replay of problems without solutions; problems that
            the paper's protocol does not know.
    """
    if spec.solutions is not None:
        if spec.problems == SYNTHETIC or is_run(spec.problems):
            raise ValueError(
                f"--solutions {spec.solutions} names those of a file of recorded ones, --problems is {spec.problems}"
            )
        return recorded_solutions(spec.problems, spec.solutions)[: spec.limit], ()
    if spec.problems == SYNTHETIC:
        wanted = max(
            spec.problem_count(max(spec.batch_sizes)) or DEFAULT_SYNTHETIC_PROBLEMS, *spec.batch_sizes
        )
        return list(islice(synthetic_problems(spec.seed), spec.limit or wanted)), ()
    if is_run(spec.problems):
        if spec.protocol == PAPER:
            raise ValueError(
                f"--protocol {PAPER} solves GSM8K or MathQA, not the problems of run {spec.problems}"
            )
        return problems_of_run(spec.problems, limit=spec.limit)
    loaded = load_problems(spec.problems, limit=spec.limit, skip_bad=skip_bad)
    problems = list(loaded.problems)
    if spec.protocol == PAPER and loaded.format not in _PAPER_FORMATS:
        raise ValueError(
            f"--protocol {PAPER} solves GSM8K or MathQA, {spec.problems} holds {loaded.format.value} problems"
        )
    without = sum(p.solution is None for p in problems)
    if spec.mode is ChainMode.REPLAY and without:
        raise ValueError(
            f"replay needs recorded solutions, and {without} of {len(problems)} problems have none"
        )
    return problems, loaded.skipped
