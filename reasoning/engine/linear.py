"""``EngineLinear``: linears that read the same input, merged into one where that is exact.

Rows of a weight are independent, in every format: the merged weight holds the parts' rows one after another, and its
product is the parts' products side by side. Other libraries' weights are made from the merged native one: their scales
too belong to a row or to a group within one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.peers.kernel import PeerKernel, make_weight
from kernels.peers.peer import PeerWeight
from kernels.quant_weight import QuantWeight
from kernels.ranges import NO_RANGES, RangeHook
from kernels.registry import Kernel, Weight

NativeLinear = Callable[[Tensor, Tensor], Tensor]
"""``x @ w.T`` for a weight that is a plain tensor [n, k]."""


@dataclass(frozen=True, eq=False)
class LinearWeights:
    """One linear of a model.

    Args:
        name: its name in the model, for messages.
        dense: native weight [n, k]; None where only quantized ones exist.
        quantized: weights by ``Kernel.weight_key``: the format's name or the other library's kernel.
        bias: [n] or None.
        is_kept: stays native whatever the kernel.

    Raises:
        ValueError: no weight at all, or one to be kept native without a native weight.
    """

    name: str
    dense: Tensor | None
    quantized: Mapping[str, QuantWeight | PeerWeight] = field(default_factory=dict)
    bias: Tensor | None = None
    is_kept: bool = False

    def __post_init__(self) -> None:
        if self.dense is None and (self.is_kept or not self.quantized):
            raise ValueError(f"{self.name} has no native weight and {len(self.quantized)} quantized ones")

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k): out-features and in-features."""
        weight = self.dense if self.dense is not None else next(iter(self.quantized.values()))
        n, k = weight.shape
        return n, k


