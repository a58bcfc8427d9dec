import dataclasses

import pytest
import torch

from kernels.formats import FORMATS
from kernels.quantize import quantize


def test_bits_per_weight_counts_the_scales():
    w = torch.randn(16, 256)
    assert quantize(w, "nf4").bits_per_weight == 4 + 32 / 64
    assert quantize(w, "nf4", group_size=128).bits_per_weight == 4 + 32 / 128
    assert quantize(w, "int4").bits_per_weight == 4 + 40 / 128
    assert quantize(w, "int8").bits_per_weight == 8 + 32 / 256


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("packed", torch.zeros(5, 60, dtype=torch.uint8), r"packed has shape \[5, 60\], expected \[5, 64\]"),
        ("packed", torch.zeros(5, 64, dtype=torch.int8), "packed has dtype torch.int8, expected torch.uint8"),
        ("packed", torch.zeros(64, 5, dtype=torch.uint8).T, r"packed of shape .* has strides \[1, 5\]"),
        ("scales", torch.zeros(5, 3), r"scales has shape \[5, 3\], expected \[5, 2\]"),
        ("scales", None, "either scales or double_quant"),
        ("zeros", torch.zeros(5, 2, dtype=torch.uint8), "zeros contradict it"),
        ("group_size", 48, "group_size=48 is not one of"),
        ("input_permutation", torch.arange(5), r"input_permutation has shape \[5\], expected \[128\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(field, value, message):
    qw = quantize(torch.randn(5, 128), "nf4")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(qw, **{field: value})


@pytest.mark.parametrize("name", list(FORMATS))
def test_moving_keeps_every_tensor(name):
    qw = quantize(torch.randn(5, 128), name)
    qw.repacked["layout"] = qw.packed
    assert qw.to("cpu") is qw
    moved = qw.to("meta")
    assert moved.packed.device.type == moved.group_scales().device.type == "meta"
    assert (moved.zeros is None) == (qw.zeros is None)
    assert moved.nbytes == qw.nbytes
    assert moved.repacked == {} and qw.repacked


def test_moving_keeps_double_quantized_scales():
    qw = quantize(torch.randn(5, 128), "nf4", double_quant=True)
    assert qw.to("meta").double_quant.offset.device.type == "meta"
