"""Problems to reason about: GSM8K, MathQA and the project's own synthetic ones, from files or the hub."""

from reasoning.problems.loader import load_problems, recorded_solutions
from reasoning.problems.types import BadLine, LoadedProblems, Problem, ProblemFileError, ProblemFormat

__all__ = [
    "BadLine",
    "LoadedProblems",
    "Problem",
    "ProblemFileError",
    "ProblemFormat",
    "load_problems",
    "recorded_solutions",
]
