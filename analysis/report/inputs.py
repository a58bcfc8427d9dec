"""What a report is drawn from, grouped by machine: records, fits, predictions, and the tables to look things up in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from analysis.accuracy_drift import Drift
from analysis.fit_crossing import Layer
from analysis.fit_file import FitsFile
from analysis.fit_input import LEAST_TIMINGS, machine_of
from analysis.kernel_kinds import BASELINE
from analysis.predict_file import Prediction
from analysis.predict_history import HeldOut
from analysis.predict_machine import GpuFigures
from analysis.si_draws import VariantSamples
from profiler.record import RunRecord, SweepRow, VariantResult

Cell = tuple[str, int, int, int]
# Made for tests.
_BUNDLED = "tiny"


@dataclass(frozen=True)
class ModelRow:
    """A row of the model table: its name, weights in decoded layers, and those layers."""

    key: str
    weights: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class ChainSamples:
    """What the samples of a chain say that its record does not hold.

    Attributes:
        drifts: along recorded solutions, by kernel and batch size (None in a run with one).
        variants: answers, hops and energy windows of free-running variants, likewise.
    """

    drifts: Mapping[tuple[str, int | None], Drift]
    variants: Mapping[tuple[str, int | None], VariantSamples]


@dataclass(frozen=True)
class Catalogue:
    """Tables that the report looks things up in, and the model that B* is given for.

    Attributes:
        models: by key.
        gpus: by key.
        model: key of the model whose linear layers stand for a hop.
        b_max: largest batch that is looked at.
    """

    models: dict[str, ModelRow]
    gpus: dict[str, GpuFigures]
    model: str
    b_max: int = 256


@dataclass(frozen=True)
class Inputs:
    """Everything that was given.

    Attributes:
        records: usable runs, oldest first.
        fits: newest fits of each machine.
        predictions: stored predictions.
        held_out: their cells beside runs made later, from a history or from the chains given.
        samples: of chains, by run; a chain that was given without its samples is not in it.
        notes: what was left out or mixed, a sentence each.
    """

    records: tuple[RunRecord, ...]
    fits: tuple[FitsFile, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    held_out: tuple[HeldOut, ...] = ()
    samples: Mapping[str, ChainSamples] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def machines(self) -> list[str]:
        """Names of the machines, in the order in which they first appear."""
        names = [machine_of(record) for record in self.records]
        names += [fits.machine for fits in self.fits]
        names += [entry.machine for entry in self.held_out]
        names += [prediction.machine for prediction in self.predictions]
        return list(dict.fromkeys(names))

    def of_kind(self, kind: str, machine: str) -> list[RunRecord]:
        """Return the runs of one kind on one machine, oldest first."""
        return [r for r in self.records if r.kind == kind and machine_of(r) == machine]

    def chains(self, machine: str) -> dict[str, list[RunRecord]]:
        """Return the chains of a machine by what they can be compared in: model, engine and prompt length.

        Oldest first, and the bundled model after all others.
        """
        found: dict[str, list[RunRecord]] = defaultdict(list)
        for record in self.of_kind("chain", machine):
            found[label_of(record)].append(record)
        return dict(sorted(found.items(), key=lambda pair: model_of(pair[1][0]) == _BUNDLED))

    def cells(self, machine: str) -> dict[Cell, SweepRow]:
        """Return the timed rows of a machine's sweeps by kernel, m, n and k; of repeated ones the newest."""
        found: dict[Cell, SweepRow] = {}
        for record in self.of_kind("sweep", machine):
            for row in record.results:
                if isinstance(row, SweepRow) and row.time_us_p50 and row.timings >= LEAST_TIMINGS:
                    found[row.kernel, row.m, row.n, row.k] = row
        return found


def model_of(record: RunRecord) -> str:
    """Return the model of a chain."""
    return str(record.arguments.get("model"))


def label_of(record: RunRecord) -> str:
    """Name what a chain measured: its model, how hops were launched, and the prompt where it has one length."""
    arguments = record.arguments
    parts = [str(arguments["engine"])] if arguments.get("engine") else []
    parts += [f"context {arguments['context']}"] if arguments.get("context") else []
    return model_of(record) + (f" ({', '.join(parts)})" if parts else "")


def baseline_of(record: RunRecord) -> str:
    """Return the reference kernel of a chain."""
    return str(record.arguments.get("baseline") or BASELINE)


def variants_of(record: RunRecord) -> list[VariantResult]:
    """Return a chain's rows."""
    return [row for row in record.results if isinstance(row, VariantResult)]
