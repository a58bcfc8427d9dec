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

from benchmarks.plan import Variant
from benchmarks.weights import Weight

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
    k: int
    """In-features."""

    def rel_error_bound(self, m: int, dtype: torch.dtype) -> float:
        """Largest relative error that rounding explains, for the first m rows and a kernel in ``dtype``.

        A kernel may round each decoded weight once to ``dtype`` (relative error at most u), adds k products
        in fp32, and rounds y once (at most u). x has independent entries of mean 0, so errors d_j of the
        weights add up in squares: E (sum x_j w_j d_j)^2 <= u^2 sum (x_j w_j)^2. The k additions err likewise,
        by at most sqrt(k) units of fp32 on partial sums of that size. With R = sqrt(sum (x w)^2) / ||ref||:
        u + (u + sqrt(k) 2^-23) R. Rounding errors spread evenly over [-u, u] reach 1/sqrt(3) of each term.
        """
        unit = torch.finfo(dtype).eps / 2
        ratio = math.sqrt(float(self.spread_squared[:m].sum())) / float(self.y[:m].norm())
        return unit + (unit + math.sqrt(self.k) * _FP32_UNIT) * ratio


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
    return Reference(torch.cat(parts, dim=1), exact.square() @ column_squares, k)


def check(variant: Variant, x: Tensor, weight: Weight, reference: Reference) -> GateResult:
    """Run a kernel on poisoned memory and compare its result.

    Args:
        variant: the kernel and its implementation.
        x: activations [m, k], the first m rows of the reference's.
        weight: weight in the kernel's format.
        reference: float64 product with that weight decoded.

    Returns:
        The verdict; whatever the kernel raises is a failure with that reason.
    """
    try:
        y = _run_poisoned(variant, x, weight)
    except Exception as error:
        return GateResult("failed", reason=f"it raised {type(error).__name__}: {_one_line(error)}")
    expected = (x.shape[0], weight.shape[0])
    if y.shape != expected:
        return GateResult("failed", reason=f"y has shape {list(y.shape)}, expected {list(expected)}")
    if not variant.kernel.meaningful_output:
        return GateResult("no meaning")
    bound = reference.rel_error_bound(x.shape[0], x.dtype)
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


def _run_poisoned(variant: Variant, x: Tensor, weight: Weight) -> Tensor:
    # The first call may compile, which deterministic mode must not influence.
    variant.kernel.linear(x, weight, implementation=variant.implementation)
    with poisoned_memory():
        y = variant.kernel.linear(x, weight, implementation=variant.implementation)
    if y.is_cuda:
        torch.cuda.synchronize(y.device)
    return y


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
