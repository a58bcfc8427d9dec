"""What a sweep compares: our kernels and other libraries' kernels behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.weights import Weight, make_weight
from kernels.formats import Format
from kernels.peers.peer import Peer, PeerWeight
from kernels.ranges import NO_RANGES, RangeHook
from kernels.registry import Kernel
from kernels.traffic import Scheme, weight_bytes

BASELINE = "bf16"


def group_size_for(fmt: Format | None, k: int, asked: int | None) -> int | None:
    """Weights along K that share a scale; None for one scale per row, or for no scale at all.

    Args:
        fmt: the weight's format; None for bf16.
        k: in-features.
        asked: group size that was asked for; None for the format's default.

    Raises:
        ValueError: ``k`` does not fit the group size.
    """
    if fmt is None or not fmt.group_sizes:
        return None
    return fmt.groups_for(k, asked)


@dataclass(frozen=True)
class Work:
    """What one call must move and compute; None where the stored weight is not known."""

    bytes_moved: int | None
    """Bytes read and written by the traffic model."""
    weight_bytes: int | None
    """Bytes of the weight as stored, codes and scales."""
    flops: int
    """Floating-point operations of the product."""
    group_size: int | None
    """Weights along K that share a scale; None for one scale per row, or none."""


class Variant(Protocol):
    """What is checked and timed."""

    @property
    def name(self) -> str:
        """Name in rows and samples."""

    @property
    def weight_key(self) -> str:
        """Variants with the same key read the same weights."""

    @property
    def is_peer(self) -> bool:
        """Whether it is another library's kernel."""

    @property
    def scheme(self) -> Scheme | None:
        """How our kernel treats the cast; None for peers."""

    @property
    def format(self) -> Format | None:
        """Format of our kernel's weight; None for bf16 and for peers."""

    @property
    def bits(self) -> int:
        """Bits of a weight."""

    @property
    def quantized_activations(self) -> str | None:
        """``int8`` or ``fp8`` where x is quantized too; None where it stays in 16 bits."""

    @property
    def bound_factor(self) -> float:
        """What the bound of rounding errors is multiplied with."""

    @property
    def meaningful_output(self) -> bool:
        """False for null kernels."""

    @property
    def has_ranges(self) -> bool:
        """Whether it opens ``tau_cast`` and ``tau_comp``."""

    def available(self, device: torch.device) -> tuple[bool, str]:
        """Whether it runs on a device, and if not, why."""

    def prepare(self, w: Tensor, group_size: int | None, dtype: torch.dtype) -> Weight:
        """The weight w [n, k] as this variant takes it; ``group_size`` is the one asked for."""

    def linear(self, x: Tensor, weight: Weight, ranges: RangeHook = NO_RANGES) -> Tensor:
        """Compute ``x @ weight.T`` for x [m, k]."""

    def work(self, m: int, n: int, k: int, group_size: int | None, weight: Weight | None) -> Work:
        """Traffic and arithmetic of a call; ``group_size`` is the one asked for."""

    def detail(self, weight: Weight, m: int, dtype: torch.dtype) -> str:
        """Implementation and configuration that run at m rows, in the words of a record."""


