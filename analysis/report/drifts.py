"""Drift: how far a variant's logits move from the baseline's, step by step along the same recorded solutions."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.accuracy_drift import Drift, StepDrift
from analysis.report.colours import styles
from analysis.report.figure import Axis, Figure, Line, Panel
from analysis.report.inputs import ChainSamples, baseline_of
from analysis.report.section import Block, Table, Words, listed, number, percent, slug, with_interval
from profiler.record import RunRecord

# Factor, unit and the smallest divergence that is shown in it.
_UNITS = ((1.0, "nats", 1e-2), (1e3, "mnats", 1e-5), (1e6, "µnats", 0.0))
_GROWS = {True: "grows along solutions", False: "does not grow beyond noise", None: "cannot be said"}


def drift_blocks(record: RunRecord, samples: ChainSamples, model: str, machine: str) -> list[Block]:
    """Return the drift of every variant of a chain, at the smallest batch size that compared logits.

    Args:
        record: the chain.
        samples: what its samples say.
        model: what it is called on the page.
        machine: where it ran.

    Returns:
        A figure where steps were told apart, and a table; nothing where no logits were compared.
    """
    found: dict[str, Drift] = {}
    sizes = []
    for (kernel, batch), drift in sorted(samples.drifts.items(), key=lambda item: item[0][1] or 0):
        if kernel not in found and not kernel.startswith("null_"):
            found[kernel] = drift
            sizes.append(batch)
    if not found:
        return []
    baseline = baseline_of(record)
    blocks: list[Block] = []
    by_step = {kernel: steps for kernel, drift in found.items() if (steps := _told_apart(drift))}
    if by_step:
        blocks.append(_figure(by_step, record, model, machine))
    else:
        blocks.append(Words(f"{record.run_id} did not tell the steps of solutions apart."))
    blocks.append(_table(found, baseline, record))
    return blocks


def _told_apart(drift: Drift) -> list[StepDrift]:
    steps = [step for step in drift.steps if step.step is not None]
    return steps if len(steps) > 1 else []


def _figure(by_step: dict[str, list[StepDrift]], record: RunRecord, model: str, machine: str) -> Figure:
    look = styles(by_step)
    largest = max(step.kl_nats_mean for steps in by_step.values() for step in steps)
    scale, unit = next((s, u) for s, u, least in _UNITS if largest >= least)
    kl, top1 = [], []
    for kernel, steps in by_step.items():
        places = tuple(float(step.step or 0) + 1 for step in steps)
        said = [f"step {p:g}, {s.problems} problems" for p, s in zip(places, steps, strict=True)]
        kl.append(
            Line(
                kernel,
                places,
                tuple(scale * step.kl_nats_mean for step in steps),
                look[kernel],
                tuple(scale * (step.kl_nats_ci95 or (step.kl_nats_mean,))[0] for step in steps),
                tuple(scale * (step.kl_nats_ci95 or (step.kl_nats_mean,))[-1] for step in steps),
                hover=tuple(
                    f"{kernel}, {w}: {number(s.kl_nats_mean)} nats" for w, s in zip(said, steps, strict=True)
                ),
            )
        )
        top1.append(
            Line(
                kernel,
                places,
                tuple(100 * step.top1_share for step in steps),
                look[kernel],
                tuple(100 * (step.top1_share_ci95 or (step.top1_share,))[0] for step in steps),
                tuple(100 * (step.top1_share_ci95 or (step.top1_share,))[-1] for step in steps),
                hover=tuple(
                    f"{kernel}, {w}: {percent(s.top1_share)}" for w, s in zip(said, steps, strict=True)
                ),
            )
        )
    last = max(line.x[-1] for line in kl)
    least = min(value for line in top1 for value in line.low if value is not None)
    pad = max(0.5, 0.08 * (100 - least))
    every = max(1, round(last / 10))
    ticks = tuple((float(step), str(step)) for step in range(1, int(last) + 1, every))
    x = Axis("step (line) of the recorded solution", ticks=ticks, low=0.7, high=last + 0.3)
    return Figure(
        f"drift-{slug(machine)}-{slug(model)}",
        f"{model} on {machine}: drift from {baseline_of(record)} along the same solutions",
        f"Kullback-Leibler divergence and share of equal first choices of {listed(list(by_step))} by step.",
        (
            Panel(
                "divergence of the next token", x, Axis(f"KL, {unit}, mean", low=0.0), tuple(kl), height=320
            ),
            Panel(
                "same first choice",
                x,
                Axis("top-1, %", low=least - pad, high=100 + pad),
                tuple(top1),
                height=320,
            ),
        ),
        columns=2,
    )


def _table(found: dict[str, Drift], baseline: str, record: RunRecord) -> Table:
    rows = []
    for kernel, drift in found.items():
        first, last = drift.steps[0], drift.steps[-1]
        slope = drift.slope_nats_per_step
        rows.append(
            (
                kernel,
                f"{sum(step.positions for step in drift.steps):,}",
                _kl(first),
                _kl(last),
                percent(_mean_top1(drift.steps), 2),
                "–" if slope is None else with_interval(slope.point, (slope.low, slope.high), 2),
                _GROWS[drift.grows],
            )
        )
    head = (
        "kernel",
        "positions",
        "KL of the first step, nats [95 %]",
        "KL of the last step",
        "top-1, all positions",
        "slope, nats per step [95 %]",
        "the divergence",
    )
    return Table(f"Drift from {baseline}, {record.run_id}", head, tuple(rows), is_numeric=False)


def _kl(step: StepDrift) -> str:
    return with_interval(step.kl_nats_mean, step.kl_nats_ci95, 2)


def _mean_top1(steps: Sequence[StepDrift]) -> float:
    positions = sum(step.positions for step in steps)
    return sum(step.positions * step.top1_share for step in steps) / positions
