r"""Find the answer in a generated text and compare answers as values, not as strings.

The rules are tried in this order, and the result names the one that applied:

1. ``hash_line``: the first line ``#### <answer>`` (GSM8K). A heading that does not begin with an answer
   (``#### Step 1``) is not an answer line.
2. ``boxed``: the first ``\boxed{<answer>}``.
3. ``answer_line``: the first line ``A: <answer>`` or ``Answer: <answer>`` that holds nothing else but units.
4. ``answer_is``: the first sentence "... answer is <answer>".
5. ``last_number`` / ``last_letter``: a last resort, the last number or the last lone ``(b)``, ``b )``, ``b``.

The first explicit statement (1 to 4) counts, because a generation may ramble on after its answer. Where it
goes on to a new question (a line that begins with ``Q:`` or ``Question:``), the text before that line is
searched with all explicit rules before the rest is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

RELATIVE_TOLERANCE = Decimal("1e-6")


class AnswerKind(str, Enum):
    """What a problem's answer is."""

    NUMBER = "number"
    LETTER = "letter"


@dataclass(frozen=True)
class ExtractedAnswer:
    """An answer and the rule that found it.

    Attributes:
        value: the number, the letter in lower case, or None where the text holds no answer.
        rule: ``hash_line``, ``boxed``, ``answer_line``, ``answer_is``, ``last_number``, ``last_letter`` or
            ``none``.
    """

    value: Decimal | str | None
    rule: str


_DASHES = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"))
_CALCULATOR_NOTE = re.compile(r"<<[^<>\n]*(?:>>|$)", re.MULTILINE)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([^{}]*?)\s*\}\s*\{\s*([^{}]*?)\s*\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\[,!;: ]|\\(?:left|right|displaystyle)\b")

_GAP = r"[^\S\r\n]"
_DIGITS = r"(?:\d{1,3}(?:,\d{3}(?!\d))+(?!,\d)|\d+)"
_UNSIGNED = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,3}}(?!\w))?"
_CURRENCY = r"(?:US\$|\\?\$|[€£¥₹]|(?:Rs\b\.?|USD\b|EUR\b|GBP\b|INR\b)\s*)"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+]?)(?:{_CURRENCY}\s?)?(?P<inner>[-+]?)"
    rf"(?P<first>{_UNSIGNED})"
    rf"(?:{_GAP}+(?P<mixed_top>\d+){_GAP}?/{_GAP}?(?P<mixed_bottom>\d+)(?![\d/.,]*\d)"
    rf"|{_GAP}?/{_GAP}?(?P<bottom>{_UNSIGNED})(?!{_GAP}?/{_GAP}?\d))?"
    rf"(?:{_GAP}?\\?%)?",
    re.IGNORECASE,
)
# "/hour" is a unit and "**" is Markdown, so an operator needs an operand.
_OPERATOR = re.compile(r"\s*(?:(?P<equals>=)|(?:[+*/×÷^x-]|\\times|\\cdot)\s*[\d($.]|\+\s*\w)")
_DECORATION = " \t*_`:($\\["

_HASH_LINE = re.compile(r"^[ \t]*#{4}(?!#)(?P<statement>.*)$", re.MULTILINE)
_ANSWER_LINE = re.compile(
    r"^[ \t>*_#-]*(?:(?:the|my)[ \t]+)?(?:(?:final|correct)[ \t]+)?"
    r"(?:(?-i:A)[ \t*_]*:|(?:ans|answer)[ \t*_]*[:=])(?P<statement>.*)$",
    re.MULTILINE | re.IGNORECASE,
)
# The statement is a lookahead of bounded length: "the answer is 8 days, answer : d" states twice.
_STATEMENT_LENGTH = 200
_SENTENCE = rf"(?=(?P<statement>(?:[^.\n]|\.(?=\S)){{0,{_STATEMENT_LENGTH}}}))"
_IS = r"(?:(?:is|was|equals|(?:should|must|will)[ \t]+be)\b[ \t]*:?|[:=])"
_ANSWER_IS = re.compile(rf"\banswer[ \t]*{_IS}{_SENTENCE}", re.IGNORECASE)
_OPTION_IS = re.compile(
    rf"\b(?:ans|answer|option|choice)\b(?:[ \t]+(?:option|choice)\b)?[ \t.]*(?:{_IS}|-)?{_SENTENCE}",
    re.IGNORECASE,
)
_NEXT_QUESTION = re.compile(r"^[ \t*_]*(?:q|question)[ \t]*\d*[ \t]*:", re.MULTILINE | re.IGNORECASE)

