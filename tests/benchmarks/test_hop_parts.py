"""Parts of hops: what is run, where it reads, and what a GPU takes for it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.hop_parts import HopParts, first_layers, measure_hop_parts, random_decoder, why_no_hops
from benchmarks.hop_size import KERNELS, HopSize, hop_sizes
from benchmarks.machine import Target, find_target
from kernels.registry import get_kernel
from reasoning.engine.layer_math import fused_layer_math
from reasoning.engine.linear import EngineLinear

CPU = torch.device("cpu")
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


def parts(size: HopSize, kernel: str = "bf16") -> HopParts:
    decoder = random_decoder(size, CPU)
    for layer in decoder.layers:
        for linear in layer.linears:
            linear.add_format(get_kernel(kernel))
    return HopParts(decoder, get_kernel(kernel), size, fused_layer_math(CPU))


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs in Triton's interpreter")
@pytest.mark.parametrize("size", [SMALL, replace(SMALL, has_head_norm=False, batch_size=1, layers=1)])
def test_a_hop_and_its_linears_multiply_the_same_and_a_hop_stays_at_its_column(
    size: HopSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    product = EngineLinear.__call__

    def counted(self: EngineLinear, *arguments: object) -> Tensor:
        calls.append(self.shape)
        return product(self, *arguments)  # type: ignore[arg-type]

    hop = parts(size)
    monkeypatch.setattr(EngineLinear, "__call__", counted)
    hop.queue(1)
    heads = (size.heads + 2 * size.kv_heads) * size.head_dim
    layer = [(heads, 40), (40, size.heads * size.head_dim), (48, 40), (40, 24)]
    assert calls == [*(size.layers * layer), (301, 40)]
    calls.clear()
    hop.multiply()
    assert calls == [*(size.layers * layer), (301, 40)]
    state = hop.session.state
    assert state.column.tolist() == size.batch_size * [size.cached_tokens - 1]
    assert state.position.tolist() == [1] and hop.most_rounds == size.cached_tokens + 1
    assert hop.session.logits.shape == (size.batch_size, 301) and hop.session.logits.isfinite().all()
    hop.rewind()
    assert state.position.tolist() == [0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs in Triton's interpreter")
def test_attention_reads_the_cached_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    session = parts(replace(SMALL, layers=1)).session
    attended = session._math.attend

    def attend(*arguments: Tensor) -> Tensor:
        seen.append(attended(*arguments).clone())
        return seen[-1]

    monkeypatch.setattr(session, "_math", replace(session._math, attend=attend))
    session.queue_hop()
    # Columns beyond the last say nothing, the first one does.
    session.cache.values[0][:, :, SMALL.cached_tokens :] = 100.0
    session.state.position.zero_()
    session.queue_hop()
    session.cache.values[0][:, :, 0] = 100.0
    session.state.position.zero_()
    session.queue_hop()
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_the_head_stays_native_and_fewer_layers_share_their_weights() -> None:
    decoder = random_decoder(SMALL, CPU)
    kernel = get_kernel("fused_int8")
    for layer in decoder.layers:
        for linear in layer.linears:
            linear.add_format(kernel)
    (head,) = decoder.head.weights(kernel)
    assert isinstance(head, Tensor) and head.dtype == torch.bfloat16
    few = first_layers(decoder, 1)
    assert len(few.layers) == few.architecture.layers == 1 and few.layers[0] is decoder.layers[0]
    assert len(few.linears) == 5 and few.head is decoder.head
    assert decoder.embedding.untyped_storage().nbytes() == 2 * SMALL.hidden


def test_sizes_tell_the_parameters_apart_and_their_bytes_are_those_of_predictions() -> None:
    from profiler.cli_predict_inputs import model_shape

    sizes = hop_sizes()
    assert len(sizes) == len(set(sizes)) == 16
    assert {(s.layers, s.batch_size) for s in sizes} == {(n, b) for n in (4, 12) for b in (1, 8, 32, 128)}
    for key, hidden in (("qwen3-0.6b", 1024), ("mistral-7b", 4096)):
        shape = replace(model_shape(key), layers=12)
        own = next(s for s in sizes if s.hidden == hidden and s.layers == 12)
        assert own.row_bytes == shape.row_bytes(own.cached_tokens)
        assert own.kv_bytes == shape.kv_bytes_per_token * own.cached_tokens
        assert own.has_head_norm is shape.head_norm


def test_a_device_without_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Target(CPU, "a CPU", None, cache_bytes=1000)
    with pytest.raises(ValueError, match="timed on cuda, the device is cpu"):
        next(measure_hop_parts([SMALL], cpu, 3))
    monkeypatch.setattr("kernels.triton_impl.decode.IS_INTERPRETED.value", False)
    assert "cpu" in why_no_hops(CPU)


@pytest.mark.gpu
def test_times_grow_with_layers_and_rows() -> None:
    target = find_target("auto")
    assert isinstance(target, Target)
    base = hop_sizes()[0]
    sizes = [replace(base, layers=n, batch_size=b) for n in (4, 12) for b in (1, 64)]
    rows = list(measure_hop_parts(sizes, target, 5, ("bf16", "fused_nf4")))
    assert [(row["kernel"], row["layers"], row["batch_size"]) for row in rows] == [
        (name, n, b) for name in ("bf16", "fused_nf4") for n in (4, 12) for b in (1, 64)
    ]
    for row in rows:
        hop, linears, between = (float(str(row[f"{part}_us_p50"])) for part in ("hop", "linears", "time"))
        # Part of what lies between may hide, but not all, and the linears take most of such a hop.
        assert 0 < between < hop and 0 < linears < hop
        assert row["timings"] == 5 and row["engine"] == "fused"
    # Keys and values alone, at the bandwidth of an H200 and less, cannot take less time than this.
    assert float(str(rows[3]["time_us_p05"])) > sizes[-1].kv_bytes / 8e12 * 1e6
    assert set(KERNELS) >= {"bf16", "fused_nf4"}
