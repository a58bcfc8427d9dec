"""What a sweep leaves behind: the run record, the JSON object, the exit code."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from benchmarks.machine import Absent, Target
from benchmarks.plan import SweepPlan, SweepRequest
from benchmarks.resume import Earlier
from benchmarks.sweep import SweepOutcome
from benchmarks.variants import PeerVariant
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

# Two measurements of the same machine's read bandwidth that differ by more than this share are told.
_SAME_BANDWIDTH = 0.03


@dataclass(frozen=True)
class SweepRun:
    """What is known of a sweep before it is measured."""

    plan: SweepPlan
    """What was asked for, with defaults filled in."""
    request: SweepRequest
    """The arguments as given."""
    target: Target
    """The device."""
    command: Sequence[str]
    """Command line."""
    created_utc: datetime
    """Start of the sweep."""
    before: Environment
    """The environment at the start."""
    earlier: Earlier | None = None
    """The run that is continued."""

    def arguments(self) -> dict[str, JsonValue]:
        """The arguments as a record has them."""
        return arguments_of(self.plan, self.request, self.target)


def to_record(
    outcome: SweepOutcome, run: SweepRun, *, is_running: bool = False, warnings: Sequence[str] = ()
) -> RunRecord:
    """Make the record of a sweep.

    Args:
        outcome: what was measured.
        run: the sweep.
        is_running: whether there is more to come, so that this is what a crash would leave.
        warnings: more of them.

    Returns:
        A complete or an interrupted record; samples are not part of it.
    """
    target, earlier = run.target, run.earlier
    after = run.before if is_running else capture_environment(run.command)
    derived: dict[str, JsonValue] = {
        "device": target.name,
        "cache_bytes": target.cache_bytes,
        "tau": list(outcome.tau),
        "peers": _peers(run.plan),
        "peer_ratios": list(outcome.peer_ratios),
        "unfinished": [list(key) for key in outcome.unfinished],
        "resumed": [] if earlier is None else earlier.summary(),
        "gpus_after": [gpu.model_dump(mode="json") for gpu in after.gpus],
    }
    if outcome.bandwidth is not None:
        derived["read_bandwidth"] = outcome.bandwidth.summary()
    is_complete = not outcome.interrupted and not is_running and bool(outcome.rows)
    slug = f"sweep-{target.arch or target.device.type}-{_topic(run.request)}"
    return RunRecord(
        run_id=new_run_id(slug, run.created_utc),
        kind="sweep",
        status="complete" if is_complete else "interrupted",
        created_utc=run.created_utc,
        command=scrub_command(run.command),
        environment=run.before,
        arguments=run.arguments(),
        results=list(outcome.rows),
        derived=derived,
        warnings=[*_warnings(outcome, run, after), *warnings],
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
    unsaid = {"environment", "schema_version", "samples_count", "samples_sha256"}
    fields = record.model_dump(mode="json", exclude=unsaid)
    if path is not None:
        fields["run_id"] = path.name  # another run of the same second and name gives it a number
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
    if request.for_fit:
        return "for-fit"
    if request.model is not None:
        return request.model
    return "shapes" if request.shapes is not None else "default"


def arguments_of(plan: SweepPlan, request: SweepRequest, target: Target) -> dict[str, JsonValue]:
    """The arguments of a sweep, defaults filled in, as a record has them."""
    return {
        "device": target.device.type,
        "kernels": [variant.name for variant in plan.variants if not variant.is_peer],
        "peers": [variant.name for variant in plan.variants if variant.is_peer],
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


def _peers(plan: SweepPlan) -> dict[str, JsonValue]:
    return {
        variant.name: {
            "distribution": variant.peer.distribution,
            "version": variant.peer.version,
            "bits": variant.peer.bits,
            "group_size": variant.peer.group_size,
            "weight_only": variant.peer.weight_only,
        }
        for variant in plan.variants
        if isinstance(variant, PeerVariant)
    }


def _warnings(outcome: SweepOutcome, run: SweepRun, after: Environment) -> list[str]:
    warnings = [*outcome.failures, *outcome.warnings]
    if run.target.is_cuda:
        for when, environment in (("before", run.before), ("after", after)):
            for gpu in environment.gpus:
                reasons = (gpu.clocks_event_reasons or 0) & _THROTTLING
                if reasons:
                    warnings.append(
                        f"{gpu.name} {gpu.index} throttled {when} the sweep: reasons {reasons:#x}"
                    )
    warnings += _negative_tau(outcome)
    if run.earlier is not None:
        warnings += _differences(outcome, run, run.earlier)
    notes = Counter(note for row in outcome.rows for note in row.notes)
    warnings += [f"{count} of {len(outcome.rows)} rows: {note}" for note, count in notes.items()]
    return warnings


def _negative_tau(outcome: SweepOutcome) -> list[str]:
    """A cast or a product that costs less than nothing, beyond its interval."""
    found = []
    for entry in outcome.tau:
        cell = f"{entry['kernel']} {entry['n']}x{entry['k']} m={entry['m']}"
        for name in ("tau_cast", "tau_comp"):
            high = entry[f"{name}_us_ci95"][1]  # type: ignore[index]
            if high < 0:  # type: ignore[operator]
                found.append(
                    f"{cell}: {name} by {entry['method']} is {entry[f'{name}_us_p50']:.2f} us, below 0 beyond "
                    "its interval, so the difference shows scheduling and not the cast"
                )
    return found


def _differences(outcome: SweepOutcome, run: SweepRun, earlier: Earlier) -> list[str]:
    """What changed between a run and its continuation."""
    found = []
    before, now = earlier.record.environment, run.before
    for name in sorted({*before.versions, *now.versions}):
        if before.versions.get(name) != now.versions.get(name):
            found.append(
                f"the resumed run had {name} {before.versions.get(name)}, this one {now.versions.get(name)}"
            )
    if before.git_commit != now.git_commit:
        found.append(f"the resumed run was of commit {before.git_commit}, this one of {now.git_commit}")
    bandwidth = earlier.record.derived.get("read_bandwidth")
    if isinstance(bandwidth, dict) and outcome.bandwidth is not None:
        old_gb_s, new_gb_s = bandwidth.get("read_gb_s_p50"), outcome.bandwidth.read_gb_s_p50
        if isinstance(old_gb_s, float) and abs(new_gb_s / old_gb_s - 1) > _SAME_BANDWIDTH:
            found.append(f"the resumed run read {old_gb_s:,.1f} GB/s, this one {new_gb_s:,.1f} GB/s")
    return found
