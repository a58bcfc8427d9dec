"""Compiling ahead: on a CPU with a compiler that is made up, on a GPU against what launches build."""

import threading

import pytest
import torch

from kernels.compile_ahead import compile_ahead
from kernels.cuda_impl import build, linear
from kernels.quantize import quantize
from kernels.ranges import NO_RANGES
from kernels.registry import Kernel, get_kernel

SHIPPED = "NVIDIA H200"
# k = 999 takes the kernels for rows that are not aligned, m = 1 of one-byte codes Triton's.
CALLS = [
    ("nf4", 128, 1),
    ("nf4", 128, 64),
    ("int8", 128, 1),
    ("int8", 999, 1),
    ("fp8", 999, 200),
    ("nf4", 128, 600),
]


@pytest.fixture
def compiled(monkeypatch):
    """Sources that a made-up compiler was given, and the threads that gave them."""
    texts: list[str] = []
    threads: set[int] = set()

    def fake(text: str) -> bytes:
        texts.append(text)
        threads.add(threading.get_ident())
        return b"code"

    monkeypatch.setattr(build, "_compile", fake)
    monkeypatch.setattr(build, "_compiler", lambda: "0.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: SHIPPED)
    monkeypatch.setattr(Kernel, "implementation_for", lambda self, device: "cuda")
    return texts, threads


def weight(name: str, k: int, device: str = "cpu"):
    return quantize(torch.randn(64, k, generator=torch.Generator().manual_seed(k)).to(device), name)


def test_every_source_is_compiled_once_and_kept(cache, compiled):
    texts, threads = compiled
    calls = [
        (get_kernel(f"{scheme}_{name}"), weight(name, k), m)
        for name, k, m in CALLS
        for scheme in ("fused", "null")
    ]
    compile_ahead([*calls, *calls])
    # nf4 at 1, 64 and 600 rows (null alone), int8 and fp8 with 999 columns: each with its twin, no more for fused.
    assert len(texts) == len(set(texts)) == 2 * 5
    assert threading.get_ident() not in threads
    assert len(list(cache.glob("*.cubin"))) == len(texts)
    compile_ahead(calls)
    assert len(texts) == 10


def test_what_the_compiler_refuses_stops_nothing(cache, compiled, monkeypatch):
    texts, _ = compiled
    fake = build._compile

    def refuse_one(text: str) -> bytes:
        if len(fake(text)) and len(texts) == 1:
            raise build.BuildError("NVRTC refused the kernel")
        return b"code"

    monkeypatch.setattr(build, "_compile", refuse_one)
    compile_ahead([(get_kernel("null_nf4"), weight("nf4", 128), 64)])
    assert len(texts) == 2 and len(list(cache.glob("*.cubin"))) == 1


def test_other_kernels_have_nothing_to_compile(cache, compiled, monkeypatch):
    texts, _ = compiled
    compile_ahead([(get_kernel("bf16"), torch.zeros(64, 128), 1)])
    monkeypatch.undo()
    compile_ahead([(get_kernel("fused_nf4"), weight("nf4", 128), 1)])
    assert texts == []


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "k", "m"), CALLS)
@pytest.mark.parametrize("is_null", [False, True])
def test_a_launch_builds_nothing_else(name, k, m, is_null, cache, monkeypatch):
    from kernels.cuda_impl import support

    reason = support.why_not("cuda")
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr(build, "_built", {})
    w, x = weight(name, k, "cuda"), torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    compile_ahead([(get_kernel(f"{'null' if is_null else 'fused'}_{name}"), w, m)])
    ahead = {path.name for path in cache.glob("*.cubin")}
    (linear.null_linear if is_null else linear.fused_linear)(x, w, NO_RANGES)
    assert {path.name for path in cache.glob("*.cubin")} == ahead
