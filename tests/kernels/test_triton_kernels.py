import pytest
import torch
from kernel_reference import random_input, random_weight, relative_error, tolerance

from kernels.dequantize import dequantize
from kernels.formats import FORMATS
from kernels.ranges import NO_RANGES
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


@pytest.mark.parametrize("name", BOOKS)
def test_the_cast_of_double_quantized_scales_is_the_reference_too(name, triton_device):
    from kernels.triton_impl.cast import cast_weight

    w, x = random_weight(48, 384, name, double_quant=True), random_input(1, 384, torch.bfloat16)
    decoded = cast_weight(w.to(triton_device), x.to(triton_device))
    assert torch.equal(decoded.cpu(), dequantize(w, torch.bfloat16))


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
    for x in (wide[:, :128], wide[:, 128:]):
        assert relative_error(run("fused_nf4", x, w, triton_device), x, w) < tolerance(x.dtype, 128)


def test_unsupported_dtype_is_refused(triton_device):
    w, x = random_weight(5, 128, "nf4"), random_input(3, 128, torch.float32)
    for scheme in ("unfused", "fused", "null"):
        with pytest.raises(ValueError, match="x has dtype torch.float32, the triton kernels take"):
            run(f"{scheme}_nf4", x, w, triton_device)


# (block_m, tiles, split_k, unroll, num_warps): one and several tiles, with and without splitting, whole and cut steps.
CONFIGS = [
    (8, 1, 4, 1, 4),
    (8, 2, 8, 1, 8),
    (8, 4, 4, 2, 4),
    (16, 2, 1, 1, 4),
    (32, 8, 1, 3, 8),
    (64, 1, 16, 1, 16),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("name", "group_size"), [("nf4", 32), ("int4", 64), ("fp4", 128), ("int8", None)])
def test_every_configuration_gives_the_product(name, group_size, config, triton_device):
    from kernels.triton_impl.configs import Config
    from kernels.triton_impl.fused import launch

    w, x = random_weight(35, 384, name, group_size=group_size), random_input(11, 384, torch.bfloat16)
    arguments = x.to(triton_device), w.to(triton_device)
    y = launch(*arguments, is_null=False, config=Config(*config, num_stages=2))
    assert relative_error(y, x, w) < tolerance(x.dtype, 384)
    null = launch(*arguments, is_null=True, config=Config(*config, num_stages=2))
    assert null.isfinite().all() and not torch.equal(null, y)


@pytest.mark.parametrize(("m", "n"), [(1, 1024), (8, 4096), (9, 28672), (17, 8192), (64, 8192), (65, 1024)])
@pytest.mark.parametrize("name", ["nf4", "fp8"])
def test_candidates_differ_and_start_with_the_default(name, m, n):
    from kernels.triton_impl.configs import candidates, config_for

    found = candidates(FORMATS[name], m, n, 4096)
    assert found[0] == config_for(FORMATS[name], m, n, 4096)
    assert len(set(found)) == len(found) >= 3
    # A weight with few columns leaves nothing to split: one step per warp at least.
    assert all(c.split_k <= 4 for c in candidates(FORMATS[name], m, n, 128))


def test_a_split_that_is_not_one_part_per_warp_is_refused():
    from kernels.triton_impl.configs import Config

    with pytest.raises(ValueError, match="split_k=2 is neither 1 nor num_warps=4"):
        Config(8, 1, 2, 1, 4, 2)


def test_the_record_names_the_configuration():
    from kernels.triton_impl.fused import describe

    w = random_weight(5, 128, "nf4")
    assert describe(w, None, None) == "triton"
    assert describe(w, 1, torch.bfloat16).startswith("triton block_m=8 tiles=1 split_k=4 ")


def test_strided_columns_are_refused(triton_device):
    from kernels.triton_impl.fused import fused_linear

    w, wide = random_weight(5, 128, "nf4"), random_input(3, 256, torch.bfloat16).to(triton_device)
    with pytest.raises(ValueError, match=r"strides \[256, 2\], the last must be 1"):
        fused_linear(wide[:, ::2], w.to(triton_device), NO_RANGES)


def test_the_interpreter_has_no_inline_ptx():
    from kernels.triton_impl.decode import IS_INTERPRETED
    from kernels.triton_impl.fused import launch

    if not IS_INTERPRETED.value:
        pytest.skip("triton compiles here")
    with pytest.raises(ValueError, match="use_ptx=True with TRITON_INTERPRET=1"):
        launch(random_input(1, 64, torch.bfloat16), random_weight(5, 64, "nf4"), is_null=False, use_ptx=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(FORMATS))
def test_inline_ptx_and_plain_triton_give_equal_bits(name, dtype):
    from kernels.triton_impl.configs import Config
    from kernels.triton_impl.fused import launch

    w, x = random_weight(129, 384, name).to("cuda"), random_input(5, 384, dtype).to("cuda")
    # Sums of whole numbers are exact in any order; the paths may order a block's columns differently.
    x = (x * 4).round()
    w.scales.fill_(2.0**-6)
    for config in (Config(8, 4, 4, 1, 4, 3), Config(16, 8, 1, 1, 4, 3)):
        by_ptx, plain = (
            launch(x, w, is_null=False, config=config, use_ptx=use_ptx) for use_ptx in (True, False)
        )
        if name in ("nf4", "fp4_bnb", "fp8"):
            torch.testing.assert_close(by_ptx, plain, rtol=2 * torch.finfo(dtype).eps, atol=1e-2)
        else:
            assert torch.equal(by_ptx, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 13, 16, 17, 32, 33, 64, 100, 128, 256])
@pytest.mark.parametrize("name", list(FORMATS))
def test_any_row_count_twice_the_same(name, m):
    n, k = 1025, 3072
    w, x = random_weight(n, k, name), random_input(m, k, torch.bfloat16)
    first, second = (run(f"fused_{name}", x, w, "cuda") for _ in range(2))
    assert torch.equal(first, second)
    assert relative_error(first, x, w) < tolerance(x.dtype, k)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_cpu_tensors_are_refused_by_compiled_kernels():
    w, x = random_weight(5, 128, "nf4"), random_input(3, 128, torch.bfloat16)
    with pytest.raises(ValueError, match="the triton kernels run on cuda, x is on cpu"):
        get_kernel("fused_nf4").linear(x, w, implementation="triton")
