"""Load problems from a file or the hub, whatever their format, and say exactly which line is wrong."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from reasoning.problems.gsm8k import model_keys, parse_gsm8k, parse_recorded
from reasoning.problems.hub import HUB_FILES, HubError, hub_records
from reasoning.problems.mathqa import parse_mathqa
from reasoning.problems.synthetic_records import parse_synthetic
from reasoning.problems.types import BadLine, LoadedProblems, Problem, ProblemFileError, ProblemFormat

_Parser = Callable[[Mapping[str, object], int], Problem]

_PARSERS: dict[ProblemFormat, _Parser] = {
    ProblemFormat.GSM8K: parse_gsm8k,
    ProblemFormat.MATHQA: parse_mathqa,
    ProblemFormat.RECORDED: parse_recorded,
    ProblemFormat.SYNTHETIC: lambda record, index: parse_synthetic(record),
}


@dataclass(frozen=True)
class _Record:
    """One record with its place in the file; ``value`` is the error where it could not be decoded."""

    position: str
    value: object


def load_problems(
    source: str,
    *,
    limit: int | None = None,
    skip_bad: bool = False,
    shuffle: bool = False,
    seed: int | None = None,
) -> LoadedProblems:
    """Load problems and find out their format from the content.

    Args:
        source: path of a GSM8K, MathQA or synthetic file or of GSM8K's recorded solutions (JSON lines or one
            JSON array), or a key of ``HUB_FILES`` (``openai/gsm8k``) where no such path exists.
        limit: at most this many problems, taken after shuffling; all where None. Every line is checked
            anyway.
        skip_bad: list malformed records in ``skipped`` instead of refusing the file.
        shuffle: shuffle the problems.
        seed: seed of the shuffle, needed for it and unused otherwise.

    Returns:
        The problems, the skipped records, the source and the format. A problem's id counts the records of the
        file from 0, skipped ones included, so ids do not depend on ``limit`` or ``shuffle``.

    Raises:
        ProblemFileError: the source is missing, a directory, empty, not UTF-8, not JSON, holds no problem, or
            a record is malformed and ``skip_bad`` is off; the sentence names the file and the line (the item
            in an array).
        ValueError: limit below 1, or shuffle without a seed.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is less than 1")
    if shuffle and seed is None:
        raise ValueError("shuffle=True needs a seed, so that the order can be repeated")
    problems, skipped, found = _parse_all(source, _records(source), skip_bad=skip_bad)
    if shuffle:
        random.Random(seed).shuffle(problems)
    return LoadedProblems(tuple(problems[:limit]), tuple(skipped), source, found)


def recorded_solutions(path: str | Path, model_key: str) -> list[Problem]:
    """Load GSM8K's recorded solutions of one model, for replay.

    Args:
        path: ``example_model_solutions.jsonl``.
        model_key: ``6b_finetuning``, ``6b_verification``, ``175b_finetuning`` or ``175b_verification``.

    Returns:
        The problems with that model's solutions, wrong ones included; ``answer`` is the true answer.

    Raises:
        ProblemFileError: the file cannot be read, holds another format, or has no solution of that model.
    """
    source = str(path)
    records = list(_records(source))
    found = next((detected for record in records if (detected := _detect(record.value)) is not None), None)
    if found is not ProblemFormat.RECORDED:
        kind = "no problems" if found is None else f"{found.value} problems"
        raise ProblemFileError(f"{source} holds {kind}, not recorded model solutions")
    known = next(model_keys(r.value) for r in records if isinstance(r.value, Mapping) and model_keys(r.value))
    if model_key not in known:
        raise ProblemFileError(f"{source} has no solutions of model '{model_key}'; it has {', '.join(known)}")
    parsers = {
        **_PARSERS,
        ProblemFormat.RECORDED: lambda record, index: parse_recorded(record, index, model_key),
    }
    return _parse_all(source, iter(records), skip_bad=False, parsers=parsers)[0]


