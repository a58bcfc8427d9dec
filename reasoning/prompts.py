"""The one prompt every model gets, so that accuracies are comparable."""

from __future__ import annotations

PROMPT = "Question: {question}\nAnswer:\n"


def format_prompt(question: str, options: tuple[tuple[str, str], ...] = ()) -> str:
    """Zero-shot prompt: the question, its options one per line (MathQA), then ``Answer:`` and a line break.

    The solution starts on a fresh line, so prompt and solution tokenize independently of each other.

    Args:
        question: the problem text.
        options: (letter, text) pairs of a multiple-choice problem; empty for a free answer.

    Returns:
        The prompt, ending in a line break.
    """
    if options:
        listed = "\n".join(f"{letter}) {text}" for letter, text in options)
        question = f"{question}\nOptions:\n{listed}\nEnd with the letter of the right option after ####."
    return PROMPT.format(question=question)
