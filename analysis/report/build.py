"""Puts a report together: its sections in their order."""

from __future__ import annotations

from analysis.report.accuracies import accuracy_section
from analysis.report.batches import batch_section
from analysis.report.casts import phi_section
from analysis.report.energies import energy_section
from analysis.report.indices import index_section
from analysis.report.inputs import Catalogue, Inputs
from analysis.report.predictions import prediction_section
from analysis.report.scales import scale_section
from analysis.report.section import Report, listed
from analysis.report.surroundings import environment_section
from analysis.report.sweeps import roofline_section, speedup_section
from analysis.report.verdicts import verdict_section
from analysis.report.waterfalls import waterfall_section


def build_report(inputs: Inputs, catalogue: Catalogue) -> Report:
    """Return the whole report; a section without data says which command makes it.

    Args:
        inputs: runs, fits and predictions.
        catalogue: tables of models and GPUs.

    Raises:
        ValueError: the model of the catalogue is not in its table.
    """
    if catalogue.model not in catalogue.models:
        raise ValueError(f"model {catalogue.model!r} is none of {', '.join(catalogue.models)}")
    counts = {kind: sum(r.kind == kind for r in inputs.records) for kind in ("chain", "sweep", "energy")}
    counts |= {
        "fit": len(inputs.fits),
        "prediction": len(inputs.predictions),
        "held-out cell": len(inputs.held_out),
    }
    parts = [
        f"{n} {kind} run{'s' * (n > 1)}"
        if kind in ("chain", "sweep", "energy")
        else f"{n} {kind}{'s' * (n > 1)}"
        for kind, n in counts.items()
        if n
    ]
    dates = sorted(record.created_utc for record in inputs.records)
    when = ""
    if dates:
        first, last = f"{dates[0]:%Y-%m-%d}", f"{dates[-1]:%Y-%m-%d}"
        when = f", measured {first}" if first == last else f", measured {first} to {last}"
    return Report(
        title=f"Low-bit kernels on {listed(inputs.machines) or 'no machine'}",
        subtitle=f"{listed(parts)}{when}",
        sections=(
            verdict_section(inputs),
            waterfall_section(inputs),
            batch_section(inputs, catalogue),
            roofline_section(inputs, catalogue),
            speedup_section(inputs),
            phi_section(inputs, catalogue),
            scale_section(inputs, catalogue),
            index_section(inputs),
            accuracy_section(inputs),
            energy_section(inputs),
            prediction_section(inputs),
            environment_section(inputs),
        ),
        notes=inputs.notes,
    )
