import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from fake_peers import FAKES, peer
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from benchmarks import kernel_sweep
from benchmarks.gate import check, make_reference
from benchmarks.plan import SweepRequest, make_plan
from benchmarks.timer import make_sampler
from benchmarks.variants import PeerVariant
from benchmarks.weights import clone, make_ring, random_weight, random_x
from kernels.peers import registry
from kernels.peers.peer import Peer, PeerUnavailableError
from kernels.peers.registry import PEERS, find_peers
from kernels.peers.rounding import (
    fp8_rows,
    int4_groups,
    int8_rows,
    pack_int32_along_k,
    symmetric_groups,
)
from profiler.record import SweepRow, load_run

CPU = torch.device("cpu")
app = typer.Typer()
app.command()(kernel_sweep.sweep_command)


def sweep(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    words = ["--arch", "cpu", "--shapes", "24x64", "--m", "1,3", "--repeats", "3", "--kernels", "fused_int8"]
    result = CliRunner().invoke(app, [*words, "--json", "--out", str(out), *arguments])
    assert result.stdout.count("\n") == 1, result.output
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PEERS", FAKES)


def test_the_registry_names_every_family() -> None:
    wanted = "bnb_nf4 bnb_fp4 bnb_int8 bnb_llm_int8 tinygemm_int4 scaled_mm_fp8 int_mm_int8 gemlite_int4 gemlite_int8 "
    wanted += "gemlite_fp8 torchao_int4 torchao_int8 torchao_fp8 gptqmodel_marlin_int4 gptqmodel_machete_int4"
    assert set(wanted.split()) <= set(PEERS)
    assert all(f"{item.bits}" in name or item.bits in (4, 8) for name, item in PEERS.items())
    quantizes_x = {name for name, item in PEERS.items() if not item.weight_only}
    assert quantizes_x == {"bnb_int8", "bnb_llm_int8", "scaled_mm_fp8", "int_mm_int8"}


def test_peers_by_name() -> None:
    assert [found.name for found in find_peers(["bnb_fp4", "bnb_nf4"])] == ["bnb_fp4", "bnb_nf4"]
    assert len(find_peers([])) == len(PEERS)
    with pytest.raises(ValueError, match=r"'bnb_nf5'; did you mean 'bnb_nf4'\? known peers: .*tinygemm_int4"):
        find_peers(["bnb_nf5"])


def test_peers_are_no_kernels_of_a_sweep_and_go_by_a_chain_s_names_too() -> None:
    for name in ("bnb_int8_plain", "bnb_llm_int8"):
        with pytest.raises(
            ValueError, match=f"kernel {name} is another library's, which --peer {name} measures"
        ):
            make_plan(SweepRequest(kernels=f"fused_nf4,{name}"), "cpu")
    plan = make_plan(SweepRequest(kernels="fused_nf4", peer="bnb_int8_plain"), "cpu")
    assert [variant.name for variant in plan.variants] == ["bf16", "fused_nf4", "bnb_llm_int8"]


def test_a_call_that_waits_for_the_host_is_not_timed_in_a_graph() -> None:
    runs, why = PeerVariant(PEERS["bnb_int8"]).available(torch.device("cuda"))
    assert not runs and why.startswith("a sweep times CUDA graphs, and LLM.int8() asks the host")


RUNS_ON_CPU = [
    name
    for name, item in PEERS.items()
    if "cpu" in item.device_types and item.module in ("torch", "bitsandbytes")
]


@pytest.mark.parametrize("m", [1, 5, 17])
@pytest.mark.parametrize("name", RUNS_ON_CPU)
def test_real_peers_pass_the_gate_on_their_own_decoded_weight(name: str, m: int) -> None:
    item = PEERS[name]
    is_available, reason = item.available(CPU)
    if not is_available:
        pytest.skip(reason)
    w = random_weight(48, 192, seed=1, device=CPU)
    x = random_x(m, 192, seed=2, device=CPU, dtype=torch.bfloat16)
    weight = item.prepare(w.bfloat16())
    assert weight.decoded is not None
    result = check(PeerVariant(item), x, clone(weight), make_reference(x, weight.decoded))
    assert result.verdict == "passed", result.reason
    quantization_error = float((weight.decoded - w).norm() / w.norm())
    assert quantization_error < item.wide_bound / 2
    assert item.bits <= 8 * weight.stored_bytes / w.numel() < item.bits + 1


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 4, 16, 64])
@pytest.mark.parametrize("name", PEERS)
def test_peers_pass_the_gate_and_are_captured_on_a_gpu(name: str, m: int) -> None:
    item, device = PEERS[name], torch.device("cuda")
    is_available, reason = PeerVariant(item).available(device)
    if not is_available:
        pytest.skip(reason)
    w = random_weight(512, 1024, seed=1, device=device)
    x = random_x(m, 1024, seed=2, device=device, dtype=torch.bfloat16)
    weight = item.prepare(w.bfloat16())
    reference = make_reference(x, w if weight.decoded is None else weight.decoded)
    wide = item.wide_bound if weight.decoded is None else None
    result = check(PeerVariant(item), x, clone(weight), reference, wide_bound=wide)
    assert result.verdict == "passed", result.reason
    assert make_sampler(PeerVariant(item), x, make_ring(weight, 3)).sample()["call"] > 0


