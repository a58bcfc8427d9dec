"""The kernels between the linears against the torch functions that they stand for, in the interpreter without a GPU."""

import pytest
import torch

pytest.importorskip("triton")

from kernels.triton_impl import layer_ops
from reasoning.engine import layer_math

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
SETTLED = pytest.mark.parametrize("is_settled", [False, True], ids=["new-weight", "settled"])
BIAS = pytest.mark.parametrize("has_bias", [False, True], ids=["no-bias", "bias"])


def random(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def check_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to a rounding here and there: sums in another order move a norm by a unit of fp32.

    A rotation subtracts, so that errors are units of the usual value where the result is a small one.
    """
    unit = torch.finfo(expected.dtype).eps
    difference, wide = (found.double() - expected.double()).abs(), expected.double()
    assert found.dtype == expected.dtype and found.shape == expected.shape
    usual = float(wide.pow(2).mean().sqrt())
    assert bool((difference <= 4 * unit * wide.abs().clamp(min=usual)).all())
    if expected.dtype == torch.bfloat16:
        assert float((difference > 0).double().mean()) < 0.02


@DTYPES
@SETTLED
@pytest.mark.parametrize(("rows", "width"), [(1, 96), (3, 1000), (5, 1024)])
def test_norm(rows: int, width: int, is_settled: bool, dtype: torch.dtype) -> None:
    x, weight = random(rows, width, dtype=dtype, seed=1), random(width, dtype=dtype, seed=2)
    if is_settled and DEVICE == "cuda":
        torch.cuda.synchronize()
    found = layer_ops.rms_norm(x, weight, 1e-6, is_settled=is_settled)
    check_equal(found, layer_math.rms_norm(x, weight, 1e-6))


@BIAS
@DTYPES
@SETTLED
@pytest.mark.parametrize(("rows", "width"), [(1, 96), (3, 1000)])
def test_residual_and_norm(
    rows: int, width: int, is_settled: bool, dtype: torch.dtype, has_bias: bool
) -> None:
    residual, weight = random(rows, width, dtype=dtype, seed=1), random(width, dtype=dtype, seed=2)
    # A linear may hand out part of a wider row.
    update = random(rows, width + 32, dtype=dtype, seed=3)[:, :width]
    bias = random(width, dtype=dtype, seed=4) if has_bias else None
    if is_settled and DEVICE == "cuda":
        torch.cuda.synchronize()
    found = layer_ops.add_norm(residual, update, bias, weight, 1e-5, is_settled=is_settled)
    expected = layer_math.add_norm(residual, update, bias, weight, 1e-5)
    assert torch.equal(found[0], expected[0])
    check_equal(found[1], expected[1])


@BIAS
@DTYPES
@pytest.mark.parametrize(("rows", "width"), [(1, 96), (3, 1000)])
def test_activation(rows: int, width: int, dtype: torch.dtype, has_bias: bool) -> None:
    gate_up = random(rows, 2 * width, dtype=dtype, seed=1)
    bias = random(2 * width, dtype=dtype, seed=2) if has_bias else None
    check_equal(layer_ops.silu_times(gate_up, bias), layer_math.silu_times(gate_up, bias))
