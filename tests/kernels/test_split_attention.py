"""Split attention against torch's, in the interpreter without a GPU: odd groups, ragged columns, dead pieces."""

import pytest
import torch

pytest.importorskip("triton")

from kernels.triton_impl import split_attention as module
from kernels.triton_impl.split_attention import pieces_of, split_attention
from reasoning.engine.attention import hop_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Products of two roundings in q·k and again in weights·v, sums over up to 4,288 columns: 3 for cancellation.
BOUND = {torch.float32: 3 * 4288**0.5 * 2.0**-24, torch.bfloat16: 3 * 2.0**-8}


def reference(q, keys, values, column):
    """In float64, sequence by sequence."""
    rows = []
    for i, last in enumerate(column.tolist()):
        k, v = keys[i, :, : last + 1].double(), values[i, :, : last + 1].double()
        weights = torch.softmax(q[i].double() @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        rows.append((weights @ v).reshape(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("batch", "kv_heads", "group", "head_dim", "max_len"),
    [
        (1, 1, 1, 32, 64),
        (3, 2, 3, 32, 192),
        (2, 3, 7, 48, 128),
        (1, 2, 17, 16, 64),
        (2, 1, 2, 16, 67 * 64),
    ],
)
def test_the_same_as_attention_over_the_columns_that_are_reached(
    dtype: torch.dtype, batch: int, kv_heads: int, group: int, head_dim: int, max_len: int
) -> None:
    generator = torch.Generator().manual_seed(batch + group)
    q, keys, values = (
        torch.randn(batch, kv_heads, n, head_dim, generator=generator).to(DEVICE, dtype)
        for n in (group, max_len, max_len)
    )
    column = torch.tensor([0, max_len - 1, max_len // 2][-batch:], device=DEVICE)
    for i, last in enumerate(column.tolist()):
        # What lies beyond is never read, not even as 0 * NaN.
        keys[i, :, last + 1 :] = float("nan")
        values[i, :, last + 1 :] = float("nan")
    found = split_attention(q, keys, values, column)
    expected = reference(q, keys, values, column)
    error = torch.linalg.vector_norm(found.double() - expected) / torch.linalg.vector_norm(expected)
    assert found.shape == (batch, kv_heads * group * head_dim)
    assert found.dtype == dtype
    assert error < BOUND[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_one_piece_needs_no_second_kernel(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WANTED_PROGRAMS", 1)
    monkeypatch.setattr(module, "_join_kernel", None)
    q, keys, values = (torch.randn(3, 2, n, 32).to(DEVICE, dtype) for n in (3, 192, 192))
    column = torch.tensor([0, 191, 70], device=DEVICE)
    found, expected = split_attention(q, keys, values, column), reference(q, keys, values, column)
    assert torch.linalg.vector_norm(found.double() - expected) < BOUND[dtype] * torch.linalg.vector_norm(
        expected
    )


def test_pieces_fill_the_gpu_and_can_be_joined() -> None:
    assert pieces_of(8, 10) == 10
    assert pieces_of(8, 100) == 33
    assert pieces_of(1, 10_000) == 64
    assert pieces_of(64 * 8, 10) == 1


def test_the_cache_may_be_a_layer_of_a_larger_one_but_not_transposed() -> None:
    storage = torch.randn(2, 3, 2, 64, 32, device=DEVICE)
    keys, values = storage.unbind(0)
    q = torch.randn(3, 2, 2, 32, device=DEVICE)
    column = torch.tensor([5, 63, 20], device=DEVICE)
    assert split_attention(q, keys, values, column).isfinite().all()
    with pytest.raises(ValueError, match="keys has strides"):
        split_attention(q, keys.transpose(2, 3).contiguous().transpose(2, 3), values, column)


def test_q_may_be_part_of_a_row_that_holds_k_and_v_too() -> None:
    rows = torch.randn(3, 2 * 3 * 32 + 128, device=DEVICE)
    q = rows[:, : 2 * 3 * 32].view(3, 2, 3, 32)
    keys, values = torch.randn(2, 3, 2, 64, 32, device=DEVICE).unbind(0)
    column = torch.tensor([5, 63, 20], device=DEVICE)
    assert q.stride(0) == rows.shape[1]
    found = split_attention(q, keys, values, column)
    assert torch.equal(found, split_attention(q.contiguous(), keys, values, column))
    with pytest.raises(ValueError, match="q has strides"):
        split_attention(q.transpose(1, 2).contiguous().transpose(1, 2), keys, values, column)


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_a_gpu_takes_it_for_hops(batch: int) -> None:
    q = torch.randn(batch, 8, 4, 128, device="cuda", dtype=torch.bfloat16)
    keys, values = (torch.randn(batch, 8, 576, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    column = torch.randint(0, 576, (batch,), device="cuda")
    mask = torch.zeros(batch, 1, 1, 576, device="cuda", dtype=torch.bfloat16)
    found = hop_attention(q, keys, values, mask, column).double()
    expected = reference(q, keys, values, column)
    assert (
        torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
        < BOUND[torch.bfloat16]
    )
