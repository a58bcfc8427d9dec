"""One row of x times a weight of one byte per code, in the interpreter without a GPU.

The bound: as in test_gemv.py, of the weight as it decodes.
"""

import pytest
import torch

pytest.importorskip("triton")

from kernels.dequantize import dequantize
from kernels.quantize import quantize
from kernels.triton_impl import gemv
from kernels.triton_impl.gemv_config import GemvConfig, byte_candidates

BOUNDS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
FORMATS = pytest.mark.parametrize("name", ["int8", "fp8"])


def random(*shape, device, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def weight_of(n, k, name, device):
    w = random(n, k, device=device, seed=2)
    w[0] = 0.0
    w[-1, :: max(1, k // 7)] *= 50.0
    return quantize(w, name)


def check(y, x, w):
    expected = x.double() @ dequantize(w, torch.float32).double().T
    assert y.dtype == x.dtype and y.shape == expected.shape
    error = (y.double() - expected).norm() / expected.norm()
    assert float(error) <= BOUNDS[x.dtype] + x.shape[-1] * 2.0**-24


@FORMATS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k"), [(8, 1024), (7, 272), (3, 4112), (5, 16)])
def test_products_and_repeats(triton_device, n, k, dtype, name):
    x = random(1, k, device=triton_device, seed=1).to(dtype)
    w = weight_of(n, k, name, triton_device)
    configs = list(byte_candidates(n, k))
    assert configs
    for config in (configs[0], configs[-1]):
        y = gemv.run_bytes(x, w.packed, w.group_scales(), config, is_null=False)
        check(y, x, w)
        assert torch.equal(y, gemv.run_bytes(x, w.packed, w.group_scales(), config, is_null=False))


@FORMATS
@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize(("block_n", "block_k", "warps"), [(1, 512, 1), (4, 1024, 2), (2, 4096, 8)])
def test_every_way_to_cut_it_up(triton_device, block_n, block_k, warps, is_ahead, name):
    config = GemvConfig(block_n, block_k, warps, is_ahead)
    x = random(1, 2320, device=triton_device, seed=1).bfloat16()
    w = weight_of(5, 2320, name, triton_device)
    check(gemv.run_bytes(x, w.packed, w.group_scales(), config, is_null=False), x, w)


def test_every_code_has_its_level(triton_device):
    """A 1 at one column of x brings out that column's level."""
    for dtype in (torch.int8, torch.float8_e4m3fn):
        codes = torch.arange(256, dtype=torch.uint8, device=triton_device).view(dtype)
        levels = codes.float().nan_to_num()
        codes = (
            torch.where(codes.float().isnan(), 0, codes.view(torch.uint8).int()).to(torch.uint8).view(dtype)
        )
        scales = torch.ones(1, 1, device=triton_device)
        config = GemvConfig(1, 512, 1, is_ahead=True)
        found = [
            gemv.run_bytes(x[None], codes[None], scales, config, is_null=False).item()
            for x in torch.eye(256, device=triton_device).half()
        ]
        assert found == levels.tolist()


@FORMATS
def test_the_null_twin_is_finite_and_depends_on_the_codes(triton_device, name):
    x = random(1, 1040, device=triton_device, seed=1).bfloat16()
    w = weight_of(9, 1040, name, triton_device)
    config = GemvConfig(2, 1024, 2, is_ahead=True)
    y = gemv.run_bytes(x, w.packed, w.group_scales(), config, is_null=True)
    assert bool(y.isfinite().all()) and y.unique().numel() > 1


@pytest.mark.parametrize(("rows", "k"), [(2, 32), (1, 24)])
def test_more_rows_and_odd_columns_are_refused(triton_device, rows, k):
    w = weight_of(4, k, "int8", triton_device)
    x = torch.zeros(rows, k, device=triton_device).bfloat16()
    with pytest.raises(ValueError, match=rf"x has shape \[{rows}, {k}\], the kernel takes one row"):
        gemv.run_bytes(x, w.packed, w.group_scales(), GemvConfig(1, 512, 1, True), is_null=False)


@pytest.mark.parametrize("n", [1, 37, 1024, 151936])
@pytest.mark.parametrize("k", [16, 1024, 3072, 29568])
def test_candidates_stay_within_registers(n, k):
    """A thread holds two tiles of loads at a time: at most 4 loads of 16 codes of each, all of them its own columns."""
    for config in byte_candidates(n, k):
        assert config.block_n <= n
        assert 16 <= config.block_n * config.block_k / (32 * config.warps) <= 64 * 2
        assert config.block_k == 512 * config.warps
    assert not list(byte_candidates(n, k + 8))
