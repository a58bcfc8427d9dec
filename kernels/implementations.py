"""Which implementations each scheme has, when each is imported, and what each can run.

Nothing heavy is imported here: ``load`` and ``describe`` import an implementation when it first runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from kernels import native_w8a8
from kernels.formats import FORMATS, Format, Packing
from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook
from kernels.torch_compile import torch_mode
from kernels.torch_decode import DTYPES
from kernels.traffic import Scheme

QuantLinear = Callable[[Tensor, QuantWeight, RangeHook], Tensor]
NativeLinear = Callable[[Tensor, Tensor, RangeHook], Tensor]
Describe = Callable[..., str]

_HALF = (torch.bfloat16, torch.float16)
# The CUDA C++ kernels are written for these formats; the others keep Triton.
_CUDA_FORMATS = frozenset({"nf4", "fp4", "fp4_bnb", "int8", "fp8"})


def _runs(device: torch.device) -> str:
    return ""


@dataclass(frozen=True)
class Implementation:
    """One way to run a kernel.

    Args:
        name: ``torch``, ``triton`` or ``cuda``.
        load: imports the implementation and returns its function; called on first use only.
        device_types: devices it is meant for, for listings.
        dtypes: dtypes of x that it takes.
        why_not: why tensors on a device cannot be given to it, empty if they can.
        detail: what a record says instead of the name, from the device alone; None for the name.
        describe: imports and returns ``describe(weight, m, dtype)``, which names the configuration that runs (m and
            dtype are None where they are not known, and the text is empty where they leave it open); None if there is
            nothing to name.
    """

    name: str
    load: Callable[[], QuantLinear | NativeLinear]
    device_types: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = DTYPES
    why_not: Callable[[torch.device], str] = _runs
    detail: Callable[[torch.device], str] | None = None
    describe: Callable[[], Describe] | None = None

    @cached_property
    def function(self) -> Callable[..., Tensor]:
        """What ``load`` returned, loaded once."""
        return self.load()


def native_implementations(*, has_gemv: bool) -> Mapping[str, Implementation]:
    """The implementations of a kernel that multiplies by native weights.

    Args:
        has_gemv: whether few rows have a kernel of ours; otherwise torch alone.
    """
    found = {"torch": Implementation("torch", _load_native, ("cpu", "cuda"))}
    if has_gemv:
        found["triton"] = Implementation(
            "triton", _load_gemv, ("cuda",), why_not=_why_not_triton, describe=_describe_gemv
        )
    return found


def implementations_of(scheme: Scheme, fmt: Format) -> Mapping[str, Implementation]:
    """The implementations of one kernel by name.

    Args:
        scheme: how the kernel treats the cast.
        fmt: the weight's format.
    """
    if scheme is Scheme.W8A8:
        w8a8 = Implementation(
            "torch",
            _load_w8a8,
            ("cpu", "cuda"),
            why_not=partial(native_w8a8.why_not, fmt=fmt),
            detail=partial(native_w8a8.detail, fmt=fmt),
            describe=lambda: native_w8a8.describe,
        )
        return {"torch": w8a8}
    found = {
        "torch": Implementation("torch", partial(_load_torch, scheme), ("cpu", "cuda"), detail=torch_mode),
        "triton": Implementation(
            "triton",
            partial(_load_triton, scheme),
            ("cuda",),
            _HALF,
            _why_not_triton,
            describe=None if scheme is Scheme.UNFUSED else _describe_triton,
        ),
    }
    if scheme is not Scheme.UNFUSED and fmt is FORMATS.get(fmt.name) and fmt.name in _CUDA_FORMATS:
        found["cuda"] = Implementation(
            "cuda", partial(_load_cuda, scheme), ("cuda",), _HALF, _why_not_cuda, describe=_describe_cuda
        )
    return found


def has_w8a8(fmt: Format) -> bool:
    """Whether tensor cores take the codes of a format as they are."""
    return fmt.packing is Packing.BYTES


def _why_not_triton(device: torch.device) -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type == "cuda":
        return ""
    from kernels.triton_impl.decode import IS_INTERPRETED

    if IS_INTERPRETED.value:
        return ""
    return (
        f"the triton kernels run on cuda, x is on {device}; TRITON_INTERPRET=1, set before triton is imported, "
        "runs them on a cpu"
    )


def _why_not_cuda(device: torch.device) -> str:
    if device.type != "cuda":
        return f"the cuda kernels run on cuda, x is on {device}"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    from kernels.cuda_impl import support

    return support.why_not(device)


def _load_native() -> NativeLinear:
    from kernels.torch_impl import native_linear

    return native_linear


def _load_gemv() -> NativeLinear:
    from kernels.triton_impl import gemv

    return gemv.linear


def _load_w8a8() -> QuantLinear:
    return native_w8a8.native_linear


def _load_torch(scheme: Scheme) -> QuantLinear:
    from kernels import torch_impl

    return {
        Scheme.UNFUSED: torch_impl.unfused_linear,
        Scheme.FUSED: torch_impl.fused_linear,
        Scheme.NULL: torch_impl.null_linear,
    }[scheme]


def _load_triton(scheme: Scheme) -> QuantLinear:
    from kernels.triton_impl import cast, fused

    return {
        Scheme.UNFUSED: cast.unfused_linear,
        Scheme.FUSED: fused.fused_linear,
        Scheme.NULL: fused.null_linear,
    }[scheme]


def _load_cuda(scheme: Scheme) -> QuantLinear:
    from kernels.cuda_impl import linear

    return {Scheme.FUSED: linear.fused_linear, Scheme.NULL: linear.null_linear}[scheme]


def _describe_gemv() -> Describe:
    from kernels.triton_impl import gemv

    return gemv.describe


def _describe_triton() -> Describe:
    from kernels.triton_impl import fused

    return fused.describe


def _describe_cuda() -> Describe:
    from kernels.cuda_impl import linear

    return linear.describe_linear
