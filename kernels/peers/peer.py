"""``Peer``: another library's kernel beside ours, and ``PeerWeight``: a weight as that library stores it."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

GROUP_SIZE = 64
"""Weights along K that share a scale in every grouped peer, as in our 4-bit formats."""

Parts = tuple[Tensor, ...]
Product = Callable[[Tensor], Tensor]

# Peers may add partial sums of a split K in 16 bits and round scale times code to 16 bits once more.
_BOUND_FACTOR = 4.0
# Without the peer's own decoded weight the reference is the bf16 weight, and the difference holds the
# quantization error: about 0.1 at 4 bits and 0.03 at 8. A result of another weight differs by 1.4.
_WIDE_BOUND = {4: 0.3, 8: 0.1}


class PeerUnavailableError(Exception):
    """The peer does not run here, or not for this shape; the message says why, in one sentence."""


@dataclass(frozen=True, eq=False)
class PeerWeight:
    """A weight as a peer stores it.

    Args:
        parts: tensors that are read by a call; copies of the weight are copies of these.
        bind: turns the parts into what computes y [m, n] from x [m, k] in bf16; called once for each copy, so that a
            call builds nothing that the library would keep.
        shape: (n, k).
        decoded: the weight [n, k] that the parts stand for, fp32; None where the peer does not say.
        stored_bytes: bytes of the weight as stored, codes and scales.
        configuration: what was chosen, such as group size and layout.
        notes: what a reader of the row must know.
    """

    parts: Parts
    bind: Callable[[Parts], Product]
    shape: tuple[int, int]
    decoded: Tensor | None
    stored_bytes: int
    configuration: str
    notes: tuple[str, ...] = ()

    @cached_property
    def linear(self) -> Product:
        """Computes y [m, n] from x [m, k]."""
        return self.bind(self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of the weight as stored, as other kinds of weight name them."""
        return self.stored_bytes

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return self.parts[0].device

    def clone(self) -> PeerWeight:
        """The same weight at another place in memory, without the decoded copy."""
        return replace(self, parts=tuple(part.clone() for part in self.parts), decoded=None)

    def to(self, device: torch.device | str) -> PeerWeight:
        """The weight itself: a library's layout belongs to the device that it was made on.

        Raises:
            ValueError: another device.
        """
        on = torch.device(device)
        if on.type != self.device.type or on.index not in (None, self.device.index):
            raise ValueError(
                f"a weight laid out by {self.configuration} on {self.device} cannot move to {on}"
            )
        return self


@dataclass(frozen=True)
class Peer:
    """A kernel of another library.

    Args:
        name: name in a sweep's rows, such as ``bnb_nf4``.
        distribution: package whose version is recorded.
        bits: bits of a weight.
        group_size: weights along K that share a scale; None for one scale per row.
        quantized_activations: ``int8`` or ``fp8`` where x is quantized too; None for weight-only.
        prepare: turns a weight [n, k] in bf16 into the peer's form; raises ``PeerUnavailableError`` for what
            the peer does not take.
        module: module that must import for the peer to run.
        device_types: devices that the peer takes.
        chain_name: its name as a kernel of a chain, where that is another; see ``kernels.peers.kernel``.
        uncapturable: why a CUDA graph cannot hold a call, in a clause; empty where it can.
        not_in_chains: why a chain cannot run it, in a clause; empty where it can.
        prepare_for_chain: ``prepare`` for a chain, where that differs.
        install: what to do where the module is missing.
    """

    name: str
    distribution: str
    bits: int
    group_size: int | None
    quantized_activations: Literal["int8", "fp8"] | None
    prepare: Callable[[Tensor], PeerWeight]
    module: str = "torch"
    device_types: tuple[str, ...] = ("cuda",)
    chain_name: str = ""
    uncapturable: str = ""
    not_in_chains: str = ""
    prepare_for_chain: Callable[[Tensor], PeerWeight] | None = None
    install: str = ""

    @property
    def kernel_name(self) -> str:
        """Its name as a kernel of a chain."""
        return self.chain_name or self.name

    @property
    def weight_only(self) -> bool:
        """Whether x stays in 16 bits."""
        return self.quantized_activations is None

    @property
    def version(self) -> str | None:
        """Version of the package; None where it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def bound_factor(self) -> float:
        """Allowance on the bound that rounding gives our own kernels."""
        return _BOUND_FACTOR

    @property
    def wide_bound(self) -> float:
        """Largest relative error to the bf16 weight, for peers without a decoded weight."""
        return _WIDE_BOUND[self.bits]

    def available(self, device: torch.device) -> tuple[bool, str]:
        """Whether the peer's package imports and takes this device, and if not, why in a sentence."""
        if device.type not in self.device_types:
            return False, f"{self.name} runs on {' and '.join(self.device_types)}, not on {device.type}"
        if self.module != "torch":
            # Some warn on import or on every call, which is thousands of lines in a sweep.
            logging.getLogger(self.module).setLevel(logging.ERROR)
        settings = dict(os.environ)
        try:
            library(self.module)
        except Exception as error:  # packages raise anything while they look for a GPU or a compiler
            hint = self.install if isinstance(error, ModuleNotFoundError) else ""
            return False, f"{self.module} does not import: {first_line(error)}" + (hint and f"; {hint}")
        finally:
            # gptqmodel sets PyTorch's allocator up when it is imported, which must not reach our own times.
            os.environ.clear()
            os.environ.update(settings)
        return True, ""


def library(module: str) -> Any:
    """Import another library's module, most of which ship no types."""
    return importlib.import_module(module)


def first_line(error: BaseException) -> str:
    """The type and the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def tensor_bytes(*tensors: Tensor) -> int:
    """Bytes of plain tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def require_multiple(name: str, value: int, divisor: int, peer: str) -> None:
    """Refuse a size that a peer's kernel does not take.

    Raises:
        PeerUnavailableError: ``value`` is not a multiple of ``divisor``.
    """
    if value % divisor:
        raise PeerUnavailableError(
            f"{peer} takes {name} divisible by {divisor}, this shape has {name}={value}"
        )
