"""Attention: of a prompt to itself, and of one token per sequence to the cache."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def prompt_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of prompts that start in column 0.

    Shorter prompts are padded on the right, where no earlier token looks, so that no mask is needed.

    Args:
        q: [batch, width, heads, head_dim].
        k: [batch, width, kv_heads, head_dim].
        v: likewise.

    Returns:
        [batch * width, heads * head_dim].
    """
    batch, width, heads = q.shape[:3]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        is_causal=True,
        enable_gqa=heads != k.shape[2],
    )
    return out.transpose(1, 2).reshape(batch * width, -1)


def hop_attention(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, column: Tensor, arrivals: Tensor
) -> Tensor:
    """Attention of one new token per sequence to the cache.

    On a GPU by our own kernel, ``kernels.triton_impl.split_attention``, which says why. Elsewhere through torch: the
    query heads that share a key head are given as rows of one matrix, so that the keys are read once and nothing is
    repeated.

    Args:
        q: [batch, kv_heads, heads / kv_heads, head_dim].
        keys: [batch, kv_heads, max_len, head_dim].
        values: likewise.
        mask: added to the scores, [batch, 1, 1, max_len].
        column: int64 [batch], the last column that each sequence reads; says the same as ``mask``.
        arrivals: int32 [batch * kv_heads], zeros before and after, for the GPU's kernel.

    Returns:
        [batch, heads * head_dim].
    """
    if q.is_cuda:
        # Imported late: without a GPU there may be no triton.
        from kernels.triton_impl.split_attention import split_attention

        return split_attention(q, keys, values, column, arrivals)
    rows = mask.expand(-1, q.shape[1], q.shape[2], -1)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=rows).reshape(q.shape[0], -1)