def test_a_peer_that_does_not_import_says_why() -> None:
    is_available, reason = FAKES["absent_int8"].available(CPU)
    assert not is_available
    assert reason.startswith("no_such_library does not import: ModuleNotFoundError")
    assert FAKES["gpu_int4"].available(CPU) == (False, "gpu_int4 runs on cuda, not on cpu")


def test_importing_a_peer_leaves_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "import os\nos.environ['QT_ALLOCATOR'] = 'theirs'\nos.environ['QT_KEPT'] = 'theirs'\n"
    (tmp_path / "meddling_library.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("QT_KEPT", "ours")
    assert peer("meddling", module="meddling_library").available(CPU) == (True, "")
    assert os.environ["QT_KEPT"] == "ours" and "QT_ALLOCATOR" not in os.environ


@pytest.mark.parametrize(
    ("name", "shape", "parts"),
    [
        ("bnb_nf4", (8, 100), ("k divisible by 64", "k=100")),
        ("int_mm_int8", (12, 64), ("n divisible by 8", "n=12")),
        ("scaled_mm_fp8", (24, 64), ("n divisible by 16", "n=24")),
        ("tinygemm_int4", (8, 192), ("k divisible by 128", "k=192")),
        ("torchao_int4", (8, 100), ("k divisible by 64", "k=100")),
    ],
)
def test_sizes_that_a_peer_does_not_take(name: str, shape: tuple[int, int], parts: tuple[str, ...]) -> None:
    if PEERS[name].module == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
    with pytest.raises(PeerUnavailableError) as caught:
        PEERS[name].prepare(torch.ones(shape, dtype=torch.bfloat16))
    assert [part for part in parts if part not in str(caught.value)] == []


def test_every_kind_of_peer_becomes_a_row(fakes: None, tmp_path: Path) -> None:
    code, printed = sweep(tmp_path, "--peers")
    assert code == 0 and printed["failures"] == []
    rows = {(row["kernel"], row["m"]): row for row in printed["results"]}
    assert list(rows)[:2] == [("bf16", 1), ("fused_int8", 1)] and len(rows) == 2 * (2 + len(FAKES))
    good = rows["good_int8", 3]
    assert good["implementation"].endswith(": rows of int8") and good["implementation"].startswith("torch ")
    assert good["bytes_moved"] == 24 * 64 + 4 * 24 + 2 * 3 * (24 + 64)
    assert good["gate"] == "passed" and good["notes"][0] == "a fake" and good["weight_only"] is True
    assert rows["undecoded_int8", 1]["rel_error_bound"] == 0.1
    reasons = {name: rows[name, 1]["not_measured"] for name in FAKES}
    assert reasons["good_int8"] is None and reasons["undecoded_int8"] is None
    assert "above the bound" in reasons["wrong_int8"]
    assert reasons["refusing_int8"] == "refusing takes k divisible by 7, this shape has k=64"
    assert reasons["raising_int8"] == "its weight of shape 24x64 could not be made: KeyError: 'sm_99'"
    assert reasons["crashing_int8"] == "it raised AssertionError: no config fits"
    assert "no_such_library" in reasons["absent_int8"] and "not on cpu" in reasons["gpu_int4"]
    assert any(text.startswith("wrong_int8 24x64 m=1: ") for text in printed["warnings"])
    record, samples = load_run(printed["run"])
    assert {s.kernel for s in samples} == {"bf16", "fused_int8", "good_int8", "undecoded_int8"}
    told = record.derived["peers"]
    assert isinstance(told, dict) and told["good_int8"]["version"] == torch.__version__
    assert told["gpu_int4"]["bits"] == 4


def test_ours_against_each_peer_and_the_best(fakes: None, tmp_path: Path) -> None:
    _, printed = sweep(tmp_path, "--peer", "undecoded_int8,good_int8,gpu_int4")
    rows = {(row["kernel"], row["m"]): row for row in printed["results"]}
    ratios = {(r["peer"], r["m"]): r for r in printed["derived"]["peer_ratios"]}
    assert set(ratios) == {(name, m) for name in ("undecoded_int8", "good_int8") for m in (1, 3)}
    ours = rows["fused_int8", 3]
    for name in ("undecoded_int8", "good_int8"):
        wanted = rows[name, 3]["time_us_p50"] / ours["time_us_p50"]
        assert ratios[name, 3]["speedup_p50"] == pytest.approx(wanted)
        low, high = ratios[name, 3]["speedup_ci95"]
        assert low - 1e-9 <= wanted <= high + 1e-9
    best = min(("undecoded_int8", "good_int8"), key=lambda name: rows[name, 3]["time_us_p50"])
    assert ours["best_peer"] == best
    assert ours["best_peer_speedup_p50"] == pytest.approx(ratios[best, 3]["speedup_p50"])
    assert rows["good_int8", 3]["best_peer"] is None and rows["bf16", 3]["best_peer"] is None
    share = ours["weight_bytes"] / ours["time_us_p50"] / 1e3
    assert ours["weight_floor_share"] == pytest.approx(
        share / printed["derived"]["read_bandwidth"]["read_gb_s_p50"]
    )


def test_the_tables_name_the_best_peer(fakes: None, tmp_path: Path) -> None:
    words = ["--arch", "cpu", "--shapes", "24x64", "--m", "1", "--repeats", "3", "--kernels", "fused_int8"]
    result = CliRunner().invoke(app, [*words, "--peers", "--out", str(tmp_path)])
    assert result.exit_code == 0
    for text in (
        "times faster than it",
        "good_int8",
        "absent_int8 24 x 64 m=1 not measured: no_such_library",
    ):
        assert text in result.stdout, text


def test_without_peers_none_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "available", lambda *rest: pytest.fail("a peer was asked"))
    _, printed = sweep(tmp_path)
    assert printed["arguments"]["peers"] == [] and printed["derived"]["peers"] == {}


