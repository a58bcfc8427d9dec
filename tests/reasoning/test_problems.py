import json
import os
import socket
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.answers import extract_answer, same_answer
from reasoning.chain_problems import select_problems
from reasoning.chain_spec import ChainMode, ChainSpec
from reasoning.problems import ProblemFileError, ProblemFormat, load_problems, recorded_solutions
from reasoning.problems.gsm8k import count_operations, count_steps, official_answer
from reasoning.problems.mathqa import parse_options
from reasoning.problems.synthetic_records import parse_synthetic, synthetic_record
from reasoning.problems.types import Problem

DATA = Path(os.environ.get("QT_PROFILE_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
GSM8K, RECORDED = DATA / "gsm8k/test.jsonl", DATA / "gsm8k/example_model_solutions.jsonl"
MATHQA = DATA / "mathqa/test.json"
needs_data = pytest.mark.skipif(
    not GSM8K.exists() or not MATHQA.exists(), reason=f"no problem data at {DATA}"
)

GOOD = {"question": "How many eggs?", "answer": "9 * 2 = <<9*2=18>>18\nSo 18.\n#### 1,018"}
CHOICE = {
    "Problem": "which ?",
    "options": "a ) 1,000 , b ) 2 : 3",
    "correct": "b",
    "linear_formula": "add(n0,n1)|",
}
OWN = {
    "id": "test-1-0",
    "question": "How many?",
    "answer": 12,
    "solution": "3 * 4 = 12\n#### 12",
    "operations": 1,
}


def write_lines(path: Path, *lines: object) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return str(path)


@needs_data
def test_gsm8k_counts_match_the_published_ones() -> None:
    loaded = load_problems(str(GSM8K))
    assert (loaded.format, len(loaded.problems), loaded.skipped) == (ProblemFormat.GSM8K, 1319, ())
    steps = Counter(problem.steps for problem in loaded.problems)
    assert steps == {2: 326, 3: 371, 4: 297, 5: 175, 6: 87, 7: 40, 8: 20, 9: 2, 11: 1}
    assert sum(isinstance(p.answer, Decimal) and p.answer < 0 for p in loaded.problems) == 2
    assert sum("<<" not in (p.solution or "") for p in loaded.problems) == 18
    assert all(
        same_answer(extract_answer(p.solution or "", "number").value, p.answer) for p in loaded.problems
    )


@needs_data
def test_mathqa_counts_match_the_published_ones() -> None:
    loaded = load_problems(str(MATHQA))
    assert (loaded.format, len(loaded.problems), loaded.skipped) == (ProblemFormat.MATHQA, 2985, ())
    operations = Counter(min(p.operations or 0, 10) for p in loaded.problems)
    assert operations == {1: 254, 2: 458, 3: 660, 4: 463, 5: 357, 6: 280, 7: 179, 8: 131, 9: 66, 10: 137}
    assert all("".join(letter for letter, _ in p.options) == "abcde" for p in loaded.problems)
    assert sum(p.answer == "c" for p in loaded.problems) / 2985 == pytest.approx(0.226, abs=5e-4)


@needs_data
def test_recorded_solutions_share_ids_and_answers_with_gsm8k() -> None:
    problems = load_problems(str(GSM8K)).problems
    replay = recorded_solutions(RECORDED, "175b_verification")
    keys = [(p.id, p.question, p.answer, p.operations, p.steps) for p in problems]
    assert keys == [(p.id, p.question, p.answer, p.operations, p.steps) for p in replay]
    right = [same_answer(extract_answer(p.solution or "", "number").value, p.answer) for p in replay]
    assert sum(right) == 742
    assert {p.source for p in replay} == {"recorded/175b_verification"}
    assert load_problems(str(RECORDED)).format is ProblemFormat.RECORDED


def test_recorded_solutions_refuse_other_files_and_models(tmp_path: Path) -> None:
    record = {
        "question": "q",
        "ground_truth": "s\nA: 2,125",
        "m1": {"is_correct": False, "solution": "x\nA: 3"},
    }
    path = write_lines(tmp_path / "r.jsonl", record)
    assert recorded_solutions(path, "m1")[0].answer == 2125
    with pytest.raises(ProblemFileError, match="no solutions of model 'm2'; it has m1"):
        recorded_solutions(path, "m2")
    with pytest.raises(ProblemFileError, match="holds gsm8k problems, not recorded"):
        recorded_solutions(write_lines(tmp_path / "g.jsonl", GOOD), "m1")
    truncated = write_lines(tmp_path / "t.jsonl", record, {"question": "q", "ground_truth": "A: 1"})
    with pytest.raises(ProblemFileError, match="t.jsonl, line 2: no solution of model 'm1'"):
        recorded_solutions(truncated, "m1")


def test_each_format_is_told_from_its_content(tmp_path: Path) -> None:
    gsm8k = load_problems(write_lines(tmp_path / "a.json", GOOD)).problems[0]
    assert (gsm8k.id, gsm8k.answer, gsm8k.operations, gsm8k.steps) == ("gsm8k-0000", Decimal(1018), 1, 2)
    choice = load_problems(write_lines(tmp_path / "b.jsonl", [CHOICE])).problems[0]
    assert (choice.answer, choice.options, choice.operations) == ("b", (("a", "1,000"), ("b", "2 : 3")), 1)
    own = load_problems(write_lines(tmp_path / "c.txt", OWN)).problems[0]
    assert (own.id, own.answer, own.operations, own.steps) == ("test-1-0", Decimal(12), 1, 1)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"question": "q"', "not JSON"),
        ("[1]", "a JSON object was expected, not list"),
        ("18", "a JSON object was expected, not Decimal"),
        ({"q": 1}, "fields of no known format.*found q"),
        ({"question": "q", "answer": "no line"}, "no answer line"),
        ({"question": "q", "answer": "#### .,."}, "'.,.' is not a number"),
        ({"question": "", "answer": "#### 1"}, "field 'question' is empty"),
        ({"question": 3, "answer": "#### 1"}, "field 'question' is Decimal, not text"),
        ({"question": "q", "answer": None}, "field 'answer' is NoneType"),
        ('{"question": "\\ud800", "answer": "#### 1"}', "lone surrogate"),
        ('{"question": NaN, "answer": "#### 1"}', "NaN is not a JSON number"),
        ("[" * 100_000, "too deeply|not JSON"),
        (CHOICE, "a mathqa record in a file of gsm8k records"),
    ],
)
def test_a_bad_line_is_named_and_skipped_only_when_asked(tmp_path: Path, bad: object, reason: str) -> None:
    path = write_lines(tmp_path / "p.jsonl", GOOD, "", bad, GOOD)
    with pytest.raises(ProblemFileError, match=f"p.jsonl, line 3: .*({reason})"):
        load_problems(path)
    loaded = load_problems(path, skip_bad=True)
    assert [problem.id for problem in loaded.problems] == ["gsm8k-0000", "gsm8k-0002"]
    assert [(line.file, line.position) for line in loaded.skipped] == [(path, "line 3")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"correct": "f"}, "correct='f' is not one of the options a, b"),
        ({"options": "38 or 39"}, "0 options"),
        ({"options": "a ) 38"}, "1 options"),
        ({"options": "a ) , b ) 3"}, "option a is empty"),
        ({"options": "['a ) 1', 'c ) 2']"}, "'c \\) 2' stands where 'b \\)'"),
        ({"options": "['a ) 1', "}, "cannot be read"),
        ({"options": "['a ) 1', 2]"}, "neither text nor a list"),
        ({"options": None}, "field 'options'"),
    ],
)
def test_a_bad_item_of_an_array_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = write_lines(tmp_path / "m.json", json.dumps([CHOICE, CHOICE | change], indent=1))
    with pytest.raises(ProblemFileError, match=f"m.json, item 1: .*{reason}"):
        load_problems(path)
    assert len(load_problems(path, skip_bad=True).skipped) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "many"}, "answer 'many' is not a number"),
        ({"answer": True}, "answer 'True' is not a number"),
        ({"answer": None}, "field 'answer' is missing"),
        ({"answer": "NaN"}, "'NaN' is not a number"),
        ({"answer": "1e999999"}, "is not a number"),
        ({"operations": 1.5}, "operations=1.5"),
        ({"operations": -1}, "operations=-1"),
        ({"solution": 5}, "field 'solution' is Decimal"),
        ({"id": "test-1-0"}, "id 'test-1-0' is already used at line 1"),
    ],
)
def test_a_bad_synthetic_problem_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = write_lines(tmp_path / "s.jsonl", OWN, OWN | {"id": "test-1-1"} | change)
    with pytest.raises(ProblemFileError, match=f"s.jsonl, line 2: .*{reason}"):
        load_problems(path)


