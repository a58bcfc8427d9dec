"""GemLite's weight-only Triton kernels: int4 in groups, int8 and fp8 with a scale per row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.peers.peer import (
    GROUP_SIZE,
    Parts,
    Peer,
    PeerWeight,
    Product,
    library,
    require_multiple,
    tensor_bytes,
)
from kernels.peers.rounding import FP8, int4_groups

# Its autotuner tries 20 to 40 configurations per shape and rows; Triton's default of 125 ms each takes minutes.
_TUNING_WARM_MS = 5
_TUNING_MS = 20
_NOTE = (
    f"GemLite's fast autotuning ran ahead of the timing, with {_TUNING_MS} ms for each configuration "
    "where its tables lack this GPU"
)


def int4(w: Tensor) -> PeerWeight:
    """Weight for GemLite's A16W4 with a scale and a zero per group.

    Args:
        w: weight [n, k], bf16, on CUDA.

    Raises:
        PeerUnavailableError: k is not divisible by the group size.
    """
    n, k = w.shape
    require_multiple("k", k, GROUP_SIZE, "gemlite_int4")
    rounded = int4_groups(w, GROUP_SIZE)
    zero = (-rounded.low.float() / rounded.scale.float()).bfloat16()
    layer = (
        library("gemlite.helper")
        .A16W4_HQQ_INT(device=w.device, dtype=torch.bfloat16)
        .from_weights(rounded.codes, rounded.scale.view(-1, 1), zero.view(-1, 1))
    )
    # GemLite stores -zero * scale, rounded once more, so that a weight is one multiply-add.
    offset = (-zero.float() * rounded.scale.float()).bfloat16().float()[..., None]
    decoded = rounded.codes.float().view(n, -1, GROUP_SIZE) * rounded.scale.float()[..., None] + offset
    return _weight(layer, decoded.view(n, k), f"A16W4, group size {GROUP_SIZE}, 32-bit packing")


def eight_bit(w: Tensor, *, fp8: bool) -> PeerWeight:
    """Weight for GemLite's A16W8 with a scale per row.

    Args:
        w: weight [n, k], bf16, on CUDA.
        fp8: float8_e4m3fn instead of int8.

    Raises:
        PeerUnavailableError: k is not divisible by 32.
    """
    helper = library("gemlite.helper")
    require_multiple("k", w.shape[1], 32, "gemlite_fp8" if fp8 else "gemlite_int8")
    if fp8:
        layer = helper.A16W8_FP8(device=w.device, dtype=torch.bfloat16, fp8=FP8).from_weights(w.clone())
    else:
        layer = helper.A16W8_INT8(device=w.device, dtype=torch.bfloat16).from_weights(w.clone())
    decoded = (layer.W_q.float() * layer.scales.float()).t().contiguous()
    return _weight(layer, decoded, "A16W8, a scale per row")


def _weight(layer: Any, decoded: Tensor, configuration: str) -> PeerWeight:
    forward = library("gemlite").forward_functional
    settings = layer.get_meta_args()
    parts = tuple(tensor.detach() for tensor in layer.get_tensor_args())

    def bind(parts: Parts) -> Product:
        tensors, tuned = list(parts), set[int]()

        def product(x: Tensor) -> Tensor:
            rows = x.shape[0]
            if rows in tuned:
                return forward(x, None, tensors, settings)  # type: ignore[no-any-return]
            with _short_tuning():
                y: Tensor = forward(x, None, tensors, settings)
            tuned.add(rows)
            return y

        return product

    return PeerWeight(
        parts=parts,
        bind=bind,
        shape=(decoded.shape[0], decoded.shape[1]),
        decoded=decoded,
        stored_bytes=tensor_bytes(*parts),
        configuration=configuration,
        notes=(_NOTE,),
    )


@contextmanager
def _short_tuning() -> Iterator[None]:
    """Let Triton's autotuner, which asks the driver for its benchmark on first use, use a shorter one."""
    do_bench = library("triton.testing").do_bench
    active = library("triton.runtime").driver.active
    usual = active.get_benchmarker
    active.get_benchmarker = lambda: partial(do_bench, warmup=_TUNING_WARM_MS, rep=_TUNING_MS)
    try:
        yield
    finally:
        active.get_benchmarker = usual


_peer = partial(
    Peer, distribution="gemlite", quantized_activations=None, module="gemlite", install="pip install gemlite"
)

PEERS = (
    _peer(name="gemlite_int4", bits=4, group_size=GROUP_SIZE, prepare=int4),
    _peer(name="gemlite_int8", bits=8, group_size=None, prepare=partial(eight_bit, fp8=False)),
    _peer(name="gemlite_fp8", bits=8, group_size=None, prepare=partial(eight_bit, fp8=True)),
)
