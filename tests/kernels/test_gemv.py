"""Native weights times a few rows, in the interpreter without a GPU.

The bound: a sum of k products in fp32 errs by at most k * 2**-24 of the sum of their magnitudes, of random numbers far
less than k * 2**-24 of the result; rounding the result to bf16 errs by 2**-8 at most, to fp16 by 2**-11.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from kernels.registry import get_kernel
from kernels.triton_impl import gemv

DTYPES = pytest.mark.parametrize("dtype", gemv.DTYPES, ids=["bf16", "fp16", "fp32"])
BOUNDS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 0.0}


def random(*shape, dtype, device, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def check(y, x, w):
    expected = x.double() @ w.double().T
    assert y.dtype == x.dtype and y.shape == expected.shape
    error = (y.double() - expected).norm() / expected.norm()
    assert float(error) <= BOUNDS[x.dtype] + x.shape[-1] * 2.0**-24


@DTYPES
@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize(("n", "k"), [(6, 512), (7, 257), (3, 40), (5, 1), (1, 2304)])
def test_every_row_count_and_tail(triton_device, m, n, k, dtype):
    x = random(m, k, dtype=dtype, device=triton_device, seed=1)
    w = random(n, k, dtype=dtype, device=triton_device, seed=2)
    y = gemv.native_linear(x, w)
    check(y, x, w)
    assert torch.equal(y, gemv.native_linear(x, w))


CONFIGURATIONS = [
    gemv.GemvConfig(block_n, block_k, warps, is_ahead, is_folded)
    for block_n, block_k, warps in ((2, 256, 1), (4, 1024, 4), (8, 512, 8))
    for is_ahead in (False, True)
    for is_folded in (False, True)
]


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 16, 2048), (2, 9, 1048), (2, 8, 300)])
def test_every_way_to_cut_it_up(triton_device, config, m, n, k):
    x = random(m, k, dtype=torch.bfloat16, device=triton_device, seed=1)
    w = random(n, k, dtype=torch.bfloat16, device=triton_device, seed=2)
    check(gemv.run(x, w, config), x, w)


@DTYPES
def test_rows_of_wider_tensors(triton_device, dtype):
    x = random(4, 128, dtype=dtype, device=triton_device, seed=1)[::2, 24:]
    for first, width in ((8, 144), (1, 131)):
        w = random(9, width, dtype=dtype, device=triton_device, seed=2)[:, first : first + 104]
        check(gemv.native_linear(x, w), x, w)
    y = gemv.native_linear(x.view(2, 1, 104), w)
    assert torch.equal(y, gemv.native_linear(x, w).view(2, 1, 9))


def test_no_rows_and_many_go_to_torch(triton_device, monkeypatch):
    w = random(9, 32, dtype=torch.bfloat16, device=triton_device, seed=2)
    monkeypatch.setattr(gemv, "run", lambda *arguments: pytest.fail("the kernel ran"))
    for rows in (0, gemv.MOST_ROWS + 1, 64):
        x = random(rows, 32, dtype=torch.bfloat16, device=triton_device, seed=1)
        assert torch.equal(gemv.native_linear(x, w), F.linear(x, w))


def test_a_nan_and_an_infinity_arrive(triton_device):
    """Masked columns are 0 times 0, so they hide nothing and add nothing."""
    x = random(2, 40, dtype=torch.bfloat16, device=triton_device, seed=1)
    w = random(3, 40, dtype=torch.bfloat16, device=triton_device, seed=2)
    x[0, 39], x[1, 39] = float("nan"), float("inf")
    y = gemv.native_linear(x, w)
    assert bool(y[0].isnan().all()) and bool(y[1].isinf().all())


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        (torch.zeros(1, 8), torch.zeros(4, 9), r"x has shape \[1, 8\], w has shape \[4, 9\]"),
        (torch.zeros(1, 8), torch.zeros(8), r"w has shape \[8\] instead of \[n, k\]"),
        (torch.zeros(1, 8), torch.zeros(4, 8).bfloat16(), "x has dtype torch.float32, w has torch.bfloat16"),
        (torch.zeros(1, 8), torch.zeros(4, 8, device="meta"), "x is on cpu, w on meta"),
        (torch.zeros(1, 8).double(), torch.zeros(4, 8).double(), "float64, the gemv kernel takes torch.bfl"),
        (torch.zeros(8, 2).T, torch.zeros(4, 8), r"x of shape \[2, 8\] has strides \[1, 2\]"),
        (torch.zeros(2, 8), torch.zeros(8, 4).T, r"w of shape \[4, 8\] has strides \[1, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused(x, w, message):
    with pytest.raises(ValueError, match=message):
        gemv.native_linear(x, w)


def test_a_cpu_is_refused_outside_the_interpreter(monkeypatch):
    monkeypatch.setattr(gemv, "IS_INTERPRETED", dataclasses.make_dataclass("Flag", ["value"])(False))
    with pytest.raises(ValueError, match="the gemv kernel runs on cuda, x is on cpu"):
        gemv.native_linear(torch.zeros(1, 8), torch.zeros(4, 8))


@pytest.mark.parametrize("n", [1, 64, 1024, 2048, 2049, 4096, 6144, 151936])
@pytest.mark.parametrize("k", [1, 64, 256, 1000, 1024, 3072, 14336, 29568])
@pytest.mark.parametrize("m", [1, 2])
def test_the_rule_stays_within_registers(m, n, k):
    """A thread holds its share of a tile: at most 64 weights, fewer for more rows of x."""
    config = gemv.configuration_for(m, n, k)
    per_thread = config.block_n * config.block_k / (32 * config.warps)
    assert 8 <= per_thread <= (64 if m == 1 else 32)
    assert m == 1 or config.block_k == 256 * config.warps


@pytest.mark.parametrize("m", [0, 3])
def test_the_rule_refuses_other_rows(m):
    with pytest.raises(ValueError, match=f"m={m} is not between 1 and 2"):
        gemv.configuration_for(m, 64, 64)


def test_the_registered_kernel(triton_device):
    kernel = get_kernel("gemv_bf16")
    x = random(2, 96, dtype=torch.bfloat16, device=triton_device, seed=1)
    w = random(20, 96, dtype=torch.bfloat16, device=triton_device, seed=2)
    opened = []

    class Range:
        def __init__(self, name):
            opened.append(name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    y = kernel.linear(x, w, implementation="triton", ranges=Range)
    assert opened == ["linear"] and torch.equal(y, gemv.native_linear(x, w))
    device = triton_device.type
    assert kernel.implementation_detail("triton", device) == "triton"
    both = "triton gemv up to 2 rows, torch beyond"
    assert kernel.implementation_detail("triton", device, weight=w) == both
    assert kernel.implementation_detail("triton", device, weight=w, m=5) == both
    told = kernel.implementation_detail("triton", device, weight=w, m=2)
    assert told == "triton gemv 2x256, 1 warps, ahead"


def test_compiled_code_calls_the_kernel(triton_device):
    kernel = get_kernel("gemv_bf16")
    x = random(2, 96, dtype=torch.bfloat16, device=triton_device, seed=1)
    w = random(20, 96, dtype=torch.bfloat16, device=triton_device, seed=2)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(
        lambda x: kernel.linear(x, w, implementation="triton"), fullgraph=True, backend=keep
    )
    assert torch.equal(compiled(x), gemv.native_linear(x, w))
    targets = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.qt_profile.native_linear.default) == 1
    arguments = (x, w, "gemv_bf16", "triton")
    checked = torch.library.opcheck(torch.ops.qt_profile.native_linear.default, arguments)
    assert set(checked.values()) == {"SUCCESS"}


SHAPES = [
    (6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072),
    (32000, 4096), (151936, 1024), (4097, 1001), (1023, 513), (3, 40000), (8192, 29568),
]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_real_shapes_on_the_gpu(n, k):
    """Poisoned outputs, equal bit for bit one by one and from a graph in which each call follows the other closely."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    generator = torch.Generator("cuda").manual_seed(n + k)
    for dtype in (torch.bfloat16, torch.float16):
        w = torch.randn(n, k, generator=generator, device="cuda").to(dtype)
        xs = [torch.randn(m, k, generator=generator, device="cuda").to(dtype) for m in (1, 2, 3)]
        torch.cuda.synchronize()
        alone = [gemv.native_linear(x, w) for x in xs]
        for x, y in zip(xs, alone, strict=True):
            check(y, x, w)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            # Each product depends on what a kernel right ahead writes.
            copies = [gemv.native_linear(x * 1, w) for x in xs[:2] for _ in range(4)]
        for _ in range(3):
            for y in copies:
                y.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            assert all(torch.equal(y, alone[i // 4]) for i, y in enumerate(copies))
