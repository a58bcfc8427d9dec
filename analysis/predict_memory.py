"""What a model and its caches take of a GPU's memory, and the largest batch that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.checks import above_zero, at_least_zero
from analysis.fit_crossing import Layer
from analysis.model_shape import ModelShape

_DTYPE_BYTES, _FP32_BYTES = 2, 4
_TILE_ROWS, _SLAB_COLUMNS = 16, 64
# CUDA context, library workspaces and what an allocator cannot reuse.
RESERVE_BYTES = 1_500_000_000


@dataclass(frozen=True)
class StoredLayer:
    """Linears of one shape as a kernel stores them.

    Attributes:
        layer: shape and count.
        weight_bytes: of one weight, codes and scales.
        layout_bytes: of the copy in the kernel's own order beside it; 0 where there is none.
    """

    layer: Layer
    weight_bytes: int
    layout_bytes: int = 0


@dataclass(frozen=True)
class Memory:
    """Memory of a model on a device, bytes.

    Attributes:
        weight_bytes: linears with scales, embedding, output layer.
        layout_bytes: copies of quantized weights in the kernels' order.
        kv_bytes_per_sequence: KV cache of one sequence.
        row_bytes: activations and logits of one row.
        fixed_bytes: a decoded weight where a kernel writes one, and what context and libraries take.
        device_bytes: memory of the device; None where it is not known.
    """

    weight_bytes: int
    layout_bytes: int
    kv_bytes_per_sequence: int
    row_bytes: int
    fixed_bytes: int
    device_bytes: float | None

    def total_bytes(self, batch: int) -> int:
        """Return what a batch needs."""
        above_zero(batch=batch)
        return self._shared + batch * self._per_row

    def fits(self, batch: int) -> bool | None:
        """Whether a batch fits; None where the device's memory is not known."""
        return None if self.device_bytes is None else self.total_bytes(batch) <= self.device_bytes

    @property
    def largest_batch(self) -> int | None:
        """The largest batch that fits, 0 where the weights alone do not; None where memory is not known."""
        if self.device_bytes is None:
            return None
        return max(0, int((self.device_bytes - self._shared) // self._per_row))

    @property
    def _shared(self) -> int:
        return self.weight_bytes + self.layout_bytes + self.fixed_bytes

    @property
    def _per_row(self) -> int:
        return self.kv_bytes_per_sequence + self.row_bytes


def layout_bytes(n: int, k: int, bits: int) -> int:
    """Return the size of a weight in the order that fused kernels read.

    Rows are padded to tiles of 16 and columns to slabs of 64; 4-bit formats keep an fp16 scale per row and slab,
    and all an fp32 scale per row.

    Args:
        n: out-features.
        k: in-features.
        bits: of a code.
    """
    above_zero(n=n, k=k, bits=bits)
    rows, slabs = -(-n // _TILE_ROWS) * _TILE_ROWS, -(-k // _SLAB_COLUMNS)
    codes = rows * slabs * _SLAB_COLUMNS * bits // 8
    return codes + _FP32_BYTES * rows + (_DTYPE_BYTES * rows * slabs if bits < 8 else 0)


def memory_of(
    model: ModelShape,
    stored: Sequence[StoredLayer],
    *,
    context: int,
    device_bytes: float | None,
    decodes_to_memory: bool = False,
) -> Memory:
    """Add up what a model needs.

    Args:
        model: sizes.
        stored: its linears as the kernel stores them.
        context: tokens of the KV cache of each sequence.
        device_bytes: memory of the device; None where it is not known.
        decodes_to_memory: whether the kernel writes decoded weights, of which the widest is then held.

    Raises:
        ValueError: a context below 1, or a negative size.
    """
    above_zero(context=context)
    for entry in stored:
        at_least_zero(weight_bytes=entry.weight_bytes, layout_bytes=entry.layout_bytes)
    table = _DTYPE_BYTES * model.vocabulary * model.hidden
    norms = _DTYPE_BYTES * model.layers * 2 * model.hidden
    widest = max((entry.layer.n * entry.layer.k for entry in stored), default=0)
    return Memory(
        weight_bytes=sum(entry.layer.count * entry.weight_bytes for entry in stored)
        + table * (1 if model.tied_head else 2)
        + norms,
        layout_bytes=sum(entry.layer.count * entry.layout_bytes for entry in stored),
        kv_bytes_per_sequence=model.kv_bytes_per_token * context,
        row_bytes=(_DTYPE_BYTES + _FP32_BYTES) * model.vocabulary
        + _DTYPE_BYTES * (4 * model.hidden + 3 * model.intermediate),
        fixed_bytes=RESERVE_BYTES + (_DTYPE_BYTES * widest if decodes_to_memory else 0),
        device_bytes=device_bytes,
    )
