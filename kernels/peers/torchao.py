"""torchao's weight-only linear layers, compiled as torchao recommends.

Every number of rows is compiled for itself. A chain's prompts have any length, so there int4 runs as it is: its
product is one operator of PyTorch's, and a CUDA graph hides what Python adds. The 8-bit layers decode into memory
unless they are compiled, so a chain does not run them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

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

_QUANTIZATION = "torchao.quantization"
# Every shape and number of rows is compiled for itself, and torch gives up after 8 by default.
_MOST_COMPILED = 4096


def int4(w: Tensor, *, is_compiled: bool = True) -> PeerWeight:
    """Weight of ``Int4WeightOnlyConfig``, in its default packing where the package for that is installed.

    Args:
        w: weight [n, k], bf16, on CUDA.
        is_compiled: compile the product for every number of rows.

    Raises:
        PeerUnavailableError: k is not divisible by the group size.
    """
    require_multiple("k", w.shape[1], GROUP_SIZE, "torchao_int4")
    packing = "tile_packed_to_4d" if importlib.util.find_spec("mslk") is None else "plain"
    config = library(_QUANTIZATION).Int4WeightOnlyConfig(
        group_size=GROUP_SIZE, int4_packing_format=packing, set_inductor_config=False
    )
    notes = ("without mslk, torchao runs PyTorch's tinygemm kernel",) if packing != "plain" else ()
    return _weight(
        w, config, None, f"group size {GROUP_SIZE}, packing {packing}", notes, is_compiled=is_compiled
    )


def int8(w: Tensor) -> PeerWeight:
    """Weight of ``Int8WeightOnlyConfig`` with a scale per row.

    Args:
        w: weight [n, k], bf16.
    """
    return _weight(
        w, library(_QUANTIZATION).Int8WeightOnlyConfig(set_inductor_config=False), _by_rows, "a scale per row"
    )


def fp8(w: Tensor) -> PeerWeight:
    """Weight of ``Float8WeightOnlyConfig`` with a scale per row.

    Args:
        w: weight [n, k], bf16.
    """
    return _weight(
        w,
        library(_QUANTIZATION).Float8WeightOnlyConfig(set_inductor_config=False),
        _by_rows,
        "a scale per row",
    )


def _weight(
    w: Tensor,
    config: Any,
    decode: Callable[[Any], Tensor] | None,
    configuration: str,
    notes: tuple[str, ...] = (),
    *,
    is_compiled: bool = True,
) -> PeerWeight:
    is_compiled = is_compiled and os.environ.get("QT_PROFILE_NO_COMPILE", "0") != "1"
    module = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, device="meta", dtype=w.dtype)
    module.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
    library(_QUANTIZATION).quantize_(module, config)
    stored: Any = module.weight.detach()
    return PeerWeight(
        parts=(stored,),
        bind=partial(_bind, is_compiled=is_compiled),
        shape=(w.shape[0], w.shape[1]),
        decoded=None if decode is None else decode(stored),
        stored_bytes=tensor_bytes(*(getattr(stored, name) for name in stored.tensor_data_names)),
        configuration=f"{configuration}, {'compiled' if is_compiled else 'eager'}",
        notes=notes,
    )


def _by_rows(stored: Any) -> Tensor:
    decoded: Tensor = stored.qdata.float() * stored.scale.float()
    return decoded


def _bind(parts: Parts, *, is_compiled: bool) -> Product:
    call, weight = _compiled() if is_compiled else linear, parts[0]
    return lambda x: call(x, weight)


@lru_cache(maxsize=1)
def _compiled() -> Callable[[Tensor, Tensor], Tensor]:
    # What torchao's own setter switches on for the whole process, for this function only.
    options: dict[str, Any] = {
        "coordinate_descent_tuning": True,
        "coordinate_descent_check_all_directions": True,
    }
    compiled = torch.compile(_plain_linear, dynamic=False, options=options)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        limits = {"recompile_limit": _MOST_COMPILED, "accumulated_recompile_limit": _MOST_COMPILED}
        with torch._dynamo.config.patch(limits):
            return compiled(x, weight)

    return call


def _plain_linear(x: Tensor, weight: Tensor) -> Tensor:
    return linear(x, weight)


_peer = partial(
    Peer, distribution="torchao", quantized_activations=None, module="torchao", install="pip install torchao"
)
_ONLY_COMPILED = (
    "it is compiled for every number of rows, which prompts of any length would do again and again "
    "(qt-profile sweep --peer measures it)"
)

PEERS = (
    _peer(
        name="torchao_int4",
        bits=4,
        group_size=GROUP_SIZE,
        prepare=int4,
        prepare_for_chain=partial(int4, is_compiled=False),
    ),
    _peer(
        name="torchao_int8",
        bits=8,
        group_size=None,
        prepare=int8,
        device_types=("cpu", "cuda"),
        not_in_chains=_ONLY_COMPILED,
    ),
    _peer(
        name="torchao_fp8",
        bits=8,
        group_size=None,
        prepare=fp8,
        device_types=("cpu", "cuda"),
        not_in_chains=_ONLY_COMPILED,
    ),
)
