"""GSM8K: its problems, the solutions of real models recorded for them, and counts of steps and operations."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from reasoning.answers import AnswerKind, extract_answer
from reasoning.problems.types import Problem, text_field

_OFFICIAL_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")
_CALCULATOR_NOTE = re.compile(r"<<[^<>\n]*>>")
_ANSWER_LINE = re.compile(r"^\s*(?:####|A:)", re.MULTILINE)


def official_answer(solution: str) -> Decimal:
    r"""Read the answer of a GSM8K solution by the official rule ``#### (\-?[0-9\.\,]+)``, commas removed.

    Raises:
        ValueError: no such line, or not a number behind it.
    """
    match = _OFFICIAL_ANSWER.search(solution)
    if match is None:
        raise ValueError("no answer line '#### <number>'")
    try:
        return Decimal(match[1].replace(",", ""))
    except InvalidOperation:
        raise ValueError(f"answer '{match[1]}' is not a number") from None


def count_steps(solution: str) -> int:
    """Return a solution's logical hops: its non-empty lines before the answer line (``####`` or ``A:``)."""
    answer_line = _ANSWER_LINE.search(solution)
    worked = solution if answer_line is None else solution[: answer_line.start()]
    return sum(bool(line.strip()) for line in worked.splitlines())


def count_operations(solution: str) -> int:
    """Return the number of calculator notes ``<<...>>``; where there is none, the number of steps."""
    return len(_CALCULATOR_NOTE.findall(solution)) or count_steps(solution)


def parse_gsm8k(record: Mapping[str, object], index: int) -> Problem:
    """Turn one GSM8K record (``question``, ``answer``) into a problem.

    Args:
        record: the decoded JSON object.
        index: its position among the file's records, from 0.

    Returns:
        The problem ``gsm8k-<index>``; its solution keeps the calculator notes and the answer line.

    Raises:
        ValueError: a field is missing or the answer line cannot be read.
    """
    solution = text_field(record, "answer")
    return Problem(
        id=f"gsm8k-{index:04d}",
        question=text_field(record, "question"),
        answer=official_answer(solution),
        solution=solution,
        operations=count_operations(solution),
        source="gsm8k",
        steps=count_steps(solution),
    )


def parse_recorded(record: Mapping[str, object], index: int, model_key: str | None = None) -> Problem:
    """Turn one record of GSM8K's recorded model solutions into a problem.

    Args:
        record: ``question``, ``ground_truth`` (ends ``A: N``), and per model ``{is_correct, solution}``.
        index: its position among the file's records, from 0.
        model_key: whose solution the problem carries (``6b_finetuning``); None for the ground truth.

    Returns:
        The problem with the true answer and the chosen solution, wrong ones included; operations and steps
        are the ground truth's, so that they say how deep the problem is and not what the model wrote.

    Raises:
        ValueError: a field is missing, the model is unknown, or the ground truth states no answer.
    """
    truth = text_field(record, "ground_truth")
    answer = extract_answer(truth, AnswerKind.NUMBER)
    if answer.rule != "answer_line" or not isinstance(answer.value, Decimal):
        raise ValueError("field 'ground_truth' has no answer line 'A: <number>'")
    if model_key is None:
        solution, source = truth, "gsm8k"
    else:
        entry = record.get(model_key)
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"no solution of model '{model_key}'; this record has {', '.join(model_keys(record))}"
            )
        solution, source = text_field(entry, "solution"), f"recorded/{model_key}"
    return Problem(
        id=f"gsm8k-{index:04d}",
        question=text_field(record, "question"),
        answer=answer.value,
        solution=solution,
        operations=count_operations(truth),
        source=source,
        steps=count_steps(truth),
    )


def model_keys(record: Mapping[str, object]) -> list[str]:
    """Return the models whose solutions a recorded line carries."""
    return [key for key, value in record.items() if isinstance(value, Mapping) and "solution" in value]
