"""Random weights for any architecture: for time and energy only, its texts mean nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reasoning.meta_model import MetaModel

STANDARD_DEVIATION = 0.02


def random_tensors(meta: MetaModel, device: torch.device, seed: int) -> dict[str, Tensor]:
    """Draw every tensor of a model in its own type on the device, so that nothing exists twice.

    Matrices and biases are drawn from N(0, 0.02²) and norm weights are 1, which keeps activations finite. The
    draw depends on the device: CPU and CUDA have different generators.

    Args:
        meta: the model.
        device: where the tensors are made.
        seed: of the generator; the global one is left alone.

    Returns:
        One tensor for each name in ``meta.expected``.
    """
    draw = random_reader(meta, device, seed)
    return {name: draw(name) for name in meta.expected}


def random_reader(meta: MetaModel, device: torch.device, seed: int) -> Callable[[str], Tensor]:
    """Draw tensors by name, when they are asked for; see :func:`random_tensors`.

    Args:
        meta: the model.
        device: where the tensors are made.
        seed: of the generator; the same order of names gives the same tensors.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def draw(name: str) -> Tensor:
        wanted = meta.expected[name]
        tensor = torch.empty(wanted.shape, dtype=wanted.dtype, device=device)
        if wanted.ndim >= 2 or name.endswith("bias"):
            return tensor.normal_(0.0, STANDARD_DEVIATION, generator=generator)
        return tensor.fill_(1.0)

    return draw
