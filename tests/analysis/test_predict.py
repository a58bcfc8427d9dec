"""Predictions against costs computed by hand, and against the tensors that they speak of."""

from dataclasses import replace

import pytest
import torch
from prediction_world import (
    A100,
    BYTES_PER_S,
    ENERGY,
    H200,
    HOST,
    MODEL,
    PASS_BYTES,
    TRUTH,
    chain,
    fits,
    machine,
)

from analysis.fit_crossing import Layer
from analysis.model_shape import HopEngine
from analysis.predict import Predicted, Request, predict
from analysis.predict_calibrate import calibrate, native_hops
from analysis.predict_hop import (
    Calibration,
    HopSetting,
    hop_energy_of,
    hop_time_of,
    host_s,
)
from analysis.predict_machine import from_fits, transferred
from analysis.predict_memory import RESERVE_BYTES, Memory, StoredLayer, layout_bytes, memory_of
from analysis.verdict import Verdict

CONTEXT = 640
SETTING = HopSetting(HopEngine.GRAPH, CONTEXT)


def call_s(kernel: str, layer: Layer, m: int) -> float:
    launch, weight_pass, row, _, edge, _ = TRUTH[kernel]
    size = layer.n * layer.k
    return layer.count * (launch + max(weight_pass * size, m * row * size) + m * edge * (layer.n + layer.k))


def linears_s(kernel: str, m: int, layers: tuple[Layer, ...] = MODEL.merged) -> float:
    return sum(call_s(kernel, layer, m) for layer in layers) + call_s("bf16", Layer(32000, 4096), m)


def row_bytes(context: int = CONTEXT) -> int:
    kv = 2 * 2 * 4 * 128 * 2 * context
    return kv + 2 * (2 * (8 * 4096 + 3 * 8192) + 32000 + 4096)


def by_hand_s(kernel: str, m: int) -> float:
    between = (2 * 31 + 37) * 1.5e-6 + 2 * TRUTH["bf16"][0]
    return linears_s(kernel, m) + between + m * row_bytes() / BYTES_PER_S + 1.2e-5


def memory(batch_bytes: int = 1) -> Memory:
    return Memory(10, 0, batch_bytes, 0, 0, 1e9)


def predicted(*kernels: str, batches: tuple[int, ...] = (1, 64), **changed: object) -> Predicted:
    request = Request((MODEL,), kernels, batches, SETTING, hops=200, n_draws=30)
    memories = {(MODEL.key, name): memory() for name in request.all_kernels}
    return predict(machine(), replace(request, **changed), memories)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", ["bf16", "fused_nf4", "unfused_nf4"])
@pytest.mark.parametrize("batch", [1, 17, 128])
def test_a_hop_from_a_graph_is_the_sum_of_its_parts(kernel: str, batch: int) -> None:
    found = hop_time_of(machine(), MODEL, kernel, SETTING, 0).at(batch)
    assert found == pytest.approx(by_hand_s(kernel, batch), rel=1e-9)


def test_an_eager_hop_waits_for_the_slower_of_host_and_device() -> None:
    setting = HopSetting(HopEngine.EAGER, CONTEXT)
    launches = 2 * (32 + 2) + 24 + 14 + 1
    host = launches * HOST["launch_s"] + HOST["sync_s"]
    assert host_s(machine(), MODEL, "bf16", setting, 0) == pytest.approx(host)
    time = hop_time_of(machine(), MODEL, "bf16", setting, 0)
    between = (2 * 32 + 24) * 1.5e-6 + 2 * 2 * TRUTH["bf16"][0]
    device = linears_s("bf16", 128, MODEL.separate) + between + 128 * row_bytes() / BYTES_PER_S
    assert time.at(1) == pytest.approx(max(host, time.at(1)))
    assert time.at(128) == pytest.approx(max(host, device))
    # A cast of its own is a launch more for each of the 14 linears.
    assert host_s(machine(), MODEL, "unfused_nf4", setting, 0) == pytest.approx(host + 14 * 5e-6)


