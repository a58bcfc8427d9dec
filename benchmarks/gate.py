"""The correctness gate: a kernel whose result is wrong gets no time.

The error is ``||y - ref|| / ||ref||`` against a float64 product with the *decoded* weight, so it holds the
kernel's rounding and not the quantization error.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.variants import Variant
from benchmarks.weights import Weight
from kernels.formats import get_format
from kernels.native_w8a8 import activation_error_bound
from kernels.ranges import NO_RANGES, RangeHook

# float64 rows of the decoded weight per step: 128 MB.
_REFERENCE_BLOCK = 1 << 24
# Tensor cores may truncate instead of rounding, which doubles the error of an fp32 addition.
_FP32_UNIT = 2.0**-23


@dataclass(frozen=True)
class Reference:
    """Float64 product of one weight with the largest x; the first rows serve a smaller m."""

    y: Tensor
    """x @ decoded.T, float64 [m, n]."""
    spread_squared: Tensor
    """Sum over n and k of (x w)^2 for each row of x, float64 [m]."""
    column_squares: Tensor
    """Sum over n of w^2 for each in-feature, float64 [k]."""
    k: int
    """In-features."""

    def rel_error_bound(self, m: int, dtype: torch.dtype) -> float:
        """Largest relative error that rounding explains, for the first m rows and a kernel in ``dtype``.

        A kernel may round each decoded weight to ``dtype`` (relative error at most u; the wide CUDA kernel rounds
        level, scale and product, whose errors, spread evenly, add up to u in squares), adds k products in fp32,
        and rounds y once (at most u). x has independent entries of mean 0, so errors d_j of the
        weights add up in squares: E (sum x_j w_j d_j)^2 <= u^2 sum (x_j w_j)^2. The k additions err likewise,
        by at most sqrt(k) units of fp32 on partial sums of that size. With R = sqrt(sum (x w)^2) / ||ref||:
        u + (u + sqrt(k) 2^-23) R. Rounding errors spread evenly over [-u, u] reach 1/sqrt(3) of each term.
        """
        unit = torch.finfo(dtype).eps / 2
        ratio = math.sqrt(float(self.spread_squared[:m].sum())) / float(self.y[:m].norm())
        return unit + (unit + math.sqrt(self.k) * _FP32_UNIT) * ratio

    def activation_bound(self, x: Tensor, cast_to: str) -> float:
        """Largest relative error that quantizing each row of x adds, as errors of independent signs add up.

        Args:
            x: activations [m, k], the first m rows.
            cast_to: ``int8`` or ``fp8``.
        """
        errors = activation_error_bound(x, get_format(cast_to))
        total = float((errors.square() @ self.column_squares).sum())
        return math.sqrt(total) / float(self.y[: x.shape[0]].norm())


@dataclass(frozen=True)
class GateResult:
    """What the gate found."""

    verdict: Literal["passed", "failed", "no meaning"]
    """``no meaning`` for null kernels, which ran and whose result means nothing."""
    rel_error: float | None = None
    """||y - ref|| / ||ref||; None where it is not a number."""
    rel_error_bound: float | None = None
    """Bound of it."""
    reason: str | None = None
    """Why it failed, in a sentence."""

    @property
    def may_be_timed(self) -> bool:
        """Whether a time of this kernel means anything."""
        return self.verdict != "failed"


def make_reference(x: Tensor, weight: Tensor) -> Reference:
    """Multiply in float64, block by block of rows of the weight.

    Args:
        x: activations [m, k].
        weight: decoded weight [n, k], fp32.
    """
    exact = x.double()
    n, k = weight.shape
    rows = max(1, _REFERENCE_BLOCK // k)
    column_squares = torch.zeros(k, dtype=torch.float64, device=x.device)
    parts = []
    for start in range(0, n, rows):
        block = weight[start : start + rows].double()
        parts.append(exact @ block.T)
        column_squares += block.square().sum(0)
    return Reference(torch.cat(parts, dim=1), exact.square() @ column_squares, column_squares, k)


def check(
    variant: Variant,
    x: Tensor,
    weight: Weight,
    reference: Reference,
    *,
    wide_bound: float | None = None,
    ranges: RangeHook = NO_RANGES,
) -> GateResult:
    """Run a kernel on poisoned memory and compare its result.

    Args:
        variant: what is checked.
        x: activations [m, k], the first m rows of the reference's.
        weight: weight as the variant takes it.
        reference: float64 product with that weight decoded, or with the bf16 weight where a peer does not say.
        wide_bound: bound of the relative error in that last case; it only catches nonsense.
        ranges: opens the variant's ranges in the call that is compared.

    Returns:
        The verdict; whatever the kernel raises is a failure with that reason.
    """
    try:
        y = _run_poisoned(variant, x, weight, ranges)
    except Exception as error:
        return GateResult("failed", reason=f"it raised {type(error).__name__}: {_one_line(error)}")
    expected = (x.shape[0], reference.y.shape[1])
    if y.shape != expected:
        return GateResult("failed", reason=f"y has shape {list(y.shape)}, expected {list(expected)}")
    if not variant.meaningful_output:
        return GateResult("no meaning")
    bound = wide_bound if wide_bound is not None else _bound(variant, x, reference)
    strangers = int((~y.isfinite()).sum())
    if strangers:
        reason = f"{strangers} of {y.numel()} results are NaN or infinite"
        return GateResult("failed", rel_error_bound=bound, reason=reason)
    exact = reference.y[: x.shape[0]]
    rel_error = float((y.double() - exact).norm() / exact.norm())
    if rel_error > bound:
        reason = f"its relative error {rel_error:.2e} is above the bound {bound:.2e}"
        return GateResult("failed", rel_error, bound, reason)
    return GateResult("passed", rel_error, bound)


def _bound(variant: Variant, x: Tensor, reference: Reference) -> float:
    rounding = variant.bound_factor * reference.rel_error_bound(x.shape[0], x.dtype)
    cast_to = variant.quantized_activations
    return rounding if cast_to is None else rounding + reference.activation_bound(x, cast_to)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what ``torch.empty`` returns with NaN, so that a result never written cannot look right."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


def _run_poisoned(variant: Variant, x: Tensor, weight: Weight, ranges: RangeHook) -> Tensor:
    # The first call may compile, which deterministic mode must not influence.
    y = variant.linear(x, weight)
    if variant.is_peer:
        # Compiled peers would compile again in that mode: leave NaN where the allocator takes y from instead.
        y.fill_(math.nan)
        del y
        y = variant.linear(x, weight, ranges)
    else:
        with poisoned_memory():
            y = variant.linear(x, weight, ranges)
    if y.is_cuda:
        torch.cuda.synchronize(y.device)
    return y


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
