"""The raw samples of a run, one JSON line each in ``samples.jsonl``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from profiler.record_results import Mode
from profiler.record_types import Count, EnergySource, NonNegative, PositiveCount, Strict


class KernelTagged(Strict):
    """What every sample says about the variant it belongs to."""

    kernel: str
    """Registry name of the variant."""
    batch_size: PositiveCount | None = None
    """Batch size of the variant; None in a run with one batch size."""


class HopSample(KernelTagged):
    """One timed hop."""

    type: Literal["hop"] = "hop"
    """Tells the kinds of sample apart."""
    mode: Mode
    """Free-running or replayed."""
    repeat: Count
    """Repeat of the whole measurement, from 0."""
    batch_index: Count
    """Batch of problems within the repeat, from 0."""
    hop: Count
    """Hop within the batch, from 0; hop 0 is the first after the prompt."""
    active: PositiveCount
    """Sequences that had not finished."""
    tokens: Count
    """Tokens that this hop produced or replayed."""
    hop_s: NonNegative
    """Wall time between synchronised ends, s."""


class QuerySample(KernelTagged):
    """One problem with the answer that was read from the output."""

    type: Literal["query"] = "query"
    """Tells the kinds of sample apart."""
    problem_id: str
    """Identifier of the problem."""
    operations: Count | None = None
    """Arithmetic operations of the problem, where known."""
    correct: bool | None = None
    """Whether the answer is right; None when it was not scored."""
    expected: str | None = None
    """Answer of the problem."""
    answer: str | None = None
    """Answer read from the output; None when there was none."""
    hops: Count
    """Tokens generated or replayed for this problem."""
    text: str | None = None
    """Generated text."""


class RangeSample(KernelTagged):
    """Time of one hop by ranges."""

    type: Literal["range"] = "range"
    """Tells the kinds of sample apart."""
    repeat: Count
    """Repeat of the whole measurement, from 0."""
    batch_index: Count
    """Batch of problems, from 0."""
    hop: Count
    """Hop within the batch, from 0."""
    linear_s: NonNegative
    """Time in all linear layers, s."""
    cast_s: NonNegative | None = None
    """Time in ``tau_cast`` ranges, s; None for kernels without them."""
    comp_s: NonNegative | None = None
    """Time in ``tau_comp`` ranges, s; None for kernels without them."""


class AgreementSample(KernelTagged):
    """Closeness to the baseline at one token position."""

    type: Literal["agreement"] = "agreement"
    """Tells the kinds of sample apart."""
    problem_id: str
    """Identifier of the problem."""
    hop: Count
    """Token position within the replayed solution, from 0."""
    step: Count | None = None
    """Solution line of the token, from 0."""
    kl_nats: NonNegative
    """Kullback-Leibler divergence of the variant from the baseline, nats."""
    top1_same: bool
    """Whether both rank the same token first."""
    logits_rel_error: NonNegative
    """||variant - baseline|| / ||baseline|| of the logits row."""


class EnergySample(KernelTagged):
    """One energy window."""

    type: Literal["energy"] = "energy"
    """Tells the kinds of sample apart."""
    repeat: Count
    """Window of this variant, from 0."""
    queries: PositiveCount
    """Problems finished within the window."""
    hops: Count | None = None
    """Hops finished within the window."""
    energy_j: NonNegative | None = None
    """Energy of the window, J; None when there is no source."""
    duration_s: NonNegative
    """Length of the window, s."""
    energy_source: EnergySource
    """Where the joules come from."""
    idle_w: NonNegative | None = None
    """Power before the run with the context alive, W."""


class KernelSample(KernelTagged):
    """One timed call of a sweep."""

    type: Literal["kernel"] = "kernel"
    """Tells the kinds of sample apart."""
    m: PositiveCount
    """Rows of x."""
    n: PositiveCount
    """Out-features."""
    k: PositiveCount
    """In-features."""
    repeat: Count
    """Sample within this kernel and shape, from 0."""
    time_us: NonNegative
    """Time of the call, microseconds."""


Sample = HopSample | QuerySample | RangeSample | AgreementSample | EnergySample | KernelSample
"""Any line of ``samples.jsonl``."""

SAMPLE: TypeAdapter[Sample] = TypeAdapter(Annotated[Sample, Field(discriminator="type")])
"""Parses one line."""
