"""Other libraries' kernels in a chain: the same engines, memory by their own count, no null twins."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kernels.peers.kernel import PEER_KERNELS, PeerFailedError, PeerKernel, peer_kernel
from kernels.peers.peer import Parts, Peer, PeerUnavailableError, PeerWeight, Product
from kernels.quantize import quantize
from kernels.registry import get_kernel
from profiler.energy import NoMeter
from profiler.record import AgreementSample, QuerySample, RangeSample
from reasoning import chain_captured
from reasoning.chain import ChainOutcome, ChainRun, check_kernels
from reasoning.chain_captured import CapturedBackend
from reasoning.chain_problems import select_problems
from reasoning.chain_spec import ChainSpec, Engine
from reasoning.engine.linear import EngineLinear, LinearWeights, merge_weights
from reasoning.model import load_model
from reasoning.quant_linear import QuantLinear, add_format, replace_linears

SHORT = ChainSpec(limit=2, max_new_tokens=6, ablation_problems=1, ablation_hops=4, ablation_repeats=1)


@pytest.fixture(autouse=True)
def eager_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")


def run(spec: ChainSpec) -> ChainOutcome:
    problems, _ = select_problems(spec)
    return ChainRun(spec, load_model("tiny"), problems, NoMeter("none in tests")).run()


def rounded(w: Tensor) -> PeerWeight:
    """int8 rows, as a library would store them."""
    scale = w.float().abs().amax(1, keepdim=True) / 127
    codes = (w.float() / scale).round().to(torch.int8)

    def bind(parts: Parts) -> Product:
        return lambda x: x @ (parts[0].float() * parts[1]).to(x.dtype).T

    stored = codes.nbytes + scale.nbytes
    return PeerWeight(
        (codes, scale), bind, tuple(w.shape), codes.float() * scale, stored, "rows", ("a note",)
    )


def use_peer(monkeypatch: pytest.MonkeyPatch, prepare=rounded, **settings: object) -> PeerKernel:
    """Register a peer that needs no library."""
    peer = Peer("made_int8", "torch", 8, None, None, prepare, **{"device_types": ("cpu", "cuda"), **settings})
    kernel = peer_kernel(peer)
    monkeypatch.setitem(PEER_KERNELS, "made_int8", kernel)
    return kernel


@pytest.mark.parametrize("engine", [Engine.EAGER, Engine.GRAPH])
def test_bitsandbytes_solves_in_our_engines_with_its_own_weights(engine: Engine) -> None:
    pytest.importorskip("bitsandbytes")
    names = ("bnb_nf4", "bnb_fp4", "bnb_int8", "bnb_int8_plain")
    outcome = run(replace(SHORT, kernels=names, engine=engine))
    rows = {(row.kernel, row.mode): row for row in outcome.rows}
    assert set(rows) == {(name, mode) for name in ("bf16", *names) for mode in ("generate", "replay")}
    solved = [s.kernel for s in outcome.samples if isinstance(s, QuerySample)]
    assert {name: solved.count(name) for name in names} == dict.fromkeys(names, 2)
    native = rows["bf16", "generate"].weight_bytes
    share = {name: rows[name, "generate"].weight_bytes / native for name in names}
    assert share["bnb_nf4"] == pytest.approx(share["bnb_fp4"]) and 0.25 < share["bnb_nf4"] < 0.4
    assert share["bnb_int8"] == share["bnb_int8_plain"] and 0.5 < share["bnb_int8"] < 0.6
    row = rows["bnb_int8", "generate"]
    assert row.implementation.startswith("bitsandbytes ")
    assert row.implementation.endswith(": LLM.int8(), threshold 6")
    assert any(note.startswith("bnb_int8: outlier columns") for note in row.notes)
    agreement = [s for s in outcome.samples if isinstance(s, AgreementSample)]
    assert {s.kernel for s in agreement} == set(names)
    # Quantization to 4 and 8 bits moves the logits by some percent: far off would be another weight.
    assert 0 < max(s.logits_rel_error for s in agreement) < 0.3
    ranges = [s for s in outcome.samples if isinstance(s, RangeSample)]
    assert {s.kernel for s in ranges} == {"bf16", *names}
    assert all(s.linear_s > 0 and s.cast_s is None and s.comp_s is None for s in ranges)


def test_merged_weights_compute_what_the_parts_do(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = use_peer(monkeypatch)
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(n, 64, generator=generator).bfloat16() for n in (24, 7, 5)]
    linears = [LinearWeights(name, part) for name, part in zip("qkv", parts, strict=True)]
    merged = EngineLinear(linears)
    merged.add_format(kernel)
    (only,) = merged.weights(kernel)
    assert isinstance(only, PeerWeight) and only.shape == (36, 64) and only.decoded is None
    x = torch.randn(3, 64, generator=generator).bfloat16()
    apart = torch.cat([kernel.linear(x, kernel.prepare(part)) for part in parts], dim=-1)
    assert torch.equal(merged(x, kernel), apart)
    assert merged.nbytes(kernel) == 36 * 64 + 36 * 4
    kept = EngineLinear([linears[0], replace(linears[1], is_kept=True)])
    kept.add_format(kernel)
    assert [type(weight) for weight in kept.weights(kernel)] == [PeerWeight, Tensor]
    assert torch.equal(kept(x, kernel)[:, 24:], x @ parts[1].T)


def test_what_another_library_laid_out_is_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = use_peer(monkeypatch)
    parts = [kernel.prepare(torch.ones(4, 64).bfloat16()) for _ in range(2)]
    assert merge_weights(parts) == tuple(parts)
    ours = quantize(torch.ones(4, 64), "int8")
    linear = EngineLinear([LinearWeights("q", None, {"int8": ours})])
    with pytest.raises(
        ValueError, match=r"q has no native weight to quantize to made_int8 \(formats held: int8"
    ):
        linear.add_format(kernel)
    with pytest.raises(ValueError, match="q has no made_int8 weight"):
        linear.weights(kernel)


def test_a_replaced_linear_swaps_between_ours_and_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = use_peer(monkeypatch)
    model = nn.Sequential(nn.Linear(64, 8)).bfloat16()
    replacement = replace_linears(model, get_kernel("fused_int8"))
    with pytest.raises(ValueError, match=r"0 has no made_int8 weight \(formats held: int8\)"):
        replacement.use(kernel)
    add_format(replacement, kernel)
    x = torch.randn(2, 3, 64).bfloat16()
    replacement.use(kernel)
    theirs = model(x)
    replacement.use(get_kernel("fused_int8"))
    torch.testing.assert_close(theirs, model(x), rtol=2**-6, atol=2**-6)
    assert replacement.weight_bytes(kernel) == 8 * 64 + 8 * 4
    layer = model[0]
    assert isinstance(layer, QuantLinear) and isinstance(layer.quantized["made_int8"], PeerWeight)
    with pytest.raises(ValueError, match="rows on cpu cannot move to meta"):
        model.to("meta")


def test_a_spec_takes_both_names_and_no_settings_that_a_library_would_not_see() -> None:
    spec = ChainSpec(kernels=("bnb_llm_int8", "gptqmodel_marlin_int4"), baseline="bf16")
    assert spec.kernels == ("bnb_int8_plain", "gptq_marlin_int4") and not spec.streams
    assert spec.ablation_kernels == ("bf16", *spec.kernels), "no unfused, fused or null twin"
    with pytest.raises(ValueError, match="named twice: bf16, bnb_int8_plain, bnb_int8_plain"):
        ChainSpec(kernels=("bnb_llm_int8", "bnb_int8_plain"))
    with pytest.raises(ValueError, match="group_size=32 was asked for, bnb_nf4 has groups of 64"):
        ChainSpec(kernels=("bnb_nf4",), group_size=32)
    with pytest.raises(ValueError, match="double_quant=True was asked for, bnb_nf4 keeps its scales"):
        ChainSpec(kernels=("bnb_nf4",), double_quant=True)
    assert ChainSpec(kernels=("bnb_nf4", "bnb_int8"), group_size=64).group_size == 64


def test_engines_that_a_kernel_does_not_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = use_peer(monkeypatch, uncapturable="it asks the host")
    monkeypatch.setattr(PeerKernel, "available", lambda self, device: (True, ""))
    monkeypatch.setattr(type(get_kernel("bf16")), "available", lambda self, device: (True, ""))
    spec = replace(SHORT, kernels=("made_int8",), engine=Engine.GRAPH)
    assert spec.why_not_captured == "made_int8 cannot be captured in a CUDA graph: it asks the host"
    with pytest.raises(ValueError, match="--engine graph: made_int8 cannot .* host; --engine eager runs it"):
        check_kernels(spec, "cuda")
    check_kernels(spec, "cpu")
    check_kernels(replace(spec, engine=Engine.EAGER), "cuda")
    assert not replace(spec, kernels=("fused_nf4",)).why_not_captured and kernel.why_not_captured


def test_a_kernel_that_a_graph_does_not_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = use_peer(monkeypatch)
    spec = replace(SHORT, kernels=("made_int8",), engine=Engine.GRAPH)
    backend = CapturedBackend(spec, load_model("tiny"))
    backend.prepare(1, 16, in_lockstep=False)
    monkeypatch.setattr(CapturedBackend, "is_captured", True)

    def refuse(*words: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(chain_captured.Engine, "session", refuse)
    with pytest.raises(
        PeerFailedError, match=r"made_int8 could not be captured .* size 1 \(Runtime.*eager runs"
    ):
        backend._session(kernel)
    with pytest.raises(RuntimeError, match="not permitted") as caught:
        backend._session(get_kernel("bf16"))
    assert not isinstance(caught.value, PeerFailedError)


def test_a_library_that_fails_halfway_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def tiring(w: Tensor) -> PeerWeight:
        made = rounded(w)

        def bind(parts: Parts) -> Product:
            product = made.bind(parts)

            def call(x: Tensor) -> Tensor:
                nonlocal calls
                calls += 1
                if calls > 800:
                    raise AssertionError("no config fits")
                return product(x)

            return call

        return replace(made, bind=bind)

    use_peer(monkeypatch, tiring)
    outcome = run(replace(SHORT, kernels=("made_int8",), limit=20, ablation_problems=0))
    assert outcome.interrupted and isinstance(outcome.failure, PeerFailedError)
    assert "made_int8 failed at" in str(outcome.failure)
    assert {row.kernel for row in outcome.rows} == {"bf16", "made_int8"}


def test_sizes_that_a_library_does_not_take_are_named_with_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(w: Tensor) -> PeerWeight:
        raise PeerUnavailableError(f"made_int8 takes k divisible by 7, this shape has k={w.shape[1]}")

    use_peer(monkeypatch, refusing)
    for engine, name in ((Engine.EAGER, "q_proj.weight"), (Engine.GRAPH, "q_proj+k_proj+v_proj")):
        with pytest.raises(ValueError) as caught:
            run(replace(SHORT, kernels=("made_int8",), engine=engine))
        assert name in str(caught.value) and "k divisible by 7" in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", list(Engine))
@pytest.mark.parametrize("name", PEER_KERNELS)
def test_peers_solve_on_a_gpu_in_every_engine_that_they_allow(name: str, engine: Engine) -> None:
    kernel = PEER_KERNELS[name]
    runs, reason = kernel.available("cuda")
    if not runs:
        pytest.skip(reason)
    spec = replace(SHORT, kernels=(name,), engine=engine, batch_sizes=(2,), energy_windows=0)
    if engine is not Engine.EAGER and kernel.why_not_captured:
        with pytest.raises(ValueError, match=f"{name} cannot be captured in a CUDA graph"):
            check_kernels(spec, "cuda")
        return
    problems, _ = select_problems(spec)
    loaded = load_model("tiny", device="cuda")
    outcome = ChainRun(spec, loaded, problems, NoMeter("none in tests")).run()
    row = next(row for row in outcome.rows if (row.kernel, row.mode) == (name, "generate"))
    assert row.captured is (engine is not Engine.EAGER) and not outcome.interrupted
    errors = [s.logits_rel_error for s in outcome.samples if isinstance(s, AgreementSample)]
    assert 0 < max(errors) < 0.3
