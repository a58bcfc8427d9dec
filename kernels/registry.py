"""Every kernel by name: ``bf16``, and ``unfused_F``, ``fused_F``, ``null_F`` for every format F of the table.

An explicit choice of implementation never falls back to another; records store the one that ran.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import FORMATS, Format
from kernels.quant_weight import QuantWeight
from kernels.ranges import NO_RANGES, RangeHook
from kernels.torch_compile import torch_mode
from kernels.traffic import Scheme, Traffic, linear_traffic

__all__ = [
    "KERNELS",
    "NO_RANGES",
    "Implementation",
    "Kernel",
    "RangeHook",
    "Scheme",
    "Traffic",
    "build_kernels",
    "get_kernel",
]

QuantLinear = Callable[[Tensor, QuantWeight, RangeHook], Tensor]
NativeLinear = Callable[[Tensor, Tensor, RangeHook], Tensor]


@dataclass(frozen=True)
class Implementation:
    """One way to run a kernel.

    Args:
        name: ``torch``, ``triton``, ...
        load: imports the implementation and returns its function; called on first use only.
        device_types: devices it is meant for, for listings.
    """

    name: str
    load: Callable[[], QuantLinear | NativeLinear]
    device_types: tuple[str, ...]


@dataclass(frozen=True)
class Kernel:
    """A named way to compute ``x @ weight.T``.

    Args:
        name: key in ``KERNELS``.
        scheme: how the cast is handled.
        format: the weight's format; None for native.
        implementations: by name.
    """

    name: str
    scheme: Scheme
    format: Format | None
    implementations: Mapping[str, Implementation]

    @property
    def meaningful_output(self) -> bool:
        """False for the null kernels: they only cost what a kernel costs."""
        return self.scheme is not Scheme.NULL

    def linear(
        self,
        x: Tensor,
        w: QuantWeight | Tensor,
        *,
        implementation: str | None = None,
        ranges: RangeHook = NO_RANGES,
    ) -> Tensor:
        """Compute ``x @ dequantize(w).T``; no gradients.

        Args:
            x: activations [..., k].
            w: a ``QuantWeight`` of this kernel's format, or for ``bf16`` a tensor [n, k] in x's dtype.
            implementation: which one to run; None takes ``implementation_for(x.device)``.
            ranges: opens ``tau_cast`` and ``tau_comp`` (unfused) or ``linear`` (all others) around the work.

        Returns:
            [..., n] in x's dtype, accumulated in fp32; meaningless for null kernels.

        Raises:
            ValueError: shapes, dtypes, devices or the format do not fit, or no such implementation.
        """
        chosen = self._implementation(implementation or self.implementation_for(x.device))
        k = w.shape[-1]
        if x.shape[-1] != k:
            raise ValueError(f"x has {x.shape[-1]} columns, the weight of {self.name} has k={k}")
        if x.device != w.device:
            raise ValueError(f"x is on {x.device}, the weight of {self.name} on {w.device}")
        flat = x.reshape(-1, k)
        with torch.no_grad():
            if isinstance(w, QuantWeight):
                y = self._quantized(flat, w, chosen, ranges)
            else:
                y = self._native(flat, w, chosen, ranges)
        return y.view(*x.shape[:-1], w.shape[0])

    def implementation_for(self, device: torch.device | str) -> str:
        """The implementation that runs on a device by default: ``triton`` on CUDA, else ``torch``."""
        on_cuda = torch.device(device).type == "cuda"
        return "triton" if on_cuda and "triton" in self.implementations else "torch"

    def implementation_detail(self, implementation: str, device: torch.device | str) -> str:
        """What a record stores: the implementation, and for ``torch`` decoding whether it is compiled."""
        self._implementation(implementation)
        if implementation == "torch" and self.scheme is not Scheme.NATIVE:
            return torch_mode(device)
        return implementation

    def available(self, device: torch.device | str) -> tuple[bool, str]:
        """Whether the kernel runs on a device by default, and if not, why (empty if it does)."""
        kind = torch.device(device).type
        if kind == "cuda" and not torch.cuda.is_available():
            return False, "torch sees no CUDA device"
        if self.implementation_for(device) == "triton" and importlib.util.find_spec("triton") is None:
            return False, "triton is not installed"
        return True, ""

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
        """Least traffic of one call with x [m, k] and a weight [n, k]; see ``linear_traffic``.

        Raises:
            ValueError: a size below 1, or k not divisible by the group size.
        """
        return linear_traffic(
            self.scheme,
            self.format,
            m,
            n,
            k,
            group_size=group_size,
            dtype_bytes=dtype_bytes,
            double_quant=double_quant,
        )

    def _implementation(self, name: str) -> Implementation:
        try:
            return self.implementations[name]
        except KeyError:
            known = ", ".join(self.implementations)
            raise ValueError(f"{self.name} has no implementation {name!r}; it has: {known}") from None

    def _quantized(self, x: Tensor, w: QuantWeight, chosen: Implementation, ranges: RangeHook) -> Tensor:
        if self.format != w.format:
            wanted = "a plain tensor" if self.format is None else self.format.name
            raise ValueError(f"{self.name} takes {wanted}, the weight is {w.format.name}")
        if w.input_permutation is not None:
            x = x.index_select(1, w.input_permutation)
        if x.shape[0] == 0:
            return x.new_empty(0, w.n)
        function = _loaded(chosen)
        if self.scheme is Scheme.UNFUSED:
            return function(x, w, ranges)
        with ranges("linear"):
            return function(x, w, ranges)

    def _native(self, x: Tensor, w: Tensor, chosen: Implementation, ranges: RangeHook) -> Tensor:
        if self.format is not None:
            raise ValueError(
                f"{self.name} takes a QuantWeight of {self.format.name}, not a tensor of {w.dtype}"
            )
        if x.dtype != w.dtype:
            raise ValueError(f"x has dtype {x.dtype}, the weight of {self.name} has {w.dtype}")
        with ranges("linear"):
            return _loaded(chosen)(x, w, ranges)


_functions: dict[Implementation, Callable[..., Tensor]] = {}


def _loaded(implementation: Implementation) -> Callable[..., Tensor]:
    function = _functions.get(implementation)
    if function is None:
        function = _functions[implementation] = implementation.load()
    return function


def _load_native() -> NativeLinear:
    from kernels.torch_impl import native_linear

    return native_linear


def _torch_loader(scheme: Scheme) -> Callable[[], QuantLinear]:
    def load() -> QuantLinear:
        from kernels import torch_impl

        return {
            Scheme.UNFUSED: torch_impl.unfused_linear,
            Scheme.FUSED: torch_impl.fused_linear,
            Scheme.NULL: torch_impl.null_linear,
        }[scheme]

    return load


def _triton_loader(scheme: Scheme) -> Callable[[], QuantLinear]:
    def load() -> QuantLinear:
        from kernels.triton_impl import cast, fused

        return {
            Scheme.UNFUSED: cast.unfused_linear,
            Scheme.FUSED: fused.fused_linear,
            Scheme.NULL: fused.null_linear,
        }[scheme]

    return load


_QUANTIZED_SCHEMES = (Scheme.UNFUSED, Scheme.FUSED, Scheme.NULL)
_IMPLEMENTATIONS: dict[Scheme, dict[str, Implementation]] = {
    Scheme.NATIVE: {"torch": Implementation("torch", _load_native, ("cpu", "cuda"))}
} | {
    scheme: {
        "torch": Implementation("torch", _torch_loader(scheme), ("cpu", "cuda")),
        "triton": Implementation("triton", _triton_loader(scheme), ("cuda",)),
    }
    for scheme in _QUANTIZED_SCHEMES
}


def build_kernels(formats: Mapping[str, Format]) -> dict[str, Kernel]:
    """The kernels that a table of formats gives: ``bf16`` and one per scheme and format."""
    kernels = {"bf16": Kernel("bf16", Scheme.NATIVE, None, _IMPLEMENTATIONS[Scheme.NATIVE])}
    for fmt in formats.values():
        for scheme in _QUANTIZED_SCHEMES:
            name = f"{scheme.value}_{fmt.name}"
            kernels[name] = Kernel(name, scheme, fmt, _IMPLEMENTATIONS[scheme])
    return kernels


KERNELS: dict[str, Kernel] = build_kernels(FORMATS)


def get_kernel(name: str) -> Kernel:
    """Look a kernel up by name.

    Raises:
        ValueError: unknown name; the sentence suggests the closest known one and lists all.
    """
    try:
        return KERNELS[name]
    except KeyError:
        close = difflib.get_close_matches(name, KERNELS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown kernel {name!r}; {hint}known kernels: {', '.join(KERNELS)}") from None
