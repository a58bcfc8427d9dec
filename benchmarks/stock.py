"""The weights of one shape: prepared once per format and peer, with their references and cold copies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from benchmarks.gate import Reference, make_reference
from benchmarks.machine import Target
from benchmarks.plan import Shape, SweepPlan
from benchmarks.variants import PeerVariant, Variant
from benchmarks.weights import Ring, Weight, count_copies, decoded, make_ring, random_weight, stored_bytes
from kernels.peers.peer import PeerUnavailableError, PeerWeight, first_line

DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Stock:
    """One weight of one shape."""

    weight: Weight
    """The weight as its variants take it."""
    reference: Reference
    """Float64 product with the weight decoded."""
    wide_bound: float | None
    """Bound of the relative error where the reference is the bf16 weight; None where it is the decoded one."""
    ring: Ring[Weight]
    """The weight and its copies."""
    notes: tuple[str, ...]
    """What a reader of its rows must know."""


@dataclass
class Stocks:
    """The weights of one shape by ``weight_key``, and why others are missing."""

    by_key: dict[str, Stock] = field(default_factory=dict)
    """The weights that could be made."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a weight could not be made, by key, in a sentence."""


def make_stocks(
    plan: SweepPlan, target: Target, shape: Shape, seed: int, x: Tensor, variants: list[Variant]
) -> Stocks:
    """Prepare every weight that the variants read.

    Args:
        plan: the sweep.
        target: the device.
        shape: the weight's sizes.
        seed: of the random weight.
        x: activations of the largest m.
        variants: those that run on the device.

    Returns:
        The weights; one that memory does not hold, or that a peer does not take, is a reason instead.
    """
    w = random_weight(shape.n, shape.k, seed=seed, device=target.device)
    stocks = Stocks()
    for variant in variants:
        key = variant.weight_key
        if key in stocks.by_key or key in stocks.reasons:
            continue
        try:
            stocks.by_key[key] = _make(variant, w, x, plan, target)
        except PeerUnavailableError as error:
            stocks.reasons[key] = str(error)
        except Exception as error:
            # Torch reports exhausted memory as a RuntimeError; a peer may raise anything.
            if not variant.is_peer and not isinstance(error, RuntimeError | MemoryError):
                raise
            stocks.reasons[key] = f"its weight of shape {shape} could not be made: {first_line(error)}"
    return stocks


def _make(variant: Variant, w: Tensor, x: Tensor, plan: SweepPlan, target: Target) -> Stock:
    weight = variant.prepare(w, plan.group_size, DTYPE)
    notes: tuple[str, ...] = ()
    wide_bound = None
    stated = decoded(weight)
    if isinstance(weight, PeerWeight):
        notes = weight.notes
        weight = replace(weight, decoded=None)
    if stated is None and isinstance(variant, PeerVariant):
        wide_bound = variant.peer.wide_bound
        notes += ("checked against the bf16 weight, so its error holds the quantization",)
    reference = make_reference(x, w.to(DTYPE).float() if stated is None else stated)
    count = count_copies(stored_bytes(weight), target)
    if count.note is not None:
        notes += (count.note,)
    return Stock(weight, reference, wide_bound, make_ring(weight, count.copies), notes)
