"""CUDA source of one ``wgmma`` instruction: its operand list is as long as the accumulator, so it is generated."""

from __future__ import annotations


def wgmma_source(batch: int, is_fp16: bool) -> str:
    """A device function ``wgmma(acc, a, descriptor)``: acc[64, batch] += a[64, 16] @ b[16, batch].

    Args:
        batch: columns of the accumulator, a multiple of 8 up to 256; each thread holds batch / 2 of its floats.
        is_fp16: whether the operands are fp16 instead of bf16.

    Raises:
        ValueError: the instruction has no such size.

    Source: PTX ISA, ``wgmma.mma_async`` with the left operand in registers.
    """
    if batch % 8 or not 8 <= batch <= 256:
        raise ValueError(f"batch={batch} is not a multiple of 8 from 8 to 256")
    count = batch // 2
    dtype = "f16" if is_fp16 else "bf16"
    places = ", ".join(f"%{i}" for i in range(count))
    a = ", ".join(f"%{count + i}" for i in range(4))
    outputs = ", ".join(f'"+f"(acc[{i}])' for i in range(count))
    return f"""
__device__ __forceinline__ void wgmma(float* acc, const u32* a, u64 descriptor) {{
  asm volatile("wgmma.mma_async.sync.aligned.m64n{batch}k16.f32.{dtype}.{dtype} "
               "{{{places}}}, {{{a}}}, %{count + 4}, 1, 1, 1, 0;"
               : {outputs}
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor));
}}
"""
