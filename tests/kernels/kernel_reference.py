"""What kernel results are compared with."""

import torch

from kernels.dequantize import dequantize
from kernels.quantize import quantize


def relative_error(y, x, w):
    """||y - ref|| / ||ref|| against the float64 product with the weight decoded in fp32."""
    ref = x.double().cpu() @ dequantize(w).double().cpu().T
    return float((y.double().cpu() - ref).norm() / ref.norm())


def tolerance(dtype, k):
    """Bound on ``relative_error`` of a kernel that rounds weights to ``dtype`` once and accumulates in fp32.

    With unit roundoff u, each weight (or its level) carries a relative error of at most u. These errors are
    independent of a random x, so the product's error has norm at most u ||ref|| in the mean (u / sqrt(3) for
    errors spread evenly). Rounding y adds at most u ||ref||, and k additions in fp32 at most k 2**-24. The
    sum is the bound.
    """
    return 2 * torch.finfo(dtype).eps / 2 + k * 2.0**-24


def random_weight(n, k, fmt, *, group_size=None, double_quant=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator)
    return quantize(w, fmt, group_size=group_size, double_quant=double_quant)


def random_input(m, k, dtype, seed=1):
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype)