# A lone "a" is also an article, so it counts only where punctuation or the end of the line follows.
_LETTER = re.compile(
    r"(?:(?:option|choice|letter)\s+)?[\"'(\[{]?\s*(?:(?P<bracketed>[a-e])\s*\)|"
    r"(?P<plain>[a-e])(?=\s*(?:$|[.,;:\])}\"'*_`|\\$=-]))|(?P<before_number>[b-e])(?=\s+[\d$]))",
    re.IGNORECASE,
)
_LONE_LETTER = re.compile(
    r"(?<![\w)])\(\s*(?P<inside>[a-e])\s*\)|(?<![\w(])(?P<open>[a-e])\s?\)"
    r"|(?<!\w)(?P<subject>[a-e])[ \t]+is[ \t]+(?:the[ \t]+)?(?:only[ \t]+)?"
    r"(?:correct|right|answer|option|choice)\b"
    r"|\b(?:option|choice)[ \t]+(?P<named>[a-e])\b"
    r"|^[ \t]*(?P<line>[a-e])[ \t]*\.?[ \t]*$|(?<![\w-])(?P<end>[a-e])[\s.\"']{0,9}\Z",
    re.IGNORECASE | re.MULTILINE,
)


def strip_calculator_notes(text: str) -> str:
    """Remove GSM8K's calculator notes ``<<a*b=c>>``, also one cut off by the end of the line."""
    return _CALCULATOR_NOTE.sub("", text)


def parse_number(text: str) -> Decimal | None:
    r"""Read the number that ``text`` begins with; what follows it counts as its unit.

    Understands thousands commas, signs (also the Unicode minus), decimals, exponents, currency before the
    number, a trailing dot (``18.``), fractions (``3/4``), mixed numbers (``1 3/4``) and LaTeX
    (``\frac{3}{4}``, ``1{,}234``). A percentage keeps its number (``25%`` is 25) and words like "million" are
    units: neither rescales the value, because the problems state their answers in the unit that they ask for.
    Of an expression the value after the ``=`` is meant (``3 * 6 = 18`` is 18); an expression without a result
    is not a number.

    Args:
        text: one line.

    Returns:
        The value, or None where the text does not begin with a number.
    """
    found = _leading_number(_plain(text))
    return None if found is None else found[0]


def extract_answer(text: str, kind: AnswerKind | str) -> ExtractedAnswer:
    """Find the answer in a generated or recorded solution, by the rules in this module's docstring.

    Args:
        text: the solution.
        kind: ``number`` (GSM8K) or ``letter`` (MathQA's options a to e).

    Returns:
        The value and the rule; ``ExtractedAnswer(None, "none")`` where the text holds none.

    Raises:
        ValueError: unknown kind.
    """
    wanted = AnswerKind(kind)
    whole = _plain(text)
    head = _before_next_question(whole)
    for scope in (head,) if head == whole else (head, whole):
        for rule, statements in _explicit_rules(wanted).items():
            for statement in statements(scope):
                value = _value_in_statement(statement, rule, wanted)
                if value is not None:
                    return ExtractedAnswer(value, rule)
    last = _last_number(head) if wanted is AnswerKind.NUMBER else _last_letter(head)
    return ExtractedAnswer(None, "none") if last is None else ExtractedAnswer(last, f"last_{wanted.value}")


def same_answer(a: Decimal | str | None, b: Decimal | str | None) -> bool:
    """Say whether two answers are the same: numbers by value, letters without regard to case.

    18, 18.0 and "18.00" are the same. Two whole numbers must be equal; where one has a fractional part, a
    relative difference of up to 1e-6 (``RELATIVE_TOLERANCE``) is allowed, so that 0.3333333 answers 1/3. No
    answer (None) is never the same as anything.
    """
    if a is None or b is None:
        return False
    left, right = _as_number(a), _as_number(b)
    if left is None or right is None:
        return left is None and right is None and str(a).strip().casefold() == str(b).strip().casefold()
    if not (left.is_finite() and right.is_finite()):
        return False
    if left == right:
        return True
    if left == left.to_integral_value() and right == right.to_integral_value():
        return False
    return abs(left - right) <= RELATIVE_TOLERANCE * max(abs(left), abs(right))


def answer_kind(answer: Decimal | str) -> AnswerKind:
    """Return the kind of a problem's own answer: a Decimal is a number, a string a letter."""
    return AnswerKind.NUMBER if isinstance(answer, Decimal) else AnswerKind.LETTER


