import dataclasses

import pytest
import torch

from kernels.formats import FORMATS
from kernels.quantize import quantize
from kernels.registry import KERNELS, get_kernel
from kernels.traffic import weight_bytes

M, N, K = 3, 48, 128


def test_fused_nf4_by_hand():
    traffic = get_kernel("fused_nf4").traffic(M, N, K)
    codes, scales, x, y = 48 * 128 // 2, 48 * 2 * 4, 3 * 128 * 2, 3 * 48 * 2
    assert traffic.bytes_read == codes + scales + x == 3072 + 384 + 768
    assert traffic.bytes_written == y == 288
    assert traffic.flops == 2 * 3 * 48 * 128
    assert traffic.decoded_weights == 48 * 128
    assert traffic.bytes_moved == 4224 + 288


def test_null_moves_what_fused_moves_and_decodes_nothing():
    for name in FORMATS:
        fused, null = (get_kernel(f"{scheme}_{name}").traffic(M, N, K) for scheme in ("fused", "null"))
        assert fused.decoded_weights == N * K
        assert null == dataclasses.replace(fused, decoded_weights=0)


def test_unfused_writes_and_reads_the_decoded_weight():
    for name in FORMATS:
        fused, unfused = (get_kernel(f"{scheme}_{name}").traffic(M, N, K) for scheme in ("fused", "unfused"))
        assert unfused.bytes_read - fused.bytes_read == 2 * N * K
        assert unfused.bytes_written - fused.bytes_written == 2 * N * K


def test_int4_and_int8_by_hand():
    int4 = get_kernel("fused_int4").traffic(1, N, K, group_size=32)
    assert int4.bytes_read == 48 * 64 + 48 * 4 * (4 + 1) + 128 * 2
    int8 = get_kernel("fused_int8").traffic(1, N, K)
    assert int8.bytes_read == 48 * 128 + 48 * 4 + 128 * 2


def test_w8a8_writes_and_reads_the_codes_of_x_and_reads_the_weight_as_it_is():
    for name in ("int8", "fp8"):
        fused, w8a8 = (get_kernel(f"{scheme}_{name}").traffic(M, N, K) for scheme in ("fused", "native"))
        codes_and_scales = 3 * 128 + 3 * 4
        assert w8a8.bytes_read == fused.bytes_read + codes_and_scales
        assert w8a8.bytes_written == fused.bytes_written + codes_and_scales
        assert (w8a8.flops, w8a8.decoded_weights) == (fused.flops, 0)


def test_native_reads_the_weight_in_the_dtype_of_x():
    traffic = get_kernel("bf16").traffic(M, N, K, dtype_bytes=4)
    assert (traffic.bytes_read, traffic.bytes_written) == (4 * (N * K + M * K), 4 * M * N)
    assert traffic.decoded_weights == 0


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("name", list(FORMATS))
def test_weight_bytes_are_what_a_weight_stores(name, double_quant):
    if double_quant and FORMATS[name].code_book is None:
        pytest.skip(f"{name} has no absmax groups to quantize again")
    qw = quantize(torch.randn(129, 384), name, double_quant=double_quant)
    assert weight_bytes(FORMATS[name], 129, 384, double_quant=double_quant) == qw.nbytes


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="k=100 is not divisible by group_size=64"):
        get_kernel("fused_nf4").traffic(1, 5, 100)
    with pytest.raises(ValueError, match="m=0, n=5, k=64"):
        get_kernel("fused_nf4").traffic(0, 5, 64)


def test_every_kernel_has_a_traffic_model():
    assert all(kernel.traffic(M, N, K).bytes_moved > 0 for kernel in KERNELS.values())
