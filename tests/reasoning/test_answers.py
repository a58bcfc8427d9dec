import json
import os
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.answers import AnswerKind, answer_kind, extract_answer, parse_number, same_answer

DATA = Path(os.environ.get("QT_PROFILE_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
RECORDED = DATA / "gsm8k/example_model_solutions.jsonl"
MATHQA = DATA / "mathqa/test.json"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"),
        ("18.", "18"),
        ("+18", "18"),
        ("-5", "-5"),
        ("\u22127", "-7"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("$ 1,234.50 dollars", "1234.50"),
        ("1,450,000", "1450000"),
        ("€3", "3"),
        ("US$5", "5"),
        ("Rs.5000", "5000"),
        ("Rs. 5,000 per year", "5000"),
        ("USD 7", "7"),
        (".5", "0.5"),
        ("25%", "25"),
        ("2 million", "2"),
        ("3/4", "0.75"),
        ("5 / 2", "2.5"),
        ("1 3/4 cups", "1.75"),
        ("-1 1/2", "-1.5"),
        (r"\frac{3}{4}", "0.75"),
        (r"\dfrac{ 1 }{ 8 }", "0.125"),
        ("1{,}234", "1234"),
        (r"\$18", "18"),
        (r"\(18\)", "18"),
        ("$18$", "18"),
        ("**18**", "18"),
        ("1e5", "100000"),
        ("1,23", "1"),
        ("12,345,67", "12"),
        ("3 * 6 = 18 eggs", "18"),
        ("18 x 2 = 36", "36"),
        ("3*2 + 4 = 6 + 4 = 10", "10"),
        ("$60/hour", "60"),
        ("18 = total", "18"),
    ],
)
def test_parse_number_reads_what_people_write(text: str, value: str) -> None:
    assert parse_number(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "x", "3/0", "1 3/0", "10+John's age", "Step 1", "-", "$", "3/4/5"])
def test_parse_number_refuses_what_is_no_number(text: str) -> None:
    assert parse_number(text) is None


@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=3),
    st.sampled_from(["", "$", "€", "Rs. ", "US$"]),
    st.sampled_from(["", ".", " dollars", " km/h", "%", " %", " apples per day", "\n"]),
    st.booleans(),
    st.booleans(),
)
def test_a_formatted_number_parses_back(
    value: Decimal, currency: str, unit: str, commas: bool, sign_inside: bool
) -> None:
    digits = format(abs(value), ",f" if commas else "f")
    sign = "-" if value < 0 else ""
    text = f"{currency}{sign}{digits}{unit}" if sign_inside else f"{sign}{currency}{digits}{unit}"
    assert parse_number(text) == value
    assert extract_answer(f"First 7 and 9.\n#### {text}\nQ: 3 + 4?\n#### 7", "number").value == value


@given(st.integers(-999, 999), st.integers(1, 999))
def test_a_fraction_is_the_same_as_its_decimal(top: int, bottom: int) -> None:
    assert same_answer(parse_number(f"{top}/{bottom}"), Decimal(top) / Decimal(bottom))


@given(st.text(max_size=200), st.sampled_from(AnswerKind))
def test_any_text_yields_an_answer_or_none(text: str, kind: AnswerKind) -> None:
    found = extract_answer(text, kind)
    assert (found.value is None) == (found.rule == "none")
    if found.value is not None:
        assert answer_kind(found.value) is kind


@pytest.mark.parametrize(
    ("text", "value", "rule"),
    [
        ("16 - 3 = 13\n#### 1,234", "1234", "hash_line"),
        ("####18", "18", "hash_line"),
        ("#### $18 per day", "18", "hash_line"),
        ("#### 18\nQ: another?\n#### 20", "18", "hash_line"),
        ("#### 18\n#### 20", "18", "hash_line"),
        ("#### Step 1\n4 + 5 = 9\n#### 18", "18", "hash_line"),
        ("#### Answer: 18", "18", "answer_line"),
        ("9 * 2 = 18\nA: 18", "18", "answer_line"),
        ("**Answer:** $18", "18", "answer_line"),
        ("Final answer: 18 (9 x 2)", "18", "answer_line"),
        ("A: Janet sells 16 eggs. 3 * 4 = 12", "12", "last_number"),
        ("A: 16 - 3 = 13 eggs, so 13 * 2 = 26", "26", "last_number"),
        ("a = 18\nso it is 12", "12", "last_number"),
        (r"So \boxed{\frac{3}{4}} of it, 9 in all", "0.75", "boxed"),
        (r"\boxed{x = 1{,}234\text{ apples}}", "1234", "boxed"),
        ("The answer is $18.50.", "18.50", "answer_is"),
        ("So the final answer is **$1,234**.", "1234", "answer_is"),
        ("The answer is that she makes 18 dollars. Then 5.", "18", "answer_is"),
        ("The answer is 3 + 4 = 7 apples. So 9", "7", "answer_is"),
        ("The answer is 18.\n\nQ: another one?\n#### 20", "18", "answer_is"),
        ("Question: what?\n#### 20", "20", "hash_line"),
        ("She has 16 -3", "3", "last_number"),
        ("it drops to -3", "-3", "last_number"),
        ("9 * 2 = <<9*2=18>>18 eggs", "18", "last_number"),
        ("the total is 5 * 1/2 = $<<5*1", "0.5", "last_number"),
    ],
)
def test_number_is_found_by_the_documented_rule(text: str, value: str, rule: str) -> None:
    found = extract_answer(text, "number")
    assert (found.value, found.rule) == (Decimal(value), rule)


