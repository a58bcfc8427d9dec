"""Which committed runs the pages show, and how a page names one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.predict_file import Prediction, read_prediction
from analysis.predict_history import HISTORY, HeldOut, read_history
from profiler.record import RunRecord, SweepRow, list_runs, load_record

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PREDICTIONS = "predictions"
"""Folder of a machine's stored predictions; the history of their checks is shipped with the fits."""

Chains = Sequence[tuple[Path, RunRecord]]
"""Runs with their folders."""


class NotPublished(ValueError):
    """No committed record holds what a block shows; the message says what is missing."""


def published_run(folder: str, *, batch_size: int) -> Path:
    """The committed eager chain run of ``tiny`` on a machine at one batch size, the latest where there are several.

    Raises:
        ValueError: there is none.
    """
    runs = []
    for path in list_runs(RESULTS / folder):
        arguments = load_record(path).arguments
        wanted = {"model": "tiny", "engine": "eager", "batch_size": batch_size}
        if all(arguments.get(name) == value for name, value in wanted.items()):
            runs.append(path)
    if not runs:
        raise ValueError(
            f"no eager chain run of tiny with batch_size={batch_size} under {RESULTS.name}/{folder}"
        )
    return max(runs, key=lambda path: path.name)


def published_chains(folder: str) -> Chains:
    """Every committed chain run of a machine with its folder, oldest first."""
    runs = [(path, load_record(path)) for path in list_runs(RESULTS / folder)]
    return [(path, record) for path, record in runs if record.kind == "chain"]


def published_predictions(folder: str) -> tuple[list[tuple[Path, Prediction]], list[HeldOut]]:
    """The stored predictions of a machine with their files, oldest first, and the history of their checks.

    Raises:
        ValueError: a file there is no prediction, or a line of the history is no entry.
    """
    place = RESULTS / folder / PREDICTIONS
    predictions = [(path, read_prediction(path)) for path in sorted(place.glob("*.json"))]
    predictions.sort(key=lambda pair: pair[1].created_utc)
    machines = {prediction.machine for _, prediction in predictions}
    history = read_history(ROOT / "analysis" / "data" / "fits" / HISTORY)
    return predictions, [entry for entry in history if entry.machine in machines]


def place_of(path: Path) -> str:
    """A path as pages name it: from the repository's root."""
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()


def published_energy(folder: str, slug: str) -> Path:
    """The latest committed energy run of a machine whose name holds ``slug``.

    Raises:
        ValueError: there is none.
    """
    runs = [path for path in list_runs(RESULTS / folder) if slug in path.name]
    if not runs:
        raise ValueError(f"no run named {slug} under {RESULTS.name}/{folder}")
    return max(runs, key=lambda path: path.name)


def published_sweeps(folder: str) -> dict[tuple[int, int], Path]:
    """For every shape (n, k), the largest first, the committed sweep of a machine with the most times.

    Of several with as many it is the latest. Sweeps for fits have shapes and kernels of their own and are left out.

    Raises:
        ValueError: there is no sweep.
    """
    best: dict[tuple[int, int], tuple[int, Path]] = {}
    for path in sorted(list_runs(RESULTS / folder)):
        record = load_record(path)
        if record.kind == "sweep" and not _is_for_fit(record):
            for shape in shapes_of(record):
                times = len(rows_of(record, shape))
                if times >= best.get(shape, (0, path))[0]:
                    best[shape] = (times, path)
    if not best:
        raise ValueError(f"no sweep under {RESULTS.name}/{folder}")
    return {shape: best[shape][1] for shape in sorted(best, key=lambda shape: -shape[0] * shape[1])}


def published_for_fit(folder: str) -> Chains:
    """Every committed sweep for a fit of a machine with its folder, oldest first."""
    runs = [(path, load_record(path)) for path in list_runs(RESULTS / folder)]
    return [(path, record) for path, record in runs if record.kind == "sweep" and _is_for_fit(record)]


def _is_for_fit(record: RunRecord) -> bool:
    given = record.arguments.get("given")
    return isinstance(given, dict) and given.get("for_fit") is True


def shapes_of(record: RunRecord) -> list[tuple[int, int]]:
    """Shapes (n, k) of a sweep, the largest first."""
    shapes = {(row.n, row.k) for row in record.results if isinstance(row, SweepRow)}
    return sorted(shapes, key=lambda shape: -shape[0] * shape[1])


def rows_of(record: RunRecord, shape: tuple[int, int]) -> list[SweepRow]:
    """The timed rows of a sweep at one shape (n, k)."""
    rows = [row for row in record.results if isinstance(row, SweepRow) and (row.n, row.k) == shape]
    return [row for row in rows if row.time_us_p50 is not None]


def source_line(record: RunRecord, path: Path) -> str:
    """Machine, versions, date and place of a record."""
    environment = record.environment
    machine = environment.gpus[0].name if environment.gpus else environment.cpu_model
    if not environment.gpus:
        machine += f", {environment.compute_threads} thread" + "s" * (environment.compute_threads > 1)
    versions = ", ".join(
        f"{name} {environment.versions[name]}" for name in ("torch", "triton") if name in environment.versions
    )
    batch = f"batch {record.arguments['batch_size']}; " if record.kind == "chain" else ""
    return f"{machine}; {versions}; {batch}{record.created_utc:%Y-%m-%d}; record `{place_of(path)}`."
