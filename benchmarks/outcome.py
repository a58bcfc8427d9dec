"""What a sweep leaves behind: the run record, the JSON object, the exit code."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from benchmarks.machine import Absent, Target
from benchmarks.plan import SweepPlan, SweepRequest
from benchmarks.sweep import SweepOutcome
from profiler.environment import capture_environment, scrub_command
from profiler.record import Environment, RunRecord, SweepRow, new_run_id

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_NO_HARDWARE = 3
EXIT_INTERRUPTED = 130

# NVML's clocks-event reasons that mean less speed than the card has: power cap, HW slowdown, SW and HW
# thermal slowdown, power brake.
_THROTTLING = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


def to_record(
    outcome: SweepOutcome,
    plan: SweepPlan,
    request: SweepRequest,
    target: Target,
    *,
    command: Sequence[str],
    created_utc: datetime,
    before: Environment,
) -> RunRecord:
    """Make the record of a sweep.

    Args:
        outcome: what was measured.
        plan: what was asked for, with defaults filled in.
        request: the arguments as given.
        target: the device.
        command: command line.
        created_utc: start of the sweep.
        before: the environment at the start.

    Returns:
        A complete or an interrupted record; samples are not part of it.
    """
    after = capture_environment(command)
    derived: dict[str, JsonValue] = {
        "device": target.name,
        "cache_bytes": target.cache_bytes,
        "tau": list(outcome.tau),
        "gpus_after": [gpu.model_dump(mode="json") for gpu in after.gpus],
    }
    if outcome.bandwidth is not None:
        derived["read_bandwidth"] = outcome.bandwidth.summary()
    is_complete = not outcome.interrupted and bool(outcome.rows)
    return RunRecord(
        run_id=new_run_id(f"sweep-{target.arch or target.device.type}-{_topic(request)}", created_utc),
        kind="sweep",
        status="complete" if is_complete else "interrupted",
        created_utc=created_utc,
        command=scrub_command(command),
        environment=before,
        arguments=_arguments(plan, request, target),
        results=list(outcome.rows),
        derived=derived,
        warnings=_warnings(outcome, target, before, after),
    )


def to_json(
    record: RunRecord, outcome: SweepOutcome, path: Path | None, problems: Sequence[str]
) -> dict[str, JsonValue]:
    """The one object that ``--json`` prints for a sweep that ran.

    Args:
        record: the run's record.
        outcome: what was measured.
        path: folder of the run; None where it could not be written.
        problems: what went wrong besides the kernels, a sentence each.
    """
    fields = record.model_dump(mode="json", exclude={"environment", "schema_version"})
    return {
        "run": None if path is None else str(path),
        "exit_code": exit_code(outcome, has_problems=bool(problems)),
        "failures": [*outcome.failures, *problems],
        **fields,
    }


def absent_json(absent: Absent, rows: Sequence[SweepRow]) -> dict[str, JsonValue]:
    """The one object that ``--json`` prints where the GPU named is not here."""
    return {
        "status": "not measured",
        "exit_code": EXIT_NO_HARDWARE,
        "arch": absent.spec.key,
        "reason": absent.sentence,
        "vendor_memory_gb_s": absent.spec.memory_gb_s,
        "results": [row.model_dump(mode="json") for row in rows],
    }


def exit_code(outcome: SweepOutcome, *, has_problems: bool = False) -> int:
    """Exit code of a sweep that ran."""
    if outcome.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if outcome.failures or has_problems else EXIT_DONE


def _topic(request: SweepRequest) -> str:
    if request.model is not None:
        return request.model
    return "shapes" if request.shapes is not None else "default"


def _arguments(plan: SweepPlan, request: SweepRequest, target: Target) -> dict[str, JsonValue]:
    return {
        "device": target.device.type,
        "kernels": [variant.name for variant in plan.variants],
        "model": request.model,
        "shapes": [str(shape) for shape in plan.shapes],
        "m": list(plan.ms),
        "repeats": plan.repeats,
        "limit_s": plan.limit_s,
        "group_size": plan.group_size,
        "seed": plan.seed,
        "dtype": "bfloat16",
        "given": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(request).items()
        },
    }


def _warnings(outcome: SweepOutcome, target: Target, before: Environment, after: Environment) -> list[str]:
    warnings = list(outcome.failures)
    if target.is_cuda:
        for when, environment in (("before", before), ("after", after)):
            for gpu in environment.gpus:
                reasons = (gpu.clocks_event_reasons or 0) & _THROTTLING
                if reasons:
                    warnings.append(
                        f"{gpu.name} {gpu.index} throttled {when} the sweep: reasons {reasons:#x}"
                    )
    notes = Counter(note for row in outcome.rows for note in row.notes)
    warnings += [f"{count} of {len(outcome.rows)} rows: {note}" for note, count in notes.items()]
    return warnings
