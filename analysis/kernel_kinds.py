"""What names of kernels say, and names by kernel: native ones, those that decode, the twin that decodes nothing."""

from __future__ import annotations

BASELINE = "bf16"
GEMV = "gemv_bf16"
GEMV_ROWS = 2
"""Most rows of x that ``gemv_bf16`` multiplies by a kernel of its own; beyond, it is the baseline."""
NATIVE_KERNELS = (BASELINE, GEMV)
_COPY_BYTES = 2
_CACHE_SHARE = 0.75
OWN_PREFIX = "own_j_per_weight."
ROW_PREFIX = "own_row_j_per_weight."
CAST_PREFIX = "cast_j_per_weight."
"""Names of energy parameters that kernels have each: the prefix, then the kernel."""
_NULL_BY_BITS = {4: "null_nf4", 8: "null_int8"}


def decodes(kernel: str) -> bool:
    """Whether a kernel decodes weights, by its scheme's name."""
    return kernel.startswith(("fused_", "unfused_"))


def cached_bytes(kernel: str, n: int, k: int, cache_bytes: float | None) -> float:
    """Return the bytes of a call's traffic that the last-level cache takes instead of the memory.

    An unfused kernel writes the decoded weight and reads it again, in the same buffer call after call. Codes and x pass
    through the cache too, so a weight has to fit into three quarters of it.

    Args:
        kernel: its name.
        n: out-features.
        k: in-features.
        cache_bytes: size of the cache; None where it is not known, and everything goes to the memory.
    """
    copy = _COPY_BYTES * n * k
    return 2.0 * copy if kernel.startswith("unfused_") and copy <= _CACHE_SHARE * (cache_bytes or 0) else 0.0


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
