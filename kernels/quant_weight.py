"""``QuantWeight``: one quantized matrix and everything needed to decode it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kernels.formats import Format

NESTED_BLOCK = 256


@dataclass(frozen=True, eq=False)
class DoubleQuantScales:
    """Group scales quantized once more, as bitsandbytes' ``compress_statistics`` does.

    ``scale[i] = code_book[codes[i]] * nested_absmax[i // 256] + offset`` over the flattened groups.

    Args:
        codes: uint8 [n, k/group_size].
        nested_absmax: fp32 [ceil(n * k/group_size / 256)].
        offset: fp32 scalar tensor, the mean of the scales.
        code_book: fp32 [256], ascending.
    """

    codes: Tensor
    nested_absmax: Tensor
    offset: Tensor
    code_book: Tensor

    def decode(self) -> Tensor:
        """Group scales, fp32 [n, k/group_size]; bit-for-bit what bitsandbytes decodes."""
        values = self.code_book[self.codes.flatten().int()]
        nested = self.nested_absmax.repeat_interleave(NESTED_BLOCK)[: values.numel()]
        return (values * nested + self.offset).view(self.codes.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        """Every stored tensor, for moving and counting."""
        return (self.codes, self.nested_absmax, self.offset, self.code_book)


@dataclass(frozen=True, eq=False)
class QuantWeight:
    """A quantized weight of logical shape [n, k].

    Args:
        packed: uint8 [n, k/2] for nibble formats, the even k in the high nibble; int8 or float8_e4m3fn [n, k]
            for byte formats.
        scales: fp32 [n, k/group_size], or None with ``double_quant``.
        zeros: uint8 [n, k/group_size] for zero-point formats, else None.
        format: the weight's format.
        shape: logical (n, k).
        group_size: weights along K per scale; k for formats with one scale per row.
        double_quant: the scales in quantized form, or None.
        input_permutation: int64 [k] or None. Column j of the packed weight belongs to input feature
            ``input_permutation[j]``, so a kernel multiplies by ``x[..., input_permutation]``.
        repacked: layouts that kernels derived from this weight, cached by name; never a second format.

    Raises:
        ValueError: a tensor whose shape or dtype does not fit the others.
    """

    packed: Tensor
    scales: Tensor | None
    zeros: Tensor | None
    format: Format
    shape: tuple[int, int]
    group_size: int
    double_quant: DoubleQuantScales | None = None
    input_permutation: Tensor | None = None
    repacked: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        n, k = self.shape
        if self.format.groups_for(k, self.group_size) != self.group_size:
            raise ValueError(f"group_size={self.group_size} does not fit {self.format.name} with k={k}")
        groups = (n, k // self.group_size)
        _check("packed", self.packed, (n, self.format.packed_columns(k)), self.format.storage_dtype)
        if (self.scales is None) == (self.double_quant is None):
            raise ValueError("a QuantWeight has either scales or double_quant, this one has both or neither")
        if self.scales is not None:
            _check("scales", self.scales, groups, self.format.scale_dtype)
        if self.double_quant is not None:
            _check("double_quant.codes", self.double_quant.codes, groups, torch.uint8)
        if (self.zeros is not None) != self.format.zero_point:
            raise ValueError(
                f"{self.format.name} has zero_point={self.format.zero_point}, zeros contradict it"
            )
        if self.zeros is not None:
            _check("zeros", self.zeros, groups, torch.uint8)
        if self.input_permutation is not None:
            _check("input_permutation", self.input_permutation, (k,), torch.int64)

    @property
    def n(self) -> int:
        """Rows: out_features."""
        return self.shape[0]

    @property
    def k(self) -> int:
        """Columns: in_features."""
        return self.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the packed tensor."""
        return self.packed.device

    @property
    def nbytes(self) -> int:
        """Bytes stored: codes, scales, zeros and permutation, without cached layouts."""
        return sum(t.numel() * t.element_size() for t in self.tensors())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per logical weight, scales included."""
        return 8 * self.nbytes / (self.n * self.k)

    def group_scales(self) -> Tensor:
        """What a group's levels are multiplied by, fp32 [n, k/group_size], whatever the storage."""
        if self.double_quant is not None:
            return self.double_quant.decode()
        if self.scales is None:
            raise ValueError("a QuantWeight has either scales or double_quant, this one has neither")
        return self.scales

    def absmax(self) -> Tensor:
        """Largest magnitude each group can stand for, fp32 [n, k/group_size].

        For nf4 and fp4_bnb it is the group scale itself, since their largest level is 1.

        Raises:
            ValueError: a zero-point format, whose range is not symmetric.
        """
        if self.format.zero_point:
            raise ValueError(f"{self.format.name} has a zero point, so its groups have no absmax")
        return self.group_scales() * self.format.largest_level

    def to(self, device: torch.device | str) -> QuantWeight:
        """A copy on ``device`` (this object if it is there already); cached layouts stay behind."""
        if torch.empty(0, device=device).device == self.device:
            return self
        double = self.double_quant
        return replace(
            self,
            packed=self.packed.to(device),
            scales=None if self.scales is None else self.scales.to(device),
            zeros=None if self.zeros is None else self.zeros.to(device),
            double_quant=None
            if double is None
            else DoubleQuantScales(*(t.to(device) for t in double.tensors())),
            input_permutation=None if self.input_permutation is None else self.input_permutation.to(device),
            repacked={},
        )

    def tensors(self) -> list[Tensor]:
        """Every stored tensor, without cached layouts."""
        parts = [self.packed, self.scales, self.zeros, self.input_permutation]
        double = () if self.double_quant is None else self.double_quant.tensors()
        return [t for t in (*parts, *double) if t is not None]


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name} has dtype {tensor.dtype}, expected {dtype}")
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} of shape {list(shape)} has strides {list(tensor.stride())}, expected contiguous rows"
        )