def test_unreadable_sources_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProblemFileError, match="nowhere.jsonl does not exist"):
        load_problems(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(ProblemFileError, match="is a directory"):
        load_problems(str(tmp_path))
    (tmp_path / "empty").write_text(" \n\n")
    with pytest.raises(ProblemFileError, match="empty is empty"):
        load_problems(str(tmp_path / "empty"))
    (tmp_path / "latin").write_bytes(json.dumps(GOOD).encode() + b"\n\xe9")
    with pytest.raises(ProblemFileError, match="latin, line 2: not UTF-8 .byte 0xe9"):
        load_problems(str(tmp_path / "latin"))
    (tmp_path / "array").write_text('[\n{"a": 1},\n')
    with pytest.raises(ProblemFileError, match="array, line 3: not JSON"):
        load_problems(str(tmp_path / "array"))
    (tmp_path / "none").write_text("[]")
    with pytest.raises(ProblemFileError, match="none holds no problem$"):
        load_problems(str(tmp_path / "none"))
    path = write_lines(tmp_path / "bad", "x", "y")
    with pytest.raises(
        ProblemFileError, match="holds no problem; the first of 2 bad ones is line 1: not JSON"
    ):
        load_problems(path, skip_bad=True)


def test_byte_order_mark_and_line_separators_inside_text_are_read(tmp_path: Path) -> None:
    line = json.dumps(GOOD | {"question": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + (line + "\r\n" + line).encode())
    assert [p.question for p in load_problems(str(tmp_path / "bom.jsonl")).problems] == ["one\u2028two"] * 2


def test_limit_and_shuffle(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", *[GOOD] * 17)
    ids = [problem.id for problem in load_problems(path).problems]
    assert [p.id for p in load_problems(path, limit=3).problems] == ids[:3]
    shuffled = [p.id for p in load_problems(path, shuffle=True, seed=5).problems]
    assert shuffled != ids
    assert sorted(shuffled) == ids
    assert [p.id for p in load_problems(path, shuffle=True, seed=5, limit=4).problems] == shuffled[:4]
    with pytest.raises(ValueError, match="limit=0"):
        load_problems(path, limit=0)
    with pytest.raises(ValueError, match="needs a seed"):
        load_problems(path, shuffle=True)


def test_hub_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ProblemFileError, match="pip install pyarrow"):
        load_problems("openai/gsm8k")


def fake_parquet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Table:
        def to_pylist(self) -> list[dict[str, str]]:
            return [GOOD, GOOD]

    parquet = ModuleType("pyarrow.parquet")
    parquet.read_table = lambda path: Table()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    monkeypatch.chdir(tmp_path)


def test_hub_without_network_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_parquet(monkeypatch, tmp_path)

    def refuse(*args: object, **kwargs: object) -> object:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ProblemFileError, match="hub cannot be reached .ConnectionError.*path of a GSM8K"):
        load_problems("openai/gsm8k")


def test_hub_rows_load_like_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_parquet(monkeypatch, tmp_path)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("no network in tests"))
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *args, **kwargs: str(tmp_path / "x.parquet")
    )
    loaded = load_problems("openai/gsm8k")
    assert (loaded.source, loaded.format, len(loaded.problems)) == ("openai/gsm8k", ProblemFormat.GSM8K, 2)


