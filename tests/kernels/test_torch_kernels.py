import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_reference import random_input, random_weight, relative_error, tolerance

from kernels import torch_impl
from kernels.dequantize import dequantize
from kernels.formats import FORMATS
from kernels.registry import get_kernel
from kernels.torch_compile import can_compile

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CASES = [(name, size) for name, fmt in FORMATS.items() for size in (fmt.group_sizes or (None,))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "group_size"), CASES)
@pytest.mark.parametrize("scheme", ["unfused", "fused"])
def test_products_match_float64(scheme, name, group_size, dtype, monkeypatch):
    # Small blocks, so that a weight of 48 rows meets several, the last one shorter.
    monkeypatch.setattr(torch_impl, "_BLOCK_BYTES", 20 * 384 * dtype.itemsize)
    monkeypatch.setattr(torch_impl, "_EAGER_BLOCK_BYTES", 20 * 384 * dtype.itemsize)
    for m, n in ((1, 5), (3, 48), (17, 1)):
        w, x = random_weight(n, 384, name, group_size=group_size), random_input(m, 384, dtype)
        y = get_kernel(f"{scheme}_{name}").linear(x, w, implementation="torch")
        assert y.dtype == dtype and y.shape == (m, n)
        assert relative_error(y, x, w) < tolerance(dtype, 384)


@pytest.mark.parametrize("scheme", ["unfused", "fused", "null"])
@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_byte_formats_take_any_k(scheme, name):
    w, x = random_weight(5, 37, name), random_input(3, 37, torch.bfloat16)
    y = get_kernel(f"{scheme}_{name}").linear(x, w, implementation="torch")
    assert y.isfinite().all()
    if scheme != "null":
        assert relative_error(y, x, w) < tolerance(torch.bfloat16, 37)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(FORMATS))
def test_the_decoded_weight_is_the_reference_rounded_once(name, dtype):
    w = random_weight(48, 256, name)
    identity = torch.eye(256, dtype=dtype)
    for scheme in ("unfused", "fused"):
        y = get_kernel(f"{scheme}_{name}").linear(identity, w, implementation="torch")
        assert torch.equal(y.T, dequantize(w, dtype))


@pytest.mark.parametrize("double_quant", [False, True])
def test_double_quantized_scales(double_quant):
    w = random_weight(48, 256, "nf4", double_quant=double_quant)
    x = random_input(3, 256, torch.bfloat16)
    assert relative_error(get_kernel("fused_nf4").linear(x, w), x, w) < tolerance(torch.bfloat16, 256)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(FORMATS))
def test_null_is_finite_for_every_byte_and_reads_the_codes(name, dtype):
    w, other = random_weight(48, 256, name), random_weight(48, 256, name, seed=5)
    every_byte = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    w.packed.view(torch.uint8)[0] = every_byte[: w.packed.shape[1]]
    w.packed.view(torch.uint8)[1] = every_byte[-w.packed.shape[1] :]
    x = random_input(3, 256, dtype)
    y = get_kernel(f"null_{name}").linear(x, w, implementation="torch")
    assert y.isfinite().all()
    assert not torch.equal(y, get_kernel(f"null_{name}").linear(x, other, implementation="torch"))


def test_the_kept_buffer_works_in_and_out_of_inference_mode():
    w, x = random_weight(8, 64, "nf4"), random_input(2, 64, torch.bfloat16)
    results = []
    for mode in (torch.inference_mode(), contextlib.nullcontext(), torch.inference_mode()):
        with mode:
            results.append(get_kernel("fused_nf4").linear(x, w).clone())
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])


def test_no_gradient_is_recorded():
    x = random_input(2, 64, torch.float32).requires_grad_()
    assert not get_kernel("fused_nf4").linear(x, random_weight(8, 64, "nf4")).requires_grad


def test_blocks_cover_every_row_once():
    w = random_weight(129, 64, "nf4")
    for block_bytes in (1, 1000, 40 * 128, 10**9):
        blocks = list(torch_impl._row_blocks(w, 2, block_bytes))
        assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(129))


COMPILED = """
import torch
from kernels.registry import get_kernel
from kernel_reference import random_input, random_weight
import os
def outputs():
    for name in ("nf4", "fp4", "int4", "int8"):
        for n, k in ((5, 128), (48, 384), (1, 128), (300, 1024)):
            w, x = random_weight(n, k, name), random_input(3, k, torch.bfloat16)
            for scheme in ("unfused", "fused", "null"):
                kernel = get_kernel(f"{scheme}_{name}")
                yield kernel.implementation_detail("torch", "cpu"), kernel.linear(x, w)
compiled = list(outputs())
assert {detail for detail, _ in compiled} == {"torch-compiled"}
os.environ["QT_PROFILE_NO_COMPILE"] = "1"
eager = list(outputs())
assert {detail for detail, _ in eager} == {"torch-eager"}
assert all(torch.equal(a, b) for (_, a), (_, b) in zip(compiled, eager, strict=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="no C++ compiler or no Python headers")
def test_compiled_kernels_give_the_same_bits_as_eager_ones():
    # Its own process, with TRITON_INTERPRET as this one has it: the two must not disturb each other.
    here = Path(__file__).resolve()
    paths = os.pathsep.join([str(here.parent), str(here.parents[2])])
    environment = os.environ | {"QT_PROFILE_NO_COMPILE": "0", "PYTHONPATH": paths}
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