def _plain(text: str) -> str:
    """Rewrite dashes, calculator notes and LaTeX so that one number grammar reads them all."""
    text = strip_calculator_notes(text.translate(_DASHES))
    if "\\" in text or "{" in text:
        text = _LATEX_FRACTION.sub(r"\1/\2", text.replace("{,}", ","))
        text = _LATEX_SPACE.sub("", _LATEX_TEXT.sub(r" \1 ", text))
    return text


def _before_next_question(text: str) -> str:
    for match in _NEXT_QUESTION.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def _statements(pattern: re.Pattern[str]) -> Callable[[str], list[str]]:
    return lambda text: [match["statement"] for match in pattern.finditer(text)]


def _boxed_statements(text: str) -> list[str]:
    found = []
    for opening in re.finditer(r"\\boxed\s*\{", text):
        depth = 1
        for position in range(opening.end(), min(len(text), opening.end() + _STATEMENT_LENGTH)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                found.append(text[opening.end() : position])
                break
    return found


def _explicit_rules(kind: AnswerKind) -> dict[str, Callable[[str], list[str]]]:
    return {
        "hash_line": _statements(_HASH_LINE),
        "boxed": _boxed_statements,
        "answer_line": _statements(_ANSWER_LINE),
        "answer_is": _statements(_ANSWER_IS if kind is AnswerKind.NUMBER else _OPTION_IS),
    }


def _value_in_statement(statement: str, rule: str, kind: AnswerKind) -> Decimal | str | None:
    if kind is AnswerKind.LETTER:
        return _leading_letter(statement)
    anywhere = rule in ("boxed", "answer_is")
    found = _first_number(statement) if anywhere else _leading_number(statement)
    if found is None:
        return None
    value, rest = found
    # A worked solution may begin with "A:"; the line states the answer only if no other number follows.
    if rule == "answer_line" and re.search(r"\d", rest) and not rest.lstrip().startswith("("):
        return None
    return value


def _leading_number(text: str) -> tuple[Decimal, str] | None:
    """Return the value that the text begins with and the text after it."""
    text = text.lstrip(" \t*_`:([")
    if text.startswith("\\("):
        text = text[2:].lstrip()
    match = _NUMBER.match(text)
    if match is None:
        text = text.lstrip(_DECORATION)
        match = _NUMBER.match(text)
    return None if match is None else _finish_expression(match)


def _first_number(text: str) -> tuple[Decimal, str] | None:
    match = _NUMBER.search(text)
    return None if match is None else _finish_expression(match)


def _finish_expression(match: re.Match[str]) -> tuple[Decimal, str] | None:
    value = _value(match)
    rest = match.string[match.end() :]
    operator = _OPERATOR.match(rest)
    if operator is None:
        return None if value is None else (value, rest)
    _, equals, result = rest.partition("=")
    found = _leading_number(result) if equals else None
    if found is None and operator["equals"] and value is not None:
        return value, rest
    return found


def _value(match: re.Match[str]) -> Decimal | None:
    """Turn a match of ``_NUMBER`` into its value; None for a fraction over zero."""
    value = _decimal(match["first"])
    if match["mixed_top"] is not None:
        bottom = _decimal(match["mixed_bottom"])
        if bottom == 0:
            return None
        value += _decimal(match["mixed_top"]) / bottom
    elif match["bottom"] is not None:
        bottom = _decimal(match["bottom"])
        if bottom == 0:
            return None
        value /= bottom
    return -value if (match["sign"] == "-") != (match["inner"] == "-") else value


def _decimal(digits: str) -> Decimal:
    return Decimal(digits.replace(",", ""))


def _last_number(text: str) -> Decimal | None:
    last = None
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None:
            # After an operand the dash is a subtraction: "16 -3" ends in 3, not in -3.
            before = text[: match.start()].rstrip()[-1:]
            subtraction = match["sign"] == "-" and (before.isdigit() or before == ")")
            last = -value if subtraction else value
    return last


def _leading_letter(statement: str) -> str | None:
    match = _LETTER.match(statement.lstrip(_DECORATION))
    if match is None:
        return None
    return (match["bracketed"] or match["plain"] or match["before_number"]).lower()


def _last_letter(text: str) -> str | None:
    last = None
    for match in _LONE_LETTER.finditer(text):
        last = match[str(match.lastgroup)].lower()
    return last


def _as_number(answer: Decimal | str) -> Decimal | None:
    return parse_number(answer) if isinstance(answer, str) else answer
