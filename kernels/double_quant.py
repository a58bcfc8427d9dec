"""Double quantization: group scales stored in 8 bits, bit-for-bit as bitsandbytes' CPU code does it.

bitsandbytes subtracts the mean of the scales and quantizes blocks of 256 to its signed dynamic 8-bit code
book. Its CPU kernel does not search the level nearest to a value: it rounds the value to one of 65,536 equal
steps in [-1, 1] and looks up the level nearest to that step. A value within a step of a threshold can so get
the farther level. This module repeats that rule, because scales must match bit for bit.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kernels.quant_weight import NESTED_BLOCK, DoubleQuantScales

_STEPS = 1 << 16


@lru_cache(maxsize=1)
def dynamic_code_book() -> Tensor:
    """The signed dynamic 8-bit code book, fp32 [256], ascending.

    Decade ``10**-e``, e = 6..0, times [0.1, 1] is cut into 2**(6-e) equal parts; the levels are their
    centres.

    Source: "8-bit approximations for parallelism in deep learning" (arXiv 1511.04561), as bitsandbytes'
        ``create_dynamic_map`` computes it; checked in tests/kernels/test_bitsandbytes.py.
    """
    magnitudes: list[float] = []
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1, dtype=torch.float32)
        centres = (edges[:-1] + edges[1:]) / 2.0
        magnitudes += (10.0 ** (power - 6) * centres).tolist()
    book = sorted([-v for v in magnitudes] + [0.0] + magnitudes + [1.0])
    return torch.tensor(book, dtype=torch.float32)


@lru_cache(maxsize=1)
def _step_codes() -> Tensor:
    """Code of the level nearest to each of the 65,536 steps, uint8; a tie goes to the lower level."""
    book = dynamic_code_book()
    steps = torch.arange(_STEPS, dtype=torch.float32) * (2.0 / (_STEPS - 1)) - 1.0
    upper = torch.searchsorted(book, steps).clamp(1, book.numel() - 1)
    is_upper_nearer = (book[upper] - steps).abs() < (steps - book[upper - 1]).abs()
    return torch.where(is_upper_nearer, upper, upper - 1).to(torch.uint8)


def double_quantize(scales: Tensor) -> DoubleQuantScales:
    """Quantize group scales to 8 bits.

    Args:
        scales: fp32 [n, k/group_size].

    Returns:
        Codes, nested absmax per 256 scales (in flattened order), offset and code book on the same device.

    Source: bitsandbytes 0.50.2, ``quantize_blockwise`` on a CPU; tests/kernels/test_bitsandbytes.py.
    """
    offset = scales.flatten().mean()
    centred = (scales - offset).flatten()
    padding = -centred.numel() % NESTED_BLOCK
    blocks = torch.nn.functional.pad(centred, (0, padding)).view(-1, NESTED_BLOCK)
    nested_absmax = blocks.abs().amax(-1)
    values = (blocks * (1.0 / nested_absmax).unsqueeze(-1)).clamp_(-1.0, 1.0)
    steps = ((values + 1.0) * (0.5 * (_STEPS - 1)) + 0.5).nan_to_num_(0.0).int()
    codes = _step_codes().to(scales.device)[steps]
    # A block whose scales all equal the mean has no direction to code; bitsandbytes writes code 0 there.
    codes = torch.where((nested_absmax == 0).unsqueeze(-1), torch.zeros_like(codes), codes)
    return DoubleQuantScales(
        codes=codes.flatten()[: centred.numel()].view(scales.shape).contiguous(),
        nested_absmax=nested_absmax,
        offset=offset,
        code_book=dynamic_code_book().to(scales.device),
    )
