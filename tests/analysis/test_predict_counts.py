"""The kernels that predictions count between the linears, against those that the engines run."""

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from generated_kernels import kernels_made_of
from torch.utils._python_dispatch import TorchDispatchMode

from analysis.model_shape import KERNELS, HopEngine, ModelShape
from kernels.registry import get_kernel
from reasoning.decode import BatchTrace, decode_steps, greedy
from reasoning.engine import layer_math
from reasoning.engine.decoder import Decoder
from reasoning.engine.session import Session, StepMode
from reasoning.engine.state import BatchState

# They allocate or rename memory, or are the linears themselves.
NO_KERNEL = {"_unsafe_view", "empty", "empty_like", "new_empty", "mm", "addmm", "linear"}
# The eager engine hands its tokens to the host and back.
COPIES_OF_TOKENS = 2
FAMILIES = {"mistral": {}, "qwen3": {"head_norm": True}, "qwen2": {"qkv_bias": True}}


class Operators(TorchDispatchMode):
    """Counts the operators that launch something; attention apart."""

    def __init__(self) -> None:
        super().__init__()
        self.others = 0
        self.attention = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if "scaled_dot_product" in name:
            self.attention += 1
        elif not func.is_view and name not in NO_KERNEL:
            self.others += 1
        return func(*args, **(kwargs or {}))


class NoClock:
    """Times nothing."""

    def __init__(self) -> None:
        self._hops = 0

    def hop(self) -> AbstractContextManager[None]:
        self._hops += 1
        return nullcontext()

    def take(self) -> list[float]:
        hops, self._hops = self._hops, 0
        return [0.0] * hops


def small_model(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        hidden_size=96,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=101,
        max_position_embeddings=128,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    # Norms turn fp32 and back in bf16 alone, which is what runs on a GPU.
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)


def shape(family: str) -> ModelShape:
    return ModelShape(family, 3, 96, 96, 2, 16, 101, (), (), **FAMILIES[family])


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("batch", [1, 2])
def test_graph_runs_the_kernels_that_are_counted(family: str, batch: int) -> None:
    session = Session(
        Decoder.from_model(small_model(family)), get_kernel("bf16"), batch, 64, mode=StepMode.GRAPH
    )
    session.start([[1, 2, 3], [1, 2]][:batch], [4] * batch)
    with torch.no_grad(), Operators() as found:
        session.hop()
    assert found.others == shape(family).other_kernels(HopEngine.GRAPH, batch)
    assert found.attention == 3


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("batch", [1, 2])
def test_an_eager_hop_runs_the_kernels_that_are_counted(family: str, batch: int) -> None:
    from reasoning.quant_linear import replace_linears

    model = small_model(family)
    replace_linears(model, get_kernel("bf16"))
    steps = decode_steps(
        model,
        [[1, 2, 3], [4, 5, 6]][:batch],
        greedy,
        lengths=[6] * batch,
        end_tokens=frozenset(),
        padding=0,
        timer=NoClock(),
        trace=BatchTrace(tokens=[]),
    )
    next(steps)
    next(steps)
    with Operators() as found:
        next(steps)
    assert found.others + COPIES_OF_TOKENS == shape(family).other_kernels(HopEngine.EAGER, batch)
    assert found.attention == 3


def bf16(*size: int) -> torch.Tensor:
    return torch.zeros(*size, dtype=torch.bfloat16)


def whole(*size: int) -> torch.Tensor:
    return torch.zeros(*size, dtype=torch.int64)


