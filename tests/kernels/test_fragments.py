import pytest
import torch
from kernel_reference import random_weight

from kernels.formats import FORMATS, levels
from kernels.packing import unpack_nibbles

pytest.importorskip("triton")

from ptx_emulator import MASK, run_ptx

from kernels.triton_impl import fragments as fr
from kernels.triton_impl import word_decode

CASES = [(name, size) for name, fmt in FORMATS.items() for size in (fmt.group_sizes or (None,))]
DTYPES = [torch.bfloat16, torch.float16]


def codes(w):
    return unpack_nibbles(w.packed) if w.format.bits == 4 else w.packed.view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [5, 33])
@pytest.mark.parametrize(("name", "group_size"), CASES)
def test_fragments_hold_every_code_once(name, group_size, n, dtype):
    k = 3 * group_size if group_size else 37
    w = random_weight(n, k, name, group_size=group_size)
    fragments = fr.fragments_of(w, dtype)
    back = fr.codes_of(fragments)
    assert torch.equal(back[:n, :k], codes(w))
    assert not back[n:].any() and not back[:, k:].any()


@pytest.mark.parametrize("coding", [fr.BOOK, fr.FP4, fr.INT4, fr.INT8, fr.FP8])
def test_codes_share_no_bit_of_a_word(coding):
    count = 4 if coding in (fr.INT8, fr.FP8) else 8
    bits = [bit for index in range(count) for bit in fr.bits_of(coding, index)]
    assert sorted(bits) == list(range(32))


def test_lanes_hold_the_operand_of_a_matrix_instruction():
    w = random_weight(16, 64, "int4", group_size=64)
    words = fr.fragments_of(w, torch.bfloat16).words
    # Lane 4r + c = 9 (r = 2, c = 1), third word: columns 32 to 47.
    word = int(words[0, 0, 9, 2])
    held = [(word >> fr.bits_of(fr.INT4, index)[0]) & 0xF for index in range(8)]
    rows, columns = (2, 2, 2, 2, 10, 10, 10, 10), (34, 35, 42, 43) * 2
    assert held == [int(codes(w)[row, column]) for row, column in zip(rows, columns, strict=True)]


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_scales_and_zeros_lie_by_group(group_size):
    w = random_weight(5, 2 * group_size, "int4", group_size=group_size)
    fragments = fr.fragments_of(w, torch.bfloat16)
    assert torch.equal(fragments.scales[:, :5], w.scales.T) and torch.equal(fragments.zeros[:, :5], w.zeros.T)
    assert fragments.scales.shape[1] == fragments.tiles * fragments.tile_rows


def test_double_quantized_scales_are_decoded():
    w = random_weight(48, 384, "nf4", group_size=32, double_quant=True)
    assert torch.equal(fr.fragments_of(w, torch.float16).scales[:, :48], w.group_scales().T)


def test_fragments_are_made_once_per_coding():
    w = random_weight(5, 64, "fp4")
    bf16, fp16 = (fr.fragments_of(w, dtype) for dtype in DTYPES)
    assert fr.fragments_of(w, torch.bfloat16) is bf16
    assert (bf16.coding, fp16.coding) == (fr.FP4, fr.BOOK)


def test_a_foreign_layout_under_the_same_name_is_refused():
    w = random_weight(5, 64, "nf4")
    w.repacked["triton fragments 0"] = torch.zeros(1)
    with pytest.raises(ValueError, match="is a Tensor, expected Fragments"):
        fr.fragments_of(w, torch.bfloat16)


def decoded_by_ptx(coding, dtype, fmt, words):
    """Levels by code index, fp64 [words, codes], of int64 words."""
    suffix = {torch.bfloat16: "BF16", torch.float16: "FP16"}[dtype]
    name = {fr.BOOK: "_BOOK_PTX", fr.FP4: "_FP4_PTX", fr.INT4: f"_INT4_{suffix}_PTX"}.get(coding)
    name = name or f"_{'INT8' if coding == fr.INT8 else 'FP8'}_{suffix}_PTX"
    table = [torch.tensor(word & MASK) for word in fr.book_words(fmt, dtype)] if coding == fr.BOOK else []
    ptx = getattr(word_decode, name).value
    pairs = run_ptx(ptx, [words, *table], 2 if coding in (fr.INT8, fr.FP8) else 4)
    if coding == fr.INT4:
        minus = torch.full((1,), -128.0 - 7 if dtype == torch.bfloat16 else -1024.0 - 7, dtype=dtype)
        minus = int(minus.view(torch.int16)) & 0xFFFF
        subtract = getattr(word_decode, f"_ADD_{suffix}_PTX").value
        pairs = [run_ptx(subtract, [pair, torch.tensor(minus * 0x10001)], 1)[0] for pair in pairs]
    halves = [(pair >> shift) & 0xFFFF for pair in pairs for shift in (0, 16)]
    return torch.stack([h.to(torch.int32).to(torch.int16).view(dtype).double() for h in halves], -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(FORMATS))
def test_ptx_decodes_every_code_at_every_place(name, dtype):
    fmt = FORMATS[name]
    coding = fr.coding_of(fmt, dtype)
    count = 4 if fmt.bits == 8 else 8
    placed = torch.randint(0, 2**fmt.bits, (4096, count), generator=torch.Generator().manual_seed(0))
    if name == "fp8":
        placed[placed & 0x7F == 0x7F] = 0  # NaN, which no weight holds
    words = torch.zeros(len(placed), dtype=torch.int64)
    for index in range(count):
        for source, target in enumerate(fr.bits_of(coding, index)):
            words |= ((placed[:, index] >> source) & 1) << target
    if fmt.bits == 8:
        wanted = placed.to(torch.uint8).view(fmt.storage_dtype).double()
    else:
        wanted = levels(fmt).to(dtype).double()[placed] - (7 if fmt.zero_point else 0)
    assert len(placed.unique()) >= 2**fmt.bits - 2
    assert torch.equal(decoded_by_ptx(coding, dtype, fmt, words), wanted)


def test_the_book_is_split_in_low_and_high_bytes():
    low, high = fr.book_words(FORMATS["nf4"], torch.bfloat16)[::4]
    # Levels -1 and 1 are 0xbf80 and 0x3f80 in bf16.
    assert low & 0xFF == 0x80 and high & 0xFF == 0xBF
    assert fr.book_words(FORMATS["int8"], torch.bfloat16) == (0,) * 8
