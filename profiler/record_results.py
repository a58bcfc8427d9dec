"""The rows of a run record: one per variant of a chain, one per kernel and shape of a sweep."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from profiler.record_types import (
    Count,
    EnergySource,
    Interval,
    NonNegative,
    PositiveCount,
    Share,
    ShareInterval,
    Strict,
    is_energy_estimate,
)

Mode = Literal["generate", "replay"]
EngineName = Literal["eager", "hf_graph", "graph", "compile", "fused"]
HopClockName = Literal["events", "wall"]
Verdict = Literal["trapped", "not trapped", "inconclusive"]


class Proportion(Strict):
    """Correct answers out of n, such as those to problems with the same number of operations."""

    correct: Count
    """Problems answered correctly."""
    n: PositiveCount
    """Problems asked."""
    ci95: ShareInterval
    """Wilson interval of correct/n at 95 %."""

    @model_validator(mode="after")
    def _check(self) -> Proportion:
        if self.correct > self.n:
            raise ValueError(f"correct={self.correct} is more than n={self.n}")
        return self


class Agreement(Strict):
    """How closely a variant's next-token distributions follow the baseline's on the same tokens (replay)."""

    positions: PositiveCount
    """Token positions compared."""
    top1_share: Share
    """Share of positions at which both rank the same token first."""
    kl_nats_mean: NonNegative
    """Mean Kullback-Leibler divergence of the variant from the baseline, nats."""
    logits_rel_error_max: NonNegative
    """Largest relative error of a logits row, ||variant - baseline|| / ||baseline||."""


class VariantResult(Strict):
    """What was measured for one kernel at one batch size; None means not measured."""

    type: Literal["variant"] = "variant"
    """Tells the kinds of row apart."""
    kernel: str
    """Registry name, such as ``fused_nf4``."""
    implementation: str
    """Implementation that ran, such as ``triton``."""
    engine: EngineName | None = None
    """How hops ran: ``eager`` and ``hf_graph``, Hugging Face's forward pass; the others, our decoder; None: unknown."""
    captured: bool | None = None
    """Whether a hop was one launch of a CUDA graph; on a CPU the same step runs without; None: unknown."""
    hop_clock: HopClockName | None = None
    """``events``: hop times are the device's, between CUDA events; ``wall``: by the clock, the host included."""
    context: PositiveCount | None = None
    """Tokens of every prompt; None where prompts have lengths of their own."""
    mode: Mode
    """``generate``: free-running; ``replay``: tokens come from a recorded solution."""
    batch_size: PositiveCount
    """Sequences decoded together."""
    problems: Count
    """Problems that were run."""
    hops: Count
    """Forward passes that each advance every active sequence by one token."""
    tokens: Count
    """Tokens produced or replayed, over all sequences."""
    hop_ms_p50: NonNegative | None = None
    """Median time of a hop, ms; see hop_clock."""
    hop_ms_p50_ci95: Interval | None = None
    """Bootstrap interval of that median, ms."""
    hop_ms_p95: NonNegative | None = None
    """95th percentile of a hop's time, ms."""
    tps: NonNegative | None = None
    """Tokens per second over the decoding hops, whole batch."""
    prefill_s: NonNegative | None = None
    """Time to read the prompts, all problems together, s."""
    decode_s: NonNegative | None = None
    """Time of the decoding hops, all problems together, s."""
    comp_ms_p50: NonNegative | None = None
    """Median time per hop in linear layers without decoding, by the unfused kernels' ranges, ms."""
    cast_ms_p50: NonNegative | None = None
    """Median time per hop of decoding weights, by the unfused kernels' ranges, ms."""
    cast_from_null_ms: float | None = None
    """Exposed cast per hop, median fused minus median null, ms; below zero only by noise."""
    comp_from_null_ms: NonNegative | None = None
    """Median time per hop of the null kernels' linear layers, ms."""
    cor_direct: float | None = None
    """Cast over compute, measured directly; below zero only by noise."""
    cor_direct_ci95: Interval | None = None
    """Bootstrap interval of cor_direct."""
    cor_tps: float | None = None
    """The paper's Eq. 9 on identical replayed hops: median hop time over the baseline's, minus 1."""
    cor_tps_ci95: Interval | None = None
    """Bootstrap interval of cor_tps."""
    peak_memory_bytes: Count | None = None
    """Peak memory, bytes: the allocator's on a GPU, counted from tensors on a CPU."""
    weight_bytes: Count | None = None
    """Weights as stored, scales included, bytes."""
    energy_j_per_query: NonNegative | None = None
    """Energy per problem, J."""
    energy_j_per_query_ci95: Interval | None = None
    """Interval of that energy, J."""
    energy_source: EnergySource | None = None
    """Where the joules come from; ``hli`` is an estimate."""
    energy_detail: str | None = None
    """What to know about the energy: counters, doubts, why this source."""
    counter_j_per_query: NonNegative | None = None
    """Energy per problem by the hardware's energy counter, J; None where there is none or it failed."""
    polled_j_per_query: NonNegative | None = None
    """Energy per problem by integrating polled power, J; None where power cannot be polled."""
    hli_j_per_query: NonNegative | None = None
    """Energy per problem by the paper's estimate, TDP times time, J; None where no TDP is known."""
    idle_w: NonNegative | None = None
    """Power before the run with the context alive, W; None when it was not measured."""
    active_j_per_query: float | None = None
    """Energy per problem above idle power, energy minus idle_w times time, J; below zero only by noise."""
    energy_windows: Count | None = None
    """Windows behind the energy."""
    energy_passes: Count | None = None
    """Passes over a window's problems, all windows together: more than windows where work was repeated."""
    caes_kgco2e_per_query: NonNegative | None = None
    """The paper's CAES per problem, energy in kWh times the grid's intensity, kgCO2e; None without an intensity."""
    accuracy: Share | None = None
    """Share of problems answered correctly."""
    accuracy_ci95: ShareInterval | None = None
    """Wilson interval of the accuracy at 95 %."""
    correct: Count | None = None
    """Problems answered correctly."""
    accuracy_by_operations: dict[int, Proportion] = {}
    """Accuracy by the problems' number of arithmetic operations."""
    t_si: float | None = None
    """Trust part of the Sustainability Index (paper, Eq. 2)."""
    e_si: float | None = None
    """Economic part (Eq. 3)."""
    s_si: float | None = None
    """Energy part: reference over variant, the linear form printed after Eq. 5."""
    si: float | None = None
    """Sustainability Index (Eq. 6)."""
    verdict_time: Verdict | None = None
    """Whether the variant costs more time than the baseline, by intervals."""
    verdict_energy: Verdict | None = None
    """Whether the variant costs more energy than the baseline, by intervals."""
    verdict_reason: str | None = None
    """Why, in a sentence."""
    agreement: Agreement | None = None
    """Closeness to the baseline's distributions."""
    notes: list[str] = []
    """What a reader of the row must know."""

    @property
    def energy_is_estimate(self) -> bool:
        """Whether the joules of this row are no measurement."""
        return is_energy_estimate(self.energy_source)

    @model_validator(mode="after")
    def _check(self) -> VariantResult:
        if self.correct is not None and self.correct > self.problems:
            raise ValueError(f"correct={self.correct} is more than problems={self.problems}")
        if self.accuracy is not None and self.correct is not None:
            share = self.correct / self.problems if self.problems else math.nan
            if not math.isclose(self.accuracy, share, abs_tol=1e-6):
                raise ValueError(f"accuracy={self.accuracy:g} is not correct/problems={share:g}")
        if self.energy_j_per_query is not None and self.energy_source in (None, "none"):
            raise ValueError(f"energy_j_per_query={self.energy_j_per_query:g} has no energy_source")
        if None not in (self.hop_ms_p50, self.hop_ms_p95) and self.hop_ms_p50 > self.hop_ms_p95:  # type: ignore[operator]
            raise ValueError(f"hop_ms_p50={self.hop_ms_p50:g} is above hop_ms_p95={self.hop_ms_p95:g}")
        grouped = sum(group.n for group in self.accuracy_by_operations.values())
        if grouped > self.problems:
            raise ValueError(f"accuracy_by_operations counts {grouped} problems of {self.problems}")
        return self


