"""The kernels between the linears against the torch functions that they stand for, in the interpreter without a GPU."""

import pytest
import torch

pytest.importorskip("triton")

from kernels.triton_impl import layer_ops
from reasoning.engine import layer_math

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
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
@pytest.mark.parametrize(("rows", "width"), [(1, 96), (3, 1000), (5, 1024)])
def test_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    x, weight = random(rows, width, dtype=dtype, seed=1), random(width, dtype=dtype, seed=2)
    check_equal(layer_ops.rms_norm(x, weight, 1e-6), layer_math.rms_norm(x, weight, 1e-6))


@BIAS
@DTYPES
@pytest.mark.parametrize(("rows", "width"), [(1, 96), (3, 1000)])
def test_residual_and_norm(rows: int, width: int, dtype: torch.dtype, has_bias: bool) -> None:
    residual, weight = random(rows, width, dtype=dtype, seed=1), random(width, dtype=dtype, seed=2)
    # A linear may hand out part of a wider row.
    update = random(rows, width + 32, dtype=dtype, seed=3)[:, :width]
    bias = random(width, dtype=dtype, seed=4) if has_bias else None
    found = layer_ops.add_norm(residual, update, bias, weight, 1e-5)
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


@BIAS
@DTYPES
@pytest.mark.parametrize("has_norm", [False, True], ids=["no-norm", "norm"])
@pytest.mark.parametrize(
    ("batch", "kv_heads", "group", "head_dim"), [(1, 2, 3, 32), (3, 1, 7, 48), (4, 6, 1, 16)]
)
def test_heads(
    batch: int, kv_heads: int, group: int, head_dim: int, has_norm: bool, dtype: torch.dtype, has_bias: bool
) -> None:
    heads, max_len = kv_heads * group, 64
    width = (heads + 2 * kv_heads) * head_dim
    qkv = random(batch, width, dtype=dtype, seed=1)
    bias = random(width, dtype=dtype, seed=2) if has_bias else None
    norm = random(heads + kv_heads, head_dim, dtype=dtype, seed=3) if has_norm else None
    angles = torch.rand(batch, head_dim // 2, generator=torch.Generator().manual_seed(4)) * 6
    cos, sin = (f(angles).to(DEVICE, dtype) for f in (torch.cos, torch.sin))
    column = torch.tensor([5, 63, 0, 20][:batch], device=DEVICE)
    caches = [
        torch.zeros(2, batch, kv_heads, max_len, head_dim, device=DEVICE, dtype=dtype) for _ in range(2)
    ]
    found, expected = (
        module.hop_heads(qkv, bias, norm, 1e-6, cos, sin, cache[0], cache[1], column)
        for module, cache in zip((layer_ops, layer_math), caches, strict=True)
    )
    check_equal(found, expected)
    assert torch.equal(caches[0][1], caches[1][1])
    written = caches[1] != 0
    assert torch.equal(caches[0] != 0, written)
    check_equal(caches[0], caches[1])
    assert int(written.sum()) > batch * kv_heads * head_dim
