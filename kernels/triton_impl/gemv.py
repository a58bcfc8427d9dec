"""``x @ w.T`` for one or two rows of x, with native weights or a byte per code: the weight is read once.

A program takes ``block_n`` rows of w and walks along k. Every thread multiplies and adds in fp32, and the threads' sums
are added in an order that the sizes fix, so results repeat bit for bit; nothing is split along k, so there is no second
kernel. On Hopper the next kernel may start early, and in a captured graph the first tile of the weight is asked for
before the kernel ahead has ended.

``NULL`` reads the same bytes in the same order and multiplies as often, but takes four codes at once for one fp32.

Traffic: w, its scales and y once; x once from memory, then from the caches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kernels.ranges import RangeHook
from kernels.triton_impl.byte_words import CODING_FP8, CODING_INT8, CODING_NATIVE, levels_of_words
from kernels.triton_impl.decode import IS_INTERPRETED, round_to
from kernels.triton_impl.gemv_config import MOST_ROWS, GemvConfig, configuration_for
from kernels.triton_impl.layer_ops import can_depend, launch_options, start_next, wait_for_previous

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _weights(tiles, start, columns, has_row, k, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr):
    """A tile of w; what lies outside of it is 0."""
    if EVEN_N and EVEN_K:
        tile = tl.load(tiles + start, eviction_policy="evict_first")
    elif EVEN_N:
        mask = start + columns[None, :] < k
        tile = tl.load(tiles + start, mask=mask, other=0, eviction_policy="evict_first")
    else:
        mask = has_row & (start + columns[None, :] < k)
        tile = tl.load(tiles + start, mask=mask, other=0, eviction_policy="evict_first")
    return tile


@triton.jit
def _widened(tile, CODING: tl.constexpr, NULL: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """A tile of native weights, or of words of four codes, as fp32 [BLOCK_N, BLOCK_K]."""
    if CODING == CODING_NATIVE:
        wide = tile.to(tl.float32)
    else:
        first, second, third, fourth = levels_of_words(tile, CODING, NULL)
        wide = tl.join(tl.join(first, third), tl.join(second, fourth))
        wide = tl.reshape(wide, (BLOCK_N, BLOCK_K))
    return wide


@triton.jit
def _inputs(x_ptr, k, EVEN_K: tl.constexpr, BLOCK_K: tl.constexpr, FOLD: tl.constexpr):
    """BLOCK_K values of x, each in the thread that holds its column of the weight."""
    if FOLD == 16:
        # 16 of them take two loads, which together are arranged as one load of 16 bytes of codes.
        columns = tl.arange(0, BLOCK_K // 16)[:, None] * 16 + tl.arange(0, 8)[None, :]
        if EVEN_K:
            low, high = tl.load(x_ptr + columns), tl.load(x_ptr + columns + 8)
        else:
            low = tl.load(x_ptr + columns, mask=columns < k, other=0.0)
            high = tl.load(x_ptr + columns + 8, mask=columns + 8 < k, other=0.0)
        x = tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), (BLOCK_K,))
    else:
        columns = tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + columns) if EVEN_K else tl.load(x_ptr + columns, mask=columns < k, other=0.0)
    return x


@triton.jit
def _products(
    wide, x_ptr, k, EVEN_K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, FOLD: tl.constexpr
):  # fmt: skip
    """One row of x times a tile; FOLD neighbours, which one thread holds, are added up."""
    x = _inputs(x_ptr, k, EVEN_K, BLOCK_K, FOLD)
    products = wide * x.to(tl.float32)[None, :]
    if FOLD > 1:
        products = tl.sum(tl.reshape(products, (BLOCK_N, BLOCK_K // FOLD, FOLD)), 2)
    return products


@triton.jit
def _gemv_kernel(
    x_ptr,
    w_ptr,
    scale_ptr,
    y_ptr,
    n,
    k,
    x_stride,
    w_stride,
    CODING: tl.constexpr,
    NULL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FOLD: tl.constexpr,
    AHEAD: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
    EARLY: tl.constexpr,
):
    """BLOCK_N columns of y for all ROWS rows; with AHEAD a tile is asked for while the one before is multiplied.

    Codes are read as words of four: w_ptr points to words and w_stride counts them, while k counts codes.
    """
    PER_LOAD: tl.constexpr = 1 if CODING == CODING_NATIVE else 4
    LOADS: tl.constexpr = BLOCK_K // PER_LOAD
    start_next(DEPENDENT)
    if not EARLY:
        wait_for_previous(DEPENDENT)
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    loads = tl.arange(0, LOADS)
    per_row = k // PER_LOAD
    has_row = outputs[:, None] < n
    tiles = w_ptr + outputs[:, None].to(tl.int64) * w_stride + loads[None, :]
    if AHEAD:
        coming = _weights(tiles, 0, loads, has_row, per_row, EVEN_N, EVEN_K)
    if CODING != CODING_NATIVE:
        scale = tl.load(scale_ptr + outputs, mask=outputs < n, other=0.0)
    if EARLY:
        wait_for_previous(DEPENDENT)
    sums0 = tl.zeros((BLOCK_N, BLOCK_K // FOLD), tl.float32)
    if ROWS > 1:
        sums1 = tl.zeros((BLOCK_N, BLOCK_K // FOLD), tl.float32)
    if ROWS > 2:
        sums2 = tl.zeros((BLOCK_N, BLOCK_K // FOLD), tl.float32)
    if ROWS > 3:
        sums3 = tl.zeros((BLOCK_N, BLOCK_K // FOLD), tl.float32)
    for start in range(0, k, BLOCK_K):
        if AHEAD:
            tile = coming
            # Beyond the last column there is nothing to load, even where the tiles fit evenly.
            coming = _weights(tiles, start // PER_LOAD + LOADS, loads, has_row, per_row, EVEN_N, False)
        else:
            tile = _weights(tiles, start // PER_LOAD, loads, has_row, per_row, EVEN_N, EVEN_K)
        wide = _widened(tile, CODING, NULL, BLOCK_N, BLOCK_K)
        x = x_ptr + start
        left = k - start
        sums0 += _products(wide, x, left, EVEN_K, BLOCK_N, BLOCK_K, FOLD)
        if ROWS > 1:
            sums1 += _products(wide, x + x_stride, left, EVEN_K, BLOCK_N, BLOCK_K, FOLD)
        if ROWS > 2:
            sums2 += _products(wide, x + 2 * x_stride, left, EVEN_K, BLOCK_N, BLOCK_K, FOLD)
        if ROWS > 3:
            sums3 += _products(wide, x + 3 * x_stride, left, EVEN_K, BLOCK_N, BLOCK_K, FOLD)
    DTYPE: tl.constexpr = y_ptr.dtype.element_ty
    result = tl.sum(sums0, 1)
    if CODING != CODING_NATIVE:
        result *= scale
    tl.store(y_ptr + outputs, round_to(result, DTYPE), mask=outputs < n)
    if ROWS > 1:
        tl.store(y_ptr + n + outputs, round_to(tl.sum(sums1, 1), DTYPE), mask=outputs < n)
    if ROWS > 2:
        tl.store(y_ptr + 2 * n + outputs, round_to(tl.sum(sums2, 1), DTYPE), mask=outputs < n)
    if ROWS > 3:
        tl.store(y_ptr + 3 * n + outputs, round_to(tl.sum(sums3, 1), DTYPE), mask=outputs < n)


def native_linear(x: Tensor, w: Tensor) -> Tensor:
    """Compute ``x @ w.T``: one kernel for up to ``MOST_ROWS`` rows, torch's ``F.linear`` beyond.

    In a captured graph w is read before the kernel ahead has ended: that kernel must not write w.

    Args:
        x: [..., k], bf16, fp16 or fp32, with adjacent columns; leading dimensions are the rows.
        w: [n, k] in x's dtype, with adjacent columns.

    Returns:
        [..., n] in x's dtype, accumulated in fp32 in an order that depends on the sizes alone.

    Raises:
        ValueError: shapes, strides, dtypes or devices do not fit, or they are not CUDA outside Triton's interpreter.
    """
    _check(x, w)
    k = x.shape[-1]
    rows = x.numel() // k if k else 0
    if not 1 <= rows <= MOST_ROWS or w.shape[0] == 0:
        return F.linear(x, w)
    config = configuration_for(rows, w.shape[0], k)
    return run(x.reshape(rows, k), w, config).view(*x.shape[:-1], w.shape[0])


def run(x: Tensor, w: Tensor, config: GemvConfig) -> Tensor:
    """Launch the kernel as configured; arguments as in ``native_linear``, x [m, k] with 1 to ``MOST_ROWS`` rows."""
    # Threads hold neighbours only where they load 16 bytes at once.
    is_aligned = (w.stride(0) * w.element_size()) % 16 == 0 and w.data_ptr() % 16 == 0
    fold = 16 // w.element_size() if config.is_folded and is_aligned else 1
    return _launch(x, w, w, config, coding=CODING_NATIVE.value, is_null=False, fold=fold)


def run_bytes(x: Tensor, codes: Tensor, scales: Tensor, config: GemvConfig, *, is_null: bool) -> Tensor:
    """Multiply one row of x by a weight of one byte per code.

    Args:
        x: [1, k], bf16 or fp16, with adjacent columns.
        codes: int8 or float8_e4m3fn [n, k] without gaps, k a multiple of 16.
        scales: fp32, n of them, what a row's levels are multiplied by.
        config: how the call is cut up.
        is_null: reinterpret the codes instead of decoding them.

    Returns:
        [1, n] in x's dtype, accumulated in fp32; of meaningless finite numbers with ``is_null``.

    Raises:
        ValueError: x has more rows, or k is not a multiple of 16.
    """
    k = codes.shape[1]
    if x.shape[0] != 1 or k % 16:
        raise ValueError(
            f"x has shape {list(x.shape)}, the kernel takes one row and a multiple of 16 columns"
        )
    coding = CODING_INT8 if codes.dtype == torch.int8 else CODING_FP8
    return _launch(x, codes.view(torch.int32), scales, config, coding=coding.value, is_null=is_null, fold=16)


def _launch(
    x: Tensor, w: Tensor, scales: Tensor, config: GemvConfig, *, coding: int, is_null: bool, fold: int
) -> Tensor:
    """Launch the kernel; ``w`` [n, k], or of codes [n, k / 4] words; each thread holds ``fold`` neighbours."""
    m, k = x.shape
    n = w.shape[0]
    y = x.new_empty((m, n))
    dependent = can_depend(x.device)
    _gemv_kernel[(triton.cdiv(n, config.block_n),)](
        x,
        w,
        scales,
        y,
        n,
        k,
        x.stride(0),
        w.stride(0),
        CODING=coding,
        NULL=is_null,
        ROWS=m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        FOLD=fold,
        AHEAD=config.is_ahead,
        EVEN_N=n % config.block_n == 0,
        EVEN_K=k % config.block_k == 0,
        DEPENDENT=dependent,
        # One by one, the kernel ahead may be the one that makes w; launches are then too far apart to gain from it.
        EARLY=config.is_ahead and dependent and torch.cuda.is_current_stream_capturing(),
        num_warps=config.warps,
        **launch_options(dependent),
    )
    return y


def linear(x: Tensor, w: Tensor, ranges: RangeHook) -> Tensor:
    """``native_linear`` as the registry calls it."""
    return native_linear(x, w)


def describe(w: Tensor, m: int | None, dtype: torch.dtype | None) -> str:
    """What runs with m rows, for a record; both ways where m is not known."""
    if m is None or not 1 <= m <= MOST_ROWS:
        return f"gemv up to {MOST_ROWS} rows, torch beyond"
    n, k = w.shape
    return f"gemv {configuration_for(m, n, k)}"


def _check(x: Tensor, w: Tensor) -> None:
    if w.dim() != 2 or not x.dim() or x.shape[-1] != w.shape[1]:
        raise ValueError(f"x has shape {list(x.shape)}, w has shape {list(w.shape)} instead of [n, k]")
    if x.dtype != w.dtype:
        raise ValueError(f"x has dtype {x.dtype}, w has {w.dtype}")
    if x.device != w.device:
        raise ValueError(f"x is on {x.device}, w on {w.device}")
    if x.dtype not in DTYPES:
        known = ", ".join(str(dtype) for dtype in DTYPES)
        raise ValueError(f"x has dtype {x.dtype}, the gemv kernel takes {known}")
    for name, tensor in (("x", x), ("w", w)):
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name} of shape {list(tensor.shape)} has strides {list(tensor.stride())}, its columns must be 1 "
                "apart"
            )
    if x.device.type != "cuda" and not IS_INTERPRETED.value:
        raise ValueError(f"the gemv kernel runs on cuda, x is on {x.device}")
