import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from benchmarks.bandwidth import Bandwidth, measure_bandwidth
from benchmarks.machine import Absent, Target, cpu_cache_bytes, find_target
from benchmarks.timer import CALL, CAST, COMP, CpuSampler, Rounds, Rules, has_settled, run_rounds
from benchmarks.variants import KernelVariant
from benchmarks.weights import Ring, clone, count_copies, make_ring, make_weight, random_weight, random_x
from kernels.formats import get_format
from kernels.quant_weight import QuantWeight
from kernels.quantize import quantize
from kernels.registry import get_kernel

CPU = torch.device("cpu")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class FakeSampler:
    def __init__(self, name: str, log: list[str], clock: Clock, call_s: float = 1.0) -> None:
        self.name, self.log, self.clock, self.call_s = name, log, clock, call_s

    def sample(self) -> Mapping[str, float]:
        self.log.append(self.name)
        self.clock.now_s += self.call_s
        return {CALL: self.call_s}


def run(rules: Rules, call_s: float = 1.0, seed: int = 0) -> tuple[Rounds, list[str]]:
    log: list[str] = []
    clock = Clock()
    rounds = Rounds()
    samplers = {name: FakeSampler(name, log, clock, call_s) for name in "abc"}
    run_rounds(samplers, rules, rounds, seed=seed, clock=clock)
    return rounds, log


