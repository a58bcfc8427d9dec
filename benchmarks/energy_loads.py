"""Loads whose power is known in kind: rest, waiting, traffic, arithmetic, and the eager decoding of one sequence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.machine import Target
from profiler.energy import Load
from profiler.timing import HopTimer, QueuedSteps, TimedGraph
from reasoning.decode import BatchTrace, decode_steps, greedy
from reasoning.model import LoadedModel

IDLE_STEP_S = 0.05
"""One step of rest, s."""

_PROMPT_TOKENS = 32
_HOPS_PER_SEQUENCE = 256
_TIMED_CALLS = 5
_WAITS, _WAIT_CYCLES = 16, 100_000


def idle_load() -> Load:
    """Rest with whatever is alive; it counts no work."""
    return Load(lambda: time.sleep(IDLE_STEP_S), units_per_step=0)


def wait_load() -> Load:
    """A kernel of one thread that only waits, again and again; it counts no work."""
    graph = TimedGraph(_WAITS, lambda index: wait(_WAIT_CYCLES))
    steps = QueuedSteps(graph.replay, graph.replay_s, torch.cuda.Event)
    return Load(steps.step, units_per_step=0, finish=steps.finish)


def wait(cycles: int) -> None:
    """Let the current stream of the GPU wait for some cycles of its clock."""
    torch.cuda._sleep(cycles)


def cycles_per_s() -> float:
    """Cycles for which :func:`wait` has to be called to wait a second, measured."""
    return _WAIT_CYCLES / TimedGraph(_WAITS, lambda index: wait(_WAIT_CYCLES)).call_s()


def memory_load(target: Target, buffer_bytes: int = 4 << 30) -> Load:
    """Copies of a buffer many times the cache: all bandwidth, no arithmetic.

    Args:
        target: the device.
        buffer_bytes: size of the buffer; at most a quarter of the free memory of a GPU is taken.
    """
    if target.is_cuda:
        buffer_bytes = min(buffer_bytes, torch.cuda.mem_get_info(target.device)[0] // 8)
    source = torch.ones(buffer_bytes // 4, device=target.device)
    goal = torch.empty_like(source)
    return _queued(lambda: goal.copy_(source), target)


def compute_load(target: Target, size: int = 8192) -> Load:
    """Products of two square matrices of random bf16 numbers: tensor cores at their limit.

    Args:
        target: the device.
        size: rows and columns.
    """
    generator = torch.Generator(target.device).manual_seed(0)
    a, b = (
        torch.randn(size, size, generator=generator, device=target.device).to(torch.bfloat16)
        for _ in range(2)
    )
    out = torch.empty_like(a)
    return _queued(lambda: torch.matmul(a, b, out=out), target)


def decode_load(loaded: LoadedModel, hops: int = _HOPS_PER_SEQUENCE) -> Load:
    """Greedy decoding of one sequence, hop by hop; a new sequence begins where one ends.

    Args:
        loaded: the model.
        hops: hops of each sequence; the prefill of the next counts as energy and not as a hop.
    """
    model = loaded.model
    timer = HopTimer(torch.cuda.synchronize if model.device.type == "cuda" else None)
    prompt = [1 + index % 97 for index in range(_PROMPT_TOKENS)]

    def sequences() -> Iterator[None]:
        while True:
            steps = decode_steps(
                model,
                [prompt],
                greedy,
                lengths=[hops + 1],
                end_tokens=frozenset(),
                padding=0,
                timer=timer,
                trace=BatchTrace(tokens=[]),
            )
            next(steps)
            yield from steps

    running = sequences()
    return Load(lambda: next(running))


def _queued(work: Callable[[], object], target: Target) -> Load:
    """The work in steps of milliseconds, so many queued that a GPU never waits for the host."""
    if not target.is_cuda:
        return Load(work)
    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(_TIMED_CALLS):
        work()
    end.record()
    end.synchronize()
    steps = QueuedSteps(work, float(start.elapsed_time(end)) / 1e3 / _TIMED_CALLS, torch.cuda.Event)
    return Load(steps.step, steps.units, steps.finish)
