"""Attention of one new token per sequence to the cache on a GPU: how ``attention_kernel`` is cut and launched.

Torch's attention takes a mask only in its memory-efficient kernel, which is not made to split one sequence's cache over
a GPU and reads dead columns too; ``docs/kernels.md`` has the times of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor

from kernels.triton_impl.attention_kernel import attention_kernel
from kernels.triton_impl.decode import IS_INTERPRETED
from kernels.triton_impl.layer_ops import can_depend, launch_options

_MULTIPROCESSORS = 132
"""Of an H200, for devices that do not say."""
_BLOCK_BYTES = 2**16
"""Of a block of keys and values; two of them are in a multiprocessor's shared memory."""
_MOST_PIECES = 32
"""The last program takes longer to add more of them up than they save."""
# The interpreter keeps bf16 as bare 16-bit integers, and multiplies them as such.
_WIDENS = bool(IS_INTERPRETED.value)
_LEAST_ROWS, _LEAST_DEPTH = 16, 16
"""Rows of the smallest matrix instruction, and products that it adds up."""


@dataclass(frozen=True)
class Tiling:
    """How a launch is cut.

    Attributes:
        block: columns that are read in one go.
        num_warps: of a program.
        num_stages: the block that is computed with and those on their way.
        each: programs that a multiprocessor holds.
    """

    block: int
    num_warps: int
    num_stages: int
    each: int


TILING = Tiling(block=64, num_warps=4, num_stages=2, each=4)
"""The fastest of whole hops on an H200 with 1 to 128 sequences, or within 2 % of it (docs/kernels.md)."""


def split_attention(q: Tensor, keys: Tensor, values: Tensor, column: Tensor, arrivals: Tensor) -> Tensor:
    """Attend to the columns of the cache up to each sequence's own.

    Args:
        q: [batch, kv_heads, heads / kv_heads, head_dim], contiguous but for the first stride: q may be part of a row
            that holds k and v too.
        keys: [batch, kv_heads, max_len, head_dim], contiguous, of q's dtype.
        values: likewise.
        column: int64 [batch], the last column that each sequence reads.
        arrivals: int32 [batch * kv_heads], zeros, which they are again afterwards.

    Returns:
        [batch, heads * head_dim].

    Raises:
        ValueError: shapes, strides or dtypes that the kernel does not read.
    """
    if not q[0].is_contiguous():
        raise ValueError(f"q has strides {list(q.stride())} for shape {list(q.shape)}")
    if (q.shape[0], q.shape[1], q.shape[3]) != (keys.shape[0], keys.shape[1], keys.shape[3]):
        raise ValueError(f"q of shape {list(q.shape)} does not fit keys of shape {list(keys.shape)}")
    return _attend(q, q.shape[2], keys, values, column, arrivals)


