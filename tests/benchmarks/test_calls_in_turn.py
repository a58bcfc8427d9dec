"""Calls between small kernels: what is measured, and that it is refused elsewhere."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from benchmarks import calls_in_turn
from benchmarks.calls_in_turn import measure_calls_in_turn, turn_plan, why_no_turns
from benchmarks.machine import Target, find_target
from benchmarks.plan import SweepRequest, make_plan


def test_the_plan_is_a_part_of_the_sweep() -> None:
    sweep = make_plan(SweepRequest(kernels="fused_nf4,null_nf4", shapes="64x64,128x64", m="1,8,9"), "cpu")
    found = turn_plan(sweep, ((128, 64), (4096, 4096)), (8, 1, 2))
    assert [variant.name for variant in found.variants] == ["bf16", "fused_nf4"]
    assert [str(shape) for shape in found.shapes] == ["128x64"] and found.ms == (1, 8)


def test_a_cpu_is_refused() -> None:
    cpu = Target(torch.device("cpu"), "a CPU", None, cache_bytes=1000)
    plan = make_plan(SweepRequest(kernels="fused_nf4", shapes="64x64", m="1"), "cpu")
    with pytest.raises(ValueError, match="timed on cuda, the device is cpu: it is no GPU"):
        next(measure_calls_in_turn(plan, cpu, 3))


def test_a_gpu_without_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Target(torch.device("cuda"), "a GPU", None, cache_bytes=1000)
    monkeypatch.setattr(calls_in_turn, "why_no_turns", lambda device: "triton is not installed")
    plan = make_plan(SweepRequest(kernels="fused_nf4", shapes="64x64", m="1"), "cpu")
    with pytest.raises(ValueError, match="the device is cuda: triton is not installed"):
        next(measure_calls_in_turn(plan, gpu, 3))


class _Graph:
    """Runs its calls once, and takes as long as it was told."""

    def __init__(self, calls: int, call: Callable[[int], object]) -> None:
        self.calls = [call(index) for index in range(calls)]

    def call_s(self) -> float:
        return self.taken_s.pop(0)

    taken_s: ClassVar[list[float]] = []


def test_norms_and_calls_behind_their_own_kind_are_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU in the interpreter, with times made up: 5 us in turn, 2 us of norm, 2 us and 1 us alone."""
    pytest.importorskip("triton")
    alone_s = {"bf16": 1e-6, "fused_nf4": 2e-6}
    monkeypatch.setattr(calls_in_turn, "TimedGraph", _Graph)
    monkeypatch.setattr(
        calls_in_turn,
        "call_graph",
        lambda variant, x, ring: SimpleNamespace(call_s=lambda: alone_s[variant.name]),
    )
    monkeypatch.setattr(Target, "is_cuda", property(lambda self: True))
    monkeypatch.setattr(calls_in_turn, "why_no_turns", lambda device: "")
    monkeypatch.setattr(calls_in_turn, "_HIDDEN", 64)
    cpu = Target(torch.device("cpu"), "a CPU", None, cache_bytes=1000)
    plan = turn_plan(
        make_plan(SweepRequest(kernels="fused_nf4", shapes="64x64", m="1,2"), "cpu"), ((64, 64),), (1, 2)
    )
    _Graph.taken_s = [5e-6, 2e-6] * 2 * 4  # two samples of four cells
    shapes: list[object] = []
    rows = list(measure_calls_in_turn(plan, cpu, 2, shapes.append))
    assert [str(shape) for shape in shapes] == ["64x64"]
    assert [(row["m"], row["kernel"]) for row in rows] == [
        (m, name) for m in (1, 2) for name in ("bf16", "fused_nf4")
    ]
    for row in rows:
        expected = 3.0 - 1e6 * alone_s[str(row["kernel"])]
        assert row["extra_us_p50"] == pytest.approx(expected) and row["in_turn_us_p50"] == pytest.approx(3.0)
    assert _Graph.taken_s == []


@pytest.mark.gpu
def test_on_a_gpu_every_kernel_has_its_extra_time() -> None:
    target = find_target("auto")
    assert isinstance(target, Target) and why_no_turns(target.device) == ""
    kernels = "gemv_bf16,unfused_nf4,fused_nf4,fused_int8,native_fp8"
    plan = make_plan(SweepRequest(kernels=kernels, shapes="1024x1024,2048x1024", m="1,8"), "cuda")
    rows = list(measure_calls_in_turn(plan, target, 5))
    named = {(row["kernel"], row["n"], row["m"]) for row in rows}
    every = {"bf16", *kernels.split(",")}
    assert named == {
        (name, n, m) for name in every for n in (1024, 2048) for m in (1, 8) if (name, m) != ("gemv_bf16", 8)
    }
    for row in rows:
        turn, alone, extra = (float(str(row[f"{part}_us_p50"])) for part in ("in_turn", "alone", "extra"))
        assert alone > 0 and all(math.isfinite(value) for value in (turn, extra)) and row["timings"] == 5
        assert float(str(row["extra_us_p05"])) <= extra <= float(str(row["extra_us_p95"]))
