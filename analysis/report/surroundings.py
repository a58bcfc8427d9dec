"""Where the numbers come from: machines, versions, what throttled, and every warning of every run."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.fit_input import machine_of
from analysis.report.inputs import Inputs, variants_of
from analysis.report.section import Block, Items, Section, Table, number
from profiler.record import RunRecord

_SHOWN = ("python", "torch", "triton", "transformers", "cupy-cuda13x")


def environment_section(inputs: Inputs) -> Section:
    """Return runs, machines and warnings."""
    blocks: list[Block] = []
    if inputs.records:
        blocks.append(_runs(inputs.records))
        blocks.append(_machines(inputs.records))
    for fits in inputs.fits:
        rows = [
            ("fitted, UTC", f"{fits.created_utc:%Y-%m-%d %H:%M}"),
            ("runs", ", ".join(fits.runs)),
            (
                "read bandwidth, GB/s",
                number(None if fits.read_bytes_per_s is None else fits.read_bytes_per_s / 1e9),
            ),
            ("kernels", ", ".join(fits.kernels)),
        ]
        blocks.append(
            Table(f"Fits of {fits.machine}", ("", "value"), tuple(rows), is_numeric=False, is_folded=True)
        )
    for title, lines in _warnings(inputs):
        blocks.append(Items(title, tuple(dict.fromkeys(lines))))
    return Section(
        "environment",
        "Environment",
        "Environment and warnings",
        "Runs in the order in which they were measured; what makes the numbers less than they seem is below.",
        tuple(blocks),
    )


def _runs(records: Iterable[RunRecord]) -> Table:
    rows = tuple(
        (
            record.run_id,
            record.kind,
            record.status,
            machine_of(record),
            f"{record.samples_count:,}",
            (record.environment.git_commit or "–")[:10] + (" +" if record.environment.git_dirty else ""),
            ", ".join(_throttled(record)) or "no",
        )
        for record in records
    )
    head = ("run", "kind", "status", "machine", "samples", "commit", "throttled")
    return Table("Runs", head, rows, is_numeric=False)


def _throttled(record: RunRecord) -> list[str]:
    return [reason for state in record.gpu_states for reason in state.throttled]


def _machines(records: Iterable[RunRecord]) -> Table:
    columns: dict[str, dict[str, str]] = {}
    for record in records:
        env = record.environment
        column = columns.setdefault(machine_of(record), {})
        gpu = env.gpus[0] if env.gpus and record.arguments.get("device") != "cpu" else None
        column |= {
            "driver": (env.nvidia_driver or "–") if gpu else "–",
            "power limit, W": number(gpu.power_limit_w) if gpu else "–",
            "SM clock, MHz": number(gpu.sm_clock_mhz, 4) if gpu else "–",
            "processor": f"{env.cpu_model}, {env.cpu_threads} threads{', virtual' if env.cpu_virtual else ''}",
            "system": env.platform,
            **{name: env.versions.get(name, "–") for name in _SHOWN},
        }
    names = list(next(iter(columns.values())))
    rows = tuple((name, *(column[name] for column in columns.values())) for name in names)
    return Table("Machines, by their newest run", ("", *columns), rows, is_numeric=False)


def _warnings(inputs: Inputs) -> Iterable[tuple[str, list[str]]]:
    if inputs.notes:
        yield "About this report", list(inputs.notes)
    for record in inputs.records:
        lines = [
            *record.warnings,
            *(f"{row.kernel}: {note}" for row in variants_of(record) for note in row.notes),
        ]
        if record.error:
            lines.insert(0, record.error)
        if lines:
            yield f"{record.run_id}", lines
    for fits in inputs.fits:
        lines = [*fits.warnings]
        for name, kernel in fits.kernels.items():
            for fit in (kernel.time, kernel.cast):
                if fit is not None:
                    lines += [f"{name}: {text}" for text in (*fit.not_identified.values(), *fit.warnings)]
        lines += [text for fit in (fits.energy, fits.host) if fit is not None for text in fit.warnings]
        lines += [
            f"between linears, {kernel}: {text}"
            for kernel, fit in fits.between.items()
            for text in fit.warnings
        ]
        if lines:
            yield f"Fits of {fits.machine}", lines
