"""bitsandbytes: ``matmul_4bit`` with its two code books, and LLM.int8() with and without outliers."""

from __future__ import annotations

from functools import partial

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

_LARGEST_INT8 = 127
OUTLIER_THRESHOLD = 6.0
"""LLM.int8()'s own: columns of x that hold a larger value are multiplied in 16 bits."""


def four_bit(w: Tensor, quant_type: str) -> PeerWeight:
    """Weight for ``matmul_4bit``, which itself chooses between its kernels by shape and rows.

    Args:
        w: weight [n, k], bf16.
        quant_type: ``nf4`` or ``fp4``.

    Raises:
        PeerUnavailableError: k is not divisible by the block, so blocks would span rows.
    """
    bitsandbytes, functional = library("bitsandbytes"), library("bitsandbytes.functional")
    shape = w.shape
    require_multiple("k", shape[1], GROUP_SIZE, f"bnb_{quant_type}")
    packed, state = functional.quantize_4bit(
        w, blocksize=GROUP_SIZE, quant_type=quant_type, compress_statistics=False
    )

    def bind(parts: Parts) -> Product:
        own = functional.QuantState(
            absmax=parts[1],
            shape=shape,
            code=parts[2],
            blocksize=GROUP_SIZE,
            quant_type=quant_type,
            dtype=torch.bfloat16,
        )
        return lambda x: bitsandbytes.matmul_4bit(x, parts[0], own)

    return PeerWeight(
        parts=(packed, state.absmax, state.code),
        bind=bind,
        shape=(shape[0], shape[1]),
        decoded=functional.dequantize_4bit(packed, state).float(),
        stored_bytes=tensor_bytes(packed, state.absmax, state.code),
        configuration=f"matmul_4bit, {quant_type}, block {GROUP_SIZE}, fp32 absmax",
    )


def llm_int8(w: Tensor, threshold: float) -> PeerWeight:
    """Weight for LLM.int8().

    Args:
        w: weight [n, k], bf16.
        threshold: columns of x with a larger value are multiplied in 16 bits; 0 for none, which needs no host.
    """
    bitsandbytes = library("bitsandbytes")
    codes, absmax, _ = library("bitsandbytes.functional").int8_vectorwise_quant(w.half())

    def bind(parts: Parts) -> Product:
        state = bitsandbytes.MatmulLtState()
        state.CB, state.SCB = parts
        state.has_fp16_weights, state.is_training, state.threshold = False, False, threshold
        return lambda x: bitsandbytes.matmul(x, parts[0], state=state)

    if threshold:
        note = "outlier columns of x are chosen over all rows of a call: a result depends on its batch"
    else:
        note = (
            "threshold=0: no outlier columns are split off, as those synchronise with the host "
            "and cannot be captured"
        )
    return PeerWeight(
        parts=(codes, absmax),
        bind=bind,
        shape=(w.shape[0], w.shape[1]),
        decoded=codes.float() * absmax.float()[:, None] / _LARGEST_INT8,
        stored_bytes=tensor_bytes(codes, absmax),
        configuration=f"LLM.int8(), threshold {threshold:g}",
        notes=(note,),
    )


_peer = partial(
    Peer,
    distribution="bitsandbytes",
    module="bitsandbytes",
    device_types=("cpu", "cuda"),
    install="pip install bitsandbytes",
)

PEERS = (
    _peer(
        name="bnb_nf4",
        bits=4,
        group_size=GROUP_SIZE,
        quantized_activations=None,
        prepare=partial(four_bit, quant_type="nf4"),
    ),
    _peer(
        name="bnb_fp4",
        bits=4,
        group_size=GROUP_SIZE,
        quantized_activations=None,
        prepare=partial(four_bit, quant_type="fp4"),
    ),
    _peer(
        name="bnb_int8",
        bits=8,
        group_size=None,
        quantized_activations="int8",
        prepare=partial(llm_int8, threshold=OUTLIER_THRESHOLD),
        uncapturable="LLM.int8() asks the host which columns of x are outliers in every call",
    ),
    _peer(
        name="bnb_llm_int8",
        bits=8,
        group_size=None,
        quantized_activations="int8",
        prepare=partial(llm_int8, threshold=0.0),
        chain_name="bnb_int8_plain",
    ),
)
