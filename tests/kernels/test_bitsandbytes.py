import pytest
import torch

from kernels.dequantize import dequantize
from kernels.double_quant import dynamic_code_book
from kernels.formats import FORMATS, levels
from kernels.quantize import quantize

bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
QUANT_TYPES = {"nf4": "nf4", "fp4_bnb": "fp4"}


def ties(name):
    """Weights with absmax 1 whose values are the thresholds between levels and their fp32 neighbours."""
    ascending = levels(FORMATS[name]).sort().values
    middle = (ascending[:-1] + ascending[1:]) / 2
    values = torch.cat([middle, torch.nextafter(middle, middle + 1), torch.nextafter(middle, middle - 1)])
    rows = torch.zeros(5, 128)
    rows[:, : values.numel()] = values
    rows[:, 63::64] = torch.tensor([[1.0], [-1.0], [1.0], [0.5], [3.0]])
    return rows


def zero_blocks():
    w = torch.randn(7, 256)
    w[0] = 0
    w[3, 128:] = 0
    w[5, :128] = -0.0
    return w


WEIGHTS = {
    "random": lambda name: torch.randn(33, 384),
    "random bf16": lambda name: torch.randn(33, 384, dtype=torch.bfloat16),
    "random fp16": lambda name: torch.randn(33, 384, dtype=torch.float16),
    "heavy tails": lambda name: torch.randn(9, 1024) ** 5,
    "ties": ties,
    "ties bf16": lambda name: ties(name).bfloat16(),
    "zero blocks": lambda name: zero_blocks(),
    "all zero": lambda name: torch.zeros(3, 256),
    "tiny": lambda name: torch.randn(3, 256) * 1e-38,
    "equal scales": lambda name: torch.ones(5, 256),
}


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", QUANT_TYPES)
def test_codes_and_scales_are_bit_exact(name, kind, group_size, double_quant):
    torch.manual_seed(0)
    w = WEIGHTS[kind](name)
    ours = quantize(w, name, group_size=group_size, double_quant=double_quant)
    packed, state = bnb.quantize_4bit(
        w, blocksize=group_size, quant_type=QUANT_TYPES[name], compress_statistics=double_quant
    )
    assert torch.equal(ours.packed.flatten(), packed.flatten())
    if double_quant:
        double = ours.double_quant
        assert torch.equal(double.codes.flatten(), state.absmax)
        assert torch.equal(double.nested_absmax, state.state2.absmax)
        assert torch.equal(double.offset, state.offset)
        assert torch.equal(double.code_book, state.state2.code)
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    else:
        absmax = state.absmax
    assert torch.equal(ours.absmax().flatten(), absmax)
    assert torch.equal(dequantize(ours, w.dtype), bnb.dequantize_4bit(packed, state))


def test_double_quantization_repeats_the_look_up_of_many_scales():
    torch.manual_seed(1)
    w = torch.randn(1023, 1024) * torch.rand(1023, 1) ** 3
    ours = quantize(w, "nf4", group_size=32, double_quant=True).double_quant
    _, state = bnb.quantize_4bit(w, blocksize=32, quant_type="nf4", compress_statistics=True)
    assert ours.codes.numel() % 256 != 0
    assert torch.equal(ours.codes.flatten(), state.absmax)


def test_code_books_are_bitsandbytes_own():
    for name, quant_type in QUANT_TYPES.items():
        assert torch.equal(levels(FORMATS[name]), bnb.get_4bit_type(quant_type, device="cpu"))
    assert torch.equal(dynamic_code_book(), bnb.create_dynamic_map())
