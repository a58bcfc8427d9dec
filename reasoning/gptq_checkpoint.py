"""GPTQ checkpoints: a model whose linears are stored as ``qweight``, ``qzeros``, ``scales`` and ``g_idx``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kernels.gptq import from_gptq
from kernels.quant_weight import QuantWeight
from reasoning.checkpoint import ModelError, StoredTensor, read_json, read_tensors
from reasoning.meta_model import MetaModel

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_CODES_PER_INT32 = 8
# "gptq" stores each zero point less one; "gptq_v2" stores it as it is.
_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


@dataclass(frozen=True)
class GptqSettings:
    """How the linears of a GPTQ checkpoint were quantized."""

    group_size: int
    """Input features per group."""
    desc_act: bool
    """Whether input features were ordered by activation, so that ``g_idx`` is needed."""
    zero_offset: int
    """What the file subtracted from each zero point."""


def gptq_settings(
    raw_config: Mapping[str, Any], stored: Mapping[str, StoredTensor], folder: Path
) -> GptqSettings | None:
    """Read how a checkpoint was quantized; None for one that was not.

    Args:
        raw_config: content of ``config.json``.
        stored: the checkpoint's tensors.
        folder: where an old checkpoint keeps ``quantize_config.json``; named in errors.

    Raises:
        ModelError: another quantization method, bits other than 4, or settings that contradict the tensors.
    """
    quantized = any(name.endswith(".qweight") for name in stored)
    settings = raw_config.get("quantization_config")
    old_file = folder / "quantize_config.json"
    if settings is None and quantized and old_file.is_file():
        settings = {"quant_method": "gptq", **read_json(old_file)}
    if settings is None and not quantized:
        return None
    if not isinstance(settings, dict):
        raise ModelError(
            f"the weights in {folder} hold qweight tensors, but no quantization_config says how to read them"
        )
    method = settings.get("quant_method")
    if method != "gptq":
        raise ModelError(
            f"{folder} is quantized with quant_method={method!r}, only 'gptq' or no quantization is read"
        )
    if not quantized:
        raise ModelError(
            f"{folder} is said to be quantized with gptq, but its weights hold no qweight tensor"
        )
    bits, group_size = settings.get("bits"), settings.get("group_size")
    if bits != 4:
        raise ModelError(f"{folder} is quantized with bits={bits}, GPTQ weights are read with bits=4")
    if not isinstance(group_size, int) or group_size <= 0:
        raise ModelError(f"{folder} is quantized with group_size={group_size}, expected a positive number")
    layout = settings.get("checkpoint_format", "gptq")
    if layout not in _ZERO_OFFSETS:
        raise ModelError(
            f"{folder} has checkpoint_format={layout!r}, expected one of {', '.join(_ZERO_OFFSETS)}"
        )
    return GptqSettings(group_size, bool(settings.get("desc_act", False)), _ZERO_OFFSETS[layout])


def gptq_modules(stored: Mapping[str, StoredTensor]) -> list[str]:
    """Names of the quantized linears."""
    return [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]


def check_gptq(
    meta: MetaModel, stored: Mapping[str, StoredTensor], settings: GptqSettings
) -> dict[str, StoredTensor]:
    """Check every quantized linear against the model.

    Returns:
        The tensors as a dense checkpoint would hold them: each quantized linear as one ``weight``.

    Raises:
        ModelError: a quantized module that is no linear of the model, or a tensor missing or not fitting.
    """
    dense = dict(stored)
    for module in gptq_modules(stored):
        linear = _linear(meta, module, stored[f"{module}.qweight"].file)
        n, k = linear.out_features, linear.in_features
        if k % settings.group_size:
            raise ModelError(f"{module}: k={k} is not divisible by group_size={settings.group_size}")
        groups = k // settings.group_size
        wanted = {
            "qweight": (k // _CODES_PER_INT32, n),
            "qzeros": (groups, n // _CODES_PER_INT32),
            "scales": (groups, n),
            "g_idx": (k,),
        }
        for part in _PARTS:
            found = dense.pop(f"{module}.{part}", None)
            if found is None:
                if part == "g_idx" and not settings.desc_act:
                    continue
                raise ModelError(f"{module} has a qweight but no {part}")
            if found.shape != wanted[part]:
                raise ModelError(
                    f"{module}.{part} has shape {list(found.shape)} in {found.file}, but config.json asks "
                    f"for {list(wanted[part])} (4 bits, group_size={settings.group_size})"
                )
        if f"{module}.weight" in dense:
            raise ModelError(f"{module} is stored both quantized and as a dense weight")
        dense[f"{module}.weight"] = StoredTensor(stored[f"{module}.qweight"].file, (n, k), "F32")
        # Old writers store a bias for every linear, zero where the model has none.
        if linear.bias is None:
            dense.pop(f"{module}.bias", None)
    return dense


def read_gptq(
    meta: MetaModel, stored: Mapping[str, StoredTensor], settings: GptqSettings, device: torch.device
) -> Iterator[tuple[str, QuantWeight]]:
    """Read the quantized linears one after the other.

    Yields:
        Module name and its int4 weight on the device.

    Raises:
        ModelError: a layer that is not int4, scales that are not finite, or a bias that the model lacks.
    """
    for module in gptq_modules(stored):
        names = [f"{module}.{part}" for part in (*_PARTS, "bias") if f"{module}.{part}" in stored]
        parts = dict(read_tensors(stored, names))
        bias = parts.pop(f"{module}.bias", None)
        if bias is not None and f"{module}.bias" not in meta.expected and bool(bias.any()):
            raise ModelError(f"{module}.bias is not zero, but the model of config.json has no bias there")
        moved = {name.removeprefix(f"{module}."): tensor.to(device) for name, tensor in parts.items()}
        not_finite = int((~torch.isfinite(moved["scales"])).sum())
        if not_finite:
            raise ModelError(f"{module}.scales holds {not_finite} values that are NaN or infinite")
        yield module, _int4(module, moved, settings)


def _int4(module: str, parts: Mapping[str, Tensor], settings: GptqSettings) -> QuantWeight:
    try:
        return from_gptq(
            parts["qweight"],
            parts["qzeros"],
            parts["scales"],
            parts.get("g_idx"),
            group_size=settings.group_size,
            zero_offset=settings.zero_offset,
            name=module,
        )
    except ValueError as error:
        raise ModelError(str(error)) from error


def _linear(meta: MetaModel, module: str, file: Path) -> nn.Linear:
    try:
        found = meta.model.get_submodule(module)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Linear):
        raise ModelError(
            f"{file} holds {module}.qweight, but the model of config.json has no linear {module}"
        )
    if f"{module}.weight" in meta.tied:
        raise ModelError(
            f"{file} holds {module}.qweight, but config.json ties it to {meta.tied[f'{module}.weight']}"
        )
    return found
