"""Runs the few PTX instructions that the Triton kernels decode with, on words in a tensor."""

import re

import torch

MASK = 0xFFFFFFFF


def run_ptx(ptx, inputs, outputs):
    """Execute ``ptx``.

    Args:
        ptx: text with operands ``$i``; the first ``outputs`` are results, the others the inputs in order.
        inputs: int64 tensors holding unsigned 32-bit words.
        outputs: number of results.

    Returns:
        The results, int64 tensors.
    """
    registers = {f"${outputs + i}": value for i, value in enumerate(inputs)}

    def value(operand):
        return registers[operand] if operand in registers else torch.tensor(int(operand, 0))

    for statement in re.sub(r"[{}]", "", ptx).split(";"):
        name, _, rest = statement.strip().partition(" ")
        if not name or name == ".reg":
            continue
        target, *operands = (part.strip() for part in rest.split(","))
        registers[target] = _INSTRUCTIONS[name](*(value(operand) for operand in operands)) & MASK
    return [registers[f"${i}"] for i in range(outputs)]


def _prmt(a, b, selector):
    source = (b << 32) | a
    result = torch.zeros_like(selector + a)
    for i in range(4):
        nibble = (selector >> (4 * i)) & 0xF
        byte = (source >> ((nibble & 7) * 8)) & 0xFF
        spread = torch.where(byte > 0x7F, 0xFF, 0)
        result |= torch.where(nibble > 7, spread, byte) << (8 * i)
    return result


def _lop3(a, b, c, table):
    result = torch.zeros_like(a | b | c)
    for case in range(8):
        if int(table) >> case & 1:
            terms = [word if case >> (2 - i) & 1 else ~word for i, word in enumerate((a, b, c))]
            result |= terms[0] & terms[1] & terms[2]
    return result


def _fma(dtype):
    def half(word, shift):
        return ((word >> shift) & 0xFFFF).to(torch.int32).to(torch.int16).view(dtype).double()

    def fma(a, b, c):
        result = torch.zeros_like(a | b | c)
        for shift in (0, 16):
            rounded = (half(a, shift) * half(b, shift) + half(c, shift)).to(dtype)
            result = result | (rounded.view(torch.int16).long() & 0xFFFF) << shift
        return result

    return fma


_INSTRUCTIONS = {
    "mov.b32": lambda a: a,
    "and.b32": lambda a, b: a & b,
    "shl.b32": lambda a, b: a << b,
    "shr.u32": lambda a, b: a >> b,
    "prmt.b32": _prmt,
    "lop3.b32": _lop3,
    "fma.rn.bf16x2": _fma(torch.bfloat16),
    "fma.rn.f16x2": _fma(torch.float16),
}