def test_energy_counts_static_power_traffic_arithmetic_and_decoding() -> None:
    weights = sum(layer.count * layer.n * layer.k for layer in MODEL.merged)
    head, edges = 32000 * 4096, sum(layer.count * (layer.n + layer.k) for layer in MODEL.merged) + 36096
    for kernel, cast in (("bf16", 0.0), ("fused_nf4", 2e-12)):
        time = hop_time_of(machine(), MODEL, kernel, SETTING, 0)
        found = hop_energy_of(machine(), MODEL, kernel, SETTING, time, 0)
        by_hand = (
            150 * by_hand_s(kernel, 8)
            + ENERGY["j_per_byte"] * (weights * PASS_BYTES[kernel] + 2 * head + 8 * (2 * edges + row_bytes()))
            + ENERGY["j_per_flop"] * 2 * 8 * (weights + head)
            + cast * weights
        )
        assert found is not None and found.at(8) == pytest.approx(by_hand, rel=1e-9)


def test_cells_hold_intervals_verdicts_and_joules_per_query() -> None:
    found = predicted("fused_nf4", "unfused_nf4")
    assert [(c.kernel, c.batch_size) for c in found.cells] == [
        (name, batch) for name in ("bf16", "fused_nf4", "unfused_nf4") for batch in (1, 64)
    ]
    by_key = {(c.kernel, c.batch_size): c for c in found.cells}
    for (kernel, batch), cell in by_key.items():
        low, high = cell.hop_s_ci95
        assert low < cell.hop_s < high and cell.hop_s == pytest.approx(by_hand_s(kernel, batch))
        assert cell.tps == pytest.approx(batch / cell.hop_s)
        assert cell.energy_j_per_query == pytest.approx(200 * cell.energy_j_per_token)
        assert cell.time_ratio == pytest.approx(by_hand_s(kernel, batch) / by_hand_s("bf16", batch))
    assert by_key["fused_nf4", 1].verdict_time == Verdict.NOT_TRAPPED.value
    assert by_key["unfused_nf4", 64].verdict_time == Verdict.TRAPPED.value
    assert by_key["bf16", 1].verdict_time == "baseline"


def test_b_star_is_where_the_hops_are_equal() -> None:
    found = predicted("fused_nf4")
    time = next(c for c in found.crossings if c.quantity == "time")
    assert time.regime == "above" and len(time.b_star) == 1
    star = time.b_star[0]

    def gap(batch: float) -> float:
        costs = [hop_time_of(machine(), MODEL, name, SETTING, 0).at(batch) for name in ("fused_nf4", "bf16")]
        return float(costs[0] - costs[1])

    assert gap(0.99 * star) < 0 < gap(1.01 * star)
    assert time.b_star_ci95 is not None and time.b_star_ci95[0] <= star <= time.b_star_ci95[1]


def test_n_star_parts_the_sizes_that_lose_from_those_that_win() -> None:
    sizes = [
        replace(MODEL, key=f"x{scale}", merged=tuple(Layer(128 * scale, 1024, 2) for _ in range(4)))
        for scale in (1, 8, 64)
    ]
    dear = fits(
        kernels={
            **fits().kernels,
            "fused_nf4": fits()
            .kernels["fused_nf4"]
            .model_copy(update={"time": fits().kernels["unfused_nf4"].time}),
        }
    )
    request = Request((MODEL,), ("fused_nf4", "native_fp8"), (1,), SETTING, n_draws=20)
    memories = {(MODEL.key, name): memory() for name in request.all_kernels}
    found = predict(from_fits(dear, H200), request, memories, family=sizes)
    always, sometimes = found.scales
    assert (always.trapped_models, always.free_models, always.n_star) == (3, 0, [])
    # native_fp8 launches 1 us later and reads 0.2 ps per weight less: n k = 5 million weights per linear.
    assert (sometimes.trapped_models, sometimes.free_models) == (2, 1)
    assert sometimes.n_star[0] == pytest.approx(8 * 1e-6 / 2e-13, rel=0.02)


