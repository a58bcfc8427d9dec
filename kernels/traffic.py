"""What a kernel must move and compute, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kernels.formats import Format
from kernels.quant_weight import NESTED_BLOCK

_NESTED_CODE_BOOK = 256
_FP32_BYTES = 4


class Scheme(Enum):
    """How a kernel treats the cast from packed codes to x's dtype.

    ``W8A8`` casts x to codes instead; what ``PEER``, another library's kernel, does is its own.
    """

    NATIVE = "native"
    UNFUSED = "unfused"
    FUSED = "fused"
    NULL = "null"
    W8A8 = "w8a8"
    PEER = "peer"


@dataclass(frozen=True)
class Traffic:
    """Least work of one call; caches may serve part of it, a kernel may do more.

    Args:
        bytes_read: bytes read from memory.
        bytes_written: bytes written to memory.
        flops: floating-point operations of the matmul (2 m n k).
        decoded_weights: weights turned from codes into numbers.
    """

    bytes_read: int
    bytes_written: int
    flops: int
    decoded_weights: int

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written


def weight_bytes(
    fmt: Format, n: int, k: int, *, group_size: int | None = None, double_quant: bool = False
) -> int:
    """Bytes that a quantized [n, k] weight stores: codes, scales, zero points (no ``input_permutation``).

    Args:
        fmt: the format.
        n: out_features.
        k: in_features.
        group_size: weights along K per scale; None takes the format's default.
        double_quant: whether the scales are stored in 8 bits.

    Raises:
        ValueError: k not divisible by the group size.
    """
    groups = n * (k // fmt.groups_for(k, group_size))
    codes = n * fmt.packed_columns(k) * fmt.storage_dtype.itemsize
    if double_quant:
        nested = -(-groups // NESTED_BLOCK)
        scales = groups + _FP32_BYTES * (nested + 1 + _NESTED_CODE_BOOK)
    else:
        scales = groups * fmt.scale_dtype.itemsize
    return codes + scales + (groups if fmt.zero_point else 0)


def linear_traffic(
    scheme: Scheme,
    fmt: Format | None,
    m: int,
    n: int,
    k: int,
    *,
    group_size: int | None = None,
    dtype_bytes: int = 2,
    double_quant: bool = False,
) -> Traffic:
    """Traffic of ``x[m, k] @ weight[n, k].T``.

    Args:
        scheme: native reads the weight in x's dtype; fused and null read the packed weight; unfused reads the
            packed weight, writes the decoded one and reads it back; w8a8 reads the packed weight, and reads x,
            writes it as one-byte codes with a scale per row and reads those back.
        fmt: the weight's format; None for native.
        m: rows of x.
        n: out_features.
        k: in_features.
        group_size: weights along K per scale; None takes the format's default.
        dtype_bytes: bytes per element of x, of y and of the decoded weight.
        double_quant: whether the scales are stored in 8 bits.

    Raises:
        ValueError: a size below 1, or k not divisible by the group size.
    """
    if min(m, n, k) < 1:
        raise ValueError(f"m={m}, n={n}, k={k}: every size must be at least 1")
    x, y, decoded = m * k * dtype_bytes, m * n * dtype_bytes, n * k * dtype_bytes
    flops = 2 * m * n * k
    if scheme is Scheme.NATIVE or fmt is None:
        return Traffic(x + decoded, y, flops, 0)
    packed = weight_bytes(fmt, n, k, group_size=group_size, double_quant=double_quant)
    if scheme is Scheme.W8A8:
        codes = m * k + _FP32_BYTES * m
        return Traffic(x + codes + packed, codes + y, flops, 0)
    if scheme is Scheme.UNFUSED:
        return Traffic(x + packed + decoded, y + decoded, flops, n * k)
    return Traffic(x + packed, y, flops, n * k if scheme is Scheme.FUSED else 0)