@pytest.mark.parametrize(
    ("text", "letter", "rule"),
    [
        ("#### b", "b", "hash_line"),
        ("#### (B)", "b", "hash_line"),
        ("#### b ) 38", "b", "hash_line"),
        ("answer: b", "b", "answer_line"),
        ("answer : c ) 38", "c", "answer_line"),
        ("Answer: B 38", "b", "answer_line"),
        (r"so \boxed{\text{(D)}}", "d", "boxed"),
        ("the correct option is (C) 38", "c", "answer_is"),
        ("100 = 38 % answer a", "a", "answer_is"),
        ("so answer is 8 days answer : d", "d", "answer_is"),
        ("hence the answer should be e", "e", "answer_is"),
        ("(b)", "b", "last_letter"),
        ("b )", "b", "last_letter"),
        ("b", "b", "last_letter"),
        ("so choose b ) 15 / 8", "b", "last_letter"),
        ("option d is right", "d", "last_letter"),
        ("E is the correct answer", "e", "last_letter"),
    ],
)
def test_letter_is_found_by_the_documented_rule(text: str, letter: str, rule: str) -> None:
    found = extract_answer(text, AnswerKind.LETTER)
    assert (found.value, found.rule) == (letter, rule)


@pytest.mark.parametrize(
    "text", ["", "The answer is a number", "the answer is a 20 % profit", "#### 18", "f(a) = 2", "x ) y"]
)
def test_an_article_or_a_variable_is_no_letter(text: str) -> None:
    assert extract_answer(text, "letter").rule == "none"


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="formula"):
        extract_answer("#### 18", "formula")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (Decimal(18), Decimal("18.00"), True),
        (Decimal(18), "18.", True),
        ("1,234", Decimal(1234), True),
        (Decimal(18), Decimal(19), False),
        (Decimal(10**9), Decimal(10**9 + 1), False),
        (Decimal("0.3333333"), Decimal(1) / 3, True),
        (Decimal("10.99999999999"), Decimal(11), True),
        (Decimal("0.333"), Decimal(1) / 3, False),
        (Decimal(-3), Decimal(3), False),
        ("b", "B", True),
        ("b", "c", False),
        ("b", Decimal(2), False),
        (None, None, False),
        (None, Decimal(0), False),
        (Decimal("NaN"), Decimal("NaN"), False),
        (Decimal("1" * 5000), Decimal("1" * 4999 + "2"), False),
    ],
)
def test_same_answer(a: Decimal | str | None, b: Decimal | str | None, same: bool) -> None:
    assert same_answer(a, b) is same
    assert same_answer(b, a) is same


@pytest.mark.parametrize(
    "text", ["123," * 3000 + "12", "\\boxed{" * 2000, "answer is " * 3000, "9" * 20_000, "- " * 20_000]
)
def test_long_rambling_takes_no_quadratic_time(text: str) -> None:
    start = time.perf_counter()
    for kind in AnswerKind:
        extract_answer(text, kind)
    assert time.perf_counter() - start < 5


@pytest.mark.skipif(not RECORDED.exists(), reason=f"GSM8K's recorded solutions are not at {RECORDED}")
def test_recorded_models_score_as_published() -> None:
    correct = {"6b_finetuning": 0, "6b_verification": 0, "175b_finetuning": 0, "175b_verification": 0}
    disagreements = []
    for line, text in enumerate(RECORDED.read_text("utf-8").splitlines(), start=1):
        record = json.loads(text)
        truth = extract_answer(record["ground_truth"], "number")
        assert truth.rule == "answer_line"
        for model in correct:
            found = extract_answer(record[model]["solution"], "number")
            right = same_answer(found.value, truth.value)
            correct[model] += right
            if right is not record[model]["is_correct"]:
                disagreements.append((line, model, found, truth))
    assert disagreements == []
    assert list(correct.values()) == [286, 515, 458, 742]


@pytest.mark.skipif(not MATHQA.exists(), reason=f"MathQA is not at {MATHQA}")
def test_letters_of_mathqa_rationales_are_found() -> None:
    items = json.loads(MATHQA.read_text("utf-8"))
    found = [extract_answer(item["Rationale"], "letter").value for item in items]
    stated = [
        (letter, item["correct"]) for letter, item in zip(found, items, strict=True) if letter is not None
    ]
    assert len(stated) > 0.95 * len(items)
    assert sum(letter == correct for letter, correct in stated) > 0.99 * len(stated)
