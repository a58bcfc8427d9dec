"""Our own problems as JSON lines: ``id``, ``question``, ``answer``, ``solution``, ``operations``."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from reasoning.problems.gsm8k import count_steps
from reasoning.problems.types import Problem, text_field

# An exponent beyond this is a damaged file, and writing such a number out in full would exhaust memory.
_MAX_EXPONENT = 1000
_MAX_OPERATIONS = 1_000_000


def parse_synthetic(record: Mapping[str, object]) -> Problem:
    """Turn one record of the project's own format into a problem.

    Args:
        record: the decoded JSON object; the answer is a number or a number as text, solution and operations
            may be missing or null.

    Returns:
        The problem; its steps are counted in the solution.

    Raises:
        ValueError: a field is missing or of the wrong type.
    """
    solution = None if record.get("solution") is None else text_field(record, "solution")
    return Problem(
        id=text_field(record, "id"),
        question=text_field(record, "question"),
        answer=_answer(record.get("answer")),
        solution=solution,
        operations=_operations(record.get("operations")),
        source="synthetic",
        steps=None if solution is None else count_steps(solution),
    )


def synthetic_record(problem: Problem) -> dict[str, object]:
    """Return the record of a problem with a numeric answer, ready for ``json.dumps``; undone by parsing it.

    Raises:
        ValueError: the answer is a letter, which this format does not hold.
    """
    if not isinstance(problem.answer, Decimal):
        raise ValueError(f"answer '{problem.answer}' of problem '{problem.id}' is not a number")
    return {
        "id": problem.id,
        "question": problem.question,
        "answer": format(problem.answer, "f"),
        "solution": problem.solution,
        "operations": problem.operations,
    }


def _answer(value: object) -> Decimal:
    if isinstance(value, (Decimal, str)):
        try:
            answer = Decimal(value.replace(",", "").strip() if isinstance(value, str) else value)
        except InvalidOperation:
            raise ValueError(f"answer '{value}' is not a number") from None
        if answer.is_finite() and abs(answer.adjusted()) <= _MAX_EXPONENT:
            return answer
    raise ValueError("field 'answer' is missing" if value is None else f"answer '{value}' is not a number")


def _operations(value: object) -> int | None:
    if value is None:
        return None
    if (
        not isinstance(value, Decimal)
        or value != value.to_integral_value()
        or not 0 <= value <= _MAX_OPERATIONS
    ):
        raise ValueError(f"operations={value} is not a whole number from 0 to {_MAX_OPERATIONS}")
    return int(value)