def sizes_of(model: str, batch: int) -> dict[str, tuple[Any, ...]]:
    """Arguments of every compiled function for a model and batch size."""
    wide, heads, kv_heads, ffn, head_norm = {
        "qwen3-0.6b": (1024, 16, 8, 3072, True),
        "mistral-7b": (4096, 32, 8, 14336, False),
    }[model]
    dim, columns = 128, 640
    state = BatchState(batch, 257, torch.device("cpu"))
    turn = (bf16(batch, dim // 2), bf16(batch, dim // 2))
    cache = (bf16(batch, kv_heads, columns, dim), bf16(batch, kv_heads, columns, dim))
    weights = bf16(heads + kv_heads, dim) if head_norm else None
    return {
        "begin_hop": (
            whole(batch),
            whole(batch),
            bf16(1000, wide),
            bf16(columns, dim // 2),
            bf16(columns, dim // 2),
            columns,
        ),
        "rms_norm": (bf16(batch, wide), bf16(wide), 1e-6),
        "hop_heads": (
            bf16(batch, (heads + 2 * kv_heads) * dim),
            None,
            weights,
            1e-6,
            *turn,
            *cache,
            whole(batch),
        ),
        "add_norm": (bf16(batch, wide), bf16(batch, wide), None, bf16(wide), 1e-6),
        "silu_times": (bf16(batch, 2 * ffn), None),
        "accept": (whole(batch), *state.buffers_of_accept()),
    }


@pytest.mark.parametrize(("model", "batch"), [("qwen3-0.6b", 1), ("qwen3-0.6b", 64), ("mistral-7b", 8)])
def test_compile_runs_the_kernels_that_are_counted(model: str, batch: int) -> None:
    made = {
        name: kernels_made_of(getattr(layer_math, name), *arguments)
        for name, arguments in sizes_of(model, batch).items()
    }
    calls = calls_of_a_hop()
    # The last two: the most likely token, and the copy that tells the host how many sequences go on.
    once = made["begin_hop"] + made["rms_norm"] + made["accept"] + 2
    per_layer = sum(calls[name] * made[name] for name in ("hop_heads", "add_norm", "silu_times"))
    counted = KERNELS[HopEngine.COMPILE]
    assert once == counted.once, made
    assert per_layer == counted.per_layer + counted.alone * (batch == 1), made


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts in Triton's interpreter")
@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("batch", [1, 2])
def test_fused_runs_the_kernels_that_are_counted(
    family: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kernels.triton_impl import hop_ends, layer_ops, split_attention

    launches: Counter[str] = Counter()

    class Launches:
        def __init__(self, name: str, kernel: Any) -> None:
            self._name, self._kernel = name, kernel

        def __getitem__(self, grid: Any) -> Any:
            launches[self._name] += 1
            return self._kernel[grid]

    session = Session(
        Decoder.from_model(small_model(family)), get_kernel("bf16"), batch, 64, mode=StepMode.FUSED
    )
    session.start([[1, 2, 3], [1, 2]][:batch], [4] * batch)
    modules = {
        "_norm_kernel": layer_ops,
        "_silu_kernel": layer_ops,
        "attention_kernel": split_attention,
        "_begin_kernel": hop_ends,
        "_argmax_kernel": hop_ends,
    }
    for name, module in modules.items():
        monkeypatch.setattr(module, name, Launches(name, getattr(module, name)))
    session.hop()
    counted = KERNELS[HopEngine.FUSED]
    assert launches.pop("attention_kernel") == 3 * counted.attention
    assert launches["_begin_kernel"] == launches["_argmax_kernel"] == 1
    # The first norm belongs to the hop.
    assert launches.total() == 3 * counted.per_layer + 3
    accepted = kernels_made_of(layer_math.accept, *sizes_of("qwen3-0.6b", 8)["accept"])
    assert counted.once == 3 + accepted + 1
    assert shape(family).other_kernels(HopEngine.FUSED, batch) == 3 * counted.per_layer + counted.once


def calls_of_a_hop() -> dict[str, int]:
    """How often a layer calls each function, and that the rest is called once."""
    calls: Counter[str] = Counter()

    def counting(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return getattr(layer_math, name)(*arguments)

        return call

    names = ("begin_hop", "rms_norm", "add_norm", "silu_times", "accept")
    attend = partial(layer_math.attend, heads=counting("hop_heads"))
    math = layer_math.LayerMath(attend=attend, **{name: counting(name) for name in names})
    session = Session(
        Decoder.from_model(small_model("mistral")),
        get_kernel("bf16"),
        1,
        64,
        mode=StepMode.GRAPH,
        math=math,
    )
    session.start([[1, 2, 3]], [4])
    calls.clear()
    session.hop()
    assert {calls[name] for name in ("begin_hop", "rms_norm", "accept")} == {1}
    return {name: calls[name] // 3 for name in ("hop_heads", "add_norm", "silu_times")}


def test_attention_on_a_gpu_launches_the_kernels_that_are_counted() -> None:
    split = pytest.importorskip("kernels.triton_impl.split_attention")
    launched = []

    class Launch:
        def __getitem__(self, grid: object) -> Any:
            return lambda *arguments, **options: launched.append(grid)

    cache = (bf16(2, 4, 512, 32), bf16(2, 4, 512, 32))
    with mock.patch.object(split, "attention_kernel", Launch()):
        split.split_attention(bf16(2, 4, 2, 32), *cache, whole(2), torch.zeros(8, dtype=torch.int32))
    # Eight key heads, and columns enough for eight pieces of each.
    assert launched == [(8, 8)]
    for engine in (HopEngine.GRAPH, HopEngine.COMPILE):
        assert KERNELS[engine].attention == len(launched)


def test_one_row_takes_the_kernels_of_one_row() -> None:
    one, two = (shape("mistral").other_kernels(HopEngine.COMPILE, batch) for batch in (1, 2))
    assert (one, two) == (3 * 6 + 8, 3 * 5 + 8)
