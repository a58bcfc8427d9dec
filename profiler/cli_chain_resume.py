"""Taking over the finished batch sizes of an interrupted chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.environment import capture_environment
from profiler.record import Environment, RunRecord, Sample, VariantResult, load_run

# More batch sizes may be asked for than before; problem_count and weights_source follow from the others.
_MAY_DIFFER = ("batch_sizes", "batch_size")


@dataclass(frozen=True)
class KeptSizes:
    """What a resumed run brings along.

    Args:
        origin: the run, with the commit and versions that it was measured with.
        measured: batch sizes that it had finished.
        rows: their rows, complete.
        samples: their samples.
        by_batch_size: their derived figures.
    """

    origin: dict[str, object]
    measured: tuple[int, ...]
    rows: tuple[VariantResult, ...]
    samples: tuple[Sample, ...]
    by_batch_size: dict[str, dict[str, object]]

    def missing(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Batch sizes that are left to measure.

        Raises:
            ValueError: none are.
        """
        left = tuple(size for size in wanted if size not in self.measured)
        if not left:
            raise ValueError(
                f"--resume {self.origin['run_id']} has measured all {len(wanted)} batch sizes that are asked for"
            )
        return left


def kept_from(folder: Path, settings: Mapping[str, Any]) -> KeptSizes:
    """Read an interrupted run.

    Args:
        folder: of the run.
        settings: the arguments of the run that goes on, as a record keeps them.

    Raises:
        RecordError: it is no run.
        ValueError: no chain, other arguments, another machine, or no batch size finished.
    """
    record, samples = load_run(folder)
    if record.kind != "chain":
        raise ValueError(f"--resume {folder} is a {record.kind} run, expected a chain")
    for name, wanted in settings.items():
        found = record.arguments.get(name)
        if name not in _MAY_DIFFER and found != wanted:
            raise ValueError(f"--resume {folder} ran with {name}={found!r}, this command asks for {wanted!r}")
    here, there = (_machine(e) for e in (capture_environment([]), record.environment))
    if here != there:
        raise ValueError(f"--resume {folder} was measured on {there}, this machine is {here}")
    asked = settings["batch_sizes"]
    measured = tuple(size for size in _finished(record) if size in asked)
    if not measured:
        raise ValueError(f"--resume {folder} has finished 0 of the batch sizes {', '.join(map(str, asked))}")
    by_size: Any = record.derived.get("by_batch_size", {})
    environment = record.environment
    return KeptSizes(
        origin={
            "run_id": record.run_id,
            "batch_sizes": list(measured),
            "git_commit": environment.git_commit,
            "versions": dict(environment.versions),
        },
        measured=measured,
        rows=tuple(r for r in record.results if isinstance(r, VariantResult) and r.batch_size in measured),
        samples=tuple(sample for sample in samples if sample.batch_size in measured),
        by_batch_size={size: figures for size, figures in by_size.items() if int(size) in measured},
    )


def _finished(record: RunRecord) -> list[int]:
    sizes: Any = record.derived.get("batch_sizes_measured", [])
    return list(sizes)


def _machine(environment: Environment) -> str:
    return ", ".join(gpu.name for gpu in environment.gpus) or environment.cpu_model