def attend_heads(
    qkv: Tensor,
    bias: Tensor | None,
    head_norm: Tensor | None,
    epsilon: float,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    column: Tensor,
    arrivals: Tensor,
    *,
    is_settled: bool = False,
) -> Tensor:
    """Make heads of the merged product, write keys and values into the cache, and attend to it.

    Args:
        qkv: [batch, (heads + 2 * kv_heads) * head_dim], rows contiguous.
        bias: of the merged linear, or None.
        head_norm: norm weights of the query and key heads, [heads + kv_heads, head_dim], or None.
        epsilon: of the head norm.
        cos: cosines at each sequence's position, [batch, head_dim/2], contiguous.
        sin: likewise.
        keys: the layer's cache [batch, kv_heads, max_len, head_dim], contiguous, written at ``column``.
        values: likewise.
        column: int64 [batch], the last column that each sequence reads.
        arrivals: int32 [batch * kv_heads], zeros, which they are again afterwards.
        is_settled: ``column`` and the columns before it are read while kernels ahead may still run. Right where a
            kernel that takes no part in dependent launch came after whatever wrote them, as between two hops.

    Returns:
        [batch, heads * head_dim].

    Raises:
        ValueError: shapes, strides or dtypes that the kernel does not read.
    """
    batch, kv_heads, _, head_dim = keys.shape
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    if qkv.shape[0] != batch or qkv.shape[1] % head_dim or heads < kv_heads or heads % kv_heads:
        raise ValueError(f"qkv of shape {list(qkv.shape)} does not fit keys of shape {list(keys.shape)}")
    if qkv.stride(1) != 1:
        raise ValueError(f"qkv has strides {list(qkv.stride())} for shape {list(qkv.shape)}")
    turns = (batch, head_dim // 2)
    wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {"cos": (cos, turns), "sin": (sin, turns)}
    if head_norm is not None:
        wanted["head_norm"] = (head_norm, (heads + kv_heads, head_dim))
    if bias is not None:
        wanted["bias"] = (bias, (qkv.shape[1],))
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape or not tensor.is_contiguous():
            raise ValueError(
                f"{name} has shape {list(tensor.shape)} and strides {list(tensor.stride())}, "
                f"the kernel reads a contiguous {list(shape)}"
            )
    parts = (bias, head_norm, cos, sin)
    return _attend(qkv, heads // kv_heads, keys, values, column, arrivals, parts, epsilon, is_settled)


def _attend(
    q: Tensor,
    group: int,
    keys: Tensor,
    values: Tensor,
    column: Tensor,
    arrivals: Tensor,
    parts: tuple[Tensor | None, Tensor | None, Tensor, Tensor] | None = None,
    epsilon: float = 0.0,
    is_settled: bool = False,
) -> Tensor:
    batch, kv_heads, max_len, head_dim = keys.shape
    for name, tensor in (("keys", keys), ("values", values)):
        if not tensor.is_contiguous() or tensor.shape != keys.shape:
            raise ValueError(f"{name} has strides {list(tensor.stride())} for shape {list(tensor.shape)}")
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim} is not divisible by 2")
    if not q.dtype == keys.dtype == values.dtype:
        raise ValueError(f"q is {q.dtype}, keys and values are {keys.dtype} and {values.dtype}")
    programs = batch * kv_heads
    if arrivals.dtype != torch.int32 or arrivals.shape != (programs,):
        raise ValueError(
            f"arrivals is {arrivals.dtype} {list(arrivals.shape)}, the kernel counts in torch.int32 [{programs}]"
        )
    multiprocessors = _multiprocessors(q.device)
    block = block_of(TILING.block, head_dim * q.element_size())
    blocks = triton.cdiv(max_len, block)
    pieces = pieces_of(programs, blocks, TILING.each * multiprocessors)
    heads = programs * group
    out = q.new_empty((batch, kv_heads * group * head_dim))
    sums, tops, totals = out, out, out
    if pieces > 1:
        sums = q.new_empty((heads, pieces, head_dim), dtype=torch.float32)
        tops, totals = q.new_empty((2, heads, pieces), dtype=torch.float32).unbind(0)
    half_width = max(_LEAST_DEPTH, triton.next_power_of_2(head_dim // 2))
    group_rows = triton.next_power_of_2(group)
    padded_pieces = triton.next_power_of_2(pieces)
    bias, head_norm, cos, sin = (None, None, q, q) if parts is None else parts
    dependent = can_depend(q.device)
    attention_kernel[(programs, pieces)](
        q,
        q if bias is None else bias,
        q if head_norm is None else head_norm,
        cos,
        sin,
        keys,
        values,
        column,
        arrivals,
        sums,
        tops,
        totals,
        out,
        q.stride(0),
        max_len,
        kv_heads,
        # The softmax runs in powers of two: log2(e) goes into the scale.
        head_dim**-0.5 * math.log2(math.e),
        epsilon,
        GROUP=group,
        GROUP_ROWS=group_rows,
        ROWS=max(_LEAST_ROWS, group_rows),
        HALF=head_dim // 2,
        HALF_WIDTH=half_width,
        BLOCK=block,
        PIECES=padded_pieces,
        MAKES_HEADS=parts is not None,
        HAS_BIAS=bias is not None,
        HAS_NORM=head_norm is not None,
        HAS_ONE_BLOCK=pieces == blocks,
        IS_SETTLED=is_settled,
        WIDENS=_WIDENS,
        DEPENDENT=dependent,
        num_warps=TILING.num_warps,
        num_stages=TILING.num_stages,
        **launch_options(dependent),
    )
    return out


def block_of(most: int, head_bytes: int) -> int:
    """Columns of a block: ``most``, halved until its keys and values leave room for a second one.

    Args:
        most: columns where heads are narrow enough.
        head_bytes: of one key.
    """
    while most > _LEAST_DEPTH and 2 * most * head_bytes > _BLOCK_BYTES:
        most //= 2
    return most


def pieces_of(programs: int, blocks: int, room: int) -> int:
    """Pieces of the cache: as many as the GPU holds at once, no more than there are blocks or can be joined.

    Args:
        programs: key heads of the batch.
        blocks: blocks of columns in the cache.
        room: programs that the GPU holds.
    """
    return max(1, min(blocks, _MOST_PIECES, room // programs))


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
