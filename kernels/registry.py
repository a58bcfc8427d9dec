"""Every kernel by name: ``bf16``, ``gemv_bf16``; ``unfused_F``, ``fused_F``, ``null_F``; ``native_F`` for 8-bit F.

The first two multiply by native weights, F is every format.

An explicit choice of implementation never falls back to another; records store the one that ran.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import ops
from kernels.formats import FORMATS, Format
from kernels.implementations import Implementation, has_w8a8, implementations_of, native_implementations
from kernels.native_w8a8 import activation_error_bound
from kernels.peers.peer import PeerWeight
from kernels.quant_weight import QuantWeight
from kernels.ranges import NO_RANGES, RangeHook
from kernels.traffic import Scheme, Traffic, linear_traffic

__all__ = [
    "KERNELS",
    "NO_RANGES",
    "Implementation",
    "Kernel",
    "RangeHook",
    "Scheme",
    "Traffic",
    "Weight",
    "build_kernels",
    "get_kernel",
]

Weight = Tensor | QuantWeight | PeerWeight
"""What kernels multiply by: native, of a format, or as another library stores it."""


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

    @property
    def weight_key(self) -> str | None:
        """Kernels with the same key multiply by the same weights: the format's name; None for native weights."""
        return None if self.format is None else self.format.name

    @property
    def why_not_captured(self) -> str:
        """Why a CUDA graph cannot hold a call, in a clause; empty where it can, as with all of ours."""
        return ""

    @property
    def opens_ranges(self) -> bool:
        """Whether a call opens ``tau_cast`` (of the weight, for W8A8 of x) and ``tau_comp`` instead of ``linear``."""
        return self.scheme in (Scheme.UNFUSED, Scheme.W8A8)

    def linear(
        self,
        x: Tensor,
        w: Weight,
        *,
        implementation: str | None = None,
        ranges: RangeHook = NO_RANGES,
    ) -> Tensor:
        """Compute ``x @ dequantize(w).T``; no gradients.

        ``torch.compile`` and the like see the operator ``qt_profile::linear`` and no ranges.

        Args:
            x: activations [..., k]; for a ``QuantWeight`` with adjacent columns, and leading dimensions that make one
                without a copy.
            w: a ``QuantWeight`` of this kernel's format, or for native kernels a tensor [n, k] in x's dtype.
            implementation: which one to run; None takes ``implementation_for(x.device)``.
            ranges: opens ``tau_cast`` and ``tau_comp`` (see ``opens_ranges``) or ``linear`` around the work.

        Returns:
            [..., n] in x's dtype, accumulated in fp32; meaningless for null kernels.

        Raises:
            ValueError: shapes, strides, dtypes, devices or the format do not fit, or no such implementation, or it does
                not run on this device.
        """
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self._linear(x, w, implementation, ranges)
        return self._linear(x, w, implementation, ranges)

    def implementation_for(self, device: torch.device | str) -> str:
        """The implementation that runs on a device by default: on CUDA ``cuda`` where it can, else ``triton``.

        ``torch`` elsewhere, and for kernels that have nothing else.
        """
        on = torch.device(device)
        if on.type == "cuda":
            cuda = self.implementations.get("cuda")
            if cuda is not None and not cuda.why_not(on):
                return "cuda"
            if "triton" in self.implementations:
                return "triton"
        return "torch"

    def implementation_detail(
        self,
        implementation: str,
        device: torch.device | str,
        *,
        weight: Weight | None = None,
        m: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> str:
        """What a record stores: the implementation and, as far as the arguments tell, its configuration.

        Args:
            implementation: which one.
            device: where it runs.
            weight: the weight it runs with.
            m: rows of x.
            dtype: dtype of x.

        Returns:
            For instance ``torch-compiled``, ``triton``, ``torch _scaled_mm row-wise`` (with a weight and m), ``triton
            gemv up to 2 rows, torch beyond`` (with a weight).

        Raises:
            ValueError: no such implementation.
        """
        chosen = self._implementation(implementation)
        text = chosen.name if chosen.detail is None else chosen.detail(torch.device(device))
        wanted = Tensor if self.format is None else QuantWeight
        if chosen.describe is None or not isinstance(weight, wanted):
            return text
        return f"{text} {chosen.describe()(weight, m, dtype)}".rstrip()

    def available(self, device: torch.device | str) -> tuple[bool, str]:
        """Whether the kernel runs on a device by default, and if not, why (empty if it does)."""
        on = torch.device(device)
        if on.type == "cuda" and not torch.cuda.is_available():
            return False, "torch sees no CUDA device"
        why_not = self.implementations[self.implementation_for(on)].why_not(on)
        return not why_not, why_not

    def activation_error_bound(self, x: Tensor) -> Tensor | None:
        """Largest error of each element of x that a kernel makes by quantizing it.

        Args:
            x: activations [m, k].

        Returns:
            float64 [m, k] as ``kernels.native_w8a8.activation_error_bound`` derives it, which also says what follows
            for the result; None for kernels that multiply x as it is.
        """
        if self.scheme is not Scheme.W8A8 or self.format is None:
            return None
        return activation_error_bound(x, self.format)

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

    def _linear(self, x: Tensor, w: Weight, implementation: str | None, ranges: RangeHook) -> Tensor:
        if isinstance(w, PeerWeight):
            raise ValueError(f"{self.name} takes no weight that another library stores ({w.configuration})")
        n, k = w.shape
        if not x.dim() or x.shape[-1] != k:
            raise ValueError(f"x has shape {list(x.shape)}, the weight of {self.name} has k={k}")
        if isinstance(w, Tensor):
            return self._native(x, w, implementation, ranges)
        if self.format is not w.format and self.format != w.format:
            wanted = "a plain tensor" if self.format is None else self.format.name
            raise ValueError(f"{self.name} takes {wanted}, the weight is {w.format.name}")
        if ops.is_traced(x):
            y = ops.traced_linear(x.view(-1, k), w, self.name, implementation or "")
            return y.view(*x.shape[:-1], n)
        if x.dim() == 2:
            return self._rows(x, w, implementation, ranges)
        try:
            rows = x.view(-1, k)
        except RuntimeError:
            raise ValueError(
                f"x of shape {list(x.shape)} has strides {list(x.stride())}, so only a copy makes rows of {k} of it"
            ) from None
        return self._rows(rows, w, implementation, ranges).view(*x.shape[:-1], n)

    def _rows(self, x: Tensor, w: QuantWeight, implementation: str | None, ranges: RangeHook) -> Tensor:
        chosen = self._choices.get((implementation, x.device)) or self._choose(implementation, x.device)
        if x.device != w.device:
            raise ValueError(f"x is on {x.device}, the weight of {self.name} on {w.device}")
        if x.dtype not in chosen.dtypes:
            known = ", ".join(str(dtype) for dtype in chosen.dtypes)
            raise ValueError(f"x has dtype {x.dtype}, the {chosen.name} kernels take {known}")
        if x.stride(1) != 1 and x.shape[1] != 1:
            raise ValueError(
                f"x of shape {list(x.shape)} has strides {list(x.stride())}, its columns must be 1 apart"
            )
        if w.input_permutation is not None:
            x = x.index_select(1, w.input_permutation)
        if x.shape[0] == 0:
            return x.new_empty(0, w.n)
        if ranges is NO_RANGES or self.opens_ranges:
            return chosen.function(x, w, ranges)
        with ranges("linear"):
            return chosen.function(x, w, ranges)

    def _native(self, x: Tensor, w: Tensor, implementation: str | None, ranges: RangeHook) -> Tensor:
        if self.format is not None:
            raise ValueError(
                f"{self.name} takes a QuantWeight of {self.format.name}, not a tensor of {w.dtype}"
            )
        if x.dtype != w.dtype:
            raise ValueError(f"x has dtype {x.dtype}, the weight of {self.name} has {w.dtype}")
        if x.device != w.device:
            raise ValueError(f"x is on {x.device}, the weight of {self.name} on {w.device}")
        if ops.is_traced(x):
            if len(self.implementations) == 1:
                return F.linear(x, w)
            return ops.traced_native_linear(x, w, self.name, implementation or "")
        chosen = self._choices.get((implementation, x.device)) or self._choose(implementation, x.device)
        with ranges("linear"):
            return chosen.function(x, w, ranges)

    @cached_property
    def _choices(self) -> dict[tuple[str | None, torch.device], Implementation]:
        """Implementations that have been chosen and can run, by what was asked for and device."""
        return {}

    def _choose(self, implementation: str | None, device: torch.device) -> Implementation:
        chosen = self._implementation(implementation or self.implementation_for(device))
        why_not = chosen.why_not(device)
        if why_not:
            raise ValueError(f"{self.name} cannot run: {why_not}")
        self._choices[implementation, device] = chosen
        return chosen

    def _implementation(self, name: str) -> Implementation:
        try:
            return self.implementations[name]
        except KeyError:
            known = ", ".join(self.implementations)
            raise ValueError(f"{self.name} has no implementation {name!r}; it has: {known}") from None


_QUANTIZED_SCHEMES = (Scheme.UNFUSED, Scheme.FUSED, Scheme.NULL)


def build_kernels(formats: Mapping[str, Format]) -> dict[str, Kernel]:
    """The kernels that a table of formats gives: native ones, one per scheme and format, and W8A8 for bytes."""
    kernels = {
        name: Kernel(name, Scheme.NATIVE, None, native_implementations(has_gemv=name != "bf16"))
        for name in ("bf16", "gemv_bf16")
    }
    for fmt in formats.values():
        for scheme in _QUANTIZED_SCHEMES:
            name = f"{scheme.value}_{fmt.name}"
            kernels[name] = Kernel(name, scheme, fmt, implementations_of(scheme, fmt))
        if has_w8a8(fmt):
            name = f"native_{fmt.name}"
            kernels[name] = Kernel(name, Scheme.W8A8, fmt, implementations_of(Scheme.W8A8, fmt))
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


def _run_native_operator(x: Tensor, weight: Tensor, kernel: str, implementation: str) -> Tensor:
    found = get_kernel(kernel)
    chosen = found._choices.get((implementation or None, x.device)) or found._choose(
        implementation or None, x.device
    )
    return chosen.function(x, weight, NO_RANGES)


def _run_operator(
    x: Tensor, weight: Sequence[Tensor], kernel: str, group_size: int, implementation: str
) -> Tensor:
    found = get_kernel(kernel)
    if found.format is None:
        raise ValueError(f"{kernel} takes a plain tensor, the operator takes the tensors of a QuantWeight")
    w = ops.weight_of(weight, found.format, group_size)
    if x.shape[-1] != w.k:
        raise ValueError(f"x has shape {list(x.shape)}, the weight of {kernel} has k={w.k}")
    return found._rows(x, w, implementation or None, NO_RANGES)


ops.implement(_run_operator, _run_native_operator)
