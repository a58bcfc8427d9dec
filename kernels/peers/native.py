"""Peers that PyTorch itself brings: the tinygemm int4 kernel, ``_scaled_mm`` and ``_int_mm``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.peers.peer import GROUP_SIZE, Parts, Peer, PeerWeight, Product, require_multiple, tensor_bytes
from kernels.peers.rounding import fp8_rows, int4_groups, int8_rows

_INNER_K_TILES = 8
# torch._int_mm takes more than 16 rows only.
_LEAST_INT_ROWS = 17


def tinygemm_int4(w: Tensor) -> PeerWeight:
    """Weight for ``_weight_int4pack_mm``: w = (code - 8) scale + zero.

    Args:
        w: weight [n, k], bf16, on CUDA.

    Raises:
        PeerUnavailableError: sizes that do not fill its tiles.
    """
    n, k = w.shape
    require_multiple("n", n, 8, "tinygemm_int4")
    require_multiple("k", k, 16 * _INNER_K_TILES, "tinygemm_int4")
    rounded = int4_groups(w, GROUP_SIZE)
    zero = (rounded.low.float() + 8 * rounded.scale.float()).bfloat16()
    pairs = rounded.codes[:, ::2] << 4 | rounded.codes[:, 1::2]
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), _INNER_K_TILES)
    scales_and_zeros = torch.stack((rounded.scale, zero), dim=-1).transpose(0, 1).contiguous()
    decoded = (rounded.codes.float() - 8).view(n, -1, GROUP_SIZE) * rounded.scale.float()[..., None]
    return PeerWeight(
        parts=(packed, scales_and_zeros),
        bind=lambda p: lambda x: torch.ops.aten._weight_int4pack_mm(x, p[0], GROUP_SIZE, p[1]),
        shape=(n, k),
        decoded=(decoded + zero.float()[..., None]).view(n, k),
        stored_bytes=tensor_bytes(packed, scales_and_zeros),
        configuration=f"group size {GROUP_SIZE}, {_INNER_K_TILES} inner k tiles",
    )


def scaled_mm_fp8(w: Tensor) -> PeerWeight:
    """Weight for ``_scaled_mm`` with a scale per row of x and of the weight.

    Args:
        w: weight [n, k], bf16.

    Raises:
        PeerUnavailableError: n or k is not divisible by 16.
    """
    n, k = w.shape
    require_multiple("n", n, 16, "scaled_mm_fp8")
    require_multiple("k", k, 16, "scaled_mm_fp8")
    codes, scale = fp8_rows(w)

    def bind(parts: Parts) -> Product:
        def product(x: Tensor) -> Tensor:
            x_codes, x_scale = fp8_rows(x)
            return torch._scaled_mm(
                x_codes,
                parts[0].t(),
                scale_a=x_scale,
                scale_b=parts[1],
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )

        return product

    return PeerWeight(
        parts=(codes, scale.t().contiguous()),
        bind=bind,
        shape=(n, k),
        decoded=codes.float() * scale,
        stored_bytes=tensor_bytes(codes, scale),
        configuration="a scale per row of x and of the weight, fast accumulation",
        notes=("x is quantized within the time, by PyTorch's elementwise kernels",),
    )


def int_mm_int8(w: Tensor) -> PeerWeight:
    """Weight for ``_int_mm`` with a scale per row of x and of the weight.

    Args:
        w: weight [n, k], bf16.

    Raises:
        PeerUnavailableError: n or k is not divisible by 8.
    """
    n, k = w.shape
    require_multiple("n", n, 8, "int_mm_int8")
    require_multiple("k", k, 8, "int_mm_int8")
    codes, scale = int8_rows(w)

    def bind(parts: Parts) -> Product:
        def product(x: Tensor) -> Tensor:
            m = x.shape[0]
            x_codes, x_scale = int8_rows(x)
            if m < _LEAST_INT_ROWS:
                x_codes = pad(x_codes, (0, 0, 0, _LEAST_INT_ROWS - m))
            sums = torch._int_mm(x_codes, parts[0].t())
            return (sums[:m] * x_scale * parts[1]).bfloat16()

        return product

    return PeerWeight(
        parts=(codes, scale.t().contiguous()),
        bind=bind,
        shape=(n, k),
        decoded=codes.float() * scale,
        stored_bytes=tensor_bytes(codes, scale),
        configuration="a scale per row of x and of the weight",
        notes=(
            "x is quantized within the time, by PyTorch's elementwise kernels; "
            f"fewer than {_LEAST_INT_ROWS} rows are padded",
        ),
    )


PEERS = (
    Peer("tinygemm_int4", "torch", 4, GROUP_SIZE, None, tinygemm_int4),
    Peer("scaled_mm_fp8", "torch", 8, None, "fp8", scaled_mm_fp8, device_types=("cpu", "cuda")),
    Peer("int_mm_int8", "torch", 8, None, "int8", int_mm_int8, device_types=("cpu", "cuda")),
)
