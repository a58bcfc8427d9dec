"""``PeerKernel``: another library's kernel in the place of one of ours, for chains.

A sweep's rows and a chain's name a peer alike, with two exceptions: what sweeps call ``bnb_llm_int8`` is
``bnb_int8_plain`` here, because ``bnb_int8`` is LLM.int8() as its users run it, with outliers; and ``gptqmodel_*`` is
``gptq_*``. Either name is understood everywhere.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kernels.peers.peer import Peer, PeerUnavailableError, PeerWeight, first_line
from kernels.peers.registry import PEERS
from kernels.quantize import quantize
from kernels.ranges import NO_RANGES, RangeHook
from kernels.registry import KERNELS, Kernel, Weight
from kernels.traffic import Scheme, Traffic

_DTYPE = torch.bfloat16
_KEPT_AS_THEY_ARE = (torch.OutOfMemoryError, MemoryError, torch.AcceleratorError)
"""Errors of the machine, which mean the same whoever runs on it."""


class PeerFailedError(RuntimeError):
    """A call into another library raised; the message names both in one sentence."""


@dataclass(frozen=True)
class PeerKernel(Kernel):
    """A peer with the interface of our kernels; it takes a ``PeerWeight`` and has neither format nor null twin.

    Args:
        peer: the peer.
    """

    peer: Peer = field(kw_only=True)

    @property
    def weight_key(self) -> str:
        """The kernel's name, as no two peers share a layout."""
        return self.name

    @property
    def why_not_captured(self) -> str:
        """Why a CUDA graph cannot hold a call, in a clause; empty where it can."""
        return self.peer.uncapturable

    @property
    def opens_ranges(self) -> bool:
        """False: what happens within a call is the library's own."""
        return False

    def prepare(
        self, w: Tensor, *, group_size: int | None = None, double_quant: bool = False, name: str = "weight"
    ) -> PeerWeight:
        """Let the library quantize w [n, k] to its own layout.

        Args:
            w: native weight, bf16.
            group_size: None, or the peer's own.
            double_quant: False: no peer is asked to.
            name: what messages call the weight.

        Raises:
            ValueError: a setting, a dtype or sizes that the peer does not take, or the library raised.
        """
        if group_size not in (None, self.peer.group_size):
            raise ValueError(
                f"group_size={group_size} was asked for, {self.name} has {self.scale_of_weights}"
            )
        if double_quant:
            raise ValueError(
                f"double_quant=True was asked for, {self.name} keeps its scales as its library makes them"
            )
        if w.dtype is not _DTYPE:
            raise ValueError(f"{name} has dtype {w.dtype}, {self.name} takes {_DTYPE}")
        try:
            made = (self.peer.prepare_for_chain or self.peer.prepare)(w)
        except PeerUnavailableError as error:
            raise ValueError(f"{name}: {error}") from error
        except _KEPT_AS_THEY_ARE:
            raise
        except Exception as error:  # a library may raise anything
            raise ValueError(f"{self.name} cannot take {name}: {first_line(error)}") from error
        return replace(made, decoded=None)

    def linear(
        self,
        x: Tensor,
        w: Weight,
        *,
        implementation: str | None = None,
        ranges: RangeHook = NO_RANGES,
    ) -> Tensor:
        """Compute ``x @ weight.T`` as the library does; no gradients.

        Args:
            x: activations [..., k], bf16.
            w: what ``prepare`` made.
            implementation: None, or the library's name.
            ranges: opens ``linear`` around the call.

        Returns:
            [..., n] in x's dtype.

        Raises:
            ValueError: a shape, dtype, device or weight that does not fit.
            PeerFailedError: the library raised.
        """
        if not isinstance(w, PeerWeight):
            raise ValueError(f"{self.name} takes what its prepare() made, not a {type(w).__name__}")
        n, k = w.shape
        if not x.dim() or x.shape[-1] != k:
            raise ValueError(f"x has shape {list(x.shape)}, the weight of {self.name} has k={k}")
        if x.dtype is not _DTYPE:
            raise ValueError(f"x has dtype {x.dtype}, {self.name} takes {_DTYPE}")
        if implementation not in (None, self.peer.distribution):
            raise ValueError(
                f"{self.name} has no implementation {implementation!r}; it has: {self.peer.distribution}"
            )
        rows = x if x.dim() == 2 else x.reshape(-1, k)
        if rows.shape[0] == 0:
            return x.new_empty(*x.shape[:-1], n)
        y = self._call(rows, w, ranges)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], n)

    def _call(self, x: Tensor, w: PeerWeight, ranges: RangeHook) -> Tensor:
        try:
            with ranges("linear"), torch.no_grad():
                return w.linear(x)
        except _KEPT_AS_THEY_ARE:
            raise
        except Exception as error:  # a library may raise anything
            raise PeerFailedError(f"{self.name} failed at {x.shape[0]} rows: {first_line(error)}") from error

    def implementation_for(self, device: torch.device | str) -> str:
        """The library's name."""
        return self.peer.distribution

    def implementation_detail(
        self,
        implementation: str,
        device: torch.device | str,
        *,
        weight: Weight | None = None,
        m: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> str:
        """The library, its version and, with a weight, what was chosen for it."""
        text = f"{self.peer.distribution} {self.peer.version or 'unknown version'}"
        return f"{text}: {weight.configuration}" if isinstance(weight, PeerWeight) else text

    def available(self, device: torch.device | str) -> tuple[bool, str]:
        """Whether the library imports and takes this device, and if not, why."""
        on = torch.device(device)
        if self.peer.not_in_chains:
            return False, self.peer.not_in_chains
        if on.type not in self.peer.device_types:
            return False, f"it runs on {' and '.join(self.peer.device_types)}, not on {on.type}"
        if on.type == "cuda" and not torch.cuda.is_available():
            return False, "torch sees no CUDA device"
        return self.peer.available(on)

    def traffic(
        self,
        m: int,
        n: int,
        k: int,
        *,
        group_size: int | None = None,
        dtype_bytes: int = 2,
        double_quant: bool = False,
    ) -> Traffic:
        """Refused: only a weight that the library has stored tells its bytes.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.name} has no traffic at n={n}, k={k} before its library has stored a weight")

    @property
    def scale_of_weights(self) -> str:
        """What shares a scale, in words: ``groups of 64`` or ``a scale per row``."""
        size = self.peer.group_size
        return "a scale per row" if size is None else f"groups of {size}"


def peer_kernel(peer: Peer) -> PeerKernel:
    """The kernel that a peer is in a chain."""
    return PeerKernel(peer.kernel_name, Scheme.PEER, None, {}, peer=peer)


PEER_KERNELS: dict[str, PeerKernel] = {peer.kernel_name: peer_kernel(peer) for peer in PEERS.values()}
"""Every peer by its name in a chain, those that are not installed here too."""


def canonical_name(name: str) -> str:
    """A chain's name of a kernel that may go by its name in a sweep."""
    peer = PEERS.get(name)
    return name if peer is None or name in PEER_KERNELS else peer.kernel_name


def find_kernel(name: str) -> Kernel:
    """Look a kernel of a chain up: ours or another library's.

    Raises:
        ValueError: unknown name; the sentence suggests the closest known one and lists all.
    """
    found = KERNELS.get(name) or PEER_KERNELS.get(canonical_name(name))
    if found is None:
        known = (*KERNELS, *PEER_KERNELS)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown kernel {name!r}; {hint}known kernels: {', '.join(known)}")
    return found


def make_weight(
    kernel: Kernel,
    w: Tensor,
    *,
    group_size: int | None = None,
    double_quant: bool = False,
    name: str = "weight",
) -> Weight:
    """A native weight as a kernel multiplies by it.

    Args:
        kernel: ours or another library's.
        w: native weight [n, k].
        group_size: weights per scale; None takes the format's default.
        double_quant: quantize the scales once more.
        name: what messages call the weight.

    Returns:
        w itself for a native kernel.

    Raises:
        ValueError: a weight that the format cannot hold or the library does not take.
    """
    if isinstance(kernel, PeerKernel):
        return kernel.prepare(w, group_size=group_size, double_quant=double_quant, name=name)
    if kernel.format is None:
        return w
    return quantize(w, kernel.format, group_size=group_size, double_quant=double_quant, name=name)
