"""The raw samples of a run, one JSON line each in ``samples.jsonl.gz``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

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
    """Wall time between synchronised ends, or the device's time between events (the row's hop_clock says which), s."""


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
    """Time in all linear layers, s; with range_cost_s without what timing them cost."""
    device_s: NonNegative | None = None
    """The whole hop in this pass, s: on a GPU its time on the device while the host ran ahead, with range_delay_s
    without what timing the ranges added to it, and no less than linear_s; on a CPU wall time."""
    cast_s: NonNegative | None = None
    """Time in ``tau_cast`` ranges, s; None for kernels without them."""
    comp_s: NonNegative | None = None
    """Time in ``tau_comp`` ranges, s; None for kernels without them."""
    ranges: Count | None = None
    """Ranges of the hop that were timed; None in older records."""
    ranges_at_zero: Count | None = None
    """Those that took less than range_cost_s, and count 0; None in older records."""
    range_cost_s: NonNegative | None = None
    """What a range on a GPU takes beyond its kernels and the gaps ahead of them, taken off each, s; 0 where measuring
    it made no sense; None on a CPU and in older records, whose times hold it."""
    range_delay_s: NonNegative | None = None
    """What a range on a GPU adds to the time around it, taken off device_s once for each, s; 0 and None as
    range_cost_s."""


class LinearsSample(KernelTagged):
    """Time of the linear layers of one hop with nothing between them: a CUDA graph of its own, in the hop's order."""

    type: Literal["linears"] = "linears"
    """Tells the kinds of sample apart."""
    repeat: Count
    """Number of the timing, from 0."""
    batch_index: Count
    """Batch of problems whose replay they followed, from 0."""
    linear_s: NonNegative
    """Time of all linear layers, no event among them, s."""


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


class EnergyWindowTagged(KernelTagged):
    """What every energy window holds; the caller says what was done in it."""

    repeat: Count
    """Window of this variant, from 0."""
    energy_j: NonNegative | None = None
    """Energy of the window, J; None when there is no source."""
    energy_error_j: NonNegative | None = None
    """Most that the counter's ticks can put energy_j off, J; None for sources without ticks."""
    duration_s: NonNegative
    """Length of the window, s."""
    energy_source: EnergySource
    """Where the joules come from."""
    counter_j: NonNegative | None = None
    """Energy by the hardware's energy counter, J; None where there is none or it failed."""
    polled_j: NonNegative | None = None
    """Energy by integrating polled power, J; None where power cannot be polled."""
    hli_j: NonNegative | None = None
    """The paper's estimate, TDP times time, J; None where no TDP is known."""
    idle_w: NonNegative | None = None
    """Power before the run with the context alive, W."""
    energy_detail: str | None = None
    """Counters used, doubts about them, and what the figure was downgraded to where one failed."""


class EnergySample(EnergyWindowTagged):
    """One energy window of a chain."""

    type: Literal["energy"] = "energy"
    """Tells the kinds of sample apart."""
    queries: PositiveCount
    """Problems finished within the window, one that was repeated as often as it was."""
    hops: Count | None = None
    """Hops finished within the window."""
    passes: PositiveCount = 1
    """Passes over the window's problems; more than 1 where they were repeated to fill it."""


class LoadEnergySample(EnergyWindowTagged):
    """One energy window full of repeated work."""

    type: Literal["load_energy"] = "load_energy"
    """Tells the kinds of sample apart."""
    m: PositiveCount | None = None
    """Rows of x; None for a load that is no kernel."""
    n: PositiveCount | None = None
    """Out-features."""
    k: PositiveCount | None = None
    """In-features."""
    units: Count
    """Calls or hops within the window; 0 for idling."""


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
    time_us: float
    """Time of the call, microseconds; on a GPU that of ``.tau_comp`` is a difference, which noise can make negative."""

    @model_validator(mode="after")
    def _is_negative_as_a_difference_only(self) -> KernelSample:
        if self.time_us < 0 and not self.kernel.endswith(".tau_comp"):
            raise ValueError(f"time_us={self.time_us:g} of {self.kernel} is below 0")
        return self


Sample = (
    HopSample
    | QuerySample
    | RangeSample
    | LinearsSample
    | AgreementSample
    | EnergySample
    | LoadEnergySample
    | KernelSample
)
"""Any line of ``samples.jsonl.gz``."""

SAMPLE: TypeAdapter[Sample] = TypeAdapter(Annotated[Sample, Field(discriminator="type")])
"""Parses one line."""
