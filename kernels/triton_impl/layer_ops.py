"""What lies between the linears of a decoder layer besides attention: norm, residual and norm, activation.

One hop of one sequence is bound by launches, so that each function is one kernel, and on Hopper each lets the next one
start early (programmatic dependent launch): a launch and the filling of the multiprocessors pass behind the kernel
before. Every kernel waits for the one before it ahead of its first access to memory, but for weights that are known to
be older: they come from memory, every hop anew, and are asked for ahead of that wait. Roundings are those of the torch
functions in ``reasoning.engine.layer_math``, operation by operation.

Traffic: inputs and outputs once.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_impl.decode import IS_INTERPRETED, round_to

_SILU_BLOCK = 512
_HOPPER = (9, 0)

if IS_INTERPRETED.value:

    @triton.jit
    def start_next(DEPENDENT: tl.constexpr):
        """Let the next kernel start."""

    @triton.jit
    def wait_for_previous(DEPENDENT: tl.constexpr):
        """Wait until the kernel before has ended and its results can be read."""

else:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

    @triton.jit
    def start_next(DEPENDENT: tl.constexpr):
        """Let the next kernel start."""
        if DEPENDENT:
            gdc_launch_dependents()

    @triton.jit
    def wait_for_previous(DEPENDENT: tl.constexpr):
        """Wait until the kernel before has ended and its results can be read."""
        if DEPENDENT:
            gdc_wait()


@triton.jit
def begin(DEPENDENT: tl.constexpr):
    """Let the next kernel start, and wait for the one before."""
    start_next(DEPENDENT)
    wait_for_previous(DEPENDENT)


@lru_cache(maxsize=8)
def can_depend(device: torch.device) -> bool:
    """Whether kernels on a device can start before the one ahead of them has ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _HOPPER


def launch_options(dependent: bool) -> dict[str, bool]:
    """Options of a launch that may start before the kernel ahead has ended."""
    return {"launch_pdl": True} if dependent else {}


@triton.jit
def rounded(values, DTYPE: tl.constexpr):
    """fp32 values as if stored in DTYPE."""
    return round_to(values, DTYPE).to(tl.float32)


@triton.jit
def _norm_kernel(
    x_ptr,
    update_ptr,
    bias_ptr,
    weight_ptr,
    sum_ptr,
    normal_ptr,
    width,
    update_stride,
    epsilon,
    HAS_UPDATE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_SETTLED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    start_next(DEPENDENT)
    if not IS_SETTLED:
        wait_for_previous(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if IS_SETTLED:
        wait_for_previous(DEPENDENT)
    DTYPE: tl.constexpr = normal_ptr.dtype.element_ty
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_UPDATE:
        update = tl.load(update_ptr + row * update_stride + columns, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            update = rounded(update + bias, DTYPE)
        x = rounded(x + update, DTYPE)
        tl.store(sum_ptr + row * width + columns, round_to(x, DTYPE), mask=inside)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / width + epsilon)
    normal = round_to(weight * rounded(x * scale, DTYPE), DTYPE)
    tl.store(normal_ptr + row * width + columns, normal, mask=inside)


@triton.jit
def _silu_kernel(
    gate_up_ptr,
    bias_ptr,
    out_ptr,
    width,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    begin(DEPENDENT)
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    gate = tl.load(gate_up_ptr + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        gate = rounded(gate + tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32), DTYPE)
        up = rounded(up + tl.load(bias_ptr + width + columns, mask=inside, other=0.0).to(tl.float32), DTYPE)
    silu = rounded(gate / (1.0 + tl.exp(-gate)), DTYPE)
    tl.store(out_ptr + row * width + columns, round_to(silu * up, DTYPE), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, *, is_settled: bool = False) -> Tensor:
    """Root-mean-square norm of rows.

    Args:
        x: [rows, k], contiguous.
        weight: [k].
        epsilon: added to the mean square.
        is_settled: the weight is older than any kernel in flight, and is read while the one ahead may still run.
    """
    normal = torch.empty_like(x)
    _norm(x, None, None, weight, epsilon, x, normal, is_settled=is_settled)
    return normal


def add_norm(
    residual: Tensor,
    update: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    epsilon: float,
    *,
    is_settled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Add a block's output to the residual stream, and normalize it for the next block.

    Args:
        residual: [rows, hidden], contiguous.
        update: [rows, hidden], without the bias of the linear that it comes from.
        bias: [hidden] or None.
        weight: of the next norm, [hidden].
        epsilon: of the next norm.
        is_settled: as in :func:`rms_norm`, weight and bias.

    Returns:
        The new residual and its norm.
    """
    total, normal = torch.empty_like(residual), torch.empty_like(residual)
    _norm(residual, update, bias, weight, epsilon, total, normal, is_settled=is_settled)
    return total, normal


def _norm(
    x: Tensor,
    update: Tensor | None,
    bias: Tensor | None,
    weight: Tensor,
    epsilon: float,
    total: Tensor,
    normal: Tensor,
    *,
    is_settled: bool,
) -> None:
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    dependent = can_depend(x.device)
    _norm_kernel[(rows,)](
        x,
        x if update is None else update,
        weight if bias is None else bias,
        weight,
        total,
        normal,
        width,
        width if update is None else update.stride(0),
        epsilon,
        HAS_UPDATE=update is not None,
        HAS_BIAS=bias is not None,
        BLOCK=block,
        IS_SETTLED=is_settled,
        DEPENDENT=dependent,
        num_warps=min(16, max(1, block // 256)),
        **launch_options(dependent),
    )


def silu_times(gate_up: Tensor, bias: Tensor | None) -> Tensor:
    """``silu(gate) * up``.

    Args:
        gate_up: both in one tensor [rows, 2 * wide], contiguous.
        bias: [2 * wide] or None.

    Returns:
        [rows, wide].
    """
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((rows, width))
    dependent = can_depend(gate_up.device)
    _silu_kernel[(triton.cdiv(width, _SILU_BLOCK), rows)](
        gate_up,
        gate_up if bias is None else bias,
        out,
        width,
        HAS_BIAS=bias is not None,
        BLOCK=_SILU_BLOCK,
        DEPENDENT=dependent,
        num_warps=4,
        **launch_options(dependent),
    )
    return out
