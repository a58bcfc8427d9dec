"""Two 4-bit codes in a byte, the even column in the high nibble (bitsandbytes' order)."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_nibbles(codes: Tensor) -> Tensor:
    """Pack codes 0..15, uint8 [..., k] with even k, into uint8 [..., k/2].

    Raises:
        ValueError: odd number of columns.
    """
    if codes.shape[-1] % 2:
        raise ValueError(f"k={codes.shape[-1]} is odd, so it is not divisible by 2 codes per byte")
    return (codes[..., 0::2] << 4) | codes[..., 1::2]


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Unpack uint8 [..., k/2] into codes 0..15, uint8 [..., k]."""
    return torch.stack((packed >> 4, packed & 0xF), dim=-1).flatten(-2)
