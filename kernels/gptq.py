"""GPTQ checkpoints (``qweight``, ``qzeros``, ``scales``, ``g_idx``) to and from ``QuantWeight``.

A GPTQ file packs eight 4-bit values per int32, lowest bits first: along K in ``qweight`` [k/8, n], along N in
``qzeros`` [k/group, n/8]. With act-order, ``g_idx`` [k] says which group each input feature belongs to:
columns are gathered by group here, and their order is kept as ``input_permutation``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import get_format
from kernels.packing import pack_nibbles, unpack_nibbles
from kernels.quant_weight import QuantWeight

_PER_INT32 = 8


@dataclass(frozen=True, eq=False)
class GptqTensors:
    """One layer: qweight [k/8, n], qzeros [k/group, n/8], g_idx [k], all int32; scales fp16 [k/group, n]."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor
    g_idx: Tensor


def from_gptq(
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Tensor | None,
    *,
    bits: int = 4,
    group_size: int,
    zero_offset: int = 1,
    name: str = "weight",
) -> QuantWeight:
    """Read one layer of a GPTQ checkpoint as an int4 weight.

    Args:
        qweight: int32 [k/8, n].
        qzeros: int32 [k/group_size, n/8].
        scales: floating-point [k/group_size, n].
        g_idx: integer [k], the group of each input feature, or None for consecutive groups.
        bits: bits per code; only 4 is supported.
        group_size: input features per group.
        zero_offset: what the file subtracted from each zero point: 1 in v1 files, 0 in ``gptq_v2`` files.
        name: what to call the layer in errors.

    Raises:
        ValueError: other bits, shapes that do not fit each other, or groups of unequal size.
    """
    if bits != 4:
        raise ValueError(f"{name}: bits={bits} is not supported, GPTQ weights are read with bits=4")
    if zero_offset not in (0, 1):
        raise ValueError(f"{name}: zero_offset={zero_offset} is not 0 (gptq_v2) or 1 (v1)")
    for label, tensor in (("qweight", qweight), ("qzeros", qzeros)):
        if tensor.dtype != torch.int32 or tensor.ndim != 2:
            raise ValueError(
                f"{name}: {label} has {tensor.ndim} dimensions of {tensor.dtype}, expected 2 of torch.int32"
            )
    fmt = get_format("int4")
    k, n = qweight.shape[0] * _PER_INT32, qweight.shape[1]
    try:
        groups = k // fmt.groups_for(k, group_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    _expect(name, "scales", scales, (groups, n))
    _expect(name, "qzeros", qzeros, (groups, n // _PER_INT32))
    if n % _PER_INT32:
        raise ValueError(f"{name}: n={n} is not divisible by the {_PER_INT32} zero points of an int32")

    codes = _unpack_int32(qweight.T.contiguous())
    permutation = None
    if g_idx is not None:
        _expect(name, "g_idx", g_idx, (k,))
        permutation = _permutation(g_idx, groups, group_size, name)
    if permutation is not None:
        codes = codes[:, permutation]
    zeros = (_unpack_int32(qzeros) + zero_offset) & 0xF
    return QuantWeight(
        packed=pack_nibbles(codes),
        scales=scales.T.float().contiguous(),
        zeros=zeros.T.contiguous(),
        format=fmt,
        shape=(n, k),
        group_size=group_size,
        input_permutation=permutation,
    )


def to_gptq(qw: QuantWeight, *, zero_offset: int = 1) -> GptqTensors:
    """Write an int4 weight as the tensors of a GPTQ layer; scales are rounded to fp16.

    Args:
        qw: int4 weight [n, k] with n divisible by 8.
        zero_offset: 1 for v1 files, 0 for ``gptq_v2``.

    Raises:
        ValueError: another format, or n not divisible by 8.
    """
    if qw.zeros is None:
        raise ValueError(f"a GPTQ layer stores zero points, {qw.format.name} has none")
    if qw.n % _PER_INT32:
        raise ValueError(f"n={qw.n} is not divisible by the {_PER_INT32} zero points of an int32")
    codes = unpack_nibbles(qw.packed)
    g_idx = torch.arange(qw.k, device=qw.device) // qw.group_size
    if qw.input_permutation is not None:
        inverse = torch.argsort(qw.input_permutation)
        codes, g_idx = codes[:, inverse], g_idx[inverse]
    return GptqTensors(
        qweight=_pack_int32(codes).T.contiguous(),
        qzeros=_pack_int32(((qw.zeros.T.int() - zero_offset) & 0xF).to(torch.uint8)),
        scales=qw.group_scales().T.to(torch.float16).contiguous(),
        g_idx=g_idx.int(),
    )


def _permutation(g_idx: Tensor, groups: int, group_size: int, name: str) -> Tensor | None:
    """Input features sorted by group, stable, int64 [k]; None where the groups are consecutive already."""
    g_idx = g_idx.long()
    low, high = int(g_idx.min()), int(g_idx.max())
    if low < 0 or high >= groups:
        raise ValueError(f"{name}: g_idx runs from {low} to {high}, but there are {groups} groups")
    sizes = torch.bincount(g_idx, minlength=groups)
    if bool((sizes != group_size).any()):
        group = int((sizes != group_size).nonzero()[0])
        raise ValueError(
            f"{name}: group {group} has {int(sizes[group])} input features, not group_size={group_size}"
        )
    if bool((g_idx.diff() >= 0).all()):
        return None
    return torch.argsort(g_idx, stable=True)


def _expect(name: str, label: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: {label} has shape {list(tensor.shape)}, expected {list(shape)}")


def _unpack_int32(words: Tensor) -> Tensor:
    """int32 [rows, c] to codes uint8 [rows, 8c], lowest bits first."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> shifts) & 0xF).to(torch.uint8).flatten(-2)


def _pack_int32(codes: Tensor) -> Tensor:
    """Codes uint8 [rows, 8c] to int32 [rows, c], lowest bits first."""
    pairs = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return pairs.flatten().view(torch.int32).view(codes.shape[0], -1)
