import pytest
import torch

from kernels.dequantize import dequantize
from kernels.gptq import from_gptq, to_gptq
from kernels.quantize import quantize
from kernels.registry import get_kernel

N, K, GROUP = 16, 128, 32


def checkpoint(seed=0, *, act_order=False):
    """A random layer as a GPTQ file stores it, and the weight [n, k] that its definition gives."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (K, N), generator=generator)
    zeros = torch.randint(1, 16, (K // GROUP, N), generator=generator)
    scales = (torch.rand(K // GROUP, N, generator=generator) + 0.1).half()
    g_idx = torch.arange(K) // GROUP
    if act_order:
        g_idx = g_idx[torch.randperm(K, generator=generator)]
    qweight = torch.zeros(K // 8, N, dtype=torch.int64)
    qzeros = torch.zeros(K // GROUP, N // 8, dtype=torch.int64)
    for i in range(8):
        qweight |= codes[i::8] << (4 * i)
        qzeros |= (zeros[:, i::8] - 1) << (4 * i)
    as_int32 = [t.to(torch.int32) for t in (qweight, qzeros)]
    weight = ((codes - zeros[g_idx]).float() * scales[g_idx].float()).T
    return (*as_int32, scales, g_idx.int()), weight


@pytest.mark.parametrize("act_order", [False, True])
def test_a_checkpoint_decodes_to_its_definition_and_back(act_order):
    tensors, weight = checkpoint(act_order=act_order)
    qw = from_gptq(*tensors, group_size=GROUP)
    assert torch.equal(dequantize(qw), weight)
    assert (qw.input_permutation is not None) == act_order
    back = to_gptq(qw)
    for mine, original in zip((back.qweight, back.qzeros, back.scales, back.g_idx), tensors, strict=True):
        assert torch.equal(mine, original)


def test_v2_files_store_zeros_as_they_are():
    tensors, weight = checkpoint()
    v1 = from_gptq(*tensors, group_size=GROUP)
    v2 = to_gptq(v1, zero_offset=0)
    assert not torch.equal(v2.qzeros, tensors[1])
    read = from_gptq(tensors[0], v2.qzeros, *tensors[2:], group_size=GROUP, zero_offset=0)
    assert torch.equal(dequantize(read), weight)


def test_a_zero_point_of_0_wraps_in_v1_files():
    qw = quantize(torch.rand(8, 128) + 1, "int4")
    assert qw.zeros.max() == 0
    stored = to_gptq(qw)
    assert torch.equal(from_gptq(*vars(stored).values(), group_size=128).zeros, qw.zeros)


@pytest.mark.parametrize("kernel", ["unfused_int4", "fused_int4"])
def test_kernels_permute_the_input_of_act_order_layers(kernel):
    tensors, weight = checkpoint(act_order=True)
    x = torch.randn(3, K)
    y = get_kernel(kernel).linear(x, from_gptq(*tensors, group_size=GROUP), implementation="torch")
    # fp32 throughout: a product and k additions, each with a relative error of at most 2**-24 of sum |x w|.
    bound = (K + 1) * 2.0**-24 * (x.abs() @ weight.abs().T)
    assert bool(((y - x.double() @ weight.double().T).abs() <= bound).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "mlp.up: bits=8 is not supported, GPTQ weights are read with bits=4"),
        ({"zero_offset": 2}, "zero_offset=2"),
        ({"group_size": 48}, "mlp.up: group_size=48 is not one of"),
        ({"group_size": 64}, r"mlp.up: scales has shape \[4, 16\], expected \[2, 16\]"),
        ({"qweight": torch.zeros(16, 16)}, "qweight has 2 dimensions of torch.float32"),
        ({"qzeros": torch.zeros(4, 3, dtype=torch.int32)}, r"qzeros has shape \[4, 3\], expected \[4, 2\]"),
        ({"g_idx": torch.zeros(5)}, r"g_idx has shape \[5\], expected \[128\]"),
        ({"g_idx": torch.full((K,), 7)}, "g_idx runs from 7 to 7, but there are 4 groups"),
        ({"g_idx": torch.zeros(K)}, "group 0 has 128 input features, not group_size=32"),
    ],
)
def test_files_that_do_not_fit_are_refused(change, message):
    names = ("qweight", "qzeros", "scales", "g_idx")
    arguments = dict(zip(names, checkpoint()[0], strict=True))
    arguments |= {"group_size": GROUP, "name": "mlp.up"} | change
    with pytest.raises(ValueError, match=message):
        from_gptq(**arguments)


def test_n_must_fill_the_words_of_zero_points():
    with pytest.raises(ValueError, match="n=12 is not divisible by the 8 zero points"):
        to_gptq(quantize(torch.randn(12, 128), "int4"))
    with pytest.raises(ValueError, match="nf4 has none"):
        to_gptq(quantize(torch.randn(8, 128), "nf4"))