def _parse_all(
    source: str,
    records: Iterator[_Record],
    *,
    skip_bad: bool,
    parsers: Mapping[ProblemFormat, _Parser] = _PARSERS,
) -> tuple[list[Problem], list[BadLine], ProblemFormat]:
    problems: list[Problem] = []
    skipped: list[BadLine] = []
    places: dict[str, str] = {}
    file_format: ProblemFormat | None = None
    for index, record in enumerate(records):
        try:
            file_format = file_format or _detect(record.value)
            problem = _parse(record.value, index, file_format, parsers)
            if problem.id in places:
                raise ValueError(f"id '{problem.id}' is already used at {places[problem.id]}")
        except ValueError as error:
            if not skip_bad:
                raise ProblemFileError(f"{source}, {record.position}: {error}") from error
            skipped.append(BadLine(source, record.position, str(error)))
        else:
            places[problem.id] = record.position
            problems.append(problem)
    if not problems or file_format is None:
        reason = (
            f"; the first of {len(skipped)} bad ones is {skipped[0].position}: {skipped[0].reason}"
            if skipped
            else ""
        )
        raise ProblemFileError(f"{source} holds no problem{reason}")
    return problems, skipped, file_format


def _parse(
    value: object, index: int, file_format: ProblemFormat | None, parsers: Mapping[ProblemFormat, _Parser]
) -> Problem:
    if isinstance(value, ValueError):
        raise value
    if not isinstance(value, Mapping):
        raise ValueError(f"a JSON object was expected, not {type(value).__name__}")
    found = _detect(value)
    if found is None or file_format is None:
        fields = ", ".join(sorted(map(str, value))) or "none"
        raise ValueError(
            "fields of no known format: expected question and answer (GSM8K), Problem, options and "
            "correct (MathQA), question and ground_truth (recorded solutions) or id, question and answer "
            f"(synthetic), found {fields}"
        )
    if found is not file_format:
        raise ValueError(f"a {found.value} record in a file of {file_format.value} records")
    return parsers[file_format](value, index)


def _detect(value: object) -> ProblemFormat | None:
    if not isinstance(value, Mapping):
        return None
    if {"Problem", "options", "correct"} <= value.keys():
        return ProblemFormat.MATHQA
    if {"question", "ground_truth"} <= value.keys():
        return ProblemFormat.RECORDED
    if {"id", "question", "answer"} <= value.keys() and "####" not in str(value["answer"]):
        return ProblemFormat.SYNTHETIC
    return ProblemFormat.GSM8K if {"question", "answer"} <= value.keys() else None


def _records(source: str) -> Iterator[_Record]:
    path = Path(source)
    if not path.exists() and source in HUB_FILES:
        try:
            rows = hub_records(source)
        except HubError as error:
            raise ProblemFileError(str(error)) from error
        return (_Record(f"row {row}", value) for row, value in enumerate(rows))
    text = _read_text(path, source)
    if text.lstrip().startswith("["):
        return _array_records(text, source)
    return _line_records(text)


def _read_text(path: Path, source: str) -> str:
    if path.is_dir():
        raise ProblemFileError(f"{source} is a directory, not a file of problems")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ProblemFileError(f"{source} does not exist") from None
    except (OSError, ValueError) as error:
        raise ProblemFileError(f"{source} cannot be read: {error}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ProblemFileError(
            f"{source}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x})"
        ) from error
    if not text.strip():
        raise ProblemFileError(f"{source} is empty")
    return text


def _array_records(text: str, source: str) -> Iterator[_Record]:
    try:
        items = _decode(text)
    except json.JSONDecodeError as error:
        raise ProblemFileError(f"{source}, line {error.lineno}: not JSON ({error.msg})") from error
    except ValueError as error:
        raise ProblemFileError(f"{source}: {error}") from error
    if not isinstance(items, list):
        raise ProblemFileError(f"{source} is not an array of problems")
    return (_Record(f"item {index}", item) for index, item in enumerate(items))


def _line_records(text: str) -> Iterator[_Record]:
    # Only "\n" ends a record: JSON text may hold U+2028 and other separators that splitlines() breaks at.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _Record(f"line {number}", _decode_line(line))


def _decode_line(line: str) -> object:
    try:
        return _decode(line)
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON ({error.msg} at character {error.pos})")
    except ValueError as error:
        return error


def _decode(text: str) -> object:
    """Decode JSON with exact numbers: all as Decimal, so that an answer of 0.1 stays 0.1."""
    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
