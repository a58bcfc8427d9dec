"""Heads and attention in one kernel against the torch functions that it stands for, hop after hop."""

from dataclasses import dataclass

import pytest
import torch

pytest.importorskip("triton")

from kernels.triton_impl import split_attention as module
from kernels.triton_impl.split_attention import Tiling, attend_heads
from reasoning.engine.layer_math import heads_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"]
)
# Roundings of q·k and of weights·v, each of two factors, and of the result; 3 for cancellation.
BOUND = {torch.float32: 1e-5, torch.float16: 3 * 2.0**-11, torch.bfloat16: 3 * 2.0**-8}
EPSILON = 1e-6


@dataclass
class Layer:
    """A cache with what is around it, and a second cache for the reference."""

    batch: int
    kv_heads: int
    group: int
    head_dim: int
    max_len: int
    dtype: torch.dtype
    has_norm: bool = True
    has_bias: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator(DEVICE).manual_seed(self.seed)
        heads = self.kv_heads * self.group
        self.width = (heads + 2 * self.kv_heads) * self.head_dim
        self.norm = self.random(heads + self.kv_heads, self.head_dim) if self.has_norm else None
        self.bias = self.random(self.width) if self.has_bias else None
        shape = (2, self.batch, self.kv_heads, self.max_len, self.head_dim)
        self.keys, self.values = self.random(*shape).unbind(0)
        self.arrivals = torch.zeros(self.batch * self.kv_heads, dtype=torch.int32, device=DEVICE)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, device=DEVICE).to(self.dtype)

    def hop(self, column: torch.Tensor, qkv: torch.Tensor, settled: bool = False) -> torch.Tensor:
        """One call, checked against torch: what comes back, and what is in the cache afterwards."""
        angles = column[:, None] * torch.rand(self.head_dim // 2, generator=self.generator, device=DEVICE)
        cos, sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        keys, values = self.keys.clone(), self.values.clone()
        found = attend_heads(
            *(qkv, self.bias, self.norm, EPSILON, cos, sin),
            *(self.keys, self.values, column, self.arrivals),
            is_settled=settled,
        )
        assert not self.arrivals.any()
        q, k, v = heads_of(qkv, self.bias, self.norm, EPSILON, cos, sin, self.kv_heads)
        rows = torch.arange(self.batch, device=DEVICE)
        assert torch.equal(self.values[rows, :, column], v)
        assert_close(self.keys[rows, :, column], k)
        keys[rows, :, column], values[rows, :, column] = self.keys[rows, :, column], v
        # Nothing else is written; as integers, since columns beyond may be NaN.
        whole = {2: torch.int16, 4: torch.int32}[self.dtype.itemsize]
        assert torch.equal(self.keys.view(whole), keys.view(whole))
        assert torch.equal(self.values.view(whole), values.view(whole))
        expected = reference(q.unflatten(1, (self.kv_heads, -1)), keys, values, column)
        error = torch.linalg.vector_norm(found.double() - expected) / torch.linalg.vector_norm(expected)
        assert found.shape == expected.shape and found.dtype == self.dtype
        assert error < BOUND[self.dtype]
        return found


def reference(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, column: torch.Tensor
) -> torch.Tensor:
    """Torch's attention in float64, sequence by sequence."""
    rows = []
    for i, last in enumerate(column.tolist()):
        k, v = keys[i, :, : last + 1].double(), values[i, :, : last + 1].double()
        rows.append(torch.nn.functional.scaled_dot_product_attention(q[i].double(), k, v).reshape(-1))
    return torch.stack(rows)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to a rounding here and there: sums in another order move a norm by a unit of fp32.

    A rotation subtracts, so that errors are units of the usual value where the result is a small one. Compiled for a
    GPU, one of its products is not rounded before the subtraction, which moves every few results by a unit.
    """
    unit = torch.finfo(expected.dtype).eps
    difference, wide = (found.double() - expected.double()).abs(), expected.double()
    usual = float(wide.pow(2).mean().sqrt())
    assert bool((difference <= 4 * unit * wide.abs().clamp(min=usual)).all())
    if expected.dtype != torch.float32:
        assert float((difference > 0).double().mean()) < (0.02 if DEVICE == "cpu" else 0.3)


def columns_of(batch: int, *, first: int = 0, most: int) -> torch.Tensor:
    """Columns from the first to the last, on both sides of a block's edge."""
    return torch.tensor([first, most - 1, 64, 63, most // 2][:batch], device=DEVICE).clamp(max=most - 1)


@pytest.mark.parametrize(
    ("batch", "kv_heads", "group", "head_dim", "max_len", "has_norm", "has_bias", "dtype"),
    [
        (1, 2, 3, 32, 64, True, True, torch.bfloat16),
        (1, 1, 6, 48, 65, False, True, torch.float16),
        (3, 1, 7, 48, 192, True, True, torch.float32),
        (3, 1, 7, 24, 192, False, False, torch.bfloat16),
        (4, 2, 1, 16, 130, True, False, torch.float16),
        (4, 1, 1, 16, 130, False, True, torch.bfloat16),
        (2, 1, 8, 32, 128, True, False, torch.bfloat16),
        (2, 1, 17, 32, 128, False, False, torch.float32),
    ],
)
def test_a_call_is_heads_cache_and_attention(
    batch: int,
    kv_heads: int,
    group: int,
    head_dim: int,
    max_len: int,
    has_norm: bool,
    has_bias: bool,
    dtype: torch.dtype,
) -> None:
    layer = Layer(batch, kv_heads, group, head_dim, max_len, dtype, has_norm, has_bias, seed=group)
    column = columns_of(batch, most=max_len)
    for i, last in enumerate(column.tolist()):
        # What lies there and beyond is never read, not even as 0 * NaN.
        layer.keys[i, :, last:] = float("nan")
        layer.values[i, :, last:] = float("nan")
    # The product may be part of a wider row.
    layer.hop(column, layer.random(batch, layer.width + 32)[:, : layer.width])


@pytest.mark.parametrize(
    ("pieces", "block", "dtype", "settled"),
    [
        (1, 64, torch.float32, False),
        (3, 64, torch.bfloat16, True),
        (5, 32, torch.float16, False),
        (2, 32, torch.bfloat16, True),
        (2, 64, torch.float32, True),
    ],
)
def test_hops_in_a_row_however_they_are_cut(
    pieces: int, block: int, dtype: torch.dtype, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "pieces_of", lambda *sizes: pieces)
    monkeypatch.setattr(module, "TILING", Tiling(block, 4, 2, 4))
    layer = Layer(2, 1, 2, 32, 136, dtype)
    column = torch.tensor([0, 62], device=DEVICE)
    for _ in range(4):
        layer.hop(column, layer.random(2, layer.width), settled)
        # The second sequence ends in column 64, which is written once more.
        column = column + (column != 64)


def test_twice_the_same_bits() -> None:
    layer = Layer(2, 1, 3, 32, 200, torch.bfloat16)
    column, qkv = torch.tensor([17, 199], device=DEVICE), layer.random(2, layer.width)
    cos, sin = layer.random(2, 2, 16).unbind(0)
    found = [
        attend_heads(
            qkv, None, layer.norm, EPSILON, cos, sin, layer.keys, layer.values, column, layer.arrivals
        )
        for _ in range(2)
    ]
    assert torch.equal(*found)


def test_what_the_kernel_does_not_read_is_refused() -> None:
    layer = Layer(2, 3, 2, 32, 64, torch.float32, has_bias=True)
    column = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    good = {
        "qkv": layer.random(2, layer.width),
        "bias": layer.bias,
        "head_norm": layer.norm,
        "epsilon": EPSILON,
        "cos": layer.random(2, 16),
        "sin": layer.random(2, 16),
        "keys": layer.keys,
        "values": layer.values,
        "column": column,
        "arrivals": layer.arrivals,
    }
    attend_heads(**good)

    def refused(message: str, **changed: torch.Tensor) -> None:
        with pytest.raises(ValueError, match=message):
            attend_heads(**{**good, **changed})

    refused(r"qkv of shape \[2, 352\] does not fit keys of shape \[2, 3, 64, 32\]", qkv=layer.random(2, 352))
    refused(r"qkv of shape \[1, 384\] does not fit", qkv=good["qkv"][:1])
    refused(r"qkv has strides \[1, 2\]", qkv=good["qkv"].T.contiguous().T)
    refused(r"cos has shape \[2, 8\] and .* a contiguous \[2, 16\]", cos=layer.random(2, 8))
    refused(r"sin has shape \[2, 16\] and strides \[32, 2\]", sin=layer.random(2, 32)[:, ::2])
    refused(r"head_norm has shape \[9, 31\]", head_norm=layer.random(9, 31))
    refused(r"bias has shape \[383\]", bias=layer.random(383))
    refused("arrivals is torch.int64", arrivals=layer.arrivals.long())
    refused("q is torch.float16, keys and values are torch.float32", qkv=good["qkv"].half())
    refused("values has strides", values=layer.values.transpose(2, 3).contiguous().transpose(2, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("max_len", [64, 576, 2048])
@pytest.mark.parametrize("batch", [1, 2, 8, 31, 64])
@pytest.mark.parametrize(("group", "has_norm", "settled"), [(2, True, True), (4, False, False)])
def test_programs_that_race_give_the_same_bits_every_time(
    batch: int, max_len: int, group: int, has_norm: bool, settled: bool
) -> None:
    layer = Layer(batch, 8, group, 128, max_len, torch.bfloat16, has_norm, seed=batch)
    column = torch.randint(0, max_len, (batch,), generator=layer.generator, device=DEVICE)
    column[0] = max_len - 1
    qkv = layer.random(batch, layer.width)
    layer.hop(column, qkv, settled)
    cos, sin = layer.random(2, batch, 64).unbind(0)

    def call() -> torch.Tensor:
        return attend_heads(
            *(qkv, None, layer.norm, EPSILON, cos, sin, layer.keys, layer.values, column, layer.arrivals),
            is_settled=settled,
        )

    first, keys = call(), layer.keys.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        repeated = [call() for _ in range(5)]
    for _ in range(10):
        for tensor in repeated:
            tensor.fill_(float("nan"))
        graph.replay()
        for found in repeated:
            assert torch.equal(found, first)
    assert torch.equal(layer.keys, keys)
    assert not layer.arrivals.any()


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize(("block", "num_warps"), [(16, 2), (32, 2), (64, 8), (128, 4)])
def test_hops_in_a_row_on_a_gpu(
    dtype: torch.dtype, block: int, num_warps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILING", Tiling(block, num_warps, 2, 4))
    layer = Layer(3, 8, 2, 128, 320, dtype)
    column = torch.tensor([0, 126, 255], device=DEVICE)
    for _ in range(8):
        layer.hop(column, layer.random(3, layer.width), True)
        column = column + 1
