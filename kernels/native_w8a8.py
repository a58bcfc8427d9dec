"""native_int8 and native_fp8: x is quantized row by row, and tensor cores multiply 8-bit codes with 8-bit codes.

Traffic: x is read once and written as one byte per element with one fp32 scale per row; the product reads those and
the packed weight. Scales are dynamic: absmax / 127 (int8) or absmax / 448 (fp8) of each row of x, computed in the call.

* CUDA: one Triton kernel quantizes. int8 multiplies with ``torch._int_mm`` into int32, which one Triton kernel scales.
  fp8 multiplies with ``torch._scaled_mm``: small results without scales, which one Triton kernel applies (torch's
  row-wise products are up to twice as slow there), large ones row-wise, where torch applies both scales itself.
* elsewhere: the same arithmetic in torch (exact int32 sums for int8, fp32 sums for fp8), to check results.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kernels.formats import Format
from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook

# The smallest absmax that is divided by: below it 448 / absmax would overflow. A row of zeros gets codes of 0.
LEAST_ABSMAX = 2.0**-100

# torch._int_mm takes more than 16 rows on CUDA, and both matmuls run fastest in steps of 16.
_INT8_LEAST_ROWS = 32
_ROW_STEP = 16
_MULTIPLE = {torch.int8: 8, torch.float8_e4m3fn: 16}
# Elements of the result. On an H200 (2026-11-22) row-wise products won from 128 rows at 28672x4096, and nowhere up to
# 256 rows at smaller weights.
_MOST_UNSCALED = 1 << 21
_OPERATION = {torch.int8: "torch._int_mm", torch.float8_e4m3fn: "torch._scaled_mm"}


def native_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """Quantize x (range ``tau_cast``), then multiply codes with codes (range ``tau_comp``).

    Args:
        x: [m, k], bf16, fp16 or fp32, columns in the order of the packed weight. On CUDA its codes are padded to a
            multiple of 16 rows, int8 to at least 32 (``torch._int_mm`` wants more than 16); what is computed there is
            dropped.
        w: int8 or fp8 weight of logical shape [n, k] on x's device; on CUDA n and k are multiples of 8 (int8) or 16
            (fp8).
        ranges: opens the two ranges.

    Returns:
        [m, n] in x's dtype; on CUDA an fp8 product of bf16 or fp16 x is rounded to bf16 first.

    Raises:
        ValueError: n or k do not fit torch's matmul on CUDA.
    """
    if not x.is_cuda:
        with ranges("tau_cast"):
            codes, scales = quantize_rows(x, w.format)
        with ranges("tau_comp"):
            return _product(codes, scales, w, x.dtype)
    from kernels.triton_impl import quantize_rows as triton_rows

    is_int8 = w.packed.dtype == torch.int8
    _check_multiples(w)
    m = x.shape[0]
    rows = -(-m // _ROW_STEP) * _ROW_STEP
    is_row_wise = not is_int8 and rows * w.n > _MOST_UNSCALED
    if is_int8:
        rows = max(_INT8_LEAST_ROWS, rows)
    elif is_row_wise:
        rows = m
    with ranges("tau_cast"):
        codes, scales = triton_rows.quantize_rows(x, w.format, rows=rows)
    with ranges("tau_comp"):
        if is_int8:
            sums = torch._int_mm(codes, w.packed.t())
            return triton_rows.scale_sums(sums, scales, w.group_scales(), x.dtype)
        if not is_row_wise:
            one = _one(x.device)
            unscaled = torch._scaled_mm(
                codes,
                w.packed.t(),
                scale_a=one,
                scale_b=one,
                out_dtype=torch.float32 if x.dtype == torch.float32 else torch.bfloat16,
                use_fast_accum=True,
            )
            return triton_rows.scale_sums(unscaled, scales, w.group_scales(), x.dtype)
        y: Tensor = torch._scaled_mm(
            codes,
            w.packed.t(),
            scale_a=scales,
            scale_b=w.group_scales().view(1, -1),
            out_dtype=torch.float32 if x.dtype == torch.float32 else torch.bfloat16,
            use_fast_accum=True,
        )
        return y.to(x.dtype)


def quantize_rows(x: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """Quantize each row of x to the codes of a byte format, in plain torch.

    Args:
        x: [m, k], any strides.
        fmt: ``int8`` or ``fp8``.

    Returns:
        Codes [m, k] in the format's storage dtype and scales fp32 [m, 1], with ``codes * scales`` near x; a row that
        holds a NaN gets the scale NaN. int8 codes round half to even.
    """
    values = x.float()
    absmax = values.abs().amax(1, keepdim=True)
    absmax = torch.where(absmax < LEAST_ABSMAX, LEAST_ABSMAX, absmax)
    # A number over a tensor would be a reciprocal and a product, which rounds twice.
    scaled = values * (torch.full_like(absmax, fmt.largest_level) / absmax)
    codes = scaled.round() if fmt.storage_dtype == torch.int8 else scaled
    return codes.to(fmt.storage_dtype), absmax / fmt.largest_level


def activation_error_bound(x: Tensor, fmt: Format) -> Tensor:
    """Largest error that quantizing x can make, element by element.

    With the scale s of a row, int8 codes lie s apart, so an element moves by at most s / 2. fp8 codes have 3 bits of
    mantissa, so a normal one moves by at most 1/17 of itself (from 17/16 to 1); the others lie 2^-9 s apart and move by
    at most 2^-10 s. The inverse scale and the product with it are rounded to fp32, which adds at most 2^-22 of the
    element.

    With d this bound, errors whose signs are independent add up in squares, so the result's error has a norm of at most
    ``sqrt(sum_ij d_ij^2 sum_n w_nj^2)``. Errors spread evenly over [-d, d] reach 1/sqrt(3) of that; what is left leaves
    room for sums of fp8 products, which Hopper's tensor cores keep to about 14 bits, and for a result rounded to bf16.

    Args:
        x: [m, k].
        fmt: ``int8`` or ``fp8``.

    Returns:
        float64 [m, k].
    """
    exact = x.double()
    absmax = exact.abs().amax(1, keepdim=True)
    scale = absmax.clamp_min(LEAST_ABSMAX) / fmt.largest_level
    rounding = exact.abs() * 2.0**-22
    if fmt.storage_dtype == torch.int8:
        return rounding + scale / 2
    return rounding + torch.maximum(exact.abs() / 17, scale * 2.0**-10)


def detail(device: torch.device, fmt: Format) -> str:
    """What a record says about the product on a device."""
    is_int8 = fmt.storage_dtype == torch.int8
    if device.type != "cuda":
        return "torch int32 sums" if is_int8 else "torch fp32 sums"
    return "torch _int_mm" if is_int8 else "torch _scaled_mm"


def describe(w: QuantWeight, m: int | None, dtype: torch.dtype | None) -> str:
    """How the scales of m rows are applied on CUDA, for records."""
    if m is None or w.packed.dtype == torch.int8 or w.device.type != "cuda":
        return ""
    rows = -(-m // _ROW_STEP) * _ROW_STEP
    return "row-wise" if rows * w.n > _MOST_UNSCALED else "unscaled, then scales"


def why_not(device: torch.device, fmt: Format) -> str:
    """Why a device cannot run the kernel; empty if it can."""
    import importlib.util

    if device.type != "cuda":
        return ""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    least = (8, 0) if fmt.storage_dtype == torch.int8 else (8, 9)
    if capability < least:
        operation = _OPERATION[fmt.storage_dtype]
        return f"{operation} needs compute capability {_dotted(least)}, this GPU has {_dotted(capability)}"
    return ""


@lru_cache(maxsize=16)
def _one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float32, device=device)


def _product(codes: Tensor, scales: Tensor, w: QuantWeight, dtype: torch.dtype) -> Tensor:
    if codes.dtype == torch.int8:
        sums = torch._int_mm(codes, w.packed.t()).float()
    else:
        sums = codes.float() @ w.packed.float().t()
    return ((sums * scales) * w.group_scales().view(1, -1)).to(dtype)


def _check_multiples(w: QuantWeight) -> None:
    multiple = _MULTIPLE[w.packed.dtype]
    for name, size in (("n", w.n), ("k", w.k)):
        if size % multiple:
            raise ValueError(
                f"{name}={size} is not a multiple of {multiple}, which {_OPERATION[w.packed.dtype]} needs on cuda"
            )


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
