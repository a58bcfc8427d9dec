"""Run records: what was run, where, and what came out of it.

A run is a folder ``<dir>/<utc>-<slug>/`` with ``run.json`` (:class:`RunRecord`) and ``samples.jsonl.gz``
(a sample a line). Records check themselves: a failed run cannot carry results, and a share outside 0..1 or a
negative time cannot be built. This module is the front of ``record_types``, ``record_results``,
``record_energy``, ``record_samples``, ``record_schema`` and ``record_io``.
"""

from profiler.record_energy import EnergyRow, GpuRunState
from profiler.record_io import (
    RecordError,
    iter_samples,
    list_runs,
    load_record,
    load_run,
    write_run,
    write_whole,
)
from profiler.record_results import Agreement, Mode, Proportion, SweepRow, VariantResult, Verdict
from profiler.record_samples import (
    AgreementSample,
    EnergySample,
    HopSample,
    KernelSample,
    LinearsSample,
    LoadEnergySample,
    QuerySample,
    RangeSample,
    Sample,
)
from profiler.record_schema import SCHEMA_VERSION, RunRecord, new_run_id
from profiler.record_types import EnergySource, Environment, GpuState, Strict, is_energy_estimate

__all__ = [
    "SCHEMA_VERSION",
    "Agreement",
    "AgreementSample",
    "EnergyRow",
    "EnergySample",
    "EnergySource",
    "Environment",
    "GpuRunState",
    "GpuState",
    "HopSample",
    "KernelSample",
    "LoadEnergySample",
    "Mode",
    "Proportion",
    "QuerySample",
    "LinearsSample",
    "RangeSample",
    "RecordError",
    "RunRecord",
    "Sample",
    "Strict",
    "SweepRow",
    "VariantResult",
    "Verdict",
    "is_energy_estimate",
    "iter_samples",
    "list_runs",
    "load_record",
    "load_run",
    "new_run_id",
    "write_run",
    "write_whole",
]
