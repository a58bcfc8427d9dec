"""Peers that need no library: right, wrong, absent and failing ones."""

import torch
from torch import Tensor

from kernels.peers.peer import Parts, Peer, PeerUnavailableError, PeerWeight, Product

_DEVICES = ("cpu", "cuda")


def rounded(w: Tensor) -> PeerWeight:
    """Eight bits per row, decoded in the product."""
    scale = w.float().abs().amax(1, keepdim=True) / 127
    codes = (w.float() / scale).round().to(torch.int8)
    return PeerWeight(
        parts=(codes, scale),
        bind=lambda parts: lambda x: x @ (parts[0].float() * parts[1]).to(x.dtype).T,
        shape=tuple(w.shape),
        decoded=codes.float() * scale,
        stored_bytes=codes.nbytes + scale.nbytes,
        configuration="rows of int8",
        notes=("a fake",),
    )


def undecoded(w: Tensor) -> PeerWeight:
    made = rounded(w)
    return PeerWeight(
        made.parts, made.bind, made.shape, None, made.stored_bytes, "says nothing of its weight"
    )


def wrong(w: Tensor) -> PeerWeight:
    made = rounded(w)
    return PeerWeight(
        made.parts, lambda p: lambda x: x @ p[0].to(x.dtype).T, made.shape, made.decoded, 1, "no scales"
    )


def refusing(w: Tensor) -> PeerWeight:
    raise PeerUnavailableError(f"refusing takes k divisible by 7, this shape has k={w.shape[1]}")


def raising(w: Tensor) -> PeerWeight:
    raise KeyError("sm_99")


def crashing(w: Tensor) -> PeerWeight:
    def bind(parts: Parts) -> Product:
        def product(x: Tensor) -> Tensor:
            raise AssertionError("no config fits\nmore")

        return product

    return PeerWeight((w,), bind, tuple(w.shape), w.float(), w.nbytes, "crashes")


def peer(name: str, prepare=rounded, bits: int = 8, **settings) -> Peer:
    return Peer(name, "torch", bits, None, None, prepare, **{"device_types": _DEVICES, **settings})


FAKES = {
    item.name: item
    for item in (
        peer("good_int8"),
        peer("undecoded_int8", undecoded),
        peer("wrong_int8", wrong),
        peer("refusing_int8", refusing),
        peer("raising_int8", raising),
        peer("crashing_int8", crashing),
        peer("absent_int8", module="no_such_library"),
        peer("gpu_int4", bits=4, device_types=("cuda",)),
    )
}
