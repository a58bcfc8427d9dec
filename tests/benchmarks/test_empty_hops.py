"""Hops without linears: what they launch, where they read, and what a GPU takes for them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import empty_hops
from benchmarks.empty_hops import EmptyHops, HopSize, hop_sizes, measure_empty_hops, why_no_empty_hops
from benchmarks.machine import Target, find_target
from kernels.registry import Kernel, get_kernel
from reasoning.engine.linear import EngineLinear

_BF16 = get_kernel("bf16")
SMALL = HopSize(
    layers=2,
    hidden=40,
    intermediate=24,
    heads=3,
    kv_heads=1,
    head_dim=16,
    vocabulary=301,
    has_head_norm=True,
    batch_size=2,
    cached_tokens=3,
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs in Triton's interpreter")
@pytest.mark.parametrize("size", [SMALL, replace(SMALL, has_head_norm=False, batch_size=1, layers=1)])
def test_a_hop_launches_no_linear_and_stays_at_its_column(
    size: HopSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    product = EngineLinear.__call__

    def counted(self: EngineLinear, *arguments: object) -> Tensor:
        calls.append(self.shape)
        return product(self, *arguments)  # type: ignore[arg-type]

    def multiplied(*arguments: object, **options: object) -> Tensor:
        raise RuntimeError("a linear was multiplied")

    for owner, name in ((F, "linear"), (torch, "matmul"), (torch, "mm"), (Kernel, "linear")):
        monkeypatch.setattr(owner, name, multiplied)
    hops = EmptyHops(size, torch.device("cpu"), copies=2)
    monkeypatch.setattr(EngineLinear, "__call__", counted)
    hops.queue(1)
    heads = (size.heads + 2 * size.kv_heads) * size.head_dim
    layer = [(heads, 40), (40, size.heads * size.head_dim), (48, 40), (40, 24)]
    assert calls == 2 * [*(size.layers * layer), (301, 40)]
    for session in hops.sessions:
        assert session.state.column.tolist() == size.batch_size * [size.cached_tokens - 1]
        assert session.state.position.tolist() == [1]
        assert session.logits.shape == (size.batch_size, 301)
    first, second = (session.cache for session in hops.sessions)
    assert not torch.equal(first.keys[0], second.keys[0])
    hops.rewind()
    assert [session.state.position.tolist() for session in hops.sessions] == [[0], [0]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs in Triton's interpreter")
def test_attention_reads_the_cached_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    hops = EmptyHops(replace(SMALL, layers=1), torch.device("cpu"))
    session = hops.sessions[0]
    attended = session._math.attend

    def attend(*arguments: Tensor) -> Tensor:
        seen.append(attended(*arguments).clone())
        return seen[-1]

    monkeypatch.setattr(session, "_math", replace(session._math, attend=attend))
    hops.queue(1)
    # Columns beyond the last say nothing, the first one does.
    session.cache.values[0][:, :, SMALL.cached_tokens :] = 100.0
    hops.queue(1)
    assert torch.equal(seen[0], seen[1])
    session.cache.values[0][:, :, 0] = 100.0
    hops.queue(hops.most_rounds - 2)
    assert len(seen) == hops.most_rounds == SMALL.cached_tokens + 1
    assert not torch.equal(seen[0], seen[2]) and torch.equal(seen[2], seen[3])


def test_sizes_tell_the_parameters_apart_and_their_bytes_are_those_of_predictions() -> None:
    from profiler.cli_predict_inputs import model_shape

    sizes = hop_sizes()
    assert len(sizes) == len(set(sizes)) == 12
    assert {(s.layers, s.batch_size) for s in sizes} == {(n, b) for n in (4, 12) for b in (1, 8, 64)}
    for key, hidden in (("qwen3-0.6b", 1024), ("mistral-7b", 4096)):
        shape = replace(model_shape(key), layers=12)
        own = next(s for s in sizes if s.hidden == hidden and s.layers == 12)
        assert own.row_bytes == shape.row_bytes(own.cached_tokens)
        assert own.kv_bytes == shape.kv_bytes_per_token * own.cached_tokens
        assert own.has_head_norm is shape.head_norm


def test_weights_take_no_memory() -> None:
    size = replace(SMALL, hidden=4096, intermediate=14336, vocabulary=128256)
    decoder = empty_hops._decoder(size, torch.device("cpu"))
    tensors = [decoder.embedding, *(w for linear in decoder.linears for w in linear.weights(_BF16))]
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) < 10_000
    assert decoder.head.shape == (128256, 4096)


def test_a_device_without_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Target(torch.device("cpu"), "a CPU", None, cache_bytes=1000)
    with pytest.raises(ValueError, match="timed on cuda, the device is cpu"):
        next(measure_empty_hops([SMALL], cpu, 3))
    monkeypatch.setattr("kernels.triton_impl.decode.IS_INTERPRETED.value", False)
    assert "cpu" in why_no_empty_hops(torch.device("cpu"))


@pytest.mark.gpu
def test_times_grow_with_layers_and_rows() -> None:
    target = find_target("auto")
    assert isinstance(target, Target)
    base = hop_sizes()[0]
    sizes = [replace(base, layers=n, batch_size=b) for n in (4, 12) for b in (1, 64)]
    rows = list(measure_empty_hops(sizes, target, 5))
    assert [(row["layers"], row["batch_size"]) for row in rows] == [(4, 1), (4, 64), (12, 1), (12, 64)]
    few, few_64, many, many_64 = (float(str(row["time_us_p05"])) for row in rows)
    # Ten times as long on a GPU of its own; the two between them stand too close where tests share it.
    assert 0 < few < many_64 and min(many, few_64) > 0
    # Keys and values alone, at the bandwidth of an H200 and less, cannot take less time than this.
    assert many_64 > sizes[-1].kv_bytes / 8e12 * 1e6
    assert all(row["timings"] == 5 and row["engine"] == "fused" for row in rows)
