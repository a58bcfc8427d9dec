"""The ``torch`` kernels: every scheme on any device torch knows, written for a CPU.

unfused decodes the whole weight to memory (n*k elements written, and read again by the matmul); fused decodes
blocks of rows into one small buffer that stays in cache and multiplies each block; null runs the fused loop
but fills the buffer by reinterpreting the packed bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.formats import Packing
from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook
from kernels.torch_compile import torch_mode
from kernels.torch_decode import decode_function, out_dtype, repeat_function, widen_function

# A decoded block of this size fits the L2 cache of current CPU cores with room for x and y.
_BLOCK_BYTES = 512 * 1024
_TILE_ROWS = 32
# Eager decoding makes temporaries several times the decoded size, so a large weight is decoded in pieces.
_EAGER_BLOCK_BYTES = 32 * 1024 * 1024


class _Scratch(threading.local):
    """Buffers of one thread, by dtype and device."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}


_scratch = _Scratch()


def native_linear(x: Tensor, weight: Tensor, ranges: RangeHook) -> Tensor:
    """``x[m, k] @ weight[n, k].T`` by torch, in x's dtype."""
    return F.linear(x, weight)


def unfused_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """Decode the whole weight to memory (range ``tau_cast``), then multiply (range ``tau_comp``).

    Args:
        x: [m, k], bf16, fp16 or fp32, columns in the order of the packed weight.
        w: weight of logical shape [n, k] on x's device.
        ranges: opens the two ranges.

    Returns:
        [m, n] in x's dtype.
    """
    is_compiled = _is_compiled(x)
    with ranges("tau_cast"):
        weight = torch.empty(w.shape, dtype=x.dtype, device=x.device)
        fill = _decoder(w, x)
        block_bytes = weight.nbytes if is_compiled else _EAGER_BLOCK_BYTES
        for rows in _row_blocks(w, x.element_size(), block_bytes):
            fill(rows, weight[rows])
    with ranges("tau_comp"):
        return F.linear(x, weight)


def fused_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """Multiply block by block of decoded rows; the decoded weight never reaches memory.

    Args:
        x: [m, k], bf16, fp16 or fp32, columns in the order of the packed weight.
        w: weight of logical shape [n, k] on x's device.
        ranges: unused; the caller's range covers the call.

    Returns:
        [m, n] in x's dtype.
    """
    return _blockwise(x, w, is_null=False)


def null_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """The loop of ``fused_linear`` with the codes reinterpreted; [m, n] of meaningless finite numbers.

    Args: as ``fused_linear``.
    """
    return _blockwise(x, w, is_null=True)


def _blockwise(x: Tensor, w: QuantWeight, *, is_null: bool) -> Tensor:
    fill = _reinterpreter(w, x) if is_null else _decoder(w, x)
    blocks = list(_row_blocks(w, x.element_size(), _BLOCK_BYTES))
    rows_per_block = blocks[0].stop
    decoded = _buffer(rows_per_block * w.k, x).view(rows_per_block, w.k)
    if len(blocks) == 1:
        fill(blocks[0], decoded)
        return F.linear(x, decoded)
    y = torch.empty(x.shape[0], w.n, dtype=x.dtype, device=x.device)
    for rows in blocks:
        block = decoded[: rows.stop - rows.start]
        fill(rows, block)
        torch.mm(x, block.t(), out=y[:, rows])
    return y


def _decoder(w: QuantWeight, x: Tensor) -> Callable[[slice, Tensor], None]:
    """A function that decodes a slice of rows into a buffer [rows, k] of x's dtype."""
    decode = decode_function(w.format, x.dtype, _is_compiled(x))
    groups = w.k // w.group_size
    written = out_dtype(w.format, x.dtype)
    sources = [w.packed.view(w.n * groups, -1), w.group_scales().view(-1, 1)]
    if w.zeros is not None:
        sources.append(w.zeros.view(-1, 1))

    def fill(rows: slice, out: Tensor) -> None:
        first, count = rows.start * groups, (rows.stop - rows.start) * groups
        decode(*(t.narrow(0, first, count) for t in sources), out.view(written).view(count, -1))

    return fill


def _reinterpreter(w: QuantWeight, x: Tensor) -> Callable[[slice, Tensor], None]:
    """A function that fills a buffer [rows, k] of x's dtype with the packed bytes of a slice of rows."""
    groups = w.k // w.group_size
    scales = w.group_scales().view(-1, 1)
    if w.format.packing is Packing.NIBBLES:
        word = torch.int64 if x.element_size() == 4 else torch.int32
        reinterpret = widen_function(word, w.zeros is not None, _is_compiled(x))
        sources = [w.packed.view(w.n * groups, -1), scales]
        if w.zeros is not None:
            sources.append(w.zeros.view(-1, 1))
        shape: tuple[int, ...] = (-1,)
    else:
        word = torch.int32 if w.k % 4 == 0 else torch.uint8
        reinterpret = repeat_function(word, _is_compiled(x))
        sources = [w.packed.view(word), scales]
        shape = (x.element_size(), -1)

    def fill(rows: slice, out: Tensor) -> None:
        first, count = rows.start * groups, (rows.stop - rows.start) * groups
        reinterpret(*(t.narrow(0, first, count) for t in sources), out.view(word).view(count, *shape))

    return fill


def _row_blocks(w: QuantWeight, element_bytes: int, block_bytes: int) -> Iterator[slice]:
    """Slices of rows, each at most ``block_bytes`` decoded but at least one row, whole tiles if possible."""
    rows = min(w.n, max(1, block_bytes // (w.k * element_bytes)))
    if _TILE_ROWS < rows < w.n:
        rows -= rows % _TILE_ROWS
    for start in range(0, w.n, rows):
        yield slice(start, min(start + rows, w.n))


def _buffer(elements: int, x: Tensor) -> Tensor:
    """A flat buffer like ``x`` kept per thread, so that every call decodes into the same cache lines."""
    key = (x.dtype, x.device)
    held = _scratch.buffers.get(key)
    if held is None or held.numel() < elements:
        # A tensor made in inference mode could not be written outside it.
        with torch.inference_mode(False):
            held = _scratch.buffers[key] = torch.empty(elements, dtype=x.dtype, device=x.device)
    return held[:elements]


def _is_compiled(x: Tensor) -> bool:
    return torch_mode(x.device) == "torch-compiled"
