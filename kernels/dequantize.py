"""The reference decode that every kernel is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.formats import Packing, levels
from kernels.packing import unpack_nibbles
from kernels.quant_weight import QuantWeight


def dequantize(qw: QuantWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Decode a weight: ``(level(code) - zero) * scale`` in fp32, cast once at the end.

    Args:
        qw: weight of logical shape [n, k].
        dtype: dtype of the result.

    Returns:
        [n, k] with columns in the order of the input features (``input_permutation`` undone).

    Source: bitsandbytes' dequantize_4bit gives the same bits for nf4 and fp4_bnb, with and without double
        quantization; checked in tests/kernels/test_bitsandbytes.py.
    """
    n, k = qw.shape
    if qw.format.packing is Packing.NIBBLES:
        table = levels(qw.format).to(qw.device)
        values = table[unpack_nibbles(qw.packed).int()]
    else:
        values = qw.packed.float()
    values = values.view(n, k // qw.group_size, qw.group_size)
    if qw.zeros is not None:
        values = values - qw.zeros.unsqueeze(-1)
    weight = (values * qw.group_scales().unsqueeze(-1)).view(n, k).to(dtype)
    if qw.input_permutation is None:
        return weight
    logical = torch.empty_like(weight)
    logical[:, qw.input_permutation] = weight
    return logical