class SweepRow(Strict):
    """What was measured for one kernel at one shape; None means not measured."""

    type: Literal["sweep"] = "sweep"
    """Tells the kinds of row apart."""
    kernel: str
    """Registry or peer name, such as ``fused_nf4`` or ``bnb_nf4``."""
    implementation: str | None = None
    """Implementation that ran; None when none did."""
    arch: str | None = None
    """Key of the hardware table; None for a CPU and for a GPU that the table lacks."""
    model: str | None = None
    """Key of the model table that the shape comes from."""
    layer: str | None = None
    """Linear layer that the shape comes from, such as ``gate_proj``."""
    m: PositiveCount
    """Rows of x."""
    n: PositiveCount
    """Out-features."""
    k: PositiveCount
    """In-features."""
    group_size: PositiveCount | None = None
    """Weights along K that share a scale; None for one scale per row, or none."""
    time_us_p50: NonNegative | None = None
    """Median time of a call with weights cold in the cache as far as the notes say, microseconds."""
    time_us_p05: NonNegative | None = None
    """5th percentile, microseconds."""
    time_us_p95: NonNegative | None = None
    """95th percentile, microseconds."""
    timings: Count = 0
    """Timed samples behind the quantiles."""
    bits: PositiveCount | None = None
    """Bits of a weight as stored, scales not counted."""
    weight_only: bool | None = None
    """Whether x is multiplied in 16 bits; false where x is quantized too."""
    cast_us_p50: NonNegative | None = None
    """Median time of decoding the weight (unfused kernels) or of quantizing x (W8A8), microseconds."""
    comp_us_p50: NonNegative | None = None
    """Median time of the rest of such a call, which is the product, microseconds."""
    bytes_moved: Count | None = None
    """Bytes read and written by the traffic model."""
    flops: Count | None = None
    """Floating-point operations of the product."""
    gb_s: NonNegative | None = None
    """Achieved bandwidth, bytes_moved over time_us_p50, GB/s."""
    read_bandwidth_share: NonNegative | None = None
    """Achieved bandwidth over the read bandwidth measured in the same run; floor_us over time_us_p50."""
    floor_us: NonNegative | None = None
    """Least time that the traffic allows, microseconds."""
    weight_bytes: Count | None = None
    """Bytes of the weight as stored, codes and scales."""
    weight_floor_share: NonNegative | None = None
    """Time to read weight_bytes once at the read bandwidth measured in the same run, over time_us_p50."""
    baseline: str | None = None
    """Kernel that speedup_p50 refers to."""
    speedup_p50: NonNegative | None = None
    """Median time of the baseline over this kernel's, timed interleaved."""
    speedup_ci95: Interval | None = None
    """Bootstrap interval of speedup_p50."""
    best_peer: str | None = None
    """Fastest weight-only peer of the same bits in the same interleaved rounds, by medians."""
    best_peer_speedup_p50: NonNegative | None = None
    """Median time of best_peer over this kernel's."""
    best_peer_speedup_ci95: Interval | None = None
    """Bootstrap interval of best_peer_speedup_p50."""
    gate: Literal["passed", "failed", "not run", "no meaning"] = "not run"
    """Correctness before timing; ``no meaning`` for null kernels, whose result means nothing."""
    rel_error: NonNegative | None = None
    """||y - ref|| / ||ref|| against a float64 product with the decoded weight."""
    rel_error_bound: NonNegative | None = None
    """Bound that rel_error must stay below."""
    not_measured: str | None = None
    """Why there is no time, in a sentence; None when there is one."""
    notes: list[str] = []
    """What a reader of the row must know."""

    @model_validator(mode="after")
    def _check(self) -> SweepRow:
        if self.time_us_p50 is None:
            if not self.not_measured:
                raise ValueError(
                    f"{self.kernel} m={self.m} has neither time_us_p50 nor a reason in not_measured"
                )
        elif self.not_measured:
            raise ValueError(
                f"{self.kernel} m={self.m} has time_us_p50={self.time_us_p50:g} and not_measured"
            )
        elif self.gate not in ("passed", "no meaning"):
            raise ValueError(
                f"time_us_p50={self.time_us_p50:g} is given although the correctness gate is {self.gate!r}"
            )
        return self
