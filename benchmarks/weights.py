"""Random weights of a sweep: made once per shape, quantized per format, copied until they outgrow the cache.

Each call of a kernel takes the next copy, so by the time a copy comes round again the cache has seen
``COLD_FACTOR`` times its own size and holds nothing of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from benchmarks.machine import Target
from kernels.dequantize import dequantize
from kernels.formats import Format
from kernels.peers.peer import PeerWeight
from kernels.quant_weight import DoubleQuantScales, QuantWeight
from kernels.quantize import quantize

Weight = Tensor | QuantWeight | PeerWeight
T = TypeVar("T")

COLD_FACTOR = {"cuda": 4.0, "cpu": 2.0}
"""How many times the cache the copies of one weight hold."""

# A graph with one call per copy, and the time to fill a CPU's memory, bound the number of copies.
_MOST_COPIES = {"cuda": 1024, "cpu": 64}


class Ring(Generic[T]):
    """Copies of one weight, handed out in turn to everyone who reads that format."""

    def __init__(self, copies: list[T]) -> None:
        self.copies = copies
        self._next = 0

    def take(self) -> T:
        """The copy that was used longest ago."""
        copy = self.copies[self._next]
        self._next = (self._next + 1) % len(self.copies)
        return copy


@dataclass(frozen=True)
class CopyCount:
    """How many copies are made, and whether they are enough."""

    copies: int
    """Distinct copies of the weight."""
    note: str | None
    """What a reader must know where the copies do not outgrow the cache; None where they do."""


def random_weight(n: int, k: int, *, seed: int, device: torch.device) -> Tensor:
    """A weight [n, k] in fp32 with entries of variance 1/k, so that y has the scale of x."""
    return _normal((n, k), seed, device) / math.sqrt(k)


def random_x(m: int, k: int, *, seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Activations [m, k] with independent entries of mean 0 and variance 1."""
    return _normal((m, k), seed, device).to(dtype)


def make_weight(w: Tensor, fmt: Format | None, group_size: int | None, dtype: torch.dtype) -> Weight:
    """The weight as a kernel of this format takes it: quantized, or in ``dtype`` where there is no format."""
    return w.to(dtype) if fmt is None else quantize(w, fmt, group_size=group_size)


def decoded(weight: Weight) -> Tensor | None:
    """The decoded weight [n, k] in fp32, exactly as stored; None for a peer that does not say."""
    if isinstance(weight, PeerWeight):
        return weight.decoded
    return dequantize(weight) if isinstance(weight, QuantWeight) else weight.float()


def stored_bytes(weight: Weight) -> int:
    """Bytes of the weight as stored."""
    return weight.stored_bytes if isinstance(weight, PeerWeight) else weight.nbytes


def clone(weight: Weight) -> Weight:
    """The same weight at another place in memory; layouts that kernels cached stay behind."""
    if isinstance(weight, Tensor | PeerWeight):
        return weight.clone()
    double = weight.double_quant
    return replace(
        weight,
        packed=weight.packed.clone(),
        scales=None if weight.scales is None else weight.scales.clone(),
        zeros=None if weight.zeros is None else weight.zeros.clone(),
        double_quant=None if double is None else DoubleQuantScales(*(t.clone() for t in double.tensors())),
        repacked={},
    )


def count_copies(weight_bytes: int, target: Target) -> CopyCount:
    """Decide how many copies make every call read cold weights.

    Args:
        weight_bytes: one weight as stored, bytes.
        target: the device, for its cache.

    Returns:
        The count, with a note where it had to be bounded.
    """
    kind = target.device.type
    wanted = math.ceil(COLD_FACTOR[kind] * target.cache_bytes / weight_bytes)
    copies = max(1, min(wanted, _MOST_COPIES[kind]))
    if copies == wanted:
        return CopyCount(copies, None)
    guess = ", an assumed size" if target.cache_is_assumed else ""
    note = (
        f"{copies} copies of the weight, the most that are made, hold less than {COLD_FACTOR[kind]:g} times "
        f"the {target.cache_bytes / 1e6:.3g} MB cache{guess}: part of it may be warm"
    )
    return CopyCount(copies, note)


def make_ring(weight: Weight, copies: int) -> Ring[Weight]:
    """The weight and ``copies - 1`` clones."""
    return Ring([weight, *(clone(weight) for _ in range(copies - 1))])


def _normal(shape: tuple[int, int], seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device)
