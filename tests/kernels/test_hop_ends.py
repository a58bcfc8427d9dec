"""The first and the last kernel of a hop against the torch functions that they stand for."""

import pytest
import torch

pytest.importorskip("triton")

from kernels.triton_impl import hop_ends
from reasoning.engine import layer_math

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def random(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@DTYPES
@pytest.mark.parametrize(("batch", "hidden", "half"), [(1, 96, 16), (5, 1000, 40)])
def test_a_hop_begins_with_the_rows_of_its_tokens(
    batch: int, hidden: int, half: int, dtype: torch.dtype
) -> None:
    embedding = random(301, hidden, dtype=dtype, seed=1)
    cosines, sines = (random(64, half, dtype=dtype, seed=seed) for seed in (2, 3))
    generator = torch.Generator().manual_seed(4)
    tokens, column = (torch.randint(0, most, (batch,), generator=generator).to(DEVICE) for most in (301, 64))
    found = hop_ends.begin_hop(tokens, column, embedding, cosines, sines, 64)
    expected = layer_math.begin_hop(tokens, column, embedding, cosines, sines, 64)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[:3], expected[:3], strict=True))
    assert found[3] is None


@DTYPES
@pytest.mark.parametrize("width", [1, 301, 4096, 4097, 20000])
def test_the_most_likely_token_is_torch_s(width: int, dtype: torch.dtype) -> None:
    argmax = hop_ends.Argmax()
    for rows in (1, 3):
        logits = random(rows, width + 3, dtype=dtype, seed=width)[:, :width]
        for _ in range(2):  # the count of arrivals is as it was
            assert torch.equal(argmax(logits), logits.argmax(-1))


def test_of_equals_the_first_is_taken() -> None:
    logits = torch.zeros(2, 9000, device=DEVICE)
    logits[0, [4500, 8999, 17]] = 2.0
    logits[1] = float("-inf")
    assert hop_ends.Argmax()(logits).tolist() == [17, 0]


def test_columns_that_do_not_lie_side_by_side_are_refused() -> None:
    with pytest.raises(ValueError, match=r"strides \[1, 4\] for shape \[4, 3\]"):
        hop_ends.Argmax()(torch.zeros(3, 4, device=DEVICE).T)