def test_another_gpu_gets_the_efficiencies_and_says_so() -> None:
    found = transferred(fits(), H200, A100)
    assert found.is_transferred and "was not measured" in found.source and found.name == "NVIDIA A100"
    assert found.bytes_per_s == pytest.approx(BYTES_PER_S / 2)
    bf16 = found.kernel("bf16").time.named(0)
    assert bf16["pass_s_per_weight"] == pytest.approx(2 * TRUTH["bf16"][1])
    assert bf16["row_s_per_weight"] == pytest.approx(4 * TRUTH["bf16"][2])
    assert bf16["launch_s"] == TRUTH["bf16"][0]
    assert found.energy is not None and found.energy.named(0)["static_w"] == pytest.approx(75)
    with pytest.raises(ValueError, match="native_fp8 cannot be predicted: NVIDIA A100 has no arithmetic"):
        found.kernel("native_fp8")
    own = from_fits(fits(), H200)
    assert not own.is_transferred and own.source.startswith("from stored fits of NVIDIA H200")


def test_missing_parts_are_said_and_not_made_up() -> None:
    bare = from_fits(fits(host=None, energy=None), H200)
    assert any("no graphs of launches" in warning for warning in bare.warnings)
    assert bare.node_s(0) == TRUTH["bf16"][0]
    time = hop_time_of(bare, MODEL, "bf16", SETTING, 0)
    assert hop_energy_of(bare, MODEL, "bf16", SETTING, time, 0) is None
    request = Request((MODEL,), ("fused_nf4",), (1,), SETTING, n_draws=20)
    memories = {(MODEL.key, name): memory() for name in request.all_kernels}
    cell = predict(bare, request, memories).cells[1]
    assert (cell.energy_j_per_query, cell.verdict_energy) == (None, "not_measured")
    with pytest.raises(ValueError, match="hold no launch chains"):
        hop_time_of(bare, MODEL, "bf16", HopSetting(HopEngine.EAGER, 8), 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"read_bytes_per_s": None}, "hold no read bandwidth"),
        ({"n_draws": 5}, "hold 5 draws"),
        ({"kernels": {}}, "lack the baseline bf16"),
    ],
)
def test_fits_that_cannot_predict_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        machine(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batches": (0,)}, "batch=0"),
        ({"batches": ()}, "0 batch sizes"),
        ({"hops": 0}, "hops=0"),
        ({"b_max": 1}, "b_max=1"),
        ({"n_draws": 3}, "n_draws=3"),
        ({"kernels": ("fused_int2",)}, "lack fused_int2; they have bf16"),
    ],
)
def test_bad_requests_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predicted("fused_nf4", **changed)


def test_native_runs_calibrate_what_lies_between_the_linears() -> None:
    true = Calibration(HopEngine.GRAPH, (4e-6,), (3.0,), (), 0.0)
    setting = HopSetting(HopEngine.GRAPH, CONTEXT, true)
    hops = {
        (name, b): float(hop_time_of(machine(), MODEL, name, setting, 0).at(b))
        for name in ("bf16", "fused_nf4")
        for b in (1, 8, 32, 128)
    }
    native = native_hops([chain(hops)], {MODEL.key: MODEL}, machine(), HopEngine.GRAPH, CONTEXT)
    assert {hop.batch_size for hop in native} == {1, 8, 32, 128} and len(native) == 4
    found = calibrate(machine(), native, HopEngine.GRAPH, CONTEXT, seed=0)
    assert found.kernel_s[0] == pytest.approx(4e-6, rel=1e-3)
    assert found.traffic_factor[0] == pytest.approx(3.0, rel=1e-3)
    assert found.residual_share_p50 < 1e-4
    calibrated = HopSetting(HopEngine.GRAPH, CONTEXT, found)
    predicted_s = hop_time_of(machine(), MODEL, "fused_nf4", calibrated, 0).at(32)
    assert predicted_s == pytest.approx(hops["fused_nf4", 32], rel=1e-3)
    one = calibrate(machine(), native[:1], HopEngine.GRAPH, CONTEXT, seed=0)
    assert one.traffic_factor == (1.0, 1.0) and one.residual_share_p50 < 1e-9
    with pytest.raises(ValueError, match="graph runs says nothing of engine=eager"):
        HopSetting(HopEngine.EAGER, CONTEXT, found)


