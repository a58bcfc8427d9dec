from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.gate import check, make_reference, poisoned_memory
from benchmarks.variants import KernelVariant
from benchmarks.weights import decoded, make_weight, random_weight, random_x
from kernels.formats import get_format
from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook
from kernels.registry import KERNELS, Implementation, Kernel, Scheme, get_kernel

CPU = torch.device("cpu")
N, K = 37, 192
Linear = Callable[[Tensor, QuantWeight, RangeHook], Tensor]


def make_case(fmt_name: str | None, m: int, k: int = K) -> tuple[Tensor, Tensor | QuantWeight]:
    fmt = None if fmt_name is None else get_format(fmt_name)
    group_size = 32 if fmt is not None and fmt.group_sizes else None
    w = random_weight(N, k, seed=1, device=CPU)
    x = random_x(m, k, seed=0, device=CPU, dtype=torch.bfloat16)
    return x, make_weight(w, fmt, group_size, torch.bfloat16)


def fake(linear: Linear, scheme: Scheme = Scheme.FUSED) -> KernelVariant:
    kernel = Kernel(
        "fake", scheme, get_format("nf4"), {"torch": Implementation("torch", lambda: linear, ("cpu",))}
    )
    return KernelVariant(kernel, "torch")


def right(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    return x @ decoded(w).to(x.dtype).T


@pytest.mark.parametrize("name", [name for name in KERNELS if not name.startswith("null")])
@pytest.mark.parametrize("m", [1, 5])
def test_every_kernel_passes(name: str, m: int) -> None:
    kernel = get_kernel(name)
    x, weight = make_case(kernel.format.name if kernel.format else None, m)
    result = check(KernelVariant(kernel, "torch"), x, weight, make_reference(x, decoded(weight)))
    assert result.verdict == "passed", result.reason
    assert result.rel_error is not None and result.rel_error_bound is not None
    # Native kernels of a format round x too, to 8 bits or to 4 significant ones.
    ceiling = {"native_int8": 0.04, "native_fp8": 0.12}.get(name, 0.02)
    assert 0 < result.rel_error < result.rel_error_bound < ceiling


def test_a_smaller_m_uses_the_first_rows() -> None:
    x, weight = make_case("nf4", 6)
    reference = make_reference(x, decoded(weight))
    assert check(fake(right), x[:2], weight, reference).verdict == "passed"


def test_the_reference_is_the_float64_product() -> None:
    x, weight = make_case("int8", 3)
    exact = x.double() @ decoded(weight).double().T
    reference = make_reference(x, decoded(weight))
    assert torch.equal(reference.y, exact)
    spread = (x.double().unsqueeze(1) * decoded(weight).double()).square().sum((1, 2))
    assert torch.allclose(reference.spread_squared, spread)


def test_one_wrong_group_scale_in_twenty_fails() -> None:
    def wrong(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
        values = decoded(w)
        values[:, :32][::20] *= 1.3
        return x @ values.to(x.dtype).T

    x, weight = make_case("nf4", 4)
    result = check(fake(wrong), x, weight, make_reference(x, decoded(weight)))
    assert result.verdict == "failed"
    assert not result.may_be_timed
    assert result.reason is not None and "above the bound" in result.reason


def test_rows_that_are_never_written_fail() -> None:
    def lazy(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
        y = torch.empty(x.shape[0], w.n, dtype=x.dtype)
        y[:, :-1] = right(x, w, ranges)[:, :-1]
        return y

    x, weight = make_case("nf4", 3)
    result = check(fake(lazy), x, weight, make_reference(x, decoded(weight)))
    assert (result.verdict, result.reason) == ("failed", f"3 of {3 * N} results are NaN or infinite")
    assert result.rel_error is None


def test_what_a_kernel_raises_is_the_reason() -> None:
    def broken(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
        raise RuntimeError("no such tile\nmore")

    x, weight = make_case("nf4", 1)
    result = check(fake(broken), x, weight, make_reference(x, decoded(weight)))
    assert (result.verdict, result.reason) == ("failed", "it raised RuntimeError: no such tile")


def test_a_null_kernel_has_no_meaning_but_must_run() -> None:
    x, weight = make_case("nf4", 2)
    reference = make_reference(x, decoded(weight))
    null = check(KernelVariant(get_kernel("null_nf4"), "torch"), x, weight, reference)
    assert (null.verdict, null.rel_error) == ("no meaning", None)
    assert null.may_be_timed

    def transposed(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
        return torch.zeros(x.shape[0] * w.n + 1)

    assert check(fake(transposed, Scheme.NULL), x, weight, reference).verdict == "failed"


def test_poisoned_memory_is_nan_and_the_settings_return() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with poisoned_memory():
        assert torch.empty(1000, dtype=torch.bfloat16).isnan().all()
    assert torch.are_deterministic_algorithms_enabled() is before
