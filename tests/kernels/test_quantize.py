import pytest
import torch

from kernels import quantize as quantize_module
from kernels.dequantize import dequantize
from kernels.formats import FORMATS, levels
from kernels.packing import unpack_nibbles
from kernels.quantize import quantize


@pytest.mark.parametrize(
    ("w", "kwargs", "message"),
    [
        (torch.ones(3), {}, r"weight has 1 dimensions \(shape \[3\]\), a weight has 2"),
        (torch.ones(2, 64, dtype=torch.int32), {}, "dtype torch.int32"),
        (torch.ones(0, 64), {}, "weight is empty: n=0, k=64"),
        (torch.ones(2, 1000), {}, "k=1000 is not divisible by group_size=64"),
        (torch.ones(2, 64), {"group_size": 16}, "group_size=16 is not one of"),
    ],
)
def test_bad_weights_are_refused(w, kwargs, message):
    with pytest.raises(ValueError, match=message):
        quantize(w, "nf4", **kwargs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", list(FORMATS))
def test_not_finite_values_are_named_and_counted(name, bad):
    w = torch.ones(5, 128)
    w[1, 3] = w[4, 100] = bad
    with pytest.raises(ValueError, match="layers.3.q_proj has 2 values that are NaN or Inf of 640"):
        quantize(w, name, name="layers.3.q_proj")


@pytest.mark.parametrize("name", ["int8", "fp8", "int4"])
def test_double_quantization_needs_absmax_groups(name):
    with pytest.raises(ValueError, match=f"double_quant needs .*{name}"):
        quantize(torch.ones(2, 128), name, double_quant=True)


@pytest.mark.parametrize("name", list(FORMATS))
def test_zeros_decode_to_zeros(name):
    w = torch.randn(3, 256)
    w[0] = 0
    w[2, 128:] = 0
    decoded = dequantize(quantize(w, name))
    assert bool((decoded[0] == 0).all())
    if FORMATS[name].group_sizes:
        assert bool((decoded[2, 128:] == 0).all())
    assert decoded.isfinite().all()


@pytest.mark.parametrize("name", ["nf4", "fp4", "fp4_bnb"])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_code_books_take_the_nearest_level(name, group_size):
    w = torch.randn(7, 384)
    qw = quantize(w, name, group_size=group_size)
    scales = qw.group_scales().repeat_interleave(group_size, 1)
    distance = (w.unsqueeze(-1) - levels(FORMATS[name]) * scales.unsqueeze(-1)).abs()
    error = (w - dequantize(qw)).abs()
    # The codes are chosen on w / scale in fp32, so a near tie may miss the nearest level by that rounding.
    assert bool((error <= distance.amin(-1) + 2.0**-22 * scales * FORMATS[name].largest_level).all())


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_integers_are_within_half_a_step(name):
    w = torch.randn(7, 384)
    qw = quantize(w, name)
    step = qw.group_scales().repeat_interleave(qw.group_size, 1)
    # A zero point is rounded too, which can move values at the end of the range by another half step.
    halves = 1.0 if FORMATS[name].zero_point else 0.5
    assert bool(((w - dequantize(qw)).abs() <= halves * step * (1 + 1e-5)).all())


def test_fp8_is_the_dtypes_rounding():
    w = torch.randn(7, 37)
    qw = quantize(w, "fp8")
    assert torch.equal(qw.scales, w.abs().amax(1, keepdim=True) / 448)
    assert torch.equal(dequantize(qw), (w / qw.scales).to(torch.float8_e4m3fn).float() * qw.scales)


def test_e2m1_ties_go_to_the_even_code():
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    even = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    w = torch.zeros(1, 32)
    w[0, 0] = 6.0
    w[0, 1:8] = torch.tensor(ties)
    w[0, 8:15] = -torch.tensor(ties)
    decoded = dequantize(quantize(w, "fp4", group_size=32))
    assert decoded[0, 1:8].tolist() == even
    assert decoded[0, 8:15].tolist() == [-v for v in even]


def test_absmax_is_the_groups_largest_magnitude():
    w = torch.randn(5, 128)
    expected = w.view(5, 2, 64).abs().amax(-1)
    assert torch.equal(quantize(w, "nf4").absmax(), expected)
    # Divided by 6 for storage and multiplied back: two roundings.
    assert torch.allclose(quantize(w, "fp4").absmax(), expected, rtol=2.0**-23, atol=0)
    with pytest.raises(ValueError, match="int4 has a zero point"):
        quantize(w, "int4").absmax()


def test_int4_zero_is_a_level_even_for_one_sided_groups():
    w = torch.rand(3, 128) + 5
    w[1] *= -1
    w[2, 5] = 0
    qw = quantize(w, "int4")
    assert qw.zeros.flatten().tolist() == [0, 15, 0]
    assert dequantize(qw)[2, 5] == 0


@pytest.mark.parametrize("name", list(FORMATS))
def test_row_blocks_do_not_change_the_result(name, monkeypatch):
    w = torch.randn(11, 256, dtype=torch.bfloat16)
    whole = quantize(w, name)
    monkeypatch.setattr(quantize_module, "_BLOCK_WEIGHTS", 1000)
    parts = quantize(w, name)
    assert torch.equal(parts.packed.view(torch.uint8), whole.packed.view(torch.uint8))
    assert torch.equal(parts.group_scales(), whole.group_scales())


def test_strided_weights_quantize_like_contiguous_ones():
    w = torch.randn(128, 6)
    assert torch.equal(quantize(w.T, "nf4").packed, quantize(w.T.contiguous(), "nf4").packed)


def test_packed_codes_are_in_code_book_order():
    w = levels(FORMATS["nf4"]).repeat(1, 2)
    codes = unpack_nibbles(quantize(w, "nf4", group_size=32).packed)
    assert codes[0].tolist() == list(range(16)) * 2


def test_dequantize_rounds_once_to_the_dtype_asked_for():
    qw = quantize(torch.randn(5, 128), "nf4")
    assert torch.equal(dequantize(qw, torch.bfloat16), dequantize(qw).to(torch.bfloat16))