@dataclass(frozen=True)
class KernelVariant:
    """One of our kernels with the implementation that is timed."""

    kernel: Kernel
    """The kernel."""
    implementation: str
    """Key of its implementations."""
    is_peer = False
    bound_factor = 1.0

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.name

    @property
    def weight_key(self) -> str:
        """Name of the weight's format."""
        return self.kernel.format.name if self.kernel.format else BASELINE

    @property
    def scheme(self) -> Scheme | None:
        """The kernel's scheme."""
        return self.kernel.scheme

    @property
    def format(self) -> Format | None:
        """The kernel's format."""
        return self.kernel.format

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        return 16 if self.kernel.format is None else self.kernel.format.bits

    @property
    def quantized_activations(self) -> str | None:
        """The format's name for kernels that cast x to it."""
        is_w8a8 = self.kernel.scheme is Scheme.W8A8
        return self.kernel.format.name if is_w8a8 and self.kernel.format is not None else None

    @property
    def meaningful_output(self) -> bool:
        """False for null kernels."""
        return self.kernel.meaningful_output

    @property
    def has_ranges(self) -> bool:
        """Whether it is an unfused or a W8A8 kernel."""
        return self.kernel.opens_ranges

    def available(self, device: torch.device) -> tuple[bool, str]:
        """Whether the kernel runs on a device, and if not, why."""
        return self.kernel.available(device)

    def prepare(self, w: Tensor, group_size: int | None, dtype: torch.dtype) -> Weight:
        """Quantize w, or cast it to ``dtype`` where the kernel has no format."""
        return make_weight(
            w, self.kernel.format, group_size_for(self.kernel.format, w.shape[1], group_size), dtype
        )

    def linear(self, x: Tensor, weight: Weight, ranges: RangeHook = NO_RANGES) -> Tensor:
        """Compute ``x @ weight.T`` for x [m, k].

        Raises:
            ValueError: the weight belongs to a peer.
        """
        if isinstance(weight, PeerWeight):
            raise ValueError(f"{self.name} takes no weight prepared for a peer, {weight.configuration}")
        return self.kernel.linear(x, weight, implementation=self.implementation, ranges=ranges)

    def work(self, m: int, n: int, k: int, group_size: int | None, weight: Weight | None) -> Work:
        """Traffic and arithmetic of a call, from the sizes alone."""
        fmt = self.kernel.format
        groups = group_size_for(fmt, k, group_size)
        traffic = self.kernel.traffic(m, n, k, group_size=groups)
        stored = 2 * n * k if fmt is None else weight_bytes(fmt, n, k, group_size=groups)
        return Work(traffic.bytes_moved, stored, traffic.flops, groups)

    def detail(self, weight: Weight, m: int, dtype: torch.dtype) -> str:
        """Implementation and configuration that run at m rows."""
        if isinstance(weight, PeerWeight):
            raise ValueError(f"{self.name} takes no weight prepared for a peer, {weight.configuration}")
        return self.kernel.implementation_detail(
            self.implementation, weight.device, weight=weight, m=m, dtype=dtype
        )


@dataclass(frozen=True)
class PeerVariant:
    """A peer; its weights are prepared by the peer itself."""

    peer: Peer
    """The peer."""
    is_peer = True
    scheme = None
    format = None
    meaningful_output = True
    has_ranges = False

    @property
    def name(self) -> str:
        """The peer's name."""
        return self.peer.name

    @property
    def weight_key(self) -> str:
        """The peer's name, as no two peers share a layout."""
        return f"peer {self.peer.name}"

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        return self.peer.bits

    @property
    def quantized_activations(self) -> str | None:
        """What the peer casts x to."""
        return self.peer.quantized_activations

    @property
    def bound_factor(self) -> float:
        """The peers' allowance for 16-bit partial sums and scales."""
        return self.peer.bound_factor

    def available(self, device: torch.device) -> tuple[bool, str]:
        """Whether the peer imports, takes this device and, on a GPU, a CUDA graph; if not, why."""
        if device.type == "cuda" and self.peer.uncapturable:
            return False, f"a sweep times CUDA graphs, and {self.peer.uncapturable}"
        return self.peer.available(device)

    def prepare(self, w: Tensor, group_size: int | None, dtype: torch.dtype) -> Weight:
        """Let the peer quantize w in ``dtype``, at its own group size."""
        return self.peer.prepare(w.to(dtype))

    def linear(self, x: Tensor, weight: Weight, ranges: RangeHook = NO_RANGES) -> Tensor:
        """Compute ``x @ weight.T`` for x [m, k].

        Raises:
            ValueError: the weight was not prepared by a peer.
        """
        with torch.no_grad():
            return _prepared(self.name, weight).linear(x)

    def work(self, m: int, n: int, k: int, group_size: int | None, weight: Weight | None) -> Work:
        """Traffic with the weight as the peer stores it; None for a weight that is not prepared."""
        stored = None if weight is None else _prepared(self.name, weight).stored_bytes
        moved = None if stored is None else stored + 2 * m * (n + k)
        return Work(moved, stored, 2 * m * n * k, self.peer.group_size)

    def detail(self, weight: Weight, m: int, dtype: torch.dtype) -> str:
        """The peer's package, version and configuration."""
        version = self.peer.version or "unknown version"
        return f"{self.peer.distribution} {version}: {_prepared(self.name, weight).configuration}"


def _prepared(name: str, weight: Weight) -> PeerWeight:
    if not isinstance(weight, PeerWeight):
        raise ValueError(f"peer {name} takes a PeerWeight, not a {type(weight).__name__}")
    return weight