OPTION_TEXT = st.text("0123456789 .:%/xyz()-", min_size=1, max_size=12).map(str.strip).filter(bool)


@given(st.lists(OPTION_TEXT, min_size=2, max_size=5))
def test_options_parse_back_in_both_spellings(texts: list[str]) -> None:
    expected = tuple(zip("abcde", texts, strict=False))
    labelled = [f"{letter} ) {text}" for letter, text in expected]
    assert parse_options(" , ".join(labelled)) == expected
    assert parse_options(repr(labelled)) == expected
    assert parse_options(labelled) == expected


def test_options_keep_commas_and_drop_a_doubled_label() -> None:
    assert parse_options("a ) 1,000 , b ) 2,500 kg , c ) none") == (
        ("a", "1,000"),
        ("b", "2,500 kg"),
        ("c", "none"),
    )
    assert parse_options("['a ) a ) 4 inches', 'b ) b ) 6 inches']") == (("a", "4 inches"), ("b", "6 inches"))


def test_gsm8k_rules() -> None:
    assert official_answer("x\n#### -1,234.5") == Decimal("-1234.5")
    assert count_operations("1 + 1 = <<1+1=2>>2\n2 * 3 = <<2*3=6>>6\n#### 6") == 2
    assert count_operations("Two.\n\nThen six.\nA: 6") == count_steps("Two.\n\nThen six.\nA: 6") == 2
    assert count_steps("one\ntwo") == 2


