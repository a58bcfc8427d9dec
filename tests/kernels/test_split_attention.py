"""Split attention against torch's, in the interpreter without a GPU: odd groups, ragged columns, dead pieces."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from kernels.triton_impl import split_attention as module
from kernels.triton_impl.attention_kernel import attention_kernel
from kernels.triton_impl.split_attention import Tiling, block_of, pieces_of, split_attention
from reasoning.engine.attention import hop_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Products of two roundings in q·k and again in weights·v, sums over up to 4,288 columns: 3 for cancellation.
BOUND = {torch.float32: 3 * 4288**0.5 * 2.0**-24, torch.bfloat16: 3 * 2.0**-8}


def counters(q: torch.Tensor) -> torch.Tensor:
    return torch.zeros(q.shape[0] * q.shape[1], dtype=torch.int32, device=q.device)


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
    arrivals = counters(q)
    found = split_attention(q, keys, values, column, arrivals)
    assert not arrivals.any()
    expected = reference(q, keys, values, column)
    error = torch.linalg.vector_norm(found.double() - expected) / torch.linalg.vector_norm(expected)
    assert found.shape == (batch, kv_heads * group * head_dim)
    assert found.dtype == dtype
    assert error < BOUND[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("pieces", "block"), [(1, 64), (2, 64), (4, 16), (1, 32), (6, 32)])
def test_the_same_however_it_is_cut(
    dtype: torch.dtype, pieces: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "pieces_of", lambda *sizes: pieces)
    monkeypatch.setattr(module, "TILING", Tiling(block, 4, 2, 4))
    q, keys, values = (torch.randn(3, 2, n, 32).to(DEVICE, dtype) for n in (3, 192, 192))
    column, arrivals = torch.tensor([0, 191, 70], device=DEVICE), counters(q)
    if pieces == 1:
        # One piece needs neither a second pass nor anybody to count.
        arrivals.fill_(7)
    found, expected = split_attention(q, keys, values, column, arrivals), reference(q, keys, values, column)
    assert torch.linalg.vector_norm(found.double() - expected) < BOUND[dtype] * torch.linalg.vector_norm(
        expected
    )
    assert bool((arrivals == (7 if pieces == 1 else 0)).all())


@pytest.mark.parametrize("last", [0, 31, 32, 100, 191, 383])
def test_pieces_have_the_same_work_however_much_of_the_cache_is_filled(
    last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, pieces = 32, 3
    launched = {}

    class Launch:
        def __getitem__(self, grid: tuple[int, int]) -> Any:
            def call(*arguments: Any, **options: Any) -> None:
                launched.update(zip(attention_kernel.arg_names, arguments, strict=False), grid=grid)
                launched["totals_ptr"].zero_()
                attention_kernel[grid](*arguments, **options)

            return call

    monkeypatch.setattr(module, "attention_kernel", Launch())
    monkeypatch.setattr(module, "pieces_of", lambda *sizes: pieces)
    monkeypatch.setattr(module, "TILING", Tiling(block, 4, 2, 4))
    q = torch.zeros(1, 1, 1, 16, device=DEVICE)
    keys, values = torch.randn(2, 1, 1, 12 * block, 16, device=DEVICE).unbind(0)
    split_attention(q, keys, values, torch.tensor([last], device=DEVICE), counters(q))
    assert launched["grid"] == (1, pieces)
    # Scores are 0, so a piece's weights add up to its columns.
    columns = launched["totals_ptr"].flatten().tolist()
    assert sum(columns) == last + 1
    assert max(columns) - min(columns) <= block


def test_pieces_fill_the_gpu_and_can_be_joined() -> None:
    assert pieces_of(8, 10, 528) == 10
    assert pieces_of(8, 100, 528) == 32
    assert pieces_of(8 * 8, 100, 528) == 8
    assert pieces_of(8 * 8, 100, 256) == 4
    # One more each, and some would begin when others have ended.
    assert pieces_of(24 * 8, 100, 528) == 2
    assert pieces_of(64 * 8, 10, 528) == pieces_of(128 * 8, 10, 528) == 1


def test_two_blocks_fit_the_shared_memory() -> None:
    assert [block_of(64, width * 2) for width in (64, 128, 256, 512)] == [64, 64, 64, 32]
    assert [block_of(64, width * 4) for width in (64, 128, 256, 512)] == [64, 64, 32, 16]
    # No fewer columns than the matrix instruction adds up.
    assert block_of(64, 2**16) == 16


def test_the_cache_may_be_a_layer_of_a_larger_one_but_not_transposed() -> None:
    storage = torch.randn(2, 3, 2, 64, 32, device=DEVICE)
    keys, values = storage.unbind(0)
    q = torch.randn(3, 2, 2, 32, device=DEVICE)
    column = torch.tensor([5, 63, 20], device=DEVICE)
    assert split_attention(q, keys, values, column, counters(q)).isfinite().all()
    with pytest.raises(ValueError, match="keys has strides"):
        split_attention(q, keys.transpose(2, 3).contiguous().transpose(2, 3), values, column, counters(q))


def test_q_may_be_part_of_a_row_that_holds_k_and_v_too() -> None:
    rows = torch.randn(3, 2 * 3 * 32 + 128, device=DEVICE)
    q = rows[:, : 2 * 3 * 32].view(3, 2, 3, 32)
    keys, values = torch.randn(2, 3, 2, 64, 32, device=DEVICE).unbind(0)
    column = torch.tensor([5, 63, 20], device=DEVICE)
    assert q.stride(0) == rows.shape[1]
    found = split_attention(q, keys, values, column, counters(q))
    assert torch.equal(found, split_attention(q.contiguous(), keys, values, column, counters(q)))
    with pytest.raises(ValueError, match="q has strides"):
        split_attention(q.transpose(1, 2).contiguous().transpose(1, 2), keys, values, column, counters(q))


def test_what_the_kernel_does_not_read_is_refused() -> None:
    q, keys, values = (torch.zeros(2, 3, n, 32, device=DEVICE) for n in (2, 64, 64))
    column = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match=r"arrivals is torch.int64 \[6\], .* torch.int32 \[6\]"):
        split_attention(q, keys, values, column, counters(q).long())
    with pytest.raises(ValueError, match=r"arrivals is torch.int32 \[5\], .* \[6\]"):
        split_attention(q, keys, values, column, counters(q)[:5])
    with pytest.raises(ValueError, match="q is torch.float32, keys and values are torch.float16"):
        split_attention(q, keys.half(), values.half(), column, counters(q))
    with pytest.raises(ValueError, match=r"q of shape \[2, 3, 2, 32\] does not fit keys of shape \[2, 2, 64"):
        split_attention(q, keys[:, :2], values[:, :2], column, counters(q))
    with pytest.raises(ValueError, match="head_dim=31 is not divisible by 2"):
        odd = [t[..., :31].contiguous() for t in (q, keys, values)]
        split_attention(*odd, column, counters(q))


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_a_gpu_takes_it_for_hops(batch: int) -> None:
    q = torch.randn(batch, 8, 4, 128, device="cuda", dtype=torch.bfloat16)
    keys, values = (torch.randn(batch, 8, 576, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    column = torch.randint(0, 576, (batch,), device="cuda")
    mask = torch.zeros(batch, 1, 1, 576, device="cuda", dtype=torch.bfloat16)
    found = hop_attention(q, keys, values, mask, column, counters(q)).double()
    expected = reference(q, keys, values, column)
    assert (
        torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
        < BOUND[torch.bfloat16]
    )