def test_each_round_takes_every_variant_once_in_a_changing_order() -> None:
    rounds, log = run(Rules(repeats=10, warm_limit_s=100))
    orders = [tuple(log[start : start + 3]) for start in range(0, len(log), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 1
    assert len(orders) == 6 + 10  # six warm-up rounds settle, and are thrown away
    assert rounds.times_s("b") == [1.0] * 10
    assert rounds.unsettled == ()
    assert run(Rules(repeats=10, warm_limit_s=100))[1] == log
    assert run(Rules(repeats=10, warm_limit_s=100), seed=1)[1] != log


def test_warm_up_is_bounded_and_says_so() -> None:
    rounds, log = run(Rules(repeats=2, warm_limit_s=4.0))
    assert len(log) == 3 * (2 + 2)
    assert rounds.unsettled == ("a", "b", "c")


def test_the_time_limit_ends_sampling_after_the_least_rounds() -> None:
    rounds, _ = run(Rules(repeats=50, limit_s=7.0, warm_limit_s=0.0))
    assert len(rounds.taken) == 3
    rounds, _ = run(Rules(repeats=50, limit_s=13.0, warm_limit_s=0.0))
    assert len(rounds.taken) == 5
    assert len(run(Rules(repeats=5))[0].taken) == 5


def test_an_interruption_leaves_complete_rounds() -> None:
    class Interrupting(FakeSampler):
        def sample(self) -> Mapping[str, float]:
            if self.log.count(self.name) == 9:
                raise KeyboardInterrupt
            return super().sample()

    log: list[str] = []
    clock = Clock()
    rounds = Rounds()
    samplers = {name: Interrupting(name, log, clock) for name in "ab"}
    with pytest.raises(KeyboardInterrupt):
        run_rounds(samplers, Rules(repeats=50, warm_limit_s=100), rounds, seed=0, clock=clock)
    assert len(rounds.times_s("a")) == len(rounds.times_s("b")) == 3


def test_settling_compares_two_medians_of_three() -> None:
    assert not has_settled([1.0] * 5, 0.1)
    assert has_settled([9.0, 1.0, 1.0, 1.05, 7.0, 1.0], 0.1)
    assert not has_settled([2.0, 2.0, 2.0, 1.0, 1.0, 1.0], 0.1)


@pytest.mark.parametrize(("name", "keys"), [("unfused_nf4", {CALL, CAST, COMP}), ("fused_nf4", {CALL})])
def test_a_cpu_sample_is_one_call_with_its_ranges(name: str, keys: set[str]) -> None:
    kernel = get_kernel(name)
    weight = make_weight(random_weight(16, 64, seed=0, device=CPU), kernel.format, None, torch.bfloat16)
    x = random_x(2, 64, seed=1, device=CPU, dtype=torch.bfloat16)
    taken = CpuSampler(KernelVariant(kernel, "torch"), x, make_ring(weight, 3)).sample()
    assert set(taken) == keys
    assert sum(taken.values()) - taken[CALL] <= taken[CALL]
    assert min(taken.values()) > 0


def test_a_ring_hands_out_every_copy_before_it_repeats() -> None:
    ring = Ring(list("abc"))
    assert "".join(ring.take() for _ in range(7)) == "abcabca"


@pytest.mark.parametrize("double_quant", [False, True])
def test_a_clone_is_equal_and_lies_elsewhere(double_quant: bool) -> None:
    weight = quantize(torch.randn(8, 128), "nf4", double_quant=double_quant)
    weight.repacked["tiles"] = torch.zeros(1)
    copy = clone(weight)
    assert isinstance(copy, QuantWeight)
    assert torch.equal(copy.packed, weight.packed)
    assert torch.equal(copy.group_scales(), weight.group_scales())
    assert copy.packed.data_ptr() != weight.packed.data_ptr()
    assert copy.repacked == {}


def test_copies_exceed_the_cache_or_the_bound_is_told() -> None:
    target = Target(CPU, "a CPU", None, cache_bytes=1000)
    enough = count_copies(100, target)
    assert (enough.copies, enough.note) == (20, None)
    assert count_copies(5000, target).copies == 1
    bounded = count_copies(1, target)
    assert bounded.copies < 2000
    assert bounded.note is not None and f"{bounded.copies} copies" in bounded.note


def test_random_data_follow_the_seed() -> None:
    one, same = (random_weight(300, 64, seed=5, device=CPU) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, random_weight(300, 64, seed=6, device=CPU))
    assert float(one.square().sum(1).mean()) == pytest.approx(1, rel=0.1)


def test_int4_needs_no_symmetric_scales_to_be_cloned() -> None:
    weight = make_weight(torch.randn(4, 128), get_format("int4"), 32, torch.bfloat16)
    copy = clone(weight)
    assert isinstance(copy, QuantWeight) and isinstance(weight, QuantWeight)
    assert copy.zeros is not None and weight.zeros is not None
    assert copy.zeros.data_ptr() != weight.zeros.data_ptr()


def test_bandwidth_is_bytes_over_the_median() -> None:
    bandwidth = Bandwidth(10**9, (0.5, 1.0, 4.0), (2.0, 2.0, 2.0))
    assert bandwidth.read_gb_s_p50 == 1.0
    assert bandwidth.copy_gb_s_p50 == 1.0
    assert bandwidth.summary()["read_gb_s_p05"] < 1.0 < bandwidth.summary()["read_gb_s_p95"]  # type: ignore[operator]


def test_bandwidth_is_measured() -> None:
    target = Target(CPU, "a CPU", None, cache_bytes=1)
    bandwidth = measure_bandwidth(target, samples=3, buffer_bytes=1 << 20)
    assert bandwidth.buffer_bytes == 1 << 20
    assert len(bandwidth.read_s) == len(bandwidth.copy_s) == 3
    assert min(bandwidth.read_s + bandwidth.copy_s) > 0


def test_the_largest_cache_counts(tmp_path: Path) -> None:
    assert cpu_cache_bytes(tmp_path) is None
    for index, size in enumerate(["48K", "2M", "", "1280K"]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "size").write_text(size + "\n")
    assert cpu_cache_bytes(tmp_path) == 2 << 20


def test_arch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto = find_target("auto")
    assert isinstance(auto, Target) and auto.device == CPU and auto.arch is None
    absent = find_target("H100")
    assert isinstance(absent, Absent) and absent.spec.key == "h100"
    with pytest.raises(ValueError, match=r"'h1000'.*did you mean 'h100'.*l4.*auto, cpu"):
        find_target("h1000")


def test_order_is_drawn_from_the_seed_only() -> None:
    random.seed(1)
    first = run(Rules(repeats=4))[1]
    random.seed(2)
    assert run(Rules(repeats=4))[1] == first
