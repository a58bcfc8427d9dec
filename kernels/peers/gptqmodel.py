"""gptqmodel's Marlin and Machete layers, which it compiles with nvcc on first use."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from kernels.peers.peer import (
    GROUP_SIZE,
    Parts,
    Peer,
    PeerUnavailableError,
    PeerWeight,
    Product,
    library,
    require_multiple,
    tensor_bytes,
)
from kernels.peers.rounding import pack_int32_along_k, symmetric_groups

_LAYERS = {"marlin": "MarlinLinear", "machete": "MacheteLinear"}


def layer_weight(w: Tensor, family: str, bits: int) -> PeerWeight:
    """Weight of one of gptqmodel's layers: symmetric codes in groups.

    Args:
        w: weight [n, k], bf16, on CUDA.
        family: ``marlin`` or ``machete``.
        bits: 4 or 8.

    Raises:
        PeerUnavailableError: gptqmodel refuses the sizes or the GPU.
    """
    n, k = w.shape
    require_multiple("k", k, GROUP_SIZE, f"gptqmodel_{family}_int{bits}")
    layer_type: Any = getattr(library(f"gptqmodel.nn_modules.qlinear.{family}"), _LAYERS[family])
    settings: dict[str, Any] = {
        "bits": bits,
        "group_size": GROUP_SIZE,
        "desc_act": False,
        "sym": True,
        "in_features": k,
        "out_features": n,
        "pack_dtype": torch.int32,
        "dtype": torch.bfloat16,
    }
    is_taken, error = layer_type.validate(**settings, device=w.device)
    if not is_taken:
        raise PeerUnavailableError(f"gptqmodel refuses n={n}, k={k}: {error}")
    codes, scale = symmetric_groups(w, bits, GROUP_SIZE)
    layer = layer_type(**settings, bias=False).to(w.device)
    layer.qweight.data = pack_int32_along_k(codes, bits)
    layer.scales.data = scale.t().contiguous()
    layer.g_idx.data = torch.arange(k, dtype=torch.int32, device=w.device) // GROUP_SIZE
    layer.post_init()
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    names = tuple(tensors)
    parts = tuple(tensor.detach() for tensor in tensors.values())
    decoded = (codes.float() - 2 ** (bits - 1)).view(n, -1, GROUP_SIZE) * scale.float()[..., None]

    def bind(parts: Parts) -> Product:
        own = dict(zip(names, parts, strict=True))
        return lambda x: functional_call(layer, own, (x,))

    return PeerWeight(
        parts=parts,
        bind=bind,
        shape=(n, k),
        decoded=decoded.view(n, k),
        stored_bytes=tensor_bytes(tensors["qweight"], tensors["scales"]),
        configuration=f"{_LAYERS[family]}, group size {GROUP_SIZE}, symmetric",
    )


_INSTALL = (
    "pip install gptqmodel in an environment of its own: its current releases want torch 2.14 or newer, "
    "this project takes torch below 2.14"
)

PEERS = tuple(
    Peer(
        f"gptqmodel_{family}_int{bits}",
        "gptqmodel",
        bits,
        GROUP_SIZE,
        None,
        partial(layer_weight, family=family, bits=bits),
        "gptqmodel",
        chain_name=f"gptq_{family}_int{bits}",
        install=_INSTALL,
    )
    for family in _LAYERS
    for bits in (4, 8)
)
