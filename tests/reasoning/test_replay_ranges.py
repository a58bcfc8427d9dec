"""The pass with ranges on a made-up GPU: times of linears and hops as if nothing had timed or held them."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernels.registry import Kernel, get_kernel
from profiler.energy import NoMeter
from profiler.range_cost import measure_range_cost
from profiler.record import RangeSample
from profiler.timing import RangeTimer, median
from reasoning import replay
from reasoning.chain import ChainRun
from reasoning.chain_backend import DecodeJob, EagerBackend
from reasoning.chain_captured import CapturedBackend
from reasoning.chain_problems import select_problems
from reasoning.chain_spec import ChainSpec, Engine
from reasoning.decode import BatchTrace
from reasoning.engine.linear import EngineLinear
from reasoning.model import load_model
from reasoning.replay import ReplayBatch, Replayer

EVENT_S, GAP_S, CYCLE_S = 3e-6, 1e-6, 0.5e-9
CAST_S, COMP_S, OTHER_S = 10e-6, 20e-6, 7e-6
LINEARS, HOPS = 60, 25


class Device:
    now_s = 0.0
    sleeps = 0

    def kernel(self, kernel_s: float) -> None:
        self.now_s += GAP_S + kernel_s


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at_s = -1.0

        def record(self) -> None:
            made.now_s += EVENT_S
            self.at_s = made.now_s

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: "Event") -> float:
            return (end.at_s - self.at_s) * 1e3

    def sleep(cycles: int) -> None:
        made.sleeps += 1
        made.kernel(cycles * CYCLE_S)

    def cost(device: torch.device) -> Any:
        return measure_range_cost(RangeTimer(device.type), lambda: made.kernel(0.9e-6))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    monkeypatch.setattr(replay, "_range_cost", cost)
    return made


class Backend:
    """Hops of linears in two ranges each, with another kernel between."""

    device = torch.device("cuda")
    is_captured = True

    def __init__(self, gpu: Device) -> None:
        self.gpu = gpu

    def steps(
        self, kernel: Any, job: DecodeJob, trace: BatchTrace, *, on_logits: Any, ranges: Any, timer: Any
    ) -> Iterator[None]:
        on_logits(0, torch.zeros(1))
        yield
        for hop in range(job.lengths[0] - 1):
            with timer.hop():
                for _ in range(LINEARS):
                    with ranges("tau_cast"):
                        self.gpu.kernel(CAST_S)
                    with ranges("tau_comp"):
                        self.gpu.kernel(COMP_S)
                    self.gpu.kernel(OTHER_S)
            trace.hop_s.append(timer.take()[0])
            on_logits(hop + 1, torch.zeros(1))
            yield


def test_a_held_pass_shows_the_device_alone(device: Device) -> None:
    job = DecodeJob([[1]], [HOPS + 1], frozenset(), 0, [[2] * (HOPS + 1)])
    batch = ReplayBatch(3, 1, ["a"], job, [[0] * (HOPS + 1)])
    kernels: Any = [SimpleNamespace(name=name, meaningful_output=True) for name in ("bf16", "unfused_nf4")]
    backend: Any = Backend(device)
    before = device.sleeps
    samples = Replayer(batch, backend).with_ranges(kernels, "bf16")
    assert [(s.kernel, s.hop) for s in samples] == [
        (kernel.name, hop) for kernel in kernels for hop in range(1, 17)
    ]
    for sample in samples:
        assert sample.batch_index == 3
        assert sample.cast_s == pytest.approx(LINEARS * (CAST_S + GAP_S))
        assert sample.comp_s == pytest.approx(LINEARS * (COMP_S + GAP_S))
        assert sample.linear_s == pytest.approx(sample.cast_s + sample.comp_s)
        # The event that ends the hop is in its time.
        hop_s = LINEARS * (CAST_S + COMP_S + OTHER_S + 3 * GAP_S) + EVENT_S
        assert sample.device_s == pytest.approx(hop_s, rel=1e-6)
        assert (sample.ranges, sample.ranges_at_zero) == (2 * LINEARS, 0)
        assert sample.range_cost_s == pytest.approx(EVENT_S)
        assert sample.range_delay_s == pytest.approx(2 * EVENT_S)
    # 120 ranges are three pieces of 48, held one by one, in 16 hops of two kernels; the cost takes ten more.
    assert device.sleeps - before == 2 * 16 * 3 + 10


def test_a_hop_is_never_shorter_than_its_linears(device: Device) -> None:
    job = DecodeJob([[1]], [2], frozenset(), 0, [[2] * 2])
    replayer = Replayer(ReplayBatch(0, 1, ["a"], job, [[0] * 2]), Backend(device))  # type: ignore[arg-type]
    timer = RangeTimer("cuda")
    with timer("linear"):
        device.kernel(10e-6)
    taken = timer.take_all()
    sample = replayer._range_sample("bf16", 1, taken, 5e-6, None)
    assert sample.device_s == sample.linear_s == pytest.approx(10e-6 + GAP_S + EVENT_S)
    assert (sample.range_cost_s, sample.range_delay_s, sample.ranges) == (None, None, 1)


def test_linears_alone_are_timed_in_graphs_of_their_own_kernels_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ChainSpec(kernels=("unfused_nf4", "fused_int8"), engine=Engine.GRAPH)
    backend = CapturedBackend(spec, load_model("tiny"))
    monkeypatch.setattr(CapturedBackend, "is_captured", True)
    ran: list[str] = []
    order: list[str] = []

    class Graph:
        def __init__(self, calls: int, call: Callable[[int], object]) -> None:
            ran.clear()
            call(0)
            self.kernels = sorted(set(ran))
            self.linears = len(ran)

        def call_s(self) -> float:
            order.extend(self.kernels)
            return 1e-6 * self.linears

    monkeypatch.setattr(replay, "TimedGraph", Graph)
    multiply = EngineLinear.__call__

    def noted(linear: EngineLinear, x: torch.Tensor, kernel: Kernel, *others: Any) -> torch.Tensor:
        y = multiply(linear, x, kernel, *others)
        assert x.shape == (3, linear.shape[1]) and y.shape == (3, linear.shape[0])
        ran.append(kernel.name)
        return y

    monkeypatch.setattr(EngineLinear, "__call__", noted)
    kernels = [get_kernel(name) for name in ("bf16", "unfused_nf4", "fused_int8")]
    batch = ReplayBatch(2, 3, ["a"], DecodeJob([[1]], [2], frozenset(), 0, [[2]]), [[0]])
    samples = Replayer(batch, backend).linears_alone(kernels)
    layers = 4 * backend._decoder.architecture.layers + 1
    assert {s.linear_s for s in samples} == {1e-6 * layers}
    assert {(s.kernel, s.repeat) for s in samples} == {(k.name, i) for k in kernels for i in range(16)}
    assert {(s.batch_size, s.batch_index) for s in samples} == {(3, 2)}
    # Each begins as often as the others, give or take one.
    assert {name: order[::3].count(name) for name in order} == {
        "bf16": 6,
        "unfused_nf4": 5,
        "fused_int8": 5,
    }


def test_linears_of_a_model_of_transformers_run_alone_too() -> None:
    backend = EagerBackend(ChainSpec(kernels=("fused_int8",)), load_model("tiny"))
    ran: list[tuple[str, str]] = []
    for name, layer in backend._replacement.replaced.items():
        layer.register_forward_hook(lambda layer, x, y, name=name: ran.append((name, layer.kernel.name)))
    backend.linear_calls(get_kernel("fused_int8"), 2)()
    assert ran == [(name, "fused_int8") for name in backend._replacement.replaced]
    batch = ReplayBatch(0, 2, ["a"], DecodeJob([[1]], [2], frozenset(), 0, [[2]]), [[0]])
    assert Replayer(batch, backend).linears_alone([get_kernel("bf16")]) == []


@pytest.mark.gpu
@pytest.mark.parametrize("engine", [Engine.EAGER, Engine.GRAPH])
def test_ranges_on_a_gpu_are_longer_than_their_cost(engine: Engine) -> None:
    spec = ChainSpec(
        kernels=("unfused_nf4",),
        limit=1,
        max_new_tokens=20,
        engine=engine,
        ablation_problems=1,
        ablation_hops=12,
        ablation_repeats=1,
    )
    problems, _ = select_problems(spec)
    outcome = ChainRun(spec, load_model("tiny", device="cuda"), problems, NoMeter("none in tests")).run()
    samples = [s for s in outcome.samples if isinstance(s, RangeSample)]
    assert {s.kernel for s in samples} == set(spec.ablation_kernels)
    for sample in samples:
        assert sample.device_s is not None and sample.linear_s < sample.device_s
        assert sample.range_cost_s is not None and sample.range_delay_s is not None
        assert 0.2e-6 < sample.range_cost_s < sample.range_delay_s < 20e-6
        assert sample.ranges and sample.ranges_at_zero == 0
    # Kernels of microseconds, and no waiting for the host of tens of them; a busy host may be late in a hop or two.
    for kernel in spec.ablation_kernels:
        per_range = [s.linear_s / s.ranges for s in samples if s.kernel == kernel and s.ranges]
        assert 0.5e-6 < median(per_range) < 15e-6
