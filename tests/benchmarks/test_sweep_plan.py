import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.plan import Shape, SweepRequest, make_plan, model_shapes, parse_ms, parse_shapes
from benchmarks.variants import group_size_for
from kernels.formats import FORMATS, get_format
from kernels.registry import KERNELS


def test_the_default_is_every_kernel_with_the_baseline_first() -> None:
    plan = make_plan(SweepRequest(), "cpu")
    # On a CPU gemv_bf16 is torch's own product, like bf16.
    assert [variant.name for variant in plan.variants] == [name for name in KERNELS if name != "gemv_bf16"]
    assert plan.variants[0].name == "bf16"
    on_gpu = make_plan(SweepRequest(), "cuda")
    assert [variant.name for variant in on_gpu.variants] == list(KERNELS)
    assert Shape(2048, 2048) in plan.shapes
    assert plan.shapes[0].model == "tiny"
    assert plan.ms == (1, 8)


def test_a_format_brings_its_schemes() -> None:
    plan = make_plan(SweepRequest(formats=("nf4",)), "cpu")
    assert [v.name for v in plan.variants] == ["bf16", "unfused_nf4", "fused_nf4", "null_nf4"]
    assert {v.implementation for v in plan.variants} == {"torch"}
    on_gpu = make_plan(SweepRequest(formats=("nf4",)), "cuda")
    assert [v.name for v in on_gpu.variants] == ["bf16", "gemv_bf16", "unfused_nf4", "fused_nf4", "null_nf4"]
    assert on_gpu.variants[1].implementation == "triton"
    assert on_gpu.variants[0].weight_key == on_gpu.variants[1].weight_key
    named = make_plan(SweepRequest(kernels="gemv_bf16"), "cpu")
    assert [(v.name, v.implementation) for v in named.variants] == [("bf16", "torch"), ("gemv_bf16", "torch")]


def test_a_fit_on_a_gpu_takes_native_weights_by_both_kernels() -> None:
    on_gpu, on_cpu = (make_plan(SweepRequest(for_fit=True), device) for device in ("cuda", "cpu"))
    names = [v.name for v in on_gpu.variants]
    assert names[:2] == ["bf16", "gemv_bf16"]
    assert [v.name for v in on_cpu.variants] == [name for name in names if name != "gemv_bf16"]


@pytest.mark.parametrize("formats", [("nf4", "fp8"), ("nf4,fp8",), ("fp8", "nf4", "nf4")])
def test_formats_repeat_or_come_in_one_word(formats: tuple[str, ...]) -> None:
    names = {v.format.name for v in make_plan(SweepRequest(formats), "cpu").variants if v.format}
    assert names == {"nf4", "fp8"}


def test_all_formats() -> None:
    plan = make_plan(SweepRequest(formats=("all",)), "cpu")
    assert {v.format.name for v in plan.variants if v.format} == set(FORMATS)


def test_on_a_gpu_the_gpu_implementations_run() -> None:
    plan = make_plan(SweepRequest(kernels="fused_nf4"), "cuda")
    bf16, fused = plan.variants
    assert (bf16.name, bf16.implementation) == ("bf16", "torch")
    assert fused.name == "fused_nf4" and fused.implementation in ("cuda", "triton")
    assert Shape(28672, 4096) in plan.shapes


def test_repeats_that_were_asked_for_have_no_time_limit() -> None:
    assert make_plan(SweepRequest(), "cpu").limit_s is not None
    plan = make_plan(SweepRequest(repeats=7), "cpu")
    assert (plan.repeats, plan.limit_s) == (7, None)


def test_shapes_of_a_model_are_distinct_and_name_their_layers() -> None:
    shapes = model_shapes("tiny")
    assert len({(shape.n, shape.k) for shape in shapes}) == len(shapes)
    assert Shape(768, 256, "tiny", "gate_proj+up_proj") in shapes


def test_group_sizes() -> None:
    plan = make_plan(SweepRequest(shapes="8x96", group_size=32), "cpu")
    assert group_size_for(get_format("nf4"), 96, plan.group_size) == 32
    assert group_size_for(get_format("int8"), 96, plan.group_size) is None
    assert group_size_for(None, 96, plan.group_size) is None


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (SweepRequest(kernels="fused_nf5"), ["'fused_nf5'", "fused_nf4", "unfused_int8"]),
        (SweepRequest(formats=("nf5",)), ["'nf5'", "nf4", "fp4_bnb"]),
        (SweepRequest(model="gpt-9"), ["'gpt-9'", "tiny", "qwen3-0.6b"]),
        (SweepRequest(m="0"), ["m=0", "less than 1"]),
        (SweepRequest(m="1,-2"), ["m=-2", "less than 1"]),
        (SweepRequest(m="1,x"), ["m='x'", "whole number"]),
        (SweepRequest(m="1,,2"), ["m='1,,2'", "1 empty"]),
        (SweepRequest(shapes="4096"), ["'4096'", "NxK"]),
        (SweepRequest(shapes="64x64x64"), ["'64x64x64'", "NxK"]),
        (SweepRequest(shapes="0x64"), ["n=0", "k=64"]),
        (SweepRequest(shapes="64x1000"), ["k=1000 is not divisible by group_size=64", "64x1000"]),
        (SweepRequest(shapes="64x192", formats=("int4",)), ["k=192 is not divisible by group_size=128"]),
        (SweepRequest(formats=("nf4",), group_size=48), ["group_size=48", "(32, 64, 128)"]),
        (SweepRequest(formats=("int8",), group_size=64), ["group_size=64", "int8"]),
        (SweepRequest(model="tiny", shapes="64x64"), ["tiny", "64x64"]),
        (SweepRequest(formats=("nf4",), kernels="fused_int8"), ["fused_int8", "int8", "nf4"]),
        (SweepRequest(peer="bnb_nf5"), ["'bnb_nf5'", "did you mean 'bnb_nf4'", "gemlite_int4"]),
        (SweepRequest(peer="bnb_nf4,"), ["peer='bnb_nf4,'", "1 empty"]),
        (SweepRequest(repeats=1), ["repeats=1", "2"]),
        (SweepRequest(seed=-1), ["seed=-1", "0"]),
    ],
)
def test_bad_arguments_are_refused_with_both_values(request_: SweepRequest, parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        make_plan(request_, "cpu")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert [part for part in parts if part not in sentence] == []


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=6))
def test_shapes_round_trip(sizes: list[tuple[int, int]]) -> None:
    shapes = parse_shapes(", ".join(f"{n}x{k}" for n, k in sizes))
    assert [(shape.n, shape.k) for shape in shapes] == list(dict.fromkeys(sizes))


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=6))
def test_ms_round_trip(values: list[int]) -> None:
    assert parse_ms(",".join(map(str, values))) == tuple(dict.fromkeys(values))
