"""Quantizers: a floating-point weight [n, k] to a ``QuantWeight``, row block by row block."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kernels.double_quant import double_quantize
from kernels.formats import Format, Packing, Rounding, get_format, levels
from kernels.packing import pack_nibbles
from kernels.quant_weight import QuantWeight

# 4 Mi weights per block: temporaries stay near 100 MB for a weight of any size.
_BLOCK_WEIGHTS = 1 << 22
# bitsandbytes divides by max(absmax, 1e-38): an all-zero group gets codes of level 0 and decodes to zeros.
_SMALLEST_ABSMAX = 1e-38


def quantize(
    w: Tensor,
    fmt: Format | str,
    *,
    group_size: int | None = None,
    double_quant: bool = False,
    name: str = "weight",
) -> QuantWeight:
    """Quantize a weight.

    Args:
        w: floating-point [n, k], any strides; quantized from its fp32 values.
        fmt: a format or its name.
        group_size: weights along K per scale; None takes the format's default.
        double_quant: quantize the scales too (bitsandbytes' ``compress_statistics``).
        name: what to call the tensor in errors.

    Returns:
        The weight on ``w``'s device. For nf4 and fp4_bnb its codes and scales are bit-for-bit those of
        bitsandbytes' ``quantize_4bit(w, blocksize=group_size)`` on a CPU.

    Raises:
        ValueError: ``w`` is not a finite, non-empty floating-point matrix, ``k`` does not fit the group size,
            or ``double_quant`` is asked of a format that is not a code book in groups.

    Source: bitsandbytes 0.50.2 (backends/default/ops.py); checked in tests/kernels/test_bitsandbytes.py.
    """
    fmt = get_format(fmt) if isinstance(fmt, str) else fmt
    _check_weight(w, name)
    n, k = w.shape
    size = fmt.groups_for(k, group_size)
    if double_quant and fmt.code_book is None:
        raise ValueError(
            f"double_quant needs a format with absmax groups; {fmt.name} has none (group_size={size})"
        )

    packed = torch.empty(n, fmt.packed_columns(k), dtype=fmt.storage_dtype, device=w.device)
    scales = torch.empty(n, k // size, dtype=torch.float32, device=w.device)
    zeros = torch.empty(n, k // size, dtype=torch.uint8, device=w.device) if fmt.zero_point else None
    rows = max(1, _BLOCK_WEIGHTS // k)
    not_finite = 0
    for start in range(0, n, rows):
        block = slice(start, min(start + rows, n))
        values = w[block].float().contiguous()
        bad = int((~values.isfinite()).sum())
        not_finite += bad
        if bad:
            continue
        groups = values.reshape(-1, k // size, size)
        if zeros is not None:
            codes, scales[block], zeros[block] = _zero_point_codes(groups, fmt)
        elif fmt.code_book is not None:
            codes, scales[block] = _code_book_codes(groups, fmt)
        else:
            codes, scales[block] = _byte_codes(groups, fmt)
        codes = codes.reshape(-1, k)
        packed[block] = pack_nibbles(codes) if fmt.packing is Packing.NIBBLES else codes
    if not_finite:
        raise ValueError(
            f"{name} has {not_finite} values that are NaN or Inf of {n * k}; it cannot be quantized"
        )
    return QuantWeight(
        packed=packed,
        scales=None if double_quant else scales,
        zeros=zeros,
        format=fmt,
        shape=(n, k),
        group_size=size,
        double_quant=double_quantize(scales) if double_quant else None,
    )


def _check_weight(w: Tensor, name: str) -> None:
    if w.ndim != 2:
        raise ValueError(f"{name} has {w.ndim} dimensions (shape {list(w.shape)}), a weight has 2")
    if not w.is_floating_point():
        raise ValueError(f"{name} has dtype {w.dtype}, a weight to quantize is floating-point")
    if w.numel() == 0:
        raise ValueError(f"{name} is empty: n={w.shape[0]}, k={w.shape[1]}")


@lru_cache(maxsize=64)
def _thresholds(fmt: Format) -> tuple[Tensor, Tensor]:
    """Upper bounds of each level's interval, ascending fp32, and the code of each level in that order.

    A value equal to a bound belongs to the lower level, so bounds whose tie goes up are moved one fp32 down.
    """
    table = levels(fmt)
    order = torch.argsort(table, stable=True)
    if fmt.rounding is Rounding.EVEN:
        distinct = torch.cat((torch.tensor([True]), table[order].diff() > 0))
        order = order[distinct]
    ascending = table[order]
    bounds = (ascending[:-1] + ascending[1:]) / 2
    if fmt.rounding is Rounding.EVEN:
        tie_goes_up = order[1:] % 2 == 0
        bounds = torch.where(tie_goes_up, torch.nextafter(bounds, torch.tensor(-torch.inf)), bounds)
    return bounds, order.to(torch.uint8)


def _code_book_codes(groups: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """Codes uint8 like ``groups`` fp32 [rows, groups, size], and scales fp32 [rows, groups]."""
    bounds, codes = (t.to(groups.device) for t in _thresholds(fmt))
    largest = fmt.largest_level
    scales = groups.abs().amax(-1)
    if largest != 1.0:
        scales = scales / largest
    # The reciprocal, then the product: the order of bitsandbytes, which decides ties.
    scaled = (groups * (1.0 / scales.clamp(min=_SMALLEST_ABSMAX)).unsqueeze(-1)).clamp_(-largest, largest)
    return codes[torch.bucketize(scaled, bounds, out_int32=True)], scales


def _byte_codes(groups: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """Codes in the format's dtype like ``groups`` fp32 [rows, 1, k], and scales fp32 [rows, 1]."""
    largest = fmt.largest_level
    scales = groups.abs().amax(-1) / largest
    scaled = (groups / scales.clamp(min=_SMALLEST_ABSMAX).unsqueeze(-1)).clamp_(-largest, largest)
    return (scaled.round_() if fmt.storage_dtype == torch.int8 else scaled).to(fmt.storage_dtype), scales


def _zero_point_codes(groups: Tensor, fmt: Format) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint8 like ``groups`` fp32 [rows, groups, size], scales fp32 and zeros uint8 [rows, groups].

    The range of a group is widened to hold 0, so that 0 is a level and the zero point fits a code.
    """
    top = fmt.largest_level
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    # Divided before subtracting: the width of a group may exceed the largest fp32, a step may not.
    scales = high / top - low / top
    divisor = scales.clamp(min=_SMALLEST_ABSMAX)
    zeros = (-low / divisor).round_().clamp_(0, top)
    codes = ((groups / divisor.unsqueeze(-1)).round_() + zeros.unsqueeze(-1)).clamp_(0, top)
    return codes.to(torch.uint8), scales, zeros.to(torch.uint8)
