"""Problems of an earlier chain run, with what its baseline generated as the recorded solutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from profiler.record import QuerySample, RecordError, RunRecord, load_run
from reasoning.chain_spec import SYNTHETIC
from reasoning.problems import BadLine, Problem, ProblemFileError, load_problems
from reasoning.synthetic.generator import synthetic_problems


def is_run(source: str) -> bool:
    """Whether a source of problems is the folder of a run."""
    return (Path(source) / "run.json").is_file()


def problems_of_run(source: str, *, limit: int | None = None) -> tuple[list[Problem], tuple[BadLine, ...]]:
    """Read the problems of a run again, and take the baseline's texts for their solutions.

    Of several batch sizes the smallest counts. Records hold no questions, so the run's own source is read once more.

    Args:
        source: folder of a chain run that generated.
        limit: at most this many problems.

    Returns:
        The problems in the run's order, and those that were left out because nothing was generated for them.

    Raises:
        ValueError: no chain, nothing generated, or its problems cannot be found again.
    """
    try:
        record, samples = load_run(source)
    except RecordError as error:
        raise ValueError(f"--problems {source}: {error}") from error
    if record.kind != "chain":
        raise ValueError(f"--problems {source} is a {record.kind} run, expected a chain")
    baseline = record.arguments.get("baseline")
    generated = [s for s in samples if isinstance(s, QuerySample) and s.kernel == baseline]
    if not generated:
        raise ValueError(f"--problems {source}: its baseline {baseline} has generated 0 solutions to replay")
    smallest = min(sample.batch_size or 1 for sample in generated)
    texts = {s.problem_id: s.text or "" for s in generated if (s.batch_size or 1) == smallest}
    asked = _asked(record, source, texts)
    found, skipped = [], []
    for name, text in texts.items():
        if text:
            found.append(replace(asked[name], solution=text))
        else:
            skipped.append(BadLine(source, f"problem {name}", f"{baseline} generated 0 characters for it"))
    if not found:
        raise ValueError(
            f"--problems {source}: all {len(skipped)} solutions of its baseline {baseline} are empty"
        )
    return found[:limit], tuple(skipped)


def _asked(record: RunRecord, source: str, wanted: Mapping[str, str]) -> dict[str, Problem]:
    """The run's problems by id.

    Raises:
        ValueError: they cannot be read any more, or are others now.
    """
    origin, seed = str(record.arguments.get("problems")), record.arguments.get("seed")
    if origin == SYNTHETIC:
        if not isinstance(seed, int):
            raise ValueError(
                f"--problems {source} solved synthetic problems of seed {seed}, which is no number"
            )
        count = record.arguments.get("problem_count")
        problems = list(islice(synthetic_problems(seed), count if isinstance(count, int) else len(wanted)))
    else:
        try:
            # Ids count every record, so what was skipped then does not shift them.
            problems = list(load_problems(origin, skip_bad=True).problems)
        except ProblemFileError as error:
            raise ValueError(
                f"--problems {source} solved problems of {origin}, which have to be in this folder: {error}"
            ) from error
    by_id = {problem.id: problem for problem in problems}
    strangers = [name for name in wanted if name not in by_id]
    if strangers:
        raise ValueError(
            f"--problems {source} solved problem {strangers[0]}, and {origin} holds {len(strangers)} of its "
            f"{len(wanted)} problems no more"
        )
    return by_id
