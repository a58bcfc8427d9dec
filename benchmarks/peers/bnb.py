"""bitsandbytes: ``matmul_4bit`` with its two code books, and LLM.int8() without outliers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.peers.peer import GROUP_SIZE, Peer, PeerWeight, library, require_multiple, tensor_bytes

_LARGEST_INT8 = 127


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

    def product(x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        own = functional.QuantState(
            absmax=parts[1],
            shape=shape,
            code=parts[2],
            blocksize=GROUP_SIZE,
            quant_type=quant_type,
            dtype=torch.bfloat16,
        )
        return bitsandbytes.matmul_4bit(x, parts[0], own)  # type: ignore[no-any-return]

    return PeerWeight(
        parts=(packed, state.absmax, state.code),
        product=product,
        decoded=functional.dequantize_4bit(packed, state).float(),
        stored_bytes=tensor_bytes(packed, state.absmax, state.code),
        configuration=f"matmul_4bit, {quant_type}, block {GROUP_SIZE}, fp32 absmax",
    )


def llm_int8(w: Tensor) -> PeerWeight:
    """Weight for LLM.int8() with threshold 0: no outlier columns, so no host synchronisation.

    Args:
        w: weight [n, k], bf16.
    """
    bitsandbytes = library("bitsandbytes")
    codes, absmax, _ = library("bitsandbytes.functional").int8_vectorwise_quant(w.half())

    def product(x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        state = bitsandbytes.MatmulLtState()
        state.CB, state.SCB = parts
        state.has_fp16_weights, state.is_training, state.threshold = False, False, 0.0
        return bitsandbytes.matmul(x, parts[0], state=state)  # type: ignore[no-any-return]

    return PeerWeight(
        parts=(codes, absmax),
        product=product,
        decoded=codes.float() * absmax.float()[:, None] / _LARGEST_INT8,
        stored_bytes=tensor_bytes(codes, absmax),
        configuration="LLM.int8(), threshold 0",
        notes=(
            "threshold=0: no outlier columns are split off, as those synchronise with the host "
            "and cannot be captured",
        ),
    )


_ANYWHERE = ("cpu", "cuda")

PEERS = (
    Peer(
        "bnb_nf4",
        "bitsandbytes",
        4,
        GROUP_SIZE,
        None,
        partial(four_bit, quant_type="nf4"),
        "bitsandbytes",
        _ANYWHERE,
    ),
    Peer(
        "bnb_fp4",
        "bitsandbytes",
        4,
        GROUP_SIZE,
        None,
        partial(four_bit, quant_type="fp4"),
        "bitsandbytes",
        _ANYWHERE,
    ),
    Peer("bnb_llm_int8", "bitsandbytes", 8, None, "int8", llm_int8, "bitsandbytes", _ANYWHERE),
)
