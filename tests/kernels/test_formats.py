import dataclasses

import pytest
import torch

from kernels.formats import FORMATS, Format, Packing, get_format, levels


def test_table_names_and_defaults():
    assert {name: fmt.group_size for name, fmt in FORMATS.items()} == {
        "nf4": 64, "fp4": 64, "fp4_bnb": 64, "int8": None, "fp8": None, "int4": 128,
    }  # fmt: skip
    assert all(name == fmt.name for name, fmt in FORMATS.items())


def test_e2m1_levels_follow_from_their_bits():
    for code, level in enumerate(levels(FORMATS["fp4"]).tolist()):
        sign, exponent, mantissa = code >> 3, (code >> 1) & 3, code & 1
        value = mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
        assert level == (-value if sign else value)


def test_unknown_format_lists_the_known():
    with pytest.raises(ValueError, match="unknown format 'nf3'; known formats: nf4, fp4"):
        get_format("nf3")


@pytest.mark.parametrize(
    ("name", "k", "group_size", "message"),
    [
        ("nf4", 1000, None, "k=1000 is not divisible by group_size=64"),
        ("nf4", 128, 48, r"group_size=48 is not one of \(32, 64, 128\)"),
        ("int8", 100, 50, "one scale per row of k=100, so group_size=50"),
    ],
)
def test_group_size_errors_state_both_numbers(name, k, group_size, message):
    with pytest.raises(ValueError, match=message):
        get_format(name).groups_for(k, group_size)


def test_byte_formats_have_one_group_per_row():
    assert get_format("int8").groups_for(37) == 37
    assert get_format("fp8").groups_for(37, 37) == 37


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 3}, "nibbles are 4 bits in uint8, not 3"),
        ({"code_book": (1.0,) * 8}, "8 levels do not fit 4 bits"),
        ({"code_book": (0.0,) * 16}, "level other than 0"),
        ({"code_book": None}, "exactly one of"),
        ({"zero_point": True}, "exactly one of"),
        ({"group_size": 16}, "group_size=16 is not one of"),
        ({"packing": Packing.BYTES}, "8 bits, not 4"),
    ],
)
def test_contradicting_formats_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FORMATS["nf4"], **change)


def test_byte_format_needs_a_dtype_that_kernels_read():
    with pytest.raises(ValueError, match="torch.uint8"):
        Format("u8", 8, None, None, (), torch.float32, Packing.BYTES, False, "", storage_dtype=torch.uint8)


def test_byte_formats_have_no_level_table():
    with pytest.raises(ValueError, match="fp8 has no table"):
        levels(FORMATS["fp8"])
