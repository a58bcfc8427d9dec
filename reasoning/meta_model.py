"""A model without memory, and how tensors are put into it.

The model is built on the meta device, so names and shapes are known before a byte is read, and the weights
exist once, in their final type, on their final device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reasoning.checkpoint import ModelError, StoredTensor, list_some, one_line

# Stored by old checkpoints, computed from the config by every transformers that we run on.
_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")
_FLOATING = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True, eq=False)
class MetaModel:
    """A transformers model on the meta device and the tensors it waits for."""

    model: Any
    """The model; its parameters have shape and dtype but no memory."""
    expected: Mapping[str, Tensor]
    """Parameters and stored buffers by name, a shared parameter once."""
    tied: Mapping[str, str]
    """Further names of shared parameters, and the name in ``expected`` that each stands for."""

    @property
    def nbytes(self) -> int:
        """Bytes of all expected tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.expected.values())


def build_meta_model(config: Any, dtype: torch.dtype) -> MetaModel:
    """Build a causal language model on the meta device.

    Raises:
        ModelError: transformers cannot build this architecture.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:  # a model class may raise anything on sizes that contradict each other
        raise ModelError(
            f"transformers cannot build this {config.model_type} model: {one_line(error)}"
        ) from error
    expected: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            expected[name] = tensor
    return MetaModel(model, expected, tied)


def check_dense(meta: MetaModel, stored: Mapping[str, StoredTensor], folder: Path) -> None:
    """Check that a checkpoint's tensors are those that the model waits for.

    Args:
        meta: the model.
        stored: the checkpoint's unquantized tensors.
        folder: named in errors.

    Raises:
        ModelError: a tensor of another shape or type, a missing one, or one that the model has no place for.
    """
    places = {**meta.expected, **{alias: meta.expected[name] for alias, name in meta.tied.items()}}
    for name in places.keys() & stored.keys():
        found, wanted = stored[name], tuple(places[name].shape)
        if found.shape != wanted:
            raise ModelError(
                f"{name} has shape {list(found.shape)} in {found.file}, "
                f"but config.json asks for {list(wanted)}"
            )
        if found.dtype not in _FLOATING:
            raise ModelError(
                f"{name} has type {found.dtype} in {found.file}, expected {', '.join(_FLOATING)}"
            )
    missing = [name for name in meta.expected if name not in stored]
    if missing:
        raise ModelError(f"the weights in {folder} lack {_count(missing)}: {list_some(missing)}")
    ignored = getattr(meta.model, "_keys_to_ignore_on_load_unexpected", None) or ()
    surplus = [
        name
        for name in stored.keys() - places.keys()
        if not _COMPUTED.search(name) and not any(re.search(pattern, name) for pattern in ignored)
    ]
    if surplus:
        raise ModelError(
            f"the weights in {folder} hold {_count(surplus)} that the model of config.json has no place for: "
            f"{list_some(sorted(surplus))}"
        )


def fill(meta: MetaModel, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Put tensors into the model and return it in evaluation mode, without gradients.

    Args:
        meta: the model; it is changed.
        tensors: one tensor for each name in ``meta.expected``, on ``device``.
        device: where the computed buffers go.

    Raises:
        ModelError: the architecture has computed buffers other than rotary embeddings.
    """
    model = meta.model
    model.load_state_dict(dict(tensors), strict=False, assign=True)
    model.tie_weights()
    _rebuild_rotary(model, device)
    without = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if without:
        raise ModelError(
            f"this loader cannot fill {_count(without)} of a {model.config.model_type} model: "
            f"{list_some(without)}"
        )
    return model.eval().requires_grad_(False)


def check_memory(needed_bytes: int, device: torch.device) -> None:
    """Refuse a model that does not fit, before the machine runs out of memory half-way.

    Raises:
        ModelError: more is needed than ``device`` has free.
    """
    here = free_bytes(device)
    if here is not None and needed_bytes > here:
        raise ModelError(
            f"the weights need {needed_bytes / 1e9:.1f} GB, but {device} has {here / 1e9:.1f} GB free"
        )


def _rebuild_rotary(model: nn.Module, device: torch.device) -> None:
    """Compute the rotary embeddings' frequencies, which no checkpoint stores, on the device."""
    for name, module in list(model.named_modules()):
        on_meta = any(buffer.is_meta for buffer in module.buffers(recurse=False))
        if on_meta and type(module).__name__.endswith("RotaryEmbedding"):
            parent, _, leaf = name.rpartition(".")
            rotary: Any = type(module)
            # On the CPU first: powers computed on a GPU differ in the last bit.
            setattr(model.get_submodule(parent), leaf, rotary(module.config).to(device))


def free_bytes(device: torch.device) -> int | None:
    """Bytes that new tensors may take on a device; None where nothing says so."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.is_file():
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text("ascii"), re.MULTILINE)
    return None if match is None else int(match.group(1)) * 1024


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor" if len(names) == 1 else f"{len(names)} tensors"
