"""Swapping kernels inside a model."""

import pytest
import torch
from torch import nn

from kernels.dequantize import dequantize
from kernels.formats import FORMATS
from kernels.quantize import quantize
from kernels.registry import get_kernel
from reasoning.quant_linear import QuantLinear, add_format, model_bytes, replace_linears


class Toy(nn.Module):
    """Two linears, one of them with a bias, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(128, 192)
        self.inner = nn.ModuleDict({"down": nn.Linear(192, 128, bias=False)})
        self.lm_head = nn.Linear(128, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.inner["down"](torch.relu(self.up(x))))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    torch.manual_seed(0)
    return Toy()


def test_replaces_all_but_the_head_and_says_so(toy: Toy) -> None:
    replacement = replace_linears(toy, get_kernel("fused_nf4"))
    assert list(replacement.replaced) == ["up", "inner.down"]
    assert replacement.skipped == {"lm_head": "kept in its native format"}
    assert isinstance(toy.up, QuantLinear) and isinstance(toy.lm_head, nn.Linear)
    assert toy.up.shape == (192, 128)


def test_native_kernel_changes_nothing(toy: Toy) -> None:
    x = torch.randn(3, 128)
    before = toy(x)
    replace_linears(toy, get_kernel("bf16"))
    torch.testing.assert_close(toy(x), before)


@pytest.mark.parametrize("fmt", FORMATS)
def test_quantized_forward_is_the_decoded_weight(toy: Toy, fmt: str) -> None:
    group = {"group_size": 64} if fmt == "int4" else {}
    expected = quantize(toy.up.weight.detach(), fmt, **group)
    x = torch.randn(5, 128)
    reference = x.double() @ dequantize(expected).double().T + toy.up.bias.double()
    replace_linears(toy, get_kernel(f"fused_{fmt}"), **group)
    error = torch.linalg.vector_norm(toy.up(x) - reference) / torch.linalg.vector_norm(reference)
    assert error < 128 * 2**-24


def test_kernels_swap_without_quantizing_again(toy: Toy) -> None:
    replacement = replace_linears(toy, get_kernel("bf16"))
    add_format(replacement, get_kernel("fused_nf4"))
    held = toy.up.quantized["nf4"]
    add_format(replacement, get_kernel("unfused_nf4"))
    assert toy.up.quantized["nf4"] is held
    x = torch.randn(2, 128)
    outputs = []
    for name in ("fused_nf4", "unfused_nf4"):
        replacement.use(get_kernel(name))
        outputs.append(toy(x))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)


def test_missing_format_is_named(toy: Toy) -> None:
    replacement = replace_linears(toy, get_kernel("fused_nf4"))
    with pytest.raises(ValueError, match=r"up has no int8 weight \(formats held: nf4\)"):
        replacement.use(get_kernel("fused_int8"))


def test_errors_name_the_tensor() -> None:
    with pytest.raises(ValueError, match="k=100 is not divisible by group_size=64"):
        replace_linears(nn.Sequential(nn.Linear(100, 8)), get_kernel("fused_nf4"))
    broken = nn.Sequential(nn.Linear(128, 8))
    broken[0].weight.data[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"0\.weight"):
        replace_linears(broken, get_kernel("fused_nf4"))
    with pytest.raises(ValueError, match="the model has 0 linear layers"):
        replace_linears(nn.Sequential(nn.ReLU()), get_kernel("bf16"))


def test_prequantized_weights_are_used_for_their_format(toy: Toy) -> None:
    stored = quantize(torch.randn(192, 128), "int4", group_size=64)
    replacement = replace_linears(toy, get_kernel("fused_int4"), group_size=64, prequantized={"up": stored})
    assert replacement.replaced["up"].quantized["int4"] is stored


def test_stored_weights_of_another_group_size_are_refused(toy: Toy) -> None:
    stored = quantize(torch.randn(192, 128), "int4", group_size=64)
    with pytest.raises(ValueError, match="up is stored with group_size=64, not group_size=32"):
        replace_linears(toy, get_kernel("fused_int4"), group_size=32, prequantized={"up": stored})


def test_ranges_are_reported(toy: Toy) -> None:
    from contextlib import nullcontext

    seen: list[str] = []

    def hook(name: str) -> nullcontext[None]:
        seen.append(name)
        return nullcontext()

    replacement = replace_linears(toy, get_kernel("unfused_int8"))
    replacement.time_ranges(hook)
    toy(torch.randn(1, 128))
    assert seen == ["tau_cast", "tau_comp"] * 2


def test_bytes_count_each_kernel_s_own_weights(toy: Toy) -> None:
    replacement = replace_linears(toy, get_kernel("bf16"))
    add_format(replacement, get_kernel("fused_int8"))
    rest = toy.lm_head.weight.nbytes + toy.up.bias.nbytes
    assert model_bytes(toy, replacement, get_kernel("bf16")) == rest + 2 * 192 * 128 * 4
    assert model_bytes(toy, replacement, get_kernel("fused_int8")) == rest + 2 * 192 * 128 + (192 + 128) * 4


def test_quantized_weights_follow_the_module_but_keep_their_dtype(toy: Toy) -> None:
    replace_linears(toy, get_kernel("fused_int8"))
    toy.to("meta")
    weight = toy.up.quantized["int8"]
    assert weight.packed.device.type == "meta"
    assert weight.packed.dtype == torch.int8
