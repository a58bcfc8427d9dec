"""The few calls of the CUDA driver that neither torch nor cupy offers, through ctypes.

``cuLaunchKernelEx`` launches with the attribute of programmatic dependent launch, ``cuTensorMapEncodeTiled`` describes
a matrix to the tensor copy engine. Nothing here synchronizes or allocates on the GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_MAP_BYTES = 128
_MAP_ALIGNMENT = 64
_PROGRAMMATIC_STREAM_SERIALIZATION = 6
_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
_MAP_DTYPES = {torch.float16: 6, torch.bfloat16: 9}
_SWIZZLE_128B = 3
_L2_PROMOTION_256B = 3
_INVALID_CONTEXT = 201


class CudaError(RuntimeError):
    """A call of the driver failed."""


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int * 16))


class _LaunchConfig(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


class Arguments:
    """Arguments of a kernel in the form that a launch takes; kept alive as long as the launch needs them.

    Args:
        values: ctypes objects in the order of the kernel's parameters.
    """

    def __init__(self, values: Sequence[object]) -> None:
        self._values = tuple(values)
        addresses = [ctypes.addressof(value) for value in self._values]  # type: ignore[arg-type]
        self.pointers = (ctypes.c_void_p * len(addresses))(*addresses)


class LaunchConfig:
    """Grid, block and memory of a launch; made once per kernel and grid.

    Args:
        grid: blocks along x and y.
        threads: threads per block.
        shared_bytes: dynamic shared memory, bytes.
    """

    def __init__(self, grid: tuple[int, int], threads: int, shared_bytes: int) -> None:
        self._attribute = _Attribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION)
        self._attribute.value[0] = 1
        self.struct = _LaunchConfig(
            grid=(*grid, 1),
            block=(threads, 1, 1),
            shared_bytes=shared_bytes,
            attributes=ctypes.pointer(self._attribute),
            attribute_count=1,
        )


def launch(function: int, config: LaunchConfig, arguments: Arguments, stream: int) -> None:
    """Launch a kernel on a stream.

    Args:
        function: ``CUfunction``.
        config: grid, block, memory.
        arguments: the kernel's arguments; copied during the call.
        stream: ``CUstream``.

    Raises:
        CudaError: the driver refused.
    """
    config.struct.stream = stream
    _check(
        _driver().cuLaunchKernelEx(
            ctypes.byref(config.struct), ctypes.c_void_p(function), arguments.pointers, None
        )
    )


def allow_shared_memory(function: int, shared_bytes: int) -> None:
    """Let a kernel use this much dynamic shared memory, bytes.

    Raises:
        CudaError: more than the device has.
    """
    _check(
        _driver().cuFuncSetAttribute(
            ctypes.c_void_p(function),
            ctypes.c_int(_MAX_DYNAMIC_SHARED_SIZE_BYTES),
            ctypes.c_int(shared_bytes),
        )
    )


def blocks_per_sm(function: int, threads: int, shared_bytes: int) -> int:
    """Blocks of a kernel that fit on a multiprocessor together.

    Args:
        function: ``CUfunction``.
        threads: threads per block.
        shared_bytes: dynamic shared memory per block, bytes.

    Raises:
        CudaError: the driver refused.
    """
    blocks = ctypes.c_int()
    _check(
        _driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(
            ctypes.byref(blocks),
            ctypes.c_void_p(function),
            ctypes.c_int(threads),
            ctypes.c_size_t(shared_bytes),
        )
    )
    return blocks.value


def tensor_map(x: Tensor, rows: int, columns: int) -> ctypes.Array[ctypes.c_byte]:
    """Describe a matrix to the tensor copy engine, in boxes of rows by columns with the 128-byte swizzle.

    Args:
        x: [m, k], bf16 or fp16, its rows 16-byte aligned; what a box has outside it reads as 0.
        rows: rows of a box, at most 256.
        columns: columns of a box, at most 64.

    Returns:
        A ``CUtensorMap``, 128 bytes, aligned.

    Raises:
        CudaError: the driver refused.
    """
    buffer = (ctypes.c_byte * (_MAP_BYTES + _MAP_ALIGNMENT))()
    offset = -ctypes.addressof(buffer) % _MAP_ALIGNMENT
    result = (ctypes.c_byte * _MAP_BYTES).from_buffer(buffer, offset)
    _check(
        _driver().cuTensorMapEncodeTiled(
            ctypes.byref(result), ctypes.c_int(_MAP_DTYPES[x.dtype]), ctypes.c_uint(2), ctypes.c_void_p(x.data_ptr()),
            (ctypes.c_uint64 * 2)(x.shape[1], x.shape[0]), (ctypes.c_uint64 * 1)(x.stride(0) * 2),
            (ctypes.c_uint * 2)(columns, rows), (ctypes.c_uint * 2)(1, 1),
            ctypes.c_int(0), ctypes.c_int(_SWIZZLE_128B), ctypes.c_int(_L2_PROMOTION_256B), ctypes.c_int(0),
        )
    )  # fmt: skip
    return result


@lru_cache(maxsize=1)
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise CudaError(f"the CUDA driver cannot be loaded: {error}") from None


def _check(status: int) -> None:
    if status == 0:
        return
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
    detail = text.value.decode() if text.value else "unknown error"
    hint = "; torch has made no context on this thread" if status == _INVALID_CONTEXT else ""
    raise CudaError(f"CUDA error {status}: {detail}{hint}")
