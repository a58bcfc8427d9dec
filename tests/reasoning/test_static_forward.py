"""transformers' forward pass on a static cache: the tokens of the eager one, nothing asked of the device in a hop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from engine_models import BOUND, PROMPTS, check_same_choices, relative_error
from static_backends import (
    BF16,
    FAMILIES,
    INT8,
    LENGTHS,
    SPEC,
    job_of,
    logits_of,
    made,
    silent,
    static_backend,
)
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.peers.kernel import PEER_KERNELS
from kernels.ranges import NO_RANGES
from kernels.registry import Kernel, get_kernel
from profiler.nvtx import open_range
from reasoning.chain_backend import EagerBackend, decode
from reasoning.chain_hf_graph import HFGraphBackend
from reasoning.chain_spec import ChainSpec, Engine
from reasoning.decode import BatchTrace
from reasoning.quant_linear import Replacement
from reasoning.replay import ReplayBatch, Replayer


@pytest.fixture(autouse=True)
def eager_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")


@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_ragged_batches_get_the_tokens_and_logits_of_the_eager_engine(
    family: str, sizes: dict[str, Any]
) -> None:
    eager, ours = EagerBackend(SPEC, made(family, **sizes)), static_backend(made(family, **sizes))
    assert (ours.is_captured, ours.hop_clock) == (False, "wall")
    for kernel in (BF16, INT8):
        there, here = decode(eager, kernel, job_of()), decode(ours, kernel, job_of())
        assert [len(row) for row in here.tokens] == LENGTHS
        assert (here.tokens, here.active) == (there.tokens, there.active)
        forced = [[7 * i + position for position in range(12)] for i in range(3)]
        job = job_of(lengths=[12] * 3, forced=forced)
        found, expected = (logits_of(backend, kernel, job) for backend in (ours, eager))
        assert found.shape == (12, 3, 301)
        for row in range(3):
            check_same_choices(found[:, row], expected[:, row], BOUND[torch.float32])


def test_sequences_end_early_and_the_next_batch_starts_afresh() -> None:
    eager, ours = EagerBackend(SPEC, made()), static_backend(made())
    plain = decode(eager, BF16, job_of())
    ends = frozenset({plain.tokens[0][2], plain.tokens[2][5]})
    job = job_of(end_tokens=ends)
    there = decode(eager, BF16, job)
    assert len(there.tokens[0]) <= 3 and len(there.tokens[2]) <= 6
    # A wider batch before, an even one after: neither leaves anything behind.
    wide = job_of(prompts=[[3] * 20, [4] * 20, [5] * 20], lengths=[4] * 3)
    for _ in range(2):
        assert decode(ours, BF16, wide).tokens == decode(eager, BF16, wide).tokens
        found = decode(ours, BF16, job)
        assert (found.tokens, found.active) == (there.tokens, there.active)


def test_one_cache_is_shared_until_kernels_run_in_lockstep() -> None:
    loaded = made()
    ours = static_backend(loaded, 64)
    fresh = {
        kernel.name: decode(static_backend(made(), 64), kernel, job_of()).tokens for kernel in (BF16, INT8)
    }
    # To the last column: the next kernel's session may not go on from there.
    full = job_of(prompts=[[5] * 20] * 3, lengths=[45] * 3)
    trace = decode(ours, BF16, full)
    assert [len(row) for row in trace.tokens] == [45] * 3
    cache_bytes = 2 * 3 * 3 * 2 * 64 * 32 * 4
    assert trace.cache_bytes == cache_bytes
    assert decode(ours, INT8, job_of()).tokens == fresh["fused_int8"]
    assert ours._session(BF16).cache is ours._session(INT8).cache
    sessions = ours._sessions
    ours.prepare(3, 50, in_lockstep=False)
    assert ours._sessions is sessions
    ours.prepare(3, 64, in_lockstep=True)
    assert ours._session(BF16).cache is not ours._session(INT8).cache
    traces = {kernel.name: BatchTrace(tokens=[]) for kernel in (BF16, INT8)}
    turns = [ours.steps(kernel, job_of(), traces[kernel.name]) for kernel in (BF16, INT8)]
    for _ in range(max(LENGTHS)):
        for turn in turns:
            next(turn)
    for turn in turns:
        turn.close()
    assert {name: found.tokens for name, found in traces.items()} == fresh
    ours.release()
    with pytest.raises(ValueError, match=r"bf16 was to decode before prepare\(\)"):
        decode(ours, BF16, job_of())


def test_a_batch_that_is_not_full_runs_all_rows() -> None:
    eager, ours = EagerBackend(SPEC, made()), static_backend(made())
    job = job_of(prompts=PROMPTS[:2], lengths=LENGTHS[:2])
    found = decode(ours, BF16, job)
    assert found.tokens == decode(eager, BF16, job).tokens
    assert len(found.tokens) == 2 and found.active == [2, 2, 2, 2, 1, 1, 1, 1]


def test_hops_with_ranges_are_the_same_step() -> None:
    ours = static_backend(made())
    names: list[str] = []

    @contextmanager
    def hook(name: str) -> Iterator[None]:
        names.append(name)
        yield

    forced = job_of(lengths=[4] * 3, forced=[[1, 2, 3, 4]] * 3)
    timed = logits_of(ours, BF16, forced, ranges=hook)
    # 4 positions, 3 layers, 7 linears; the output layer is not replaced.
    assert len(names) == 4 * 3 * 7
    assert torch.equal(timed, logits_of(ours, BF16, forced))
    assert len(names) == 4 * 3 * 7


def test_a_profiler_is_shown_each_range_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = static_backend(made())
    session = ours._session(BF16)
    session.start(PROMPTS, LENGTHS)
    hooks: list[object] = []
    monkeypatch.setattr(Replacement, "time_ranges", lambda self, hook: hooks.append(hook))
    # Replaced linears show theirs to a profiler by themselves.
    session.hop_with_ranges(open_range)
    assert hooks == []
    session.hop_with_ranges(silent)
    assert hooks == [silent, NO_RANGES]


class HostReads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU, or copy to it: illegal while a CUDA graph is captured."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "lift_fresh", "equal"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_a_hop_asks_the_device_for_nothing(family: str, sizes: dict[str, Any]) -> None:
    session = static_backend(made(family, **sizes))._session(BF16)
    session.start(PROMPTS, LENGTHS)
    with HostReads() as reads:
        session.hop()
    assert reads.found == []
    with HostReads() as reads, torch.no_grad():
        session.start(PROMPTS, LENGTHS)
    assert reads.found, "a prefill does ask, so the mode sees it"


def test_batches_that_the_cache_cannot_hold_are_refused() -> None:
    session = static_backend(made(), 15)._session(BF16)
    # Each row alone would fit; on the static cache all take the columns of the longest prompt.
    with pytest.raises(
        ValueError, match="up to 7 tokens with up to 10 new ones need 16 cache columns, .* has 15"
    ):
        session.start(PROMPTS, [2, 10, 2])
    with pytest.raises(ValueError, match="a batch of 3 needs as many prompts with a token, got 0"):
        session.start([], [])
    with pytest.raises(ValueError, match="token 301 is outside the vocabulary of 301"):
        session.start([[1], [301], [2]], [2] * 3)


GPU_SIZES: dict[str, Any] = {
    # k of every linear is a multiple of a group.
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "head_dim": 64,
    "num_key_value_heads": 2,
}


def gpu_kernel(name: str) -> Kernel:
    kernel = PEER_KERNELS[name] if name in PEER_KERNELS else get_kernel(name)
    runs, reason = kernel.available("cuda")
    if not runs:
        pytest.skip(reason)
    return kernel


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_captured_hops_choose_what_eager_ones_do_up_to_ties(
    family: str, sizes: dict[str, Any], dtype: torch.dtype
) -> None:
    eager = EagerBackend(SPEC, made(family, dtype, "cuda", **sizes))
    ours = static_backend(made(family, dtype, "cuda", **sizes))
    assert ours._session(BF16).is_captured and ours.hop_clock == "events"
    tokens = decode(eager, BF16, job_of(lengths=[18] * 3)).tokens
    job = job_of(lengths=[18] * 3, forced=tokens)
    expected, found = (logits_of(backend, BF16, job) for backend in (eager, ours))
    for row in range(3):
        check_same_choices(found[:, row], expected[:, row], BOUND[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bf16", "fused_nf4", "unfused_nf4", "fused_int8", "bnb_nf4"])
def test_captured_hops_are_the_same_step_and_wait_for_nothing(name: str) -> None:
    kernel = gpu_kernel(name)
    spec = ChainSpec(kernels=(name,) if name != "bf16" else ("fused_nf4",), engine=Engine.HF_GRAPH)
    ours = HFGraphBackend(spec, made("qwen3", torch.bfloat16, "cuda", **GPU_SIZES))
    ours.prepare(3, 40, in_lockstep=True)
    session = ours._session(kernel)
    runs = []
    for is_captured in (True, False):
        session.start(PROMPTS, LENGTHS)
        logits = []
        while session.hops_left:
            if is_captured:
                torch.cuda.set_sync_debug_mode("error")
                try:
                    session.hop()
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            else:
                session.hop_with_ranges(silent)
            logits.append(session.logits.clone())
        assert session.is_captured
        runs.append((session.tokens(), torch.stack(logits)))
    (tokens, logits), (tokens_there, logits_there) = runs
    if name in PEER_KERNELS:
        # Nobody promises that another library adds up in the same order twice; the first hop has the same inputs.
        assert relative_error(logits[0], logits_there[0]) < BOUND[torch.bfloat16]
    else:
        assert tokens == tokens_there and torch.equal(logits, logits_there)
    forced = [[7, 8, 9, 10, 11, 12]] * 3
    job = job_of(lengths=[6] * 3, forced=forced)
    batch = ReplayBatch(0, 3, ["a", "b", "c"], job, [[0] * 6] * 3)
    traces = Replayer(batch, ours).timed([BF16, kernel] if name != "bf16" else [BF16])
    assert all(trace.tokens == forced and min(trace.hop_s) > 0 for trace in traces.values())
    assert traces[name].cache_bytes == 2 * 3 * 3 * 2 * 64 * 64 * 2
