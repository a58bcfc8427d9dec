"""Which committed runs the pages show, and how a page names one."""

from __future__ import annotations

from pathlib import Path

from profiler.record import RunRecord, SweepRow, list_runs, load_record

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def published_run(folder: str, *, batch_size: int) -> Path:
    """The committed chain run of a machine at a batch size, the latest where there are several.

    Raises:
        ValueError: there is none.
    """
    runs = [
        path
        for path in list_runs(RESULTS / folder)
        if load_record(path).arguments.get("batch_size") == batch_size
    ]
    if not runs:
        raise ValueError(f"no chain run with batch_size={batch_size} under {RESULTS.name}/{folder}")
    return max(runs, key=lambda path: path.name)


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

    Of several with as many it is the latest.

    Raises:
        ValueError: there is no sweep.
    """
    best: dict[tuple[int, int], tuple[int, Path]] = {}
    for path in sorted(list_runs(RESULTS / folder)):
        record = load_record(path)
        if record.kind == "sweep":
            for shape in shapes_of(record):
                times = len(rows_of(record, shape))
                if times >= best.get(shape, (0, path))[0]:
                    best[shape] = (times, path)
    if not best:
        raise ValueError(f"no sweep under {RESULTS.name}/{folder}")
    return {shape: best[shape][1] for shape in sorted(best, key=lambda shape: -shape[0] * shape[1])}


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
    return (
        f"{machine}; {versions}; {batch}{record.created_utc:%Y-%m-%d}; "
        f"record `{path.relative_to(ROOT).as_posix()}`."
    )
