"""Weights that are read one by one and quantized at once: native weights never lie in memory all together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import Format
from kernels.quantize import quantize
from reasoning.engine.linear import LinearWeights
from reasoning.quant_linear import KEPT_BY_DEFAULT


@dataclass(frozen=True)
class WantedFormat:
    """A format to quantize to.

    Args:
        format: the format.
        group_size: weights per scale; None takes the format's default.
        double_quant: quantize the scales once more.
    """

    format: Format
    group_size: int | None = None
    double_quant: bool = False


class StreamedWeights:
    """A source whose linears keep the quantized weights alone.

    Args:
        read: a tensor by its name in transformers, on the device it is to stay on, or one that is about to be freed.
        names: tensors that there are.
        formats: what to quantize linears to.
        keep: last name parts of linears that stay native.
    """

    def __init__(
        self,
        read: Callable[[str], Tensor],
        names: Collection[str],
        formats: Sequence[WantedFormat],
        *,
        keep: Collection[str] = KEPT_BY_DEFAULT,
    ) -> None:
        self._read = read
        self._names = names
        self._formats = formats
        self._keep = keep

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            ValueError: there is none, or it holds NaN or infinity.
        """
        if name not in self._names:
            raise ValueError(f"the weights lack {name} ({len(self._names)} tensors are there)")
        tensor = self._read(name).detach()
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise ValueError(
                f"{name} has {bad} values that are NaN or Inf of {tensor.numel()}; the model cannot be run"
            )
        return tensor

    def linear(self, name: str) -> LinearWeights:
        """The linear of that name, quantized unless it is kept.

        Raises:
            ValueError: it is missing, or a format cannot hold it.
        """
        native = self.tensor(f"{name}.weight")
        bias = self.tensor(f"{name}.bias") if f"{name}.bias" in self._names else None
        if name.rpartition(".")[2] in self._keep:
            return LinearWeights(name, native, {}, bias, is_kept=True)
        quantized = {
            wanted.format.name: quantize(
                native,
                wanted.format,
                group_size=wanted.group_size,
                double_quant=wanted.double_quant,
                name=f"{name}.weight",
            )
            for wanted in self._formats
        }
        return LinearWeights(name, None, quantized, bias)

    def adopt(self, name: str, rows: Tensor) -> None:
        """Nothing: no native weight was merged."""
