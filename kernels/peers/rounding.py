"""Rounds weights and activations to 4 and 8 bits for peers that leave it to the caller."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
_LEAST_SCALE = 1e-12


@dataclass(frozen=True, eq=False)
class Int4Groups:
    """A weight [n, k] in unsigned 4-bit codes with a scale and a lowest value per group.

    Args:
        codes: uint8 [n, k], 0 to 15.
        scale: bf16 [n, k/group_size], the step between codes.
        low: bf16 [n, k/group_size], the value of code 8 - 8 steps, before rounding of its sum.
        group_size: weights along K per scale.
    """

    codes: Tensor
    scale: Tensor
    low: Tensor
    group_size: int


def int4_groups(w: Tensor, group_size: int) -> Int4Groups:
    """Round a weight to 16 evenly spaced levels between the extremes of each group.

    Args:
        w: weight [n, k]; k is divisible by ``group_size``.
        group_size: weights along K per scale.
    """
    n, k = w.shape
    groups = w.float().view(n, k // group_size, group_size)
    low = groups.amin(-1).bfloat16()
    step = ((groups.amax(-1) - low.float()) / 15).clamp(min=_LEAST_SCALE).bfloat16()
    codes = ((groups - low.float()[..., None]) / step.float()[..., None]).round().clamp(0, 15)
    return Int4Groups(codes.to(torch.uint8).view(n, k), step, low, group_size)


def int8_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to -127..127 times a scale.

    Args:
        values: [rows, k].

    Returns:
        int8 [rows, k] and fp32 scales [rows, 1].
    """
    scale = (values.abs().amax(1, keepdim=True).float() / 127).clamp(min=_LEAST_SCALE)
    return (values / scale).round().to(torch.int8), scale


def fp8_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to float8_e4m3fn times a scale that puts its largest magnitude at 448.

    Args:
        values: [rows, k].

    Returns:
        float8_e4m3fn [rows, k] and fp32 scales [rows, 1].
    """
    scale = (values.abs().amax(1, keepdim=True).float() / 448).clamp(min=_LEAST_SCALE)
    return (values / scale).to(FP8), scale


def symmetric_groups(w: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Round a weight to codes c with value (c - 2^(bits-1)) scale, as GPTQ's symmetric layout has them.

    Args:
        w: weight [n, k]; k is divisible by ``group_size``.
        bits: 4 or 8.
        group_size: weights along K per scale.

    Returns:
        int32 codes [n, k] and bf16 scales [n, k/group_size].
    """
    n, k = w.shape
    half = 2 ** (bits - 1)
    groups = w.float().view(n, k // group_size, group_size)
    scale = (groups.abs().amax(-1) / (half - 1)).clamp(min=_LEAST_SCALE).bfloat16()
    codes = (groups / scale.float()[..., None]).round().clamp(-half, half - 1) + half
    return codes.to(torch.int32).view(n, k), scale


def pack_int32_along_k(codes: Tensor, bits: int) -> Tensor:
    """Pack codes as GPTQ checkpoints do: int32 [k bits/32, n], the first k in the lowest bits.

    Args:
        codes: int32 [n, k]; k is divisible by 32/bits.
        bits: 4 or 8.
    """
    per_word = 32 // bits
    n, k = codes.shape
    words = codes.t().reshape(k // per_word, per_word, n).to(torch.int64)
    shifts = bits * torch.arange(per_word, device=codes.device).view(1, per_word, 1)
    packed = (words << shifts).sum(1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)
