import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gptq import _pack_int32, _unpack_int32
from kernels.packing import pack_nibbles, unpack_nibbles

rows = st.integers(1, 7)


def random_codes(n, k, random):
    return torch.tensor([[random.randrange(16) for _ in range(k)] for _ in range(n)], dtype=torch.uint8)


@given(rows, st.integers(1, 40), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_nibbles_round_trip(n, pairs, random):
    codes = random_codes(n, 2 * pairs, random)
    packed = pack_nibbles(codes)
    assert packed.shape == (n, pairs)
    assert torch.equal(unpack_nibbles(packed), codes)


@given(rows, st.integers(1, 12), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_int32_words_round_trip(n, words, random):
    codes = random_codes(n, 8 * words, random)
    packed = _pack_int32(codes)
    assert packed.shape == (n, words) and packed.dtype == torch.int32
    assert torch.equal(_unpack_int32(packed), codes)


def test_even_column_is_the_high_nibble():
    assert pack_nibbles(torch.tensor([[0xA, 0x5]], dtype=torch.uint8)).item() == 0xA5


def test_int32_word_starts_at_the_lowest_bits():
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0]], dtype=torch.uint8)
    assert _pack_int32(codes).item() == 0x07654321


def test_odd_columns_are_refused():
    with pytest.raises(ValueError, match="k=3 is odd"):
        pack_nibbles(torch.zeros(1, 3, dtype=torch.uint8))