class EngineLinear:
    """``y = x @ weight.T`` for parts that share x, one product per weight that could be merged; the bias is left out.

    Whoever reads y adds ``bias`` in the same pass.

    Args:
        parts: the linears, in the order of their outputs; native weights of one dtype.

    Raises:
        ValueError: parts with different k.
    """

    def __init__(self, parts: Sequence[LinearWeights]) -> None:
        sizes = {part.shape[1] for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"{parts[0].name} and others are to be merged but have k={sorted(sizes)}")
        self.name = parts[0].name if len(parts) == 1 else "+".join(p.name.rpartition(".")[2] for p in parts)
        self.rows = tuple(part.shape[0] for part in parts)
        (self._k,) = sizes
        self.bias = _merged_bias(parts)
        self._names = tuple(part.name for part in parts)
        self._kept = tuple(part.is_kept for part in parts)
        dense = [part.dense for part in parts if part.dense is not None]
        # Without all native weights there is no bf16 kernel, only the formats.
        self._dense = _merged_dense(dense) if len(dense) == len(parts) else None
        self._weights: dict[str, tuple[Weight, ...]] = {}
        formats = {name for part in parts if not part.is_kept for name in part.quantized}
        for name in sorted(formats):
            held = [self._part_weight(i, part, name) for i, part in enumerate(parts)]
            if all(weight is not None for weight in held):
                self._weights[name] = merge_weights([weight for weight in held if weight is not None])

    def __call__(
        self, x: Tensor, kernel: Kernel, ranges: RangeHook = NO_RANGES, native: NativeLinear = F.linear
    ) -> Tensor:
        """Multiply.

        Args:
            x: [m, k].
            kernel: what multiplies, unless the weight is kept native.
            ranges: given to the kernel.
            native: multiplies by weights that are plain tensors; ``F.linear`` leaves those of a native kernel to the
                kernel.

        Returns:
            [m, n] in x's dtype, without the bias.

        Raises:
            ValueError: there is no weight of the kernel's format.
        """
        weights = self.weights(kernel)
        if len(weights) == 1:
            return self._product(x, weights[0], kernel, ranges, native)
        return torch.cat([self._product(x, weight, kernel, ranges, native) for weight in weights], dim=-1)

    def weights(self, kernel: Kernel) -> tuple[Weight, ...]:
        """What the kernel multiplies by: one weight, or several that could not be merged.

        Raises:
            ValueError: there is no weight of the kernel's format.
        """
        key = kernel.weight_key
        if key is None or all(self._kept):
            if self._dense is None:
                raise ValueError(f"{self.name} has no native weight (formats held: {self._held})")
            return (self._dense,)
        found = self._weights.get(key)
        if found is None:
            raise ValueError(f"{self.name} has no {key} weight (formats held: {self._held})")
        return found

    def nbytes(self, kernel: Kernel) -> int:
        """Bytes of the weights that the kernel multiplies by."""
        return sum(weight.nbytes for weight in self.weights(kernel))

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k) of all parts together."""
        return sum(self.rows), self._k

    def add_format(
        self, kernel: Kernel, *, group_size: int | None = None, double_quant: bool = False
    ) -> None:
        """Quantize the native weight as the kernel needs it, where that has not been done yet.

        Formats of ours are quantized part by part; another library gets all parts at once, unless some stay native.

        Raises:
            ValueError: a part that the format cannot hold, or no native weight.
        """
        key = kernel.weight_key
        if key is None or all(self._kept) or key in self._weights:
            return
        if self._dense is None:
            raise ValueError(
                f"{self.name} has no native weight to quantize to {key} (formats held: {self._held})"
            )
        if isinstance(kernel, PeerKernel) and not any(self._kept):
            self._weights[key] = (
                kernel.prepare(self._dense, group_size=group_size, double_quant=double_quant, name=self.name),
            )
            return
        # Part by part: double quantization takes its mean over one linear.
        self._weights[key] = merge_weights(
            [
                rows
                if kept
                else make_weight(kernel, rows, group_size=group_size, double_quant=double_quant, name=name)
                for rows, kept, name in zip(
                    self._dense.split(self.rows), self._kept, self._names, strict=True
                )
            ]
        )

    def native_rows(self) -> list[tuple[str, Tensor]]:
        """Name and native weight of each part, as views of the merged weight; empty where nothing was merged."""
        if self._dense is None or len(self.rows) == 1:
            return []
        return list(zip(self._names, self._dense.split(self.rows), strict=True))

    def _product(
        self, x: Tensor, weight: Weight, kernel: Kernel, ranges: RangeHook, native: NativeLinear
    ) -> Tensor:
        if not isinstance(weight, Tensor):
            return kernel.linear(x, weight, ranges=ranges)
        if kernel.weight_key is not None:
            return native(x, weight)
        if native is F.linear:
            return kernel.linear(x, weight, ranges=ranges)
        with ranges("linear"):
            return native(x, weight)

    def _part_weight(self, index: int, part: LinearWeights, fmt: str) -> Weight | None:
        if not part.is_kept:
            return part.quantized.get(fmt)
        return None if self._dense is None else self._dense.split(self.rows)[index]

    @property
    def _held(self) -> str:
        return ", ".join(self._weights) or "none"


def merge_weights(parts: Sequence[Weight]) -> tuple[Weight, ...]:
    """One weight with the rows of all parts, or the parts where that would not be exact.

    Parts stay apart if some are native and others quantized, if formats or group sizes differ, if their columns are
    permuted differently (GPTQ with act-order), or if another library has laid them out. Doubly quantized scales are
    decoded to fp32, exactly: the parts have different means, which one weight cannot hold.

    Args:
        parts: weights [n_i, k] with equal k.

    Returns:
        A tuple of one weight [sum of n_i, k], or ``parts``.
    """
    if len(parts) == 1:
        return tuple(parts)
    quantized = [part for part in parts if isinstance(part, QuantWeight)]
    if any(isinstance(part, PeerWeight) for part in parts):
        return tuple(parts)
    if not quantized:
        return (_merged_dense([part for part in parts if isinstance(part, Tensor)]),)
    first = quantized[0]
    if len(quantized) != len(parts) or not all(_fits(first, other) for other in quantized[1:]):
        return tuple(parts)
    zeros = [part.zeros for part in quantized if part.zeros is not None]
    merged = QuantWeight(
        packed=torch.cat([part.packed for part in quantized]),
        scales=torch.cat([part.group_scales() for part in quantized]),
        zeros=torch.cat(zeros) if zeros else None,
        format=first.format,
        shape=(sum(part.n for part in quantized), first.k),
        group_size=first.group_size,
        input_permutation=first.input_permutation,
    )
    return (merged,)


def _fits(a: QuantWeight, b: QuantWeight) -> bool:
    if a.format != b.format or a.group_size != b.group_size:
        return False
    if a.input_permutation is None or b.input_permutation is None:
        return a.input_permutation is b.input_permutation
    return torch.equal(a.input_permutation, b.input_permutation)


def _merged_dense(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _merged_bias(parts: Sequence[LinearWeights]) -> Tensor | None:
    biases = [part.bias for part in parts]
    given = next((bias for bias in biases if bias is not None), None)
    if given is None:
        return None
    return torch.cat(
        [
            given.new_zeros(rows) if bias is None else bias
            for bias, rows in zip(biases, (part.shape[0] for part in parts), strict=True)
        ]
    )
