"""What names of kernels say: the baseline, native ones, those that decode, and the twin that decodes nothing."""

from __future__ import annotations

BASELINE = "bf16"
GEMV = "gemv_bf16"
GEMV_ROWS = 2
"""Most rows of x that ``gemv_bf16`` multiplies by a kernel of its own; beyond, it is the baseline."""
NATIVE_KERNELS = (BASELINE, GEMV)
_NULL_BY_BITS = {4: "null_nf4", 8: "null_int8"}


def decodes(kernel: str) -> bool:
    """Whether a kernel decodes weights, by its scheme's name."""
    return kernel.startswith(("fused_", "unfused_"))


def own_structure(kernel: str, bits: int | None) -> str | None:
    """Return the kernel of ours whose product a kernel runs, without its casting.

    Args:
        kernel: its name.
        bits: width of its codes; None where no run says.

    Returns:
        For a fused or null kernel the null kernel of its width, ``gemv_bf16`` for itself, and None for a product that a
        library computes.
    """
    if kernel == GEMV:
        return GEMV
    return _NULL_BY_BITS.get(bits or 0) if kernel.startswith(("fused_", "null_")) else None
