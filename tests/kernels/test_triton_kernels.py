import pytest
import torch
from kernel_reference import random_input, random_weight, relative_error, tolerance

from kernels.dequantize import dequantize
from kernels.formats import FORMATS
from kernels.registry import get_kernel

CASES = [(name, size) for name, fmt in FORMATS.items() for size in (fmt.group_sizes or (None,))]
BOOKS = [name for name, fmt in FORMATS.items() if fmt.code_book is not None]


def run(name, x, w, device):
    return get_kernel(name).linear(x.to(device), w.to(device), implementation="triton")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 5, 384), (3, 48, 128), (17, 129, 128)])
@pytest.mark.parametrize(("name", "group_size"), CASES)
@pytest.mark.parametrize("scheme", ["unfused", "fused"])
def test_products_match_float64(scheme, name, group_size, m, n, k, dtype, triton_device):
    w, x = random_weight(n, k, name, group_size=group_size), random_input(m, k, dtype)
    y = run(f"{scheme}_{name}", x, w, triton_device)
    assert y.dtype == dtype and y.shape == (m, n)
    assert relative_error(y, x, w) < tolerance(dtype, k)


@pytest.mark.parametrize("k", [64, 192])
@pytest.mark.parametrize("name", ["nf4", "int4"])
def test_k_of_one_and_three_groups(name, k, triton_device):
    w, x = random_weight(5, k, name, group_size=64), random_input(1, k, torch.bfloat16)
    for scheme in ("unfused", "fused"):
        assert relative_error(run(f"{scheme}_{name}", x, w, triton_device), x, w) < tolerance(x.dtype, k)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_byte_formats_take_any_k(name, triton_device):
    w, x = random_weight(5, 37, name), random_input(3, 37, torch.bfloat16)
    for scheme in ("unfused", "fused"):
        assert relative_error(run(f"{scheme}_{name}", x, w, triton_device), x, w) < tolerance(x.dtype, 37)


@pytest.mark.parametrize("name", BOOKS)
def test_double_quantized_scales(name, triton_device):
    # 48 * 384 / 32 = 576 groups: more than two blocks of 256 nested scales.
    w = random_weight(48, 384, name, group_size=32, double_quant=True)
    x = random_input(3, 384, torch.bfloat16)
    for scheme in ("unfused", "fused"):
        assert relative_error(run(f"{scheme}_{name}", x, w, triton_device), x, w) < tolerance(x.dtype, 384)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(FORMATS))
def test_the_cast_is_the_reference_rounded_once(name, dtype, triton_device):
    from kernels.triton_impl.cast import cast_weight

    w, x = random_weight(5, 384, name), random_input(1, 384, dtype)
    decoded = cast_weight(w.to(triton_device), x.to(triton_device))
    assert torch.equal(decoded.cpu(), dequantize(w, dtype))


def test_every_fp8_value_decodes(triton_device):
    from kernels.triton_impl.cast import cast_weight

    w = random_weight(2, 127, "fp8")
    magnitudes = torch.arange(127, dtype=torch.int32)
    w.packed.view(torch.uint8)[0] = magnitudes.to(torch.uint8)
    w.packed.view(torch.uint8)[1] = (magnitudes + 128).to(torch.uint8)
    w.scales.fill_(1.0)
    x = torch.zeros(1, 127, dtype=torch.bfloat16, device=triton_device)
    decoded = cast_weight(w.to(triton_device), x)
    assert torch.equal(decoded.cpu().float(), w.packed.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(FORMATS))
def test_null_is_finite_and_reads_the_codes(name, dtype, triton_device):
    x = random_input(3, 128, dtype)
    weights = [random_weight(5, 128, name, seed=seed) for seed in (0, 5)]
    y, other = (run(f"null_{name}", x, w, triton_device) for w in weights)
    assert y.isfinite().all()
    assert not torch.equal(y, other)


def test_strided_activations(triton_device):
    w, wide = random_weight(5, 128, "nf4"), random_input(3, 256, torch.bfloat16).to(triton_device)
    for x in (wide[:, :128], wide[:, ::2]):
        assert relative_error(run("fused_nf4", x, w, triton_device), x, w) < tolerance(x.dtype, 128)


def test_unsupported_dtype_is_refused(triton_device):
    w, x = random_weight(5, 128, "nf4"), random_input(3, 128, torch.float32)
    for scheme in ("unfused", "fused", "null"):
        with pytest.raises(ValueError, match="x has dtype torch.float32, the triton kernels take"):
            run(f"{scheme}_nf4", x, w, triton_device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_cpu_tensors_are_refused_by_compiled_kernels():
    w, x = random_weight(5, 128, "nf4"), random_input(3, 128, torch.bfloat16)
    with pytest.raises(ValueError, match="the triton kernels run on cuda, x is on cpu"):
        get_kernel("fused_nf4").linear(x, w, implementation="triton")
