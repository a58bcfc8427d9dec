"""The CUDA kernels' layout, in plain torch, against the codes and, bit by bit, against what the kernels decode."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_reference import random_weight

from kernels.cuda_impl.layout import Codes, codes_of, make_layout
from kernels.dequantize import dequantize
from kernels.formats import FORMATS, get_format, levels
from kernels.quantize import quantize

ARRANGEMENTS = [
    ("nf4", Codes.PAIRS),
    ("fp4", Codes.PAIRS),
    ("fp4", Codes.FP4_BITS),
    ("fp4_bnb", Codes.PAIRS),
    ("int8", Codes.BYTES),
    ("fp8", Codes.BYTES),
]


def logical_codes(w):
    if w.packed.shape[1] == w.k:
        return w.packed.view(torch.uint8)
    return torch.stack((w.packed >> 4, w.packed & 0xF), dim=-1).view(w.n, w.k)


@pytest.mark.parametrize(("name", "codes"), ARRANGEMENTS)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_rearranging_is_a_bijection(name, codes, data):
    n = data.draw(st.integers(1, 70))
    k = data.draw(st.integers(1, 5)) * 32 if codes is not Codes.BYTES else data.draw(st.integers(1, 150))
    tiles = data.draw(st.integers(1, 3))
    w = random_weight(n, k, name, group_size=None if codes is Codes.BYTES else 32, seed=n)
    layout = make_layout(w, codes, tiles)
    back = codes_of(layout)
    assert back.shape == (layout.groups * tiles * 16, layout.slabs * 64)
    assert torch.equal(back[:n, :k], logical_codes(w))
    padding = torch.ones_like(back, dtype=torch.bool)
    padding[:n, :k] = False
    zero = 0 if codes is Codes.BYTES else int((levels(w.format) == 0).nonzero()[0])
    assert (back[padding] == zero).all()


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_scales_keep_eleven_bits_whatever_the_range_of_a_row(group_size, double_quant):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(37, 384, generator=generator) * torch.logspace(-12, 12, 37)[:, None]
    w[5] = 0
    weight = quantize(w, "nf4", group_size=group_size, double_quant=double_quant)
    layout = make_layout(weight, Codes.PAIRS, 2)
    per_slab = layout.slab_scales
    halves = layout.blocks[..., layout.code_bytes :].contiguous().view(torch.float16)
    # [G, slab, tile, scale, g, r] back to rows and groups.
    parts = halves.view(layout.groups, layout.slabs, 2, per_slab, 8, 2).permute(0, 2, 5, 4, 1, 3)
    scales = parts.reshape(layout.groups * 32, -1).float() * layout.row_scales[:, None]
    stored = scales[:37, :: max(1, group_size // 64)][:, : 384 // group_size]
    exact = weight.group_scales()
    largest = exact.abs().amax(dim=1, keepdim=True)
    # fp16 below 2^-14 of the row's largest scale keeps an absolute step of 2^-24.
    allowed = torch.maximum(exact.abs() * 2.0**-11, largest * 2.0**-24)
    assert ((stored - exact).abs() <= allowed).all()
    assert (scales[37:] == 0).all()


def test_fp4_bits_are_the_levels_after_a_shift_and_a_mask():
    """What decode.cuh does with a word, on every code: the result is the level times 2^-126."""
    codes = torch.arange(16).repeat_interleave(64).view(16, 64).to(torch.uint8)
    weight = random_weight(16, 64, "fp4", group_size=64)
    packed = (codes[:, 0::2] << 4) | codes[:, 1::2]
    weight.packed.copy_(packed)
    layout = make_layout(weight, Codes.FP4_BITS, 1)
    words = layout.blocks[0, 0, :512].view(torch.int32).view(32, 4).long() & 0xFFFFFFFF
    mask = 0x81C081C0
    registers = torch.stack(
        (
            words & mask,
            (words << 3) & mask,
            (words << 6) & mask,
            ((words << 1) & 0x80008000) | ((words >> 5) & 0x01000100) | ((words >> 4) & 0x00C000C0),
        ),
        dim=-1,
    )
    values = torch.stack((registers & 0xFFFF, registers >> 16), dim=-1)
    decoded = values.to(torch.int32).to(torch.int16).view(torch.bfloat16).double() * 2.0**126
    # Lane 4 g + t, step, register j = 2 h + r, e: row 8 r + g, and every code of row i is i.
    expected = levels(get_format("fp4")).double()
    for lane in range(32):
        for j in range(4):
            row = lane // 4 + 8 * (j % 2)
            assert (decoded[lane, :, j, :] == expected[row]).all()


def test_byte_words_hold_rows_g_and_g_plus_8():
    weight = random_weight(16, 64, "int8")
    weight.packed.copy_(torch.arange(16)[:, None] * 4 + torch.arange(64)[None, :] % 4)
    layout = make_layout(weight, Codes.BYTES, 1)
    unit = layout.blocks[0, 0].view(2, 32, 4, 4).int()
    for lane in range(32):
        g, t = divmod(lane, 4)
        for part in range(2):
            for word in range(4):
                column = 32 * part + 16 * (word // 2) + 8 * (word % 2) + 2 * t
                rows = [(g, column), (g + 8, column), (g, column + 1), (g + 8, column + 1)]
                assert unit[part, lane, word].tolist() == [4 * r + c % 4 for r, c in rows]


@pytest.mark.parametrize(
    ("name", "codes", "tiles", "sentence"),
    [
        ("int4", Codes.PAIRS, 1, "no zero points, int4 has them"),
        ("nf4", Codes.BYTES, 1, "nf4 stores two 4-bit codes per byte"),
        ("int8", Codes.PAIRS, 1, "PAIRS does not fit"),
        ("nf4", Codes.FP4_BITS, 1, "arrangement of fp4, not of nf4"),
        ("nf4", Codes.PAIRS, 0, "group_tiles=0"),
    ],
)
def test_what_does_not_fit_is_refused(name, codes, tiles, sentence):
    weight = random_weight(16, 128, name)
    with pytest.raises(ValueError, match=sentence):
        make_layout(weight, codes, tiles)


def test_a_clone_lies_elsewhere():
    layout = make_layout(random_weight(16, 64, "nf4"), Codes.PAIRS, 1)
    other = layout.clone()
    assert torch.equal(other.blocks, layout.blocks)
    assert other.blocks.data_ptr() != layout.blocks.data_ptr()


def test_every_arrangement_is_of_a_format_of_the_table():
    assert {name for name, _ in ARRANGEMENTS} == set(FORMATS) - {"int4"}
    assert dequantize(random_weight(2, 64, "nf4")).shape == (2, 64)
