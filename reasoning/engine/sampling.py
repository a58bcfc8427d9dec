"""Choosing the next token on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

argmax: Callable[[Tensor], Tensor] = partial(torch.argmax, dim=-1)
"""Index of the largest logit of each row."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: divides the logits; 0 takes the most likely token.
        seed: of the draws. The same seed gives the same tokens only in the same batch on the same kind of device.

    Raises:
        ValueError: the temperature is negative or not finite.
    """

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} is not a finite number of at least 0")

    def generator(self, device: torch.device) -> torch.Generator | None:
        """A generator for the draws; None where nothing is drawn."""
        return None if self.temperature == 0 else torch.Generator(device).manual_seed(self.seed)

    def choose(
        self,
        logits: Tensor,
        generator: torch.Generator | None,
        argmax: Callable[[Tensor], Tensor] = argmax,
    ) -> Tensor:
        """Next tokens int64 [batch] from logits [batch, vocabulary], the most likely ones by ``argmax``."""
        if generator is None:
            return argmax(logits)
        # The smallest of exponential draws with rates p is token i with probability p_i.
        probabilities = torch.softmax(logits.float() / self.temperature, dim=-1)
        draws = torch.empty_like(probabilities).exponential_(generator=generator)
        return argmax(probabilities / draws)
