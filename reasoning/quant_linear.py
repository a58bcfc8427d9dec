"""``QuantLinear``: a linear layer whose kernel can be swapped, and the tool that puts it into a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels import ops
from kernels.peers.kernel import make_weight
from kernels.peers.peer import PeerWeight
from kernels.quant_weight import QuantWeight
from kernels.registry import Kernel, RangeHook
from reasoning.shown_ranges import shown

KEPT_BY_DEFAULT = ("lm_head",)


class QuantLinear(nn.Module):
    """``y = kernel(x, weight) + bias`` with a weight per format or library: kernels swap without quantizing again.

    Args:
        name: the module's name in its model, for messages.
        dense: the native weight [n, k], shared with the layer it replaces.
        bias: [n] or None.
    """

    def __init__(self, name: str, dense: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.name = name
        self.dense = nn.Parameter(dense, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.quantized: dict[str, QuantWeight | PeerWeight] = {}
        """Weights by ``Kernel.weight_key``."""
        self.ranges: RangeHook = shown()
        self.kernel: Kernel | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k): out-features and in-features."""
        n, k = self.dense.shape
        return n, k

    def use(self, kernel: Kernel) -> None:
        """Run ``kernel`` from now on.

        Raises:
            ValueError: the weight has not been quantized as the kernel needs it.
        """
        key = kernel.weight_key
        if key is not None and key not in self.quantized:
            held = ", ".join(self.quantized) or "none"
            raise ValueError(f"{self.name} has no {key} weight (formats held: {held})")
        if key is not None:
            _remember(self.quantized[key])
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x [..., k]; returns [..., n] in x's dtype."""
        if self.kernel is None:
            raise RuntimeError(f"{self.name} has no kernel yet; call use() first")
        key = self.kernel.weight_key
        weight = self.dense if key is None else self.quantized[key]
        y = self.kernel.linear(x, weight, ranges=self.ranges)
        return y if self.bias is None else y + self.bias

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> QuantLinear:
        """Let the quantized weights follow the module to another device (never to another dtype)."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.quantized = {name: w.to(self.dense.device) for name, w in self.quantized.items()}
        for w in self.quantized.values():
            _remember(w)
        return self

    def extra_repr(self) -> str:
        """Shape and kernel, for ``print(model)``."""
        n, k = self.shape
        return f"n={n}, k={k}, kernel={self.kernel.name if self.kernel else None}"


@dataclass(frozen=True)
class Replacement:
    """What :func:`replace_linears` did.

    Args:
        replaced: the new layers by module name.
        skipped: module name -> why its linear was kept.
    """

    replaced: dict[str, QuantLinear]
    skipped: dict[str, str]

    @property
    def running(self) -> str:
        """Name of the kernel that the replaced layers run."""
        kernel = next(iter(self.replaced.values())).kernel
        return "no kernel" if kernel is None else kernel.name

    def use(self, kernel: Kernel) -> None:
        """Run one kernel in every replaced layer."""
        for layer in self.replaced.values():
            layer.use(kernel)

    def time_ranges(self, hook: RangeHook) -> None:
        """Report the ranges of every replaced layer to ``hook``; ``NO_RANGES`` turns it off.

        A profiler that listens sees them in any case.
        """
        ranges = shown(hook)
        for layer in self.replaced.values():
            layer.ranges = ranges

    def weight_bytes(self, kernel: Kernel) -> int:
        """Bytes of the replaced layers' weights as this kernel stores them."""
        key = kernel.weight_key
        if key is None:
            return sum(layer.dense.nbytes for layer in self.replaced.values())
        return sum(layer.quantized[key].nbytes for layer in self.replaced.values())


def replace_linears(
    model: nn.Module,
    kernel: Kernel,
    *,
    keep: Collection[str] = KEPT_BY_DEFAULT,
    group_size: int | None = None,
    double_quant: bool = False,
    prequantized: Mapping[str, QuantWeight] | None = None,
) -> Replacement:
    """Replace every ``nn.Linear`` of a model by a :class:`QuantLinear` that runs ``kernel``.

    Args:
        model: changed in place; its linears' weights are shared, not copied.
        kernel: the kernel to run first; :func:`add_format` and ``Replacement.use`` switch to others.
        keep: last name parts (``lm_head``) or full names of linears that stay as they are.
        group_size: weights per scale; None takes the format's default.
        double_quant: quantize the scales once more, where the format can.
        prequantized: weights from a quantized checkpoint by module name, used for their own format.

    Returns:
        The replaced layers, and what was skipped with the reason.

    Raises:
        ValueError: a weight that the format cannot hold (k not divisible by the group, NaN), a stored weight with
            another group size than asked for, or no linear to replace.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    replaced: dict[str, QuantLinear] = {}
    skipped: dict[str, str] = {}
    for name, linear in linears.items():
        if name in keep or name.rpartition(".")[2] in keep:
            skipped[name] = "kept in its native format"
        else:
            replaced[name] = QuantLinear(name, linear.weight.detach(), _detached(linear.bias))
    if not replaced:
        raise ValueError(f"the model has {len(linears)} linear layers and none of them is to be replaced")
    replacement = Replacement(replaced, skipped)
    for name, weight in (prequantized or {}).items():
        if group_size not in (None, weight.group_size):
            raise ValueError(
                f"{name} is stored with group_size={weight.group_size}, not group_size={group_size}"
            )
        if name in replaced:
            replaced[name].quantized[weight.format.name] = weight
    add_format(replacement, kernel, group_size=group_size, double_quant=double_quant)
    for name, layer in replaced.items():
        layer.use(kernel)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return replacement


def add_format(
    replacement: Replacement, kernel: Kernel, *, group_size: int | None = None, double_quant: bool = False
) -> None:
    """Quantize every replaced layer to the kernel's format, or as its library does, where that has not been done yet.

    Raises:
        ValueError: as :func:`replace_linears`.
    """
    key = kernel.weight_key
    if key is None:
        return
    for name, layer in replacement.replaced.items():
        if key in layer.quantized:
            continue
        made = make_weight(
            kernel,
            layer.dense.detach(),
            group_size=group_size,
            double_quant=double_quant,
            name=f"{name}.weight",
        )
        if not isinstance(made, Tensor):
            layer.quantized[key] = made


def _remember(weight: QuantWeight | PeerWeight) -> None:
    """Let compiled code find one of our weights; other libraries' are never traced."""
    if isinstance(weight, QuantWeight):
        ops.remember(weight)


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def model_bytes(model: nn.Module, replacement: Replacement, kernel: Kernel) -> int:
    """Bytes of the whole model as ``kernel`` needs it: its own weights once, and everything that was not replaced."""
    linear_parameters = {id(layer.dense) for layer in replacement.replaced.values()}
    others = {
        id(t): t.nbytes
        for t in [*model.parameters(), *model.buffers()]
        if id(t) not in linear_parameters and t.device != torch.device("meta")
    }
    return sum(others.values()) + replacement.weight_bytes(kernel)
