"""Linears merged row by row: exact in every format, apart where it would not be."""

from dataclasses import replace

import pytest
import torch

from kernels.dequantize import dequantize
from kernels.formats import FORMATS
from kernels.gptq import from_gptq, to_gptq
from kernels.quant_weight import QuantWeight
from kernels.quantize import quantize
from kernels.registry import get_kernel
from reasoning.engine.linear import EngineLinear, LinearWeights, merge_weights

ROWS = (48, 17, 5)
K = 256


@pytest.fixture(autouse=True)
def eager_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")


def random_parts(fmt: str, rows: tuple[int, ...] = ROWS, **options: object) -> list[QuantWeight]:
    generator = torch.Generator().manual_seed(1)
    return [quantize(torch.randn(n, K, generator=generator), fmt, **options) for n in rows]


def merged_one(parts: list[QuantWeight]) -> QuantWeight:
    (merged,) = merge_weights(parts)
    assert isinstance(merged, QuantWeight)
    return merged


@pytest.mark.parametrize("scheme", ["fused", "unfused"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_a_merged_product_is_the_separate_ones_bit_for_bit(fmt: str, scheme: str) -> None:
    parts = random_parts(fmt)
    merged = merged_one(parts)
    assert torch.equal(dequantize(merged), torch.cat([dequantize(part) for part in parts]))
    # One power of two per row: whatever the order of the sums, they are exact.
    x = torch.eye(K) * 4
    kernel = get_kernel(f"{scheme}_{fmt}")
    separate = torch.cat([kernel.linear(x, part) for part in parts], dim=-1)
    assert torch.equal(kernel.linear(x, merged), separate)


def test_doubly_quantized_scales_are_decoded_exactly() -> None:
    parts = random_parts("nf4", double_quant=True)
    merged = merged_one(parts)
    assert merged.double_quant is None
    assert torch.equal(merged.group_scales(), torch.cat([part.group_scales() for part in parts]))
    assert torch.equal(dequantize(merged), torch.cat([dequantize(part) for part in parts]))


def gptq_parts(*orders: int | None) -> list[QuantWeight]:
    """int4 parts as read from GPTQ tensors, their columns in an order drawn from each seed."""
    parts = []
    for part, order in zip(random_parts("int4", (48, 16, 8), group_size=64), orders, strict=True):
        permutation = (
            None if order is None else torch.randperm(K, generator=torch.Generator().manual_seed(order))
        )
        stored = to_gptq(replace(part, input_permutation=permutation, repacked={}))
        g_idx = None if permutation is None else stored.g_idx
        parts.append(from_gptq(stored.qweight, stored.qzeros, stored.scales, g_idx, group_size=64))
    return parts


@pytest.mark.parametrize("order", [None, 3])
def test_gptq_parts_with_one_order_of_columns_are_merged(order: int | None) -> None:
    parts = gptq_parts(order, order, order)
    merged = merged_one(parts)
    assert torch.equal(dequantize(merged), torch.cat([dequantize(part) for part in parts]))
    kernel = get_kernel("fused_int4")
    x = torch.eye(K)
    assert torch.equal(
        kernel.linear(x, merged), torch.cat([kernel.linear(x, part) for part in parts], dim=-1)
    )


@pytest.mark.parametrize("orders", [(1, 2, 1), (None, 1, None), (1, None, 1)])
def test_parts_with_other_orders_of_columns_stay_apart_and_give_the_same(
    orders: tuple[int | None, ...],
) -> None:
    parts = gptq_parts(*orders)
    assert merge_weights(parts) == tuple(parts)
    linear = EngineLinear([LinearWeights(f"{i}", None, {"int4": part}) for i, part in enumerate(parts)])
    kernel = get_kernel("fused_int4")
    x = torch.randn(3, K)
    assert torch.equal(linear(x, kernel), torch.cat([kernel.linear(x, part) for part in parts], dim=-1))


def test_parts_of_other_groups_or_formats_stay_apart() -> None:
    (a,), (b,) = (random_parts("nf4", (8,), group_size=size) for size in (32, 64))
    assert merge_weights([a, b]) == (a, b)
    (c,) = random_parts("fp4", (8,))
    assert merge_weights([b, c]) == (b, c)
    native = torch.randn(8, K)
    assert merge_weights([native, b]) == (native, b)


def test_a_linear_that_is_kept_stays_native_beside_quantized_ones() -> None:
    native = torch.randn(8, K)
    (b,) = random_parts("nf4", (16,))
    linear = EngineLinear(
        [
            LinearWeights("gate_proj", native, is_kept=True),
            LinearWeights("up_proj", dequantize(b), {"nf4": b}),
        ]
    )
    kernel = get_kernel("fused_nf4")
    x = torch.randn(2, K)
    assert torch.equal(linear(x, kernel), torch.cat([x @ native.T, kernel.linear(x, b)], dim=-1))
    assert linear.nbytes(kernel) == native.nbytes + b.nbytes


def test_quantizing_the_merged_weight_is_merging_the_quantized_parts() -> None:
    generator = torch.Generator().manual_seed(2)
    dense = [torch.randn(n, K, generator=generator) for n in ROWS]
    linear = EngineLinear([LinearWeights(f"{i}", part) for i, part in enumerate(dense)])
    kernel = get_kernel("fused_nf4")
    linear.add_format(kernel, double_quant=True)
    (found,) = linear.weights(kernel)
    parts = [quantize(part, "nf4", double_quant=True) for part in dense]
    assert isinstance(found, QuantWeight)
    assert torch.equal(found.packed, torch.cat([part.packed for part in parts]))
    assert torch.equal(found.group_scales(), torch.cat([part.group_scales() for part in parts]))


def test_biases_are_merged_with_zeros_where_there_is_none() -> None:
    parts = [
        LinearWeights("a", torch.randn(3, K), bias=torch.tensor([1.0, 2.0, 3.0])),
        LinearWeights("b", torch.randn(2, K)),
    ]
    bias = EngineLinear(parts).bias
    assert bias is not None and bias.tolist() == [1, 2, 3, 0, 0]
    assert EngineLinear(parts[1:]).bias is None


def test_errors_name_the_linear() -> None:
    with pytest.raises(ValueError, match="o_proj has no native weight and 0 quantized ones"):
        LinearWeights("o_proj", None)
    with pytest.raises(ValueError, match=r"to be merged but have k=\[128, 256\]"):
        EngineLinear([LinearWeights("a", torch.zeros(2, 128)), LinearWeights("b", torch.zeros(2, 256))])
    (b,) = random_parts("nf4", (16,))
    linear = EngineLinear([LinearWeights("o_proj", None, {"nf4": b})])
    with pytest.raises(ValueError, match=r"o_proj has no int8 weight \(formats held: nf4\)"):
        linear(torch.zeros(1, K), get_kernel("fused_int8"))
    with pytest.raises(ValueError, match=r"o_proj has no native weight to quantize to int8"):
        linear.add_format(get_kernel("fused_int8"))
