"""The chain on a GPU: captured hops, the same tokens as eager, and nothing that waits inside a hop."""

from dataclasses import replace

import pytest
import torch

from kernels.registry import get_kernel
from profiler.energy import NoMeter
from profiler.record import AgreementSample, HopSample, LinearsSample, QuerySample, RangeSample
from profiler.timing import median
from reasoning.chain import ChainOutcome, ChainRun
from reasoning.chain_backend import DecodeJob
from reasoning.chain_captured import CapturedBackend
from reasoning.chain_hf_graph import HFGraphBackend
from reasoning.chain_problems import select_problems
from reasoning.chain_spec import ChainSpec, Engine
from reasoning.decode import BatchTrace
from reasoning.model import load_model
from reasoning.replay import ReplayBatch, Replayer

pytestmark = pytest.mark.gpu
ENGINES = [Engine.HF_GRAPH, Engine.GRAPH, Engine.COMPILE, Engine.FUSED]
# The second batch is not full, and most solutions of the first end before the limit.
SOLVED = ChainSpec(
    kernels=("fused_nf4", "fused_int8"),
    limit=6,
    batch_sizes=(4,),
    max_new_tokens=160,
    ablation_problems=4,
    ablation_hops=24,
)


def run(spec: ChainSpec) -> ChainOutcome:
    problems, _ = select_problems(spec)
    return ChainRun(spec, load_model("tiny", device="cuda"), problems, NoMeter("none in tests")).run()


def solved(outcome: ChainOutcome) -> dict[tuple[str, str], bool | None]:
    return {(s.kernel, s.problem_id): s.correct for s in outcome.samples if isinstance(s, QuerySample)}


@pytest.fixture(scope="module")
def eager_solved() -> dict[tuple[str, str], bool | None]:
    """Run once for all engines: eager hops take their time."""
    return solved(run(replace(SOLVED, ablation_problems=0)))


@pytest.mark.parametrize("engine", ENGINES)
def test_captured_hops_solve_what_eager_ones_solve(
    engine: Engine, eager_solved: dict[tuple[str, str], bool | None]
) -> None:
    ours = run(replace(SOLVED, engine=engine))
    assert ours.measured == [4]
    found = solved(ours)
    assert found.keys() == eager_solved.keys()
    assert sum(bool(eager_solved[key]) for key in found) >= 6, "too few solved to compare"
    # bf16 rounds elsewhere, so a tie may fall the other way now and then.
    assert sum(found[key] == eager_solved[key] for key in found) >= 0.85 * len(found)
    assert all(row.captured and row.hop_clock == "events" for row in ours.rows)
    ranges = [s for s in ours.samples if isinstance(s, RangeSample)]
    assert {s.kernel for s in ranges} == set(SOLVED.ablation_kernels)
    # Tests share the GPU, so a range may hold another process's turn.
    assert sum(0 < s.linear_s < s.device_s for s in ranges) > 0.5 * len(ranges)
    alone = {
        name: [s.linear_s for s in ours.samples if isinstance(s, LinearsSample) and s.kernel == name]
        for name in SOLVED.ablation_kernels
    }
    for name, times in alone.items():
        hops = [
            s.hop_s
            for s in ours.samples
            if isinstance(s, HopSample) and (s.kernel, s.mode) == (name, "replay")
        ]
        assert len(times) == 16 and 0 < median(times) < median(hops)
    shares = [s.top1_same for s in ours.samples if isinstance(s, AgreementSample)]
    assert sum(shares) > 0.9 * len(shares)


@pytest.mark.parametrize("engine", ENGINES)
def test_comparing_logits_waits_for_nothing(engine: Engine) -> None:
    spec = ChainSpec(kernels=("fused_nf4",), engine=engine)
    kind = HFGraphBackend if engine is Engine.HF_GRAPH else CapturedBackend
    backend = kind(spec, load_model("tiny", device="cuda"))
    backend.prepare(2, 40, in_lockstep=True)
    forced = [[7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24, 25]]
    job = DecodeJob([[5, 6, 7], [9]], [6, 6], frozenset(), 0, forced)
    kernels = [get_kernel(name) for name in spec.ablation_kernels]
    batch = ReplayBatch(0, 2, ["a", "b"], job, [[0] * 6] * 2)
    Replayer(batch, backend).timed(kernels)
    trace = BatchTrace(tokens=[])
    seen = []
    steps = backend.steps(
        kernels[0], job, trace, on_logits=lambda p, logits: seen.append(logits.float().sum())
    )
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    steps.close()
    assert trace.tokens == forced and len(trace.hop_s) == 5 and min(trace.hop_s) > 0
    assert len(seen) == 6
    compared = Replayer(batch, backend).compared(kernels, "bf16")
    assert {(s.kernel, s.problem_id, s.hop) for s in compared} == {
        (kernel, name, hop) for kernel in ("unfused_nf4", "fused_nf4") for name in "ab" for hop in range(1, 6)
    }
