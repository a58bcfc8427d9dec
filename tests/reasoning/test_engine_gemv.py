"""Native weights in the ``fused`` engine: which products the engine's own function takes, and what a record says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_models import BOUND, PROMPTS, forced_logits, random_model, relative_error
from torch import Tensor

from kernels.registry import get_kernel
from reasoning.chain_backend import implementation_of
from reasoning.chain_captured import CapturedBackend
from reasoning.engine.decoder import Decoder
from reasoning.engine.layer_math import LayerMath
from reasoning.engine.linear import EngineLinear, LinearWeights
from reasoning.engine.session import Session, StepMode

GEMV = "triton gemv up to 2 rows, torch beyond"
TOKENS = [[5, 8]] * 3


@pytest.fixture(autouse=True)
def eager_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")


class Counted:
    """A product that counts its calls by the weight's rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, w: Tensor) -> Tensor:
        self.rows.append(w.shape[0])
        return F.linear(x, w)


@pytest.mark.parametrize(("name", "of_a_layer"), [("bf16", 4), ("gemv_bf16", 4), ("fused_int8", 0)])
def test_hops_give_native_weights_to_the_engines_product_and_prompts_do_not(
    name: str, of_a_layer: int
) -> None:
    kernel = get_kernel(name)
    decoder = Decoder.from_model(random_model("qwen3"))
    decoder.add_format(kernel)
    product = Counted()
    math = replace(LayerMath(), native_linear=product)
    session = Session(decoder, kernel, 3, 40, mode=StepMode.GRAPH, math=math)
    found = forced_logits(session, PROMPTS, TOKENS)
    hops = len(TOKENS[0]) - 1
    assert len(product.rows) % hops == 0
    each = len(decoder.layers) * of_a_layer + 1
    assert len(product.rows) >= each and len(product.rows) % each == 0
    assert product.rows[each - 1] == decoder.head.shape[0]
    plain = forced_logits(Session(decoder, kernel, 3, 40, mode=StepMode.GRAPH), PROMPTS, TOKENS)
    assert torch.equal(found, plain)


def test_a_native_kernel_keeps_its_range_and_a_kept_weight_has_none() -> None:
    opened: list[str] = []

    @contextmanager
    def ranges(name: str) -> Iterator[None]:
        opened.append(name)
        yield

    generator = torch.Generator().manual_seed(1)
    w, x = (torch.randn(n, 64, generator=generator) for n in (24, 2))
    product = Counted()
    linear = EngineLinear([LinearWeights("a", w)])
    assert torch.equal(linear(x, get_kernel("bf16"), ranges, product), F.linear(x, w))
    assert opened == ["linear"] and product.rows == [24]
    kept = EngineLinear([LinearWeights("b", w, is_kept=True)])
    assert torch.equal(kept(x, get_kernel("fused_nf4"), ranges, product), F.linear(x, w))
    assert opened == ["linear"] and product.rows == [24, 24]


def backend_with(native_linear: Any) -> Any:
    backend = CapturedBackend.__new__(CapturedBackend)
    weight = torch.zeros(8, 64)
    linear = SimpleNamespace(weights=lambda kernel: (weight,))
    backend._math = replace(LayerMath(), native_linear=native_linear)
    backend._decoder = SimpleNamespace(  # type: ignore[assignment]
        device=weight.device, embedding=weight, layers=[SimpleNamespace(qkv=linear)]
    )
    return backend


def test_records_say_what_multiplies_by_native_weights() -> None:
    pytest.importorskip("triton")
    own, plain = backend_with(lambda x, w: F.linear(x, w)), backend_with(F.linear)
    assert implementation_of(own, get_kernel("bf16")) == (GEMV, ())
    assert implementation_of(own, get_kernel("gemv_bf16")) == (GEMV, ())
    assert implementation_of(plain, get_kernel("bf16")) == ("torch", ())
    assert implementation_of(plain, get_kernel("gemv_bf16")) == ("torch", ())


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 4, 5])
def test_captured_hops_run_the_kernel_up_to_four_rows(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    from kernels.triton_impl import gemv

    launched: list[int] = []
    run = gemv.run

    def counted(x: Tensor, w: Tensor, config: gemv.GemvConfig) -> Tensor:
        launched.append(w.shape[0])
        return run(x, w, config)

    monkeypatch.setattr(gemv, "run", counted)
    decoder = Decoder.from_model(random_model("qwen3", torch.bfloat16, "cuda"))
    prompts, tokens = [PROMPTS[0]] * batch, [[5, 8, 13, 21]] * batch
    logits = []
    for mode in (StepMode.GRAPH, StepMode.FUSED):
        launched.clear()
        session = Session(decoder, get_kernel("bf16"), batch, 40, mode=mode)
        logits.append(forced_logits(session, prompts, tokens))
        is_own = mode is StepMode.FUSED and batch <= gemv.MOST_ROWS
        assert bool(launched) == is_own and (not is_own or decoder.head.shape[0] in launched)
    assert relative_error(logits[1].flatten(0, 1), logits[0].flatten(0, 1)) < BOUND[torch.bfloat16]
