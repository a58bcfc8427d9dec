"""Where the decoder finds its weights: a Hugging Face model, or tensors by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from kernels.quant_weight import QuantWeight
from reasoning.engine.linear import LinearWeights
from reasoning.quant_linear import KEPT_BY_DEFAULT, QuantLinear


class WeightSource(Protocol):
    """Weights by their names in transformers, asked for once each, layer by layer from the first."""

    def tensor(self, name: str) -> Tensor:
        """A norm's or the embedding's weight, such as ``model.norm.weight``."""
        ...

    def linear(self, name: str) -> LinearWeights:
        """A linear, such as ``model.layers.0.self_attn.q_proj``."""
        ...

    def adopt(self, name: str, rows: Tensor) -> None:
        """Learn that the linear's native weight now lies in ``rows`` [n, k], part of a merged weight."""
        ...


class ModelWeights:
    """Weights of a transformers model, its linears replaced by ``QuantLinear`` or not.

    A replaced linear brings its quantized weights. Where some have been replaced, the others are kept native.

    Args:
        model: a causal language model; its linears become views of the merged native weights, so that those exist
            once.
        quantized: weights of a quantized checkpoint by module name, beside those of replaced linears.
        keep: last name parts of linears that stay native in a model of which none has been replaced.
    """

    def __init__(
        self,
        model: Any,
        quantized: Mapping[str, QuantWeight] | None = None,
        *,
        keep: Collection[str] = KEPT_BY_DEFAULT,
    ) -> None:
        self._model = model
        self._quantized = quantized or {}
        self._keep = keep
        self._is_replaced = any(isinstance(module, QuantLinear) for module in model.modules())

    def tensor(self, name: str) -> Tensor:
        """The parameter of that name."""
        tensor: Tensor = self._model.get_parameter(name)
        return tensor.detach()

    def linear(self, name: str) -> LinearWeights:
        """The linear of that name."""
        module = self._model.get_submodule(name)
        bias = None if module.bias is None else module.bias.detach()
        stored = self._quantized.get(name)
        held = {} if stored is None else {stored.format.name: stored}
        if isinstance(module, QuantLinear):
            return LinearWeights(name, module.dense.detach(), {**held, **module.quantized}, bias)
        is_kept = self._is_replaced or name.rpartition(".")[2] in self._keep
        return LinearWeights(name, module.weight.detach(), held, bias, is_kept)

    def adopt(self, name: str, rows: Tensor) -> None:
        """Let the model read the merged weight instead of its own."""
        module = self._model.get_submodule(name)
        weight = nn.Parameter(rows, requires_grad=False)
        if isinstance(module, QuantLinear):
            module.dense = weight
        else:
            module.weight = weight


class StateDictWeights:
    """Weights from tensors by name.

    Args:
        tensors: a state dict in transformers' names; a tied ``lm_head.weight`` may be missing.
        quantized: quantized linears by module name, whose native weights may be missing.
        keep: last name parts of linears that stay native.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        quantized: Mapping[str, Mapping[str, QuantWeight]] | None = None,
        *,
        keep: Collection[str] = KEPT_BY_DEFAULT,
    ) -> None:
        self._tensors = tensors
        self._quantized = quantized or {}
        self._keep = keep

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            ValueError: there is none.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ValueError(f"the weights lack {name} ({len(self._tensors)} tensors are there)")
        return tensor.detach()

    def linear(self, name: str) -> LinearWeights:
        """The linear of that name.

        Raises:
            ValueError: neither a native nor a quantized weight of it is there.
        """
        quantized = self._quantized.get(name, {})
        dense = self._tensors.get(f"{name}.weight") if quantized else self.tensor(f"{name}.weight")
        bias = self._tensors.get(f"{name}.bias")
        return LinearWeights(
            name,
            None if dense is None else dense.detach(),
            quantized,
            None if bias is None else bias.detach(),
            is_kept=name.rpartition(".")[2] in self._keep,
        )

    def adopt(self, name: str, rows: Tensor) -> None:
        """Nothing: the tensors belong to the caller."""


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor.

    Raises:
        ValueError: it has another shape.
    """
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, the architecture asks for {list(shape)}")
    return tensor
