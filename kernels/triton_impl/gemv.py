"""``x @ w.T`` for a few rows of x and native weights: the weight is read once, at what memory gives.

A program takes ``block_n`` rows of w and walks along k. Every thread multiplies and adds in fp32, and the threads' sums
are added in an order that the sizes fix, so results repeat bit for bit; nothing is split along k, so there is no second
kernel. On Hopper the next kernel may start early, and in a captured graph the first tile of the weight is asked for
before the kernel ahead has ended.

Traffic: w and y once; x once from memory, then from the caches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kernels.ranges import RangeHook
from kernels.triton_impl.decode import IS_INTERPRETED, round_to
from kernels.triton_impl.layer_ops import can_depend, launch_options, start_next, wait_for_previous

MOST_ROWS = 2
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _weights(tiles, start, columns, has_row, k, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr):
    """A tile of w; what lies outside of it is 0."""
    if EVEN_N and EVEN_K:
        tile = tl.load(tiles + start, eviction_policy="evict_first")
    elif EVEN_N:
        mask = start + columns[None, :] < k
        tile = tl.load(tiles + start, mask=mask, other=0.0, eviction_policy="evict_first")
    else:
        mask = has_row & (start + columns[None, :] < k)
        tile = tl.load(tiles + start, mask=mask, other=0.0, eviction_policy="evict_first")
    return tile


@triton.jit
def _products(
    wide, x_ptr, columns, k, EVEN_K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, FOLD: tl.constexpr
):  # fmt: skip
    """One row of x times a tile; FOLD neighbours, which one thread holds, are added up."""
    x = tl.load(x_ptr + columns) if EVEN_K else tl.load(x_ptr + columns, mask=columns < k, other=0.0)
    products = wide * x.to(tl.float32)[None, :]
    if FOLD > 1:
        products = tl.sum(tl.reshape(products, (BLOCK_N, BLOCK_K // FOLD, FOLD)), 2)
    return products


@triton.jit
def _gemv_kernel(
    x_ptr,
    w_ptr,
    y_ptr,
    n,
    k,
    x_stride,
    w_stride,
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
    """BLOCK_N columns of y for all ROWS rows; with AHEAD a tile is asked for while the one before is multiplied."""
    start_next(DEPENDENT)
    if not EARLY:
        wait_for_previous(DEPENDENT)
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_K)
    has_row = outputs[:, None] < n
    tiles = w_ptr + outputs[:, None].to(tl.int64) * w_stride + columns[None, :]
    if AHEAD:
        coming = _weights(tiles, 0, columns, has_row, k, EVEN_N, EVEN_K)
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
            coming = _weights(tiles, start + BLOCK_K, columns, has_row, k, EVEN_N, False)
        else:
            tile = _weights(tiles, start, columns, has_row, k, EVEN_N, EVEN_K)
        wide = tile.to(tl.float32)
        x = x_ptr + start
        left = k - start
        sums0 += _products(wide, x, columns, left, EVEN_K, BLOCK_N, BLOCK_K, FOLD)
        if ROWS > 1:
            sums1 += _products(wide, x + x_stride, columns, left, EVEN_K, BLOCK_N, BLOCK_K, FOLD)
        if ROWS > 2:
            sums2 += _products(wide, x + 2 * x_stride, columns, left, EVEN_K, BLOCK_N, BLOCK_K, FOLD)
        if ROWS > 3:
            sums3 += _products(wide, x + 3 * x_stride, columns, left, EVEN_K, BLOCK_N, BLOCK_K, FOLD)
    DTYPE: tl.constexpr = y_ptr.dtype.element_ty
    tl.store(y_ptr + outputs, round_to(tl.sum(sums0, 1), DTYPE), mask=outputs < n)
    if ROWS > 1:
        tl.store(y_ptr + n + outputs, round_to(tl.sum(sums1, 1), DTYPE), mask=outputs < n)
    if ROWS > 2:
        tl.store(y_ptr + 2 * n + outputs, round_to(tl.sum(sums2, 1), DTYPE), mask=outputs < n)
    if ROWS > 3:
        tl.store(y_ptr + 3 * n + outputs, round_to(tl.sum(sums3, 1), DTYPE), mask=outputs < n)


@dataclass(frozen=True)
class Configuration:
    """How a call is cut up.

    Args:
        block_n: rows of w per program, a power of 2.
        block_k: columns of w at a time, a power of 2.
        warps: warps per program. With ``block_k`` of 256 times as many (16-bit weights) every thread multiplies by its
            own columns of x; otherwise x passes through shared memory at every step.
        is_ahead: asks for the next tile before it multiplies the current one, and for the first one early.
        is_folded: adds the 16 bytes of neighbours that a thread loads before it adds them to its sums, which then
            take an eighth of the registers.
    """

    block_n: int
    block_k: int
    warps: int
    is_ahead: bool
    is_folded: bool = True

    def __str__(self) -> str:
        return f"{self.block_n}x{self.block_k}, {self.warps} warps{', ahead' if self.is_ahead else ''}"


def configuration_for(m: int, n: int, k: int) -> Configuration:
    """How a call with x [m, k] and w [n, k] is cut up, by what was fastest on an H200.

    Args:
        m: rows of x, at most ``MOST_ROWS``.
        n: out-features.
        k: in-features.

    Raises:
        ValueError: m outside 1 to ``MOST_ROWS``.
    """
    if not 1 <= m <= MOST_ROWS:
        raise ValueError(f"m={m} is not between 1 and {MOST_ROWS}, the rows that the kernel takes")
    if n <= _FEW_OUTPUTS:
        # So few programs that each has to ask for much at once.
        block_k = min(max(triton.next_power_of_2(k), 256), 2048)
        return Configuration(2, block_k, block_k // 256, is_ahead=True)
    if m > 1 and n > _MANY_OUTPUTS:
        return Configuration(4, 1024, 4, is_ahead=False)
    if m == 1 and n > _SOME_OUTPUTS and k <= _MIDDLE_ROWS and n <= _MANY_OUTPUTS:
        return Configuration(8, 512, 4, is_ahead=True)
    if m == 1 and n > _MANY_OUTPUTS:
        # Rows of one tile want few warps, so that sums over a row are short.
        return (
            Configuration(8, 512, 2, is_ahead=True)
            if k <= _SHORT_ROWS
            else Configuration(4, 2048, 8, is_ahead=True)
        )
    block_k = min(max(triton.next_power_of_2(k), 256), 1024)
    return Configuration(4, block_k, block_k // 256, is_ahead=True)


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


def run(x: Tensor, w: Tensor, config: Configuration) -> Tensor:
    """Launch the kernel as configured; arguments as in ``native_linear``, x [m, k] with 1 to ``MOST_ROWS`` rows."""
    m, k = x.shape
    n = w.shape[0]
    y = x.new_empty((m, n))
    dependent = can_depend(x.device)
    # Threads hold neighbours only where they load 16 bytes at once.
    is_aligned = (w.stride(0) * w.element_size()) % 16 == 0 and w.data_ptr() % 16 == 0
    _gemv_kernel[(triton.cdiv(n, config.block_n),)](
        x,
        w,
        y,
        n,
        k,
        x.stride(0),
        w.stride(0),
        ROWS=m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        FOLD=16 // w.element_size() if config.is_folded and is_aligned else 1,
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


# By the measurements in docs/kernels.md.
_FEW_OUTPUTS = 2048
_SOME_OUTPUTS = 4096
_MANY_OUTPUTS = 8192
_SHORT_ROWS = 1024
_MIDDLE_ROWS = 4096