def test_what_peers_print_stays_out_of_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def talkative(w: Tensor) -> Any:
        print("autotuning 1 of 1000")
        return FAKES["good_int8"].prepare(w)

    monkeypatch.setattr(registry, "PEERS", {"talkative": peer("talkative", talkative)})
    code, printed = sweep(tmp_path, "--peers")
    assert code == 0 and printed["arguments"]["peers"] == ["talkative"]


def test_gemlite_gets_codes_scales_and_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with GemLite's conventions: w = (code - zero) * scale per group."""

    class Layer:
        def __init__(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> None:
            self.tensors = [codes.clone(), scales.view(codes.shape[0], -1), zeros.view(codes.shape[0], -1)]

        def get_tensor_args(self) -> list[Tensor]:
            return self.tensors

        def get_meta_args(self) -> list[int]:
            return [64]

    class Processor:
        def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
            assert dtype == torch.bfloat16

        def from_weights(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Layer:
            assert codes.dtype == torch.uint8 and scales.dtype == zeros.dtype == torch.bfloat16
            return Layer(codes, scales, zeros)

    def forward(x: Tensor, bias: None, tensors: list[Tensor], settings: list[int]) -> Tensor:
        codes, scales, zeros = (tensor.float() for tensor in tensors)
        n, k = codes.shape
        groups = codes.view(n, -1, settings[0])
        return x @ ((groups - zeros[..., None]) * scales[..., None]).view(n, k).to(x.dtype).T

    driver = SimpleNamespace(active=SimpleNamespace(get_benchmarker=lambda: "usual"))
    modules = {
        "gemlite": SimpleNamespace(forward_functional=forward),
        "gemlite.helper": SimpleNamespace(A16W4_HQQ_INT=Processor),
        "triton": ModuleType("triton"),
        "triton.testing": SimpleNamespace(do_bench=print),
        "triton.runtime": SimpleNamespace(driver=driver),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    item = PEERS["gemlite_int4"]
    w = random_weight(24, 192, seed=1, device=CPU)
    x = random_x(3, 192, seed=2, device=CPU, dtype=torch.bfloat16)
    weight = item.prepare(w.bfloat16())
    assert weight.decoded is not None
    result = check(PeerVariant(item), x, weight, make_reference(x, weight.decoded))
    assert result.verdict == "passed", result.reason
    assert float((weight.decoded - w).norm() / w.norm()) < 0.15
    assert driver.active.get_benchmarker() == "usual"


def test_rounding_errors_are_within_half_a_step() -> None:
    w = random_weight(7, 192, seed=3, device=CPU)
    groups = int4_groups(w, 64)
    decoded = groups.codes.view(7, 3, 64) * groups.scale.float()[..., None] + groups.low.float()[..., None]
    slack = groups.scale.float()[..., None] * 0.5 + w.abs().max() * 2**-8
    assert bool(
        ((decoded - w.view(7, 3, 64)).abs() <= slack + 15 * groups.scale.float()[..., None] * 2**-8).all()
    )
    codes, scale = int8_rows(w)
    assert float((codes * scale - w).abs().max() / scale.max()) <= 0.5 + 1e-4
    fp8, fp8_scale = fp8_rows(w)
    assert bool(((fp8.float() * fp8_scale - w).abs() <= w.abs() * 2**-4 + fp8_scale * 2**-10).all())
    assert torch.equal(int8_rows(torch.zeros(2, 64))[0], torch.zeros(2, 64, dtype=torch.int8))


@given(st.sampled_from([4, 8]), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_gptq_packing_keeps_every_code(bits: int, n: int, words: int, seed: int) -> None:
    per_word = 32 // bits
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (n, words * per_word), generator=generator, dtype=torch.int32)
    packed = pack_int32_along_k(codes, bits)
    assert packed.dtype == torch.int32 and packed.shape == (words, n)
    for place in range(per_word):
        found = (packed.to(torch.int64) >> (bits * place)) & (2**bits - 1)
        assert torch.equal(found.T, codes[:, place::per_word].to(torch.int64))


@pytest.mark.parametrize("bits", [4, 8])
def test_symmetric_codes_decode_to_the_weight(bits: int) -> None:
    w = random_weight(5, 128, seed=4, device=CPU)
    codes, scale = symmetric_groups(w, bits, 64)
    decoded = (codes.float() - 2 ** (bits - 1)).view(5, 2, 64) * scale.float()[..., None]
    assert int(codes.min()) >= 0 and int(codes.max()) < 2**bits
    assert float((decoded.view(5, 128) - w).norm() / w.norm()) < {4: 0.15, 8: 0.01}[bits]


def test_rows_of_peers_are_legal_records(fakes: None, tmp_path: Path) -> None:
    _, printed = sweep(tmp_path, "--peers")
    assert all(SweepRow.model_validate(row) for row in printed["results"])
