"""``torch.ops.qt_profile.linear``: quantized products as one operator that ``torch.compile`` takes whole.

The operator is opaque: a compiler sees tensors, two names and the shape of the result. Calls on plain tensors do not
pass through it, because the dispatcher adds 5 to 8 microseconds to a call and hides the ranges; they run the very
function that the operator runs.

An operator takes tensors, not a ``QuantWeight``, so the weight is found again by where its tensors lie. A weight that
was never announced by ``remember`` is put together from its tensors once, and has layouts (``repacked``) of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kernels.formats import Format, Packing
from kernels.quant_weight import DoubleQuantScales, QuantWeight

_Key = tuple[str, int, tuple[int, ...]]
_Linear = Callable[[Tensor, Sequence[Tensor], str, int, str], Tensor]
_NativeLinear = Callable[[Tensor, Tensor, str, str], Tensor]

_library = torch.library.Library("qt_profile", "FRAGMENT")
# Defined with Library: a call costs a third of one through torch.library.custom_op.
_library.define(
    "linear(Tensor x, Tensor[] weight, str kernel, int group_size, str implementation) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "native_linear(Tensor x, Tensor weight, str kernel, str implementation) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)

_announced: weakref.WeakValueDictionary[_Key, QuantWeight] = weakref.WeakValueDictionary()
_rebuilt: dict[_Key, QuantWeight] = {}


def is_traced(x: Tensor) -> bool:
    """Whether a compiler or a mode watches operators, or x is no plain tensor: then the operator must be called."""
    return torch.compiler.is_compiling() or type(x) is not Tensor or torch._C._len_torch_dispatch_stack() > 0


def traced_linear(x: Tensor, w: QuantWeight, kernel: str, implementation: str) -> Tensor:
    """Call the operator.

    Args:
        x: activations [m, k].
        w: the weight, of the kernel's format.
        kernel: name in the registry.
        implementation: its implementation; empty for the device's default, found when the operator runs.

    Returns:
        [m, n] in x's dtype.
    """
    call: Callable[..., Tensor] = torch.ops.qt_profile.linear.default
    return call(x, tensors_of(w), kernel, w.group_size, implementation)


def traced_native_linear(x: Tensor, w: Tensor, kernel: str, implementation: str) -> Tensor:
    """Call the operator of native weights, ``qt_profile::native_linear``.

    Args:
        x: activations [..., k].
        w: [n, k] in x's dtype.
        kernel: as for :func:`traced_linear`.
        implementation: likewise.

    Returns:
        [..., n] in x's dtype.
    """
    call: Callable[..., Tensor] = torch.ops.qt_profile.native_linear.default
    return call(x, w, kernel, implementation)


def implement(linear: _Linear, native_linear: _NativeLinear) -> None:
    """Say what the operators run, with arguments as in their schemas."""
    _library.impl("linear", linear, "CompositeExplicitAutograd")
    _library.impl("native_linear", native_linear, "CompositeExplicitAutograd")


def remember(w: QuantWeight) -> None:
    """Let compiled code find this object, with the layouts cached on it, by its tensors; held weakly."""
    if w.device.type == "meta":
        return
    tensors = tensors_of(w)
    _announced[_key(tensors, w.format, w.group_size)] = w
    for tensor in tensors:
        # Else CUDA graphs of torch.compile would copy the weight before each replay. It is all that
        # torch._dynamo.mark_static_address(tensor, guard=False) does, and importing that takes seconds.
        tensor._dynamo_static_input_type = "unguarded"  # type: ignore[attr-defined]


def tensors_of(w: QuantWeight) -> list[Tensor]:
    """The stored tensors in the operator's order: packed, scales (or their four parts), zeros, permutation."""
    tensors = [w.packed]
    if w.scales is not None:
        tensors.append(w.scales)
    if w.double_quant is not None:
        tensors.extend(w.double_quant.tensors())
    if w.zeros is not None:
        tensors.append(w.zeros)
    if w.input_permutation is not None:
        tensors.append(w.input_permutation)
    return tensors


def weight_of(tensors: Sequence[Tensor], fmt: Format, group_size: int) -> QuantWeight:
    """The weight that stores these tensors.

    Args:
        tensors: as ``tensors_of`` orders them.
        fmt: the weight's format.
        group_size: weights along K per scale.

    Returns:
        The object that was announced, else one that is kept as long as ``tensors[0]`` lives.

    Raises:
        ValueError: the tensors do not make a weight of this format.
    """
    key = _key(tensors, fmt, group_size)
    found = _announced.get(key) or _rebuilt.get(key)
    if found is None:
        # Aliases, so that the weight does not keep alive the tensor whose end it waits for.
        found = _rebuilt[key] = _assemble([t.detach() for t in tensors], fmt, group_size)
        weakref.finalize(tensors[0], _rebuilt.pop, key, None)
    return found


def _key(tensors: Sequence[Tensor], fmt: Format, group_size: int) -> _Key:
    # Live tensors have different addresses, and an entry lives no longer than its tensors.
    return fmt.name, group_size, tuple([t.data_ptr() for t in tensors])


def _assemble(tensors: list[Tensor], fmt: Format, group_size: int) -> QuantWeight:
    packed, scales, *rest = tensors
    double_quant = None
    if scales.dtype == torch.uint8:
        nested_absmax, offset, code_book, *rest = rest
        double_quant = DoubleQuantScales(scales, nested_absmax, offset, code_book)
    zeros = rest.pop(0) if fmt.zero_point else None
    n, columns = packed.shape
    return QuantWeight(
        packed=packed,
        scales=scales if double_quant is None else None,
        zeros=zeros,
        format=fmt,
        shape=(n, 2 * columns if fmt.packing is Packing.NIBBLES else columns),
        group_size=group_size,
        double_quant=double_quant,
        input_permutation=rest[0] if rest else None,
    )


def _fake_linear(
    x: Tensor, weight: Sequence[Tensor], kernel: str, group_size: int, implementation: str
) -> Tensor:
    return x.new_empty(x.shape[0], weight[0].shape[0])


def _fake_native_linear(x: Tensor, weight: Tensor, kernel: str, implementation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


torch.library.register_fake("qt_profile::linear", _fake_linear, lib=_library)
torch.library.register_fake("qt_profile::native_linear", _fake_native_linear, lib=_library)
