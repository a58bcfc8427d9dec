"""MathQA: multiple choice in two spellings of its options. The letter is scored, never the formula."""

import ast
import re
from collections.abc import Mapping

from reasoning.problems.types import Problem, text_field

_LETTERS = "abcde"


def parse_options(text: str | list[str]) -> tuple[tuple[str, str], ...]:
    """Read the options of a MathQA problem.

    Args:
        text: ``"a ) 38 , b ) 27.675 , ..."``, the list style ``"['a ) 2 : 3', 'b ) 4 : 5', ...]"``, or such a
            list itself. A label given twice (``a ) a ) 4 inches``) counts once.

    Returns:
        (letter, text) pairs; the letters run from a without a gap.

    Raises:
        ValueError: fewer than two options, a letter missing or out of order, or an option without text.
    """
    if isinstance(text, str) and text.lstrip().startswith("["):
        try:
            text = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise ValueError("options begin like a list and cannot be read as one") from None
    if isinstance(text, str):
        parts = _split_at_labels(text)
    elif isinstance(text, list) and all(isinstance(part, str) for part in text):
        parts = text
    else:
        raise ValueError("options are neither text nor a list of texts")
    if not 2 <= len(parts) <= len(_LETTERS):
        raise ValueError(f"{len(parts)} options found, expected 2 to {len(_LETTERS)}")
    return tuple(_option(letter, part) for letter, part in zip(_LETTERS, parts, strict=False))


def parse_mathqa(record: Mapping[str, object], index: int) -> Problem:
    """Turn one MathQA record (``Problem``, ``options``, ``correct``) into a problem.

    Args:
        record: the decoded JSON object; ``Rationale`` and ``linear_formula`` may be missing.
        index: its position in the file, from 0.

    Returns:
        The problem ``mathqa-<index>`` whose answer is a letter; operations are the linear formula's, split
        on ``|``.

    Raises:
        ValueError: a field is missing, or the right letter is not among the options.
    """
    raw_options = record.get("options")
    options = parse_options(raw_options if isinstance(raw_options, list) else text_field(record, "options"))
    correct = text_field(record, "correct").lower()
    letters = [letter for letter, _ in options]
    if correct not in letters:
        raise ValueError(f"correct='{correct}' is not one of the options {', '.join(letters)}")
    rationale = record.get("Rationale")
    formula = record.get("linear_formula")
    operations = sum(bool(part.strip()) for part in formula.split("|")) if isinstance(formula, str) else 0
    return Problem(
        id=f"mathqa-{index:04d}",
        question=text_field(record, "Problem"),
        answer=correct,
        solution=(rationale.strip().strip('"').strip() or None) if isinstance(rationale, str) else None,
        operations=operations or None,
        source="mathqa",
        options=options,
    )


def _split_at_labels(text: str) -> list[str]:
    """Split ``a ) x , b ) y`` at its labels, each looked for behind the one before it."""
    starts: list[int] = []
    position = 0
    for letter in _LETTERS:
        before = r"\s*" if letter == "a" else r".*?,\s*"
        match = re.compile(rf"{before}(?P<label>{letter}\s*\))", re.DOTALL | re.IGNORECASE).match(
            text, position
        )
        if match is None:
            break
        starts.append(match.start("label"))
        position = match.end()
    ends = [*starts[1:], len(text)]
    return [text[start:end].strip().removesuffix(",") for start, end in zip(starts, ends, strict=False)]


def _option(letter: str, part: str) -> tuple[str, str]:
    match = re.match(rf"\s*(?:{letter}\s*\)\s*)+", part, re.IGNORECASE)
    if match is None:
        raise ValueError(f"option '{part.strip()}' stands where '{letter} )' was expected")
    text = part[match.end() :].strip()
    if not text:
        raise ValueError(f"option {letter} is empty")
    return letter, text
