"""fused and null in CUDA C++: picks a kernel for the number of rows of x and launches it.

Nothing here synchronizes with the host or allocates more than the result, after the first call with a weight has made
its layout. Above ``MOST_FUSED_M`` rows the weight is decoded once and torch multiplies, which is then faster; the
configuration says so.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cuda_impl import driver
from kernels.cuda_impl.build import Function, loaded, source
from kernels.cuda_impl.config import Choice, Config, NarrowConfig, Weight, WideConfig, describe
from kernels.cuda_impl.layout import Codes, Layout, make_layout
from kernels.cuda_impl.select import Tuned, tuned_for
from kernels.formats import Format, Packing
from kernels.quant_weight import QuantWeight
from kernels.ranges import RangeHook
from kernels.triton_impl.gemv_config import GemvConfig

MOST_FUSED_M = 512
_KEY = "cuda"
_DECODE_ONCE = "decode once, then torch's matmul"
_SLAB = 64
_GEMV_COLUMNS = 16


def fused_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """Compute ``x @ decoded(w).T`` without writing the decoded weight to memory.

    Args:
        x: [m, k], bf16 or fp16, columns in packed order.
        w: weight of logical shape [n, k] on x's device.
        ranges: unused; the caller's range covers the call.

    Returns:
        [m, n] in x's dtype, accumulated in fp32.

    Raises:
        ValueError: the format is one that the CUDA kernels do not know.
        RuntimeError: the first call with a weight falls into the capture of a CUDA graph.
    """
    if x.shape[0] > MOST_FUSED_M:
        from kernels.triton_impl.cast import cast_weight

        return F.linear(x, cast_weight(w, x))
    return _prepared(w, x.dtype, is_null=False).run(x)


def null_linear(x: Tensor, w: QuantWeight, ranges: RangeHook) -> Tensor:
    """The same kernels with the codes reinterpreted; [m, n] of meaningless finite numbers.

    Args and Raises: as ``fused_linear``; rows beyond ``MOST_FUSED_M`` run in more blocks.
    """
    return _prepared(w, x.dtype, is_null=True).run(x)


def describe_linear(w: QuantWeight, m: int | None, dtype: torch.dtype | None) -> str:
    """What runs for m rows of x, in a line for records."""
    if m is None:
        return ""
    if m > MOST_FUSED_M:
        return _DECODE_ONCE
    dtype = dtype or torch.bfloat16
    tuned = _tuned(w, dtype)
    config = _config(tuned, m, w.k, is_unaligned=_is_unaligned(w.k))
    if isinstance(config, GemvConfig):
        return f"triton {config.kind} {config}"
    return f"{describe(config)} group_tiles={tuned.group_tiles}"


def sources(w: QuantWeight, m: int, dtype: torch.dtype, *, is_null: bool) -> list[tuple[str, str]]:
    """Source and name of the kernels that a call with m rows of x, adjacent to each other, is going to build.

    Args:
        w: weight of logical shape [n, k] on a GPU.
        m: rows of x.
        dtype: dtype of x.
        is_null: whether the null twin runs, which is built beside the kernel that it stands for.
    """
    if m > MOST_FUSED_M and not is_null:
        return []
    tuned, is_unaligned = _tuned(w, dtype), _is_unaligned(w.k)
    config = _config(tuned, m, w.k, is_unaligned=is_unaligned)
    if isinstance(config, GemvConfig):
        return []  # Triton's
    twins = (False, True) if is_null else (False,)
    specs = [_spec(w, dtype, tuned, is_null=null) for null in twins]
    return [(source(config, spec, x_unaligned=is_unaligned), config.kind) for spec in specs]


def codes_for(fmt: Format, dtype: torch.dtype) -> Codes:
    """The arrangement of bits that the fastest decoder of a format reads."""
    if fmt.packing is Packing.BYTES:
        return Codes.BYTES
    return Codes.FP4_BITS if fmt.name == "fp4" and dtype == torch.bfloat16 else Codes.PAIRS


def decoder_of(fmt: Format, dtype: torch.dtype) -> str:
    """Key of the tuned tables: formats with the same decoder share configurations."""
    return {Codes.PAIRS: "pairs", Codes.FP4_BITS: "fp4"}.get(codes_for(fmt, dtype), fmt.name)


def unaligned_config(m: int) -> NarrowConfig:
    """For x whose rows are not 16-byte aligned, which the tensor copy engine cannot read."""
    return NarrowConfig(column_tiles=1 if m <= 8 else 2, stages=2, warps_n=1, warps_k=8)


class _Launch:
    """A kernel with its arguments, of which only those of x and y change from call to call."""

    def __init__(self, prepared: Prepared, config: Config, m: int, x_unaligned: bool) -> None:
        weight, layout = prepared.weight, prepared.layout
        self._config, self._m, self._n = config, m, prepared.n
        self._function: Function = loaded(
            config, weight, x_unaligned=x_unaligned, device_index=layout.blocks.device.index
        )
        self._launch = driver.LaunchConfig(
            config.grid(layout.groups, layout.group_tiles, m), config.threads, self._function.shared_bytes
        )
        pointer, number = ctypes.c_void_p, ctypes.c_int
        blocks, row_scales = pointer(layout.blocks.data_ptr()), pointer(layout.row_scales.data_ptr())
        self._x, self._y, self._stride = pointer(), pointer(), ctypes.c_longlong()
        self._map_of: tuple[int, int] | None = None
        before_table = number(config.before_table(weight))
        tail = (number(layout.slabs), before_table)
        if isinstance(config, NarrowConfig):
            values = [blocks, row_scales, self._x, self._y, number(m), number(self._n), number(prepared.k)]
            values += [self._stride, number(layout.groups), *tail]
            self._arguments: driver.Arguments | None = driver.Arguments(values)
        else:
            self._arguments = None
            tiles = number(layout.groups * layout.group_tiles)
            self._rest = (blocks, row_scales, self._y, number(m), number(self._n), tiles, *tail)
        self._lock = threading.Lock()

    def run(self, x: Tensor) -> Tensor:
        y = torch.empty(self._m, self._n, dtype=x.dtype, device=x.device)
        stream = torch._C._cuda_getCurrentRawStream(x.device.index)
        with self._lock:  # the launch copies the arguments
            self._y.value = y.data_ptr()
            if isinstance(self._config, NarrowConfig):
                self._x.value, self._stride.value = x.data_ptr(), x.stride(0)
            elif self._map_of != (x.data_ptr(), x.stride(0)):
                tensor_map = driver.tensor_map(x, self._config.batch, _SLAB)
                self._arguments = driver.Arguments((tensor_map, *self._rest))
                self._map_of = (x.data_ptr(), x.stride(0))
            if self._arguments is None:
                raise RuntimeError(f"no arguments for {describe(self._config)}")
            driver.launch(self._function.pointer, self._launch, self._arguments, stream)
        return y


@dataclass(frozen=True)
class ByteCodes:
    """A weight of one byte per code as it is stored.

    Args:
        codes: int8 or float8_e4m3fn [n, k] without gaps.
        scales: fp32, one per row.
    """

    codes: Tensor
    scales: Tensor


@dataclass(frozen=True)
class _Gemv:
    """The product with one row of x, whose kernel takes the codes as they are stored."""

    source: ByteCodes
    config: GemvConfig
    is_null: bool

    def run(self, x: Tensor) -> Tensor:
        from kernels.triton_impl.gemv import run_bytes

        return run_bytes(x, self.source.codes, self.source.scales, self.config, is_null=self.is_null)


@dataclass
class Prepared:
    """A weight in the kernels' layout, and its launches by m.

    Args:
        weight: what is known at compile time.
        layout: the weight.
        tuned: configurations by m.
        n: rows.
        k: columns.
        source: the weight as it is stored, where it has one byte per code.
        launches: made on first use.
    """

    weight: Weight
    layout: Layout
    tuned: Tuned
    n: int
    k: int
    source: ByteCodes | None = None
    launches: dict[tuple[int, bool], _Launch | _Gemv] = field(default_factory=dict)

    def run(self, x: Tensor) -> Tensor:
        """Multiply x [m, k]; [m, n]."""
        m = x.shape[0]
        unaligned = bool((x.data_ptr() | 2 * x.stride(0)) & 15)
        launch = self.launches.get((m, unaligned))
        if launch is None:
            launch = self.launches[m, unaligned] = self._launch(m, unaligned)
        return launch.run(x)

    def _launch(self, m: int, unaligned: bool) -> _Launch | _Gemv:
        config = _config(self.tuned, m, self.k, is_unaligned=unaligned)
        if isinstance(config, GemvConfig):
            if self.source is None:
                raise RuntimeError(f"{config} reads codes of one byte, the format is {self.weight.fmt.name}")
            return _Gemv(self.source, config, self.weight.is_null)
        return _Launch(self, config, m, unaligned)


def _config(tuned: Tuned, m: int, k: int, *, is_unaligned: bool) -> Choice:
    """The configuration for m rows of x, which the tensor copy engine may be unable to read."""
    config = tuned.config(m)
    no_gemv = isinstance(config, GemvConfig) and k % _GEMV_COLUMNS
    if no_gemv or (is_unaligned and isinstance(config, WideConfig)):
        return unaligned_config(m)
    return config


def _is_unaligned(k: int) -> bool:
    """Whether rows of x that are k values long begin elsewhere than at multiples of 16 bytes."""
    return bool(k % 8)


def _spec(w: QuantWeight, dtype: torch.dtype, tuned: Tuned, *, is_null: bool) -> Weight:
    codes = codes_for(w.format, dtype)
    group = 0 if codes is Codes.BYTES else w.group_size
    return Weight(w.format, codes, tuned.group_tiles, group, dtype, is_null)


def _prepared(w: QuantWeight, dtype: torch.dtype, *, is_null: bool) -> Prepared:
    by_kind: dict[tuple[torch.dtype, bool], Prepared] = w.repacked.setdefault(_KEY, {})
    found = by_kind.get((dtype, is_null))
    if found is None:
        found = by_kind[dtype, is_null] = _make(w, dtype, is_null, by_kind)
    return found


def _make(
    w: QuantWeight, dtype: torch.dtype, is_null: bool, others: dict[tuple[torch.dtype, bool], Prepared]
) -> Prepared:
    tuned = _tuned(w, dtype)
    spec = _spec(w, dtype, tuned, is_null=is_null)
    codes = spec.codes
    stored = ByteCodes(w.packed, w.group_scales()) if codes is Codes.BYTES else None
    for other in others.values():
        if other.weight.codes is codes and other.layout.group_tiles == tuned.group_tiles:
            return Prepared(spec, other.layout, tuned, w.n, w.k, stored)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"the first call with a weight of shape {list(w.shape)} rearranges it, so it must come before the capture "
            "of a CUDA graph"
        )
    layout = make_layout(w, codes, tuned.group_tiles)
    # The kernels copy weights before they wait for earlier kernels of the stream.
    torch.cuda.synchronize(w.device)
    return Prepared(spec, layout, tuned, w.n, w.k, stored)


def _tuned(w: QuantWeight, dtype: torch.dtype) -> Tuned:
    gpu = torch.cuda.get_device_name(w.device)
    return tuned_for(gpu, decoder_of(w.format, dtype), w.n, w.k)
