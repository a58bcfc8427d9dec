"""What a problem is, and what loading a file of them returns or complains about."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum


class ProblemFormat(str, Enum):
    """The formats that the loader tells apart by their fields."""

    GSM8K = "gsm8k"
    MATHQA = "mathqa"
    RECORDED = "recorded"
    SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Problem:
    """One problem with its answer.

    Attributes:
        id: unique within a file; a GSM8K problem and the recorded solutions to it have the same id.
        question: the problem text, without options.
        answer: a number, or the letter of the right option.
        solution: a worked solution ending in its answer, as the source has it; None where there is none.
        operations: arithmetic operations that the right solution takes; None where the source does not say.
        source: the data set, and the model for a recorded solution (``gsm8k``, ``recorded/6b_finetuning``).
        options: (letter, text) pairs of a multiple-choice problem.
        steps: logical hops, the right solution's non-empty lines before its answer; None where not known.
    """

    id: str
    question: str
    answer: Decimal | str
    solution: str | None
    operations: int | None
    source: str
    options: tuple[tuple[str, str], ...] = ()
    steps: int | None = None


@dataclass(frozen=True)
class BadLine:
    """A malformed record that was skipped.

    Attributes:
        file: the file's name as it was given.
        position: ``line 17``, or ``item 16`` (counted from 0) in a JSON array.
        reason: what is wrong with it.
    """

    file: str
    position: str
    reason: str


@dataclass(frozen=True)
class LoadedProblems:
    """The problems of one source, and what was skipped on the way.

    Attributes:
        problems: in file order, or shuffled.
        skipped: malformed records, empty unless they were asked to be skipped.
        source: the path or hub id as given.
        format: the format found in the content.
    """

    problems: tuple[Problem, ...]
    skipped: tuple[BadLine, ...]
    source: str
    format: ProblemFormat


class ProblemFileError(ValueError):
    """A source of problems cannot be read; the sentence names the file and, where there is one, the line."""


def text_field(record: Mapping[str, object], key: str) -> str:
    """Return a record's text field.

    Args:
        record: one decoded JSON object.
        key: the field's name.

    Returns:
        The text, stripped of surrounding white space.

    Raises:
        ValueError: the field is missing, not text, empty, or not encodable as UTF-8 (a lone surrogate).
    """
    value = record.get(key)
    if not isinstance(value, str):
        found = "missing" if key not in record else f"{type(value).__name__}, not text"
        raise ValueError(f"field '{key}' is {found}")
    if not value.strip():
        raise ValueError(f"field '{key}' is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"field '{key}' holds a lone surrogate at character {error.start}") from None
    return value.strip()
