"""What happens between the linears, as functions of tensors alone: norms, rotation, cache, activation, next tokens.

The functions are written in the order and the roundings of the Hugging Face models. The linears stay outside, so a
compiler makes one kernel or two of each function, once for all layers and all weight formats.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reasoning.engine.attention import hop_attention
from reasoning.engine.sampling import argmax

_MOST_COMPILED_SHAPES = 256
"""Batch sizes and models that one process may compile for."""


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last dimension, in fp32 up to the weight.

    Args:
        x: [..., k].
        weight: broadcast against x.
        epsilon: added to the mean square.
    """
    wide = x.float()
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * normal.to(x.dtype)


def add_norm(
    residual: Tensor, update: Tensor, bias: Tensor | None, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Add a block's output to the residual stream, and normalize it for the next block.

    Args:
        residual: [rows, hidden].
        update: [rows, hidden], without the bias of the linear that it comes from.
        bias: [hidden] or None.
        weight: of the next norm, [hidden].
        epsilon: of the next norm.

    Returns:
        The new residual and its norm.
    """
    if bias is not None:
        update = update + bias
    residual = residual + update
    return residual, rms_norm(residual, weight, epsilon)


def silu_times(gate_up: Tensor, bias: Tensor | None) -> Tensor:
    """``silu(gate) * up`` of both in one tensor [rows, 2 * wide]; returns [rows, wide]."""
    if bias is not None:
        gate_up = gate_up + bias
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def heads_of(
    qkv: Tensor,
    bias: Tensor | None,
    head_norm: Tensor | None,
    epsilon: float,
    cos: Tensor,
    sin: Tensor,
    kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the merged product into heads, normalize and rotate queries and keys.

    Args:
        qkv: [rows, (heads + 2 * kv_heads) * head_dim].
        bias: of the merged linear, or None.
        head_norm: norm weights of the query and key heads, [heads + kv_heads, head_dim], or None.
        epsilon: of the head norm.
        cos: cosines at each row's position, [rows, head_dim/2].
        sin: likewise.
        kv_heads: key and value heads.

    Returns:
        q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim].
    """
    if bias is not None:
        qkv = qkv + bias
    all_heads = qkv.view(qkv.shape[0], -1, 2 * cos.shape[-1])
    # Queries and keys together: one reduction for both norms.
    turned, v = all_heads[:, :-kv_heads], all_heads[:, -kv_heads:]
    if head_norm is not None:
        turned = rms_norm(turned, head_norm, epsilon)
    first, second = turned.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned[:, :-kv_heads], turned[:, -kv_heads:], v


def hop_heads(
    qkv: Tensor,
    bias: Tensor | None,
    head_norm: Tensor | None,
    epsilon: float,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    column: Tensor,
) -> Tensor:
    """:func:`heads_of` for one new token per sequence; keys and values go into the cache.

    Args:
        qkv: [batch, (heads + 2 * kv_heads) * head_dim].
        bias: of the merged linear, or None.
        head_norm: as in :func:`heads_of`.
        epsilon: of the head norm.
        cos: cosines at each sequence's position, [batch, head_dim/2].
        sin: likewise.
        keys: the layer's cache [batch, kv_heads, max_len, head_dim], written at ``column``.
        values: likewise.
        column: int64 [batch].

    Returns:
        q [batch, kv_heads, heads / kv_heads, head_dim].
    """
    batch, kv_heads = keys.shape[:2]
    q, k, v = heads_of(qkv, bias, head_norm, epsilon, cos, sin, kv_heads)
    place = (
        torch.arange(batch, device=column.device)[:, None],
        torch.arange(kv_heads, device=column.device)[None, :],
        column[:, None],
    )
    keys.index_put_(place, k)
    values.index_put_(place, v)
    return q.reshape(batch, kv_heads, -1, q.shape[-1])


def attend(
    qkv: Tensor,
    bias: Tensor | None,
    head_norm: Tensor | None,
    epsilon: float,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    keys: Tensor,
    values: Tensor,
    column: Tensor,
    arrivals: Tensor,
    *,
    heads: Callable[..., Tensor] = hop_heads,
) -> Tensor:
    """From the merged product of one new token per sequence to what it attends to.

    Args:
        qkv: as in :func:`hop_heads`, like all that is not named here.
        bias: likewise.
        head_norm: likewise.
        epsilon: likewise.
        cos: likewise.
        sin: likewise.
        mask: added to the scores, [batch, 1, 1, max_len].
        keys: likewise, written at ``column``.
        values: likewise.
        column: likewise.
        arrivals: int32 [batch * kv_heads], zeros before and after.
        heads: :func:`hop_heads`, as it is or compiled.

    Returns:
        [batch, heads * head_dim].
    """
    q = heads(qkv, bias, head_norm, epsilon, cos, sin, keys, values, column)
    return hop_attention(q, keys, values, mask, column, arrivals)


def begin_hop(
    tokens: Tensor, column: Tensor, embedding: Tensor, cosines: Tensor, sines: Tensor, max_len: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embed the tokens of a hop and look up what all layers share.

    Args:
        tokens: int64 [batch].
        column: int64 [batch], the cache column (and position) of each token.
        embedding: [vocabulary, hidden].
        cosines: [max_len, head_dim/2].
        sines: likewise.
        max_len: columns of the cache.

    Returns:
        x [batch, hidden]; cos and sin [batch, head_dim/2]; what attention adds to the scores, [batch, 1, 1, max_len]:
        0 up to ``column``, minus infinity beyond.
    """
    reached = torch.arange(max_len, device=column.device)[None, :] <= column[:, None]
    zero = torch.zeros((), dtype=embedding.dtype, device=column.device)
    mask = torch.where(reached, zero, float("-inf"))[:, None, None, :]
    return F.embedding(tokens, embedding), cosines[column], sines[column], mask


def accept(
    sampled: Tensor,
    tokens: Tensor,
    column: Tensor,
    done: Tensor,
    position: Tensor,
    remaining: Tensor,
    chosen: Tensor,
    forced: Tensor,
    is_forced: Tensor,
    limits: Tensor,
    end_tokens: Tensor,
    padding: Tensor,
) -> None:
    """Take the next token of each sequence and note which sequences end with it; see ``BatchState`` for the tensors.

    Args:
        sampled: int64 [batch], what the logits say.
        tokens: written: what the next hop reads.
        column: written: advanced for sequences that go on, so that it never leaves the cache.
        done: written.
        position: written: one further.
        remaining: written: sequences that go on.
        chosen: written at ``position``.
        forced: read at ``position`` where ``is_forced``.
        is_forced: bool [1].
        limits: most tokens of each sequence.
        end_tokens: tokens that end a sequence.
        padding: fed to sequences that have ended.
    """
    following = torch.where(is_forced, forced.index_select(1, position)[:, 0], sampled)
    following = torch.where(done, padding, following)
    is_end = (following[:, None] == end_tokens[None, :]).any(1) | (position + 1 >= limits)
    ended = done | is_end
    chosen.index_copy_(1, position, following[:, None])
    tokens.copy_(following)
    column.add_((~ended).to(column.dtype))
    remaining.copy_((~ended).sum(0, keepdim=True))
    position.add_(1)
    done.copy_(ended)


@dataclass(frozen=True)
class LayerMath:
    """The functions of a hop, as they are, compiled or our own kernels.

    ``native_linear(x, w)`` multiplies by every weight that is a plain tensor, whatever the kernel; ``F.linear`` leaves
    those of a native kernel to the kernel.
    """

    begin_hop: Callable[..., Any] = begin_hop
    rms_norm: Callable[..., Any] = rms_norm
    attend: Callable[..., Any] = attend
    add_norm: Callable[..., Any] = add_norm
    silu_times: Callable[..., Any] = silu_times
    accept: Callable[..., Any] = accept
    native_linear: Callable[[Tensor, Tensor], Tensor] = F.linear
    argmax: Callable[[Tensor], Tensor] = argmax


# fullgraph: what cannot be compiled is an error, never a slow path that nobody sees.
_compile_one = partial(torch.compile, fullgraph=True, dynamic=False)


def compiled_layer_math() -> LayerMath:
    """The functions compiled for each batch size that they meet; first calls belong into :func:`room_to_compile`."""
    return LayerMath(
        begin_hop=_compile_one(begin_hop),
        rms_norm=_compile_one(rms_norm),
        attend=partial(attend, heads=_compile_one(hop_heads)),
        add_norm=_compile_one(add_norm),
        silu_times=_compile_one(silu_times),
        accept=_compile_one(accept),
    )


def fused_layer_math(device: torch.device) -> LayerMath:
    """The functions of a hop by our own kernels, but for ``accept``, which is compiled; first calls as above.

    Raises:
        ValueError: the device has no Triton kernels.
    """
    # Imported late: without a GPU there may be no triton.
    from kernels.triton_impl import gemv, hop_ends, layer_ops
    from kernels.triton_impl.decode import IS_INTERPRETED

    is_cuda = device.type == "cuda"
    if not is_cuda and not IS_INTERPRETED.value:
        raise ValueError(f"the fused engine's kernels run on cuda, the model is on {device}")
    return LayerMath(
        begin_hop=hop_ends.begin_hop,
        rms_norm=partial(layer_ops.rms_norm, is_settled=True),
        attend=_attend_in_one_kernel,
        add_norm=partial(layer_ops.add_norm, is_settled=True),
        silu_times=layer_ops.silu_times,
        accept=_compile_one(accept) if is_cuda else accept,
        # Interpreted, a product takes seconds.
        native_linear=gemv.native_linear if is_cuda else F.linear,
        argmax=hop_ends.Argmax(),
    )


def _attend_in_one_kernel(
    qkv: Tensor,
    bias: Tensor | None,
    head_norm: Tensor | None,
    epsilon: float,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    keys: Tensor,
    values: Tensor,
    column: Tensor,
    arrivals: Tensor,
) -> Tensor:
    from kernels.triton_impl.split_attention import attend_heads

    # Settled: between two hops lie begin_hop and accept, whose kernels wait for all before them and let none past.
    return attend_heads(
        qkv, bias, head_norm, epsilon, cos, sin, keys, values, column, arrivals, is_settled=True
    )


def room_to_compile() -> AbstractContextManager[object]:
    """Lets functions be compiled for many batch sizes and models; torch refuses after 8."""
    from torch._dynamo import config

    room: AbstractContextManager[object] = config.patch(
        recompile_limit=_MOST_COMPILED_SHAPES, accumulated_recompile_limit=16 * _MOST_COMPILED_SHAPES
    )
    return room
