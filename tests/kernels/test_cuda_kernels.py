"""The CUDA kernels on a GPU, against the float64 product with the decoded weight."""

import pytest
import torch
from kernel_reference import tolerance

from kernels.dequantize import dequantize
from kernels.quantize import quantize
from kernels.ranges import NO_RANGES

pytestmark = pytest.mark.gpu

FORMATS = ["nf4", "fp4", "fp4_bnb", "int8", "fp8"]
MS = (1, 2, 3, 5, 8, 13, 16, 17, 32, 33, 64, 100, 128, 160, 200, 256, 320)
# From the model table, then odd ones with tails along n, along k and both.
SHAPES = [(1024, 3072), (4096, 1024), (37, 96), (130, 4160), (1000, 512)]
BYTE_SHAPES = [(77, 999), (33, 65), (16, 8)]


@pytest.fixture(scope="module", autouse=True)
def _hopper():
    from kernels.cuda_impl import support

    reason = support.why_not("cuda")
    if reason:
        pytest.skip(reason)


def make_weight(n, k, name, *, group_size=None, double_quant=False):
    """With outliers in a quarter of the columns, a row of zeros and a group of zeros."""
    generator = torch.Generator("cuda").manual_seed(n * k)
    w = torch.randn(n, k, generator=generator, device="cuda") / k**0.5
    w[:, : k // 4] *= 20
    w[1] = 0
    w[2, :64] = 0
    return quantize(w, name, group_size=group_size, double_quant=double_quant)


def make_x(m, k, dtype):
    return torch.randn(m, k, generator=torch.Generator("cuda").manual_seed(m), device="cuda").to(dtype)


def check(w, m, dtype):
    """Right, written everywhere, and the same bits twice; the null twin is finite."""
    from kernels.cuda_impl.linear import describe_linear, fused_linear, null_linear

    x = make_x(m, w.k, dtype)
    y, again, null = (
        fused_linear(x, w, NO_RANGES),
        fused_linear(x, w, NO_RANGES),
        null_linear(x, w, NO_RANGES),
    )
    ref = x.double() @ dequantize(w).double().T
    what = f"m={m} {describe_linear(w, m, dtype)}"
    assert y.shape == (m, w.n) and y.dtype == dtype
    assert torch.equal(y, again), f"two runs differ: {what}"
    error = float((y.double() - ref).norm() / ref.norm())
    # Up to three roundings per weight (level, scale, their product), each spread evenly over [-u, u], add up in squares
    # to one u: the bound for one rounding of at most u holds.
    assert error < tolerance(dtype, w.k), what
    assert (y[:, 1] == 0).all(), f"a row of zeros: {what}"
    assert null.shape == y.shape and null.isfinite().all(), what


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_products_match_float64(n, k, name, dtype):
    w = make_weight(n, k, name, group_size=32 if "4" in name and k % 64 else None)
    for m in MS:
        check(w, m, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["int8", "fp8"])
@pytest.mark.parametrize(("n", "k"), BYTE_SHAPES)
def test_byte_formats_take_any_k(n, k, name, dtype):
    w = make_weight(n, k, name)
    for m in (1, 3, 16, 17, 64, 100):
        check(w, m, dtype)


@pytest.mark.parametrize("name", ["nf4", "fp4", "fp4_bnb"])
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_groups_and_double_quantized_scales(group_size, double_quant, name):
    w = make_weight(300, 768, name, group_size=group_size, double_quant=double_quant)
    for m in (1, 16, 64):
        check(w, m, torch.bfloat16)


@pytest.mark.parametrize("offset", [1, 2, 8])
def test_rows_of_x_may_start_anywhere(offset):
    from kernels.cuda_impl.linear import fused_linear

    w = make_weight(256, 512, "nf4")
    wide = make_x(64, 512 + 2 * offset, torch.bfloat16)
    x = wide[:, offset : offset + 512]
    for m in (1, 16, 64):
        assert torch.equal(
            fused_linear(x[:m], w, NO_RANGES).isfinite(), torch.ones(m, 256, dtype=torch.bool, device="cuda")
        )
        ref = x[:m].double() @ dequantize(w).double().T
        error = (fused_linear(x[:m], w, NO_RANGES).double() - ref).norm() / ref.norm()
        assert float(error) < tolerance(torch.bfloat16, 512)


@pytest.mark.parametrize("name", ["nf4", "fp8"])
def test_beyond_the_largest_m_the_weight_is_decoded_once(name):
    from kernels.cuda_impl.linear import MOST_FUSED_M, describe_linear

    w = make_weight(130, 256, name)
    for m in (300, MOST_FUSED_M, MOST_FUSED_M + 1):
        check(w, m, torch.bfloat16)
    assert "decode once" in describe_linear(w, MOST_FUSED_M + 1, torch.bfloat16)


@pytest.mark.parametrize("m", [1, 16, 64])
def test_a_captured_graph_follows_its_inputs(m):
    from kernels.cuda_impl.linear import fused_linear

    w = make_weight(512, 1024, "nf4")
    x = make_x(m, 1024, torch.bfloat16)
    fused_linear(x, w, NO_RANGES)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        # Chained, so that the second call must wait for the first one's result.
        y = fused_linear(x, w, NO_RANGES)
        z = fused_linear(torch.cat((y, y), dim=1), w, NO_RANGES)
    for seed in (1, 2):
        x.copy_(make_x(m, 1024, torch.bfloat16) * seed)
        graph.replay()
        torch.cuda.synchronize()
        exact = dequantize(w).double()
        ref_y = x.double() @ exact.T
        assert float((y.double() - ref_y).norm() / ref_y.norm()) < tolerance(torch.bfloat16, 1024)
        ref_z = torch.cat((y, y), dim=1).double() @ exact.T
        assert float((z.double() - ref_z).norm() / ref_z.norm()) < tolerance(torch.bfloat16, 1024)


def test_a_call_allocates_the_result_only_and_does_not_synchronize():
    from kernels.cuda_impl.linear import fused_linear

    w = make_weight(1024, 1024, "nf4")
    for m in (1, 16, 64):
        x = make_x(m, 1024, torch.bfloat16)
        fused_linear(x, w, NO_RANGES)
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            y = fused_linear(x, w, NO_RANGES)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 1
        assert y.shape == (m, 1024)


def test_the_first_call_inside_a_capture_says_what_to_do():
    from kernels.cuda_impl.linear import fused_linear

    w, x = make_weight(64, 128, "nf4"), make_x(1, 128, torch.bfloat16)
    with pytest.raises(RuntimeError, match="before the capture"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        fused_linear(x, w, NO_RANGES)


def test_tuning_stores_what_it_finds(tmp_path, monkeypatch):
    from kernels.cuda_impl import select
    from kernels.tuning import tune

    monkeypatch.setenv("QT_PROFILE_CACHE", str(tmp_path))
    select.load_table.cache_clear()
    try:
        path = tune(["fused_fp8"], [(512, 512)], [1, 64], device="cuda")
        assert path.parent == tmp_path
        tuned = select.tuned_for(torch.cuda.get_device_name(), "fp8", 512, 512)
        assert set(tuned.configs) == {1, 8, 16, 64}
        assert tuned.config(1).kind in ("narrow", "gemv") and tuned.config(64).kind == "wide"
    finally:
        select.load_table.cache_clear()


@pytest.mark.parametrize("m", [1, 16, 64])
@pytest.mark.parametrize("name", ["nf4", "fp4", "int8", "fp8"])
def test_null_twins_share_a_multiprocessor_with_no_more_blocks(name, m):
    from dataclasses import replace

    from kernels.cuda_impl.build import build
    from kernels.cuda_impl.config import Weight
    from kernels.cuda_impl.layout import Codes
    from kernels.cuda_impl.linear import codes_for, decoder_of
    from kernels.cuda_impl.select import tuned_for
    from kernels.formats import get_format

    fmt, dtype = get_format(name), torch.bfloat16
    codes = codes_for(fmt, dtype)
    for n, k in ((4096, 4096), (1024, 3072), (2048, 1024)):
        tuned = tuned_for("NVIDIA H200", decoder_of(fmt, dtype), n, k)
        weight = Weight(fmt, codes, tuned.group_tiles, 0 if codes is Codes.BYTES else 64, dtype, False)
        config = tuned.config(m)
        if config.kind == "gemv":  # Triton's; then the CUDA kernel for more rows
            config = tuned.config(m + 1)
        fused, null = (build(config, replace(weight, is_null=is_null)) for is_null in (False, True))
        assert 1 <= null.blocks_per_sm <= fused.blocks_per_sm