@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9),
    st.none() | st.integers(0, 40),
)
def test_synthetic_records_round_trip(answer: Decimal, operations: int | None) -> None:
    problem = Problem("test-0-1", "How many?", answer, "1 + 1 = 2\n#### 2", operations, "synthetic", (), 1)
    line = json.dumps(synthetic_record(problem))
    assert parse_synthetic(json.loads(line, parse_int=Decimal, parse_float=Decimal)) == problem


def test_a_letter_has_no_synthetic_record() -> None:
    with pytest.raises(ValueError, match="'b' of problem 'x' is not a number"):
        synthetic_record(Problem("x", "q", "b", None, None, "mathqa"))


def test_a_chain_replays_the_solutions_of_the_model_that_is_named(tmp_path: Path) -> None:
    records = [
        {
            "question": f"q{i}",
            "ground_truth": f"true {i}\nA: {i}",
            "m1": {"is_correct": False, "solution": f"first {i}\nA: 3"},
            "m2": {"is_correct": True, "solution": f"second {i}\nA: {i}"},
        }
        for i in range(3)
    ]
    path = str(write_lines(tmp_path / "r.jsonl", *records))

    def solutions(name: str | None) -> list[str | None]:
        spec = ChainSpec(problems=path, mode=ChainMode.REPLAY, solutions=name, limit=2)
        return [problem.solution for problem in select_problems(spec)[0]]

    assert [str(text).split()[0] for text in solutions("m1")] == ["first", "first"]
    assert [str(text).split()[0] for text in solutions("m2")] == ["second", "second"]
    assert [str(text).split()[0] for text in solutions(None)] == ["true", "true"]
    with pytest.raises(ValueError, match="no solutions of model 'm3'; it has m1, m2"):
        solutions("m3")
    with pytest.raises(ValueError, match="mode=generate replays no recorded ones"):
        ChainSpec(problems=path, solutions="m1")
    with pytest.raises(ValueError, match="--problems is synthetic"):
        select_problems(ChainSpec(mode=ChainMode.REPLAY, solutions="m1"))