def test_an_eager_native_run_calibrates_the_host() -> None:
    native = native_hops(
        [chain({("bf16", 1): 3e-3, ("bf16", 8): 3.1e-3}, engine="eager")],
        {MODEL.key: MODEL},
        machine(),
        HopEngine.EAGER,
        CONTEXT,
    )
    found = calibrate(machine(), native, HopEngine.EAGER, CONTEXT, seed=0)
    assert found.kernel_s[0] == pytest.approx((3e-3 - 1e-5) / 107)
    time = hop_time_of(machine(), MODEL, "bf16", HopSetting(HopEngine.EAGER, CONTEXT, found), 0)
    assert time.at(1) == pytest.approx(3e-3)


def test_runs_that_cannot_calibrate_are_refused() -> None:
    known = {MODEL.key: MODEL}
    with pytest.raises(ValueError, match="ran on NVIDIA L4, the prediction is for NVIDIA H200"):
        native_hops([chain({("bf16", 1): 1e-3}, gpu="NVIDIA L4")], known, machine(), HopEngine.GRAPH, CONTEXT)
    with pytest.raises(ValueError, match="1 runs hold 0 hops of bf16 with engine=compile"):
        native_hops([chain({("bf16", 1): 1e-3})], known, machine(), HopEngine.COMPILE, CONTEXT)
    long = chain({("bf16", 1): 1e-3}, context=4000, hops=96)
    with pytest.raises(ValueError, match="cached tokens per hop on average, the prediction is for"):
        native_hops([long], known, machine(), HopEngine.GRAPH, CONTEXT)


def test_memory_adds_up_and_the_largest_batch_just_fits() -> None:
    stored = [StoredLayer(layer, layer.n * layer.k // 2, layer.n * layer.k // 2) for layer in MODEL.merged]
    found = memory_of(MODEL, stored, context=100, device_bytes=5e9)
    weights = sum(layer.count * layer.n * layer.k for layer in MODEL.merged) // 2
    assert found.weight_bytes == weights + 2 * 2 * 32000 * 4096 + 2 * 2 * 2 * 4096
    assert found.layout_bytes == weights
    assert found.kv_bytes_per_sequence == 2 * 2 * 4 * 128 * 2 * 100
    assert found.fixed_bytes == RESERVE_BYTES
    largest = found.largest_batch
    assert largest is not None and found.fits(largest) is True and found.fits(largest + 1) is False
    unfused = memory_of(MODEL, stored, context=100, device_bytes=None, decodes_to_memory=True)
    assert unfused.fixed_bytes == RESERVE_BYTES + 2 * 16384 * 4096
    assert (unfused.fits(1), unfused.largest_batch) == (None, None)
    assert memory_of(MODEL, stored, context=100, device_bytes=1e9).largest_batch == 0


@pytest.mark.parametrize("fmt", ["nf4", "fp4", "int8", "fp8"])
@pytest.mark.parametrize(("n", "k"), [(64, 128), (40, 192), (96, 64)])
def test_the_layout_copy_has_the_size_of_the_real_one(fmt: str, n: int, k: int) -> None:
    from kernels.cuda_impl.layout import Codes, make_layout
    from kernels.formats import get_format
    from kernels.quantize import quantize

    form = get_format(fmt)
    codes = Codes.BYTES if form.bits == 8 else Codes.FP4_BITS if fmt == "fp4" else Codes.PAIRS
    layout = make_layout(quantize(torch.randn(n, k), form), codes, 1)
    assert layout_bytes(n, k, form.bits) == layout.blocks.nbytes + layout.row_scales.nbytes
