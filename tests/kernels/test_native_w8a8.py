import math

import pytest
import torch
from kernel_reference import random_input, random_weight, tolerance

from kernels import native_w8a8
from kernels.dequantize import dequantize
from kernels.formats import FORMATS
from kernels.registry import get_kernel

NAMES = ["int8", "fp8"]
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HAS_GPU = torch.cuda.is_available()
GPU = pytest.mark.skipif(not HAS_GPU, reason="torch sees no CUDA device")


def bound(x, w, dtype):
    """The bound of ``kernel_reference.tolerance``, and what quantizing x adds."""
    decoded = dequantize(w).double()
    moved = get_kernel(f"native_{w.format.name}").activation_error_bound(x)
    error = math.sqrt(float((moved.square() @ decoded.square().sum(0)).sum()))
    return tolerance(dtype, w.k) + error / float((x.double() @ decoded.T).norm())


def relative_error(y, x, w):
    ref = x.double() @ dequantize(w).double().T
    return float((y.cpu().double() - ref).norm() / ref.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_products_match_float64_within_the_bound(name, dtype):
    for m, n, k in ((1, 48, 384), (3, 64, 37), (17, 33, 128)):
        w, x = random_weight(n, k, name), random_input(m, k, dtype)
        y = get_kernel(f"native_{name}").linear(x, w)
        assert y.dtype == dtype and y.shape == (m, n)
        error = relative_error(y, x, w)
        assert bound(x, w, dtype) / 8 < error < bound(x, w, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_the_product_is_that_of_the_codes(name):
    w, x = random_weight(33, 192, name), random_input(5, 192, torch.float32)
    codes, scales = native_w8a8.quantize_rows(x, w.format)
    exact = (codes.double() @ w.packed.double().T) * scales.double() * w.scales.double().T
    y = get_kernel(f"native_{name}").linear(x, w).double()
    assert float((y - exact).norm() / exact.norm()) < 192 * 2.0**-24


def test_int32_sums_are_exact():
    # All codes at 127: a sum in bf16 or fp32 products could not hold 127 * 127 * 5000 exactly.
    fmt = FORMATS["int8"]
    x = torch.ones(2, 5000)
    codes, _ = native_w8a8.quantize_rows(x, fmt)
    assert torch.equal(
        torch._int_mm(codes, codes.t()), torch.full((2, 2), 127 * 127 * 5000, dtype=torch.int32)
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_element_moves_by_more_than_the_bound_and_some_by_nearly_as_much(name):
    fmt = FORMATS[name]
    x = random_input(7, 4096, torch.float32) * torch.logspace(-30, 30, 7).unsqueeze(1)
    codes, scales = native_w8a8.quantize_rows(x, fmt)
    moved = (codes.double() * scales.double() - x.double()).abs()
    share = moved / native_w8a8.activation_error_bound(x, fmt)
    assert 0.95 < float(share.amax()) <= 1
    assert float(share.amax(1).amin()) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_codes_reach_the_largest_level_and_scales_are_absmax_over_it(name):
    fmt = FORMATS[name]
    x = random_input(5, 256, torch.bfloat16)
    codes, scales = native_w8a8.quantize_rows(x, fmt)
    assert torch.equal(codes.float().abs().amax(1), torch.full((5,), fmt.largest_level))
    assert torch.equal(scales, x.float().abs().amax(1, keepdim=True) / fmt.largest_level)


@pytest.mark.parametrize("name", NAMES)
def test_zero_rows_give_zeros_and_nan_rows_stay_nan(name):
    w, x = random_weight(16, 64, name), random_input(4, 64, torch.bfloat16)
    x[1] = 0
    x[2, 5] = float("nan")
    x[3] = 1e-39
    y = get_kernel(f"native_{name}").linear(x, w)
    assert torch.equal(y[1], torch.zeros_like(y[1]))
    assert y[2].isnan().all()
    assert y[[0, 3]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("m", "k"), [(1, 64), (3, 37), (2, 5000), (17, 192)])
def test_triton_quantizes_as_torch_does(m, k, name, dtype, triton_device):
    from kernels.triton_impl import quantize_rows as triton_rows

    x = random_input(m, k, dtype)
    x[0, : k // 2] *= 1e-3
    x[-1, 0] = 0
    expected_codes, expected_scales = native_w8a8.quantize_rows(x, FORMATS[name])
    codes, scales = triton_rows.quantize_rows(x.to(triton_device), FORMATS[name], rows=m + 3)
    assert codes.shape == (m + 3, k) and codes.dtype == FORMATS[name].storage_dtype
    assert torch.equal(scales.cpu(), expected_scales)
    assert torch.equal(codes[:m].cpu().view(torch.uint8), expected_codes.view(torch.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_triton_keeps_zero_tiny_and_nan_rows_apart(name, triton_device):
    from kernels.triton_impl import quantize_rows as triton_rows

    x = torch.zeros(4, 64)
    x[1, 3] = float("nan")
    x[2] = 1e-38
    x[3, 7] = -2.0
    expected_codes, expected_scales = native_w8a8.quantize_rows(x, FORMATS[name])
    codes, scales = triton_rows.quantize_rows(x.to(triton_device), FORMATS[name])
    assert torch.equal(scales.isnan().cpu().flatten(), torch.tensor([False, True, False, False]))
    kept = [0, 2, 3]
    assert torch.equal(scales.cpu()[kept], expected_scales[kept])
    assert torch.equal(codes.cpu()[kept].view(torch.uint8), expected_codes[kept].view(torch.uint8))


def test_every_e4m3_value_and_every_midpoint_rounds_as_torch_does(triton_device):
    from kernels.triton_impl import quantize_rows as triton_rows

    levels = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    between = (levels[1:] + levels[:-1]) / 2
    above, below = (torch.nextafter(between, torch.tensor(limit)) for limit in (500.0, 0.0))
    # 448 leads the row, so its scale is 1.
    values = torch.cat([torch.tensor([448.0]), levels, between, above, below])
    x = torch.cat([values, -values]).unsqueeze(0)
    codes, scales = triton_rows.quantize_rows(x.to(triton_device), FORMATS["fp8"])
    assert float(scales) == 1
    assert torch.equal(codes.cpu().view(torch.uint8), x.to(torch.float8_e4m3fn).view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_triton_scales_sums_as_torch_does(dtype, triton_device):
    from kernels.triton_impl import quantize_rows as triton_rows

    generator = torch.Generator().manual_seed(3)
    sums = torch.randint(-(2**28), 2**28, (19, 1100), generator=generator, dtype=torch.int32)
    rows = torch.rand(17, 1, generator=generator) * 1e-3
    columns = torch.rand(1100, 1, generator=generator) * 1e-3
    y = triton_rows.scale_sums(
        sums.to(triton_device), rows.to(triton_device), columns.to(triton_device), dtype
    )
    assert torch.equal(y.cpu(), ((sums[:17].float() * rows) * columns.T).to(dtype))


def test_a_gpu_without_the_tensor_cores_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    expected = "torch._scaled_mm needs compute capability 8.9, this GPU has 8.0"
    assert get_kernel("native_fp8").available("cuda") == (False, expected)
    assert get_kernel("native_int8").available("cuda") == (True, "")


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 13, 16, 17, 32, 33, 64, 100, 128, 256])
def test_tensor_cores_give_the_product_within_the_bound(m, name, dtype):
    w, x = random_weight(208, 4096, name), random_input(m, 4096, dtype)
    kernel = get_kernel(f"native_{name}")
    on_gpu = w.to("cuda")
    y = kernel.linear(x.cuda(), on_gpu)
    assert y.dtype == dtype and y.shape == (m, 208)
    assert relative_error(y, x, w) < bound(x, w, dtype)
    assert torch.equal(y, kernel.linear(x.cuda(), on_gpu))


@pytest.mark.gpu
@GPU
def test_int8_on_a_gpu_gives_the_bits_of_the_cpu():
    w, x = random_weight(64, 256, "int8"), random_input(5, 256, torch.bfloat16)
    kernel = get_kernel("native_int8")
    assert torch.equal(kernel.linear(x.cuda(), w.to("cuda")).cpu(), kernel.linear(x, w))


@pytest.mark.gpu
@GPU
def test_shapes_that_the_tensor_cores_do_not_take_are_refused():
    for name, k, multiple in (("int8", 36, 8), ("fp8", 40, 16)):
        w, x = random_weight(16, k, name).to("cuda"), random_input(2, k, torch.bfloat16).cuda()
        with pytest.raises(ValueError, match=f"k={k} is not a multiple of {multiple}"):
            get_kernel(f"native_{name}").linear(x, w)
