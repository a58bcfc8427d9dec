import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_reference import random_input, random_weight, relative_error, tolerance

from kernels.formats import FORMATS
from kernels.registry import KERNELS, Implementation, Kernel, Scheme, build_kernels, get_kernel


def test_names_are_schemes_times_formats():
    expected = {f"{scheme}_{name}" for scheme in ("unfused", "fused", "null") for name in FORMATS}
    assert set(KERNELS) == expected | {"bf16", "gemv_bf16", "native_int8", "native_fp8"}
    assert all(name == kernel.name for name, kernel in KERNELS.items())


def test_unknown_kernel_suggests_and_lists():
    with pytest.raises(ValueError, match="kernel 'fused_nf5'; did you mean 'fused_nf4'.*kernels: bf16, "):
        get_kernel("fused_nf5")
    with pytest.raises(ValueError, match="unknown kernel 'qqq'; known kernels"):
        get_kernel("qqq")


def test_only_null_output_is_meaningless():
    assert {k.scheme for k in KERNELS.values() if not k.meaningful_output} == {Scheme.NULL}


def test_the_schemes_whose_calls_have_two_parts_open_ranges_of_their_own():
    opening = {kernel.scheme for kernel in KERNELS.values() if kernel.opens_ranges}
    assert opening == {Scheme.UNFUSED, Scheme.W8A8}


@pytest.fixture
def on_hopper(monkeypatch):
    """Whether the CUDA kernels run is what the test says; a GPU is seen."""
    support = pytest.importorskip("kernels.cuda_impl.support")
    answer = [""]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(support, "why_not", lambda device: answer[0])
    return answer


def test_default_implementations_follow_the_device(on_hopper):
    for name in ("fused_nf4", "null_fp8"):
        assert get_kernel(name).implementation_for("cpu") == "torch"
        assert get_kernel(name).implementation_for("cuda") == "cuda"
    assert get_kernel("unfused_nf4").implementation_for("cuda") == "triton"
    assert get_kernel("fused_int4").implementation_for(torch.device("cuda", 1)) == "triton"
    assert get_kernel("bf16").implementation_for("cuda") == "torch"
    assert get_kernel("native_fp8").implementation_for("cuda") == "torch"
    on_hopper[0] = "no Hopper"
    assert get_kernel("fused_nf4").implementation_for("cuda") == "triton"


def test_without_a_gpu_the_default_for_one_is_triton(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert get_kernel("fused_nf4").implementation_for("cuda") == "triton"


def test_a_kernel_of_ones_own_format_has_no_cuda_implementation():
    mine = dataclasses.replace(FORMATS["nf4"], group_size=32)
    assert list(build_kernels({"nf4": mine})["fused_nf4"].implementations) == ["torch", "triton"]


def test_a_record_can_tell_compiled_from_eager(monkeypatch):
    kernel = get_kernel("fused_nf4")
    assert kernel.implementation_detail("torch", "cpu") == "torch-eager"
    assert kernel.implementation_detail("triton", "cuda") == "triton"
    assert get_kernel("bf16").implementation_detail("torch", "cpu") == "torch"
    assert get_kernel("native_fp8").implementation_detail("torch", "cuda") == "torch _scaled_mm"
    assert get_kernel("native_int8").implementation_detail("torch", "cuda") == "torch _int_mm"
    assert get_kernel("native_int8").implementation_detail("torch", "cpu") == "torch int32 sums"
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "0")
    monkeypatch.setattr("kernels.torch_compile.can_compile", lambda: True)
    assert kernel.implementation_detail("torch", "cpu") == "torch-compiled"
    assert kernel.implementation_detail("torch", "cuda") == "torch-eager"
    monkeypatch.setattr("kernels.torch_compile.can_compile", lambda: False)
    assert kernel.implementation_detail("torch", "cpu") == "torch-eager"


def test_a_record_names_the_configuration_that_runs():
    seen = []

    def describe(weight, m, dtype):
        seen.append((weight, m, dtype))
        return "" if m is None else f"rows={m}"

    one = Implementation("mine", lambda: None, ("cpu",), describe=lambda: describe)
    kernel = Kernel("fused_nf4", Scheme.FUSED, FORMATS["nf4"], {"mine": one})
    w = random_weight(8, 64, "nf4")
    assert kernel.implementation_detail("mine", "cpu") == "mine"
    assert seen == []
    assert kernel.implementation_detail("mine", "cpu", weight=w, m=7, dtype=torch.float16) == "mine rows=7"
    assert kernel.implementation_detail("mine", "cpu", weight=w) == "mine"
    assert seen == [(w, 7, torch.float16), (w, None, None)]
    with pytest.raises(ValueError, match="fused_nf4 has no implementation 'torch'; it has: mine"):
        kernel.implementation_detail("torch", "cpu")


def test_availability_says_why_not(monkeypatch, on_hopper):
    assert get_kernel("fused_nf4").available("cpu") == (True, "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert get_kernel("bf16").available("cuda") == (False, "torch sees no CUDA device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert get_kernel("fused_nf4").available("cuda") == (True, "")
    on_hopper[0] = "no Hopper"
    assert get_kernel("fused_nf4").available("cuda") == (True, "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("fused_nf4", "native_fp8"):
        assert get_kernel(name).available("cuda") == (False, "triton is not installed")
    assert get_kernel("bf16").available("cuda") == (True, "")


def test_an_explicit_implementation_never_falls_back():
    w, x = random_weight(8, 64, "nf4"), random_input(2, 64, torch.bfloat16)
    with pytest.raises(ValueError, match="has no implementation 'metal'; it has: torch, triton, cuda"):
        get_kernel("fused_nf4").linear(x, w, implementation="metal")
    with pytest.raises(ValueError, match="fused_nf4 cannot run: the cuda kernels run on cuda, x is on cpu"):
        get_kernel("fused_nf4").linear(x, w, implementation="cuda")
    with pytest.raises(ValueError, match="unfused_nf4 has no implementation 'cuda'"):
        get_kernel("unfused_nf4").linear(x, w, implementation="cuda")
    with pytest.raises(ValueError, match="bf16 has no implementation 'triton'"):
        get_kernel("bf16").linear(x, x, implementation="triton")


def test_arguments_that_do_not_fit_are_refused():
    w, x = random_weight(8, 64, "nf4"), random_input(2, 64, torch.bfloat16)
    with pytest.raises(ValueError, match=r"x has shape \[2, 32\], the weight of fused_nf4 has k=64"):
        get_kernel("fused_nf4").linear(x[:, :32], w)
    with pytest.raises(ValueError, match=r"x has shape \[\], the weight of fused_nf4 has k=64"):
        get_kernel("fused_nf4").linear(x[0, 0], w)
    with pytest.raises(ValueError, match="fused_fp4 takes fp4, the weight is nf4"):
        get_kernel("fused_fp4").linear(x, w)
    with pytest.raises(ValueError, match="bf16 takes a plain tensor, the weight is nf4"):
        get_kernel("bf16").linear(x, w)
    with pytest.raises(ValueError, match="fused_nf4 takes a QuantWeight of nf4, not a tensor"):
        get_kernel("fused_nf4").linear(x, torch.zeros(8, 64))
    with pytest.raises(ValueError, match="x has dtype torch.bfloat16, the weight of bf16 has torch.float32"):
        get_kernel("bf16").linear(x, torch.zeros(8, 64))
    with pytest.raises(ValueError, match="x is on meta, the weight of fused_nf4 on cpu"):
        get_kernel("fused_nf4").linear(x.to("meta"), w)
    with pytest.raises(ValueError, match="x has dtype torch.float64, the torch kernels take"):
        get_kernel("fused_nf4").linear(x.double(), w)


def test_activations_are_never_copied_silently():
    w, x = random_weight(8, 64, "nf4"), random_input(12, 128, torch.bfloat16)
    kernel = get_kernel("fused_nf4")
    every_other = r"shape \[12, 64\] has strides \[128, 2\], its columns must be 1 apart"
    with pytest.raises(ValueError, match=every_other):
        kernel.linear(x[:, ::2], w)
    with pytest.raises(ValueError, match=r"shape \[4, 3, 64\] has strides \[128, 512, 1\], so only a copy"):
        kernel.linear(x.view(3, 4, 128)[..., :64].transpose(0, 1), w)
    wide = kernel.linear(x.view(3, 4, 128)[..., :64], w)
    assert torch.equal(wide.view(12, 8), kernel.linear(x[:, :64].contiguous(), w))
    one_column = random_weight(8, 1, "int8")
    assert get_kernel("fused_int8").linear(x[:, :1].t().contiguous().t(), one_column).shape == (12, 8)


@pytest.mark.parametrize("name", ["bf16", "unfused_nf4", "fused_nf4", "null_nf4", "native_int8"])
def test_ranges_name_the_work(name):
    opened = []

    @contextlib.contextmanager
    def ranges(label):
        opened.append(label)
        yield

    x = random_input(2, 64, torch.bfloat16)
    kernel = get_kernel(name)
    w = x if name == "bf16" else random_weight(8, 64, kernel.format)
    kernel.linear(x, w, ranges=ranges)
    assert opened == (["tau_cast", "tau_comp"] if kernel.opens_ranges else ["linear"])


@pytest.mark.parametrize("name", ["bf16", "unfused_nf4", "fused_nf4", "native_fp8"])
def test_leading_dimensions_pass_through(name):
    x = random_input(6, 64, torch.bfloat16)
    w = x if name == "bf16" else random_weight(8, 64, get_kernel(name).format)
    flat = get_kernel(name).linear(x, w)
    assert torch.equal(get_kernel(name).linear(x.view(2, 3, 64), w), flat.view(2, 3, -1))
    assert torch.equal(get_kernel(name).linear(x[0], w), get_kernel(name).linear(x[:1], w)[0])
    assert get_kernel(name).linear(x[:0].view(0, 5, 64), w).shape == (0, 5, flat.shape[1])


def test_a_format_added_to_the_table_gets_every_kernel(triton_device):
    halves = tuple((code - 7) / 2 for code in range(16))
    new = dataclasses.replace(FORMATS["nf4"], name="half4", code_book=halves, group_size=32)
    kernels = build_kernels(FORMATS | {"half4": new})
    x = random_input(3, 64, torch.bfloat16).to(triton_device)
    w = random_weight(5, 64, new).to(triton_device)
    for scheme in ("unfused", "fused", "null"):
        kernel = kernels[f"{scheme}_half4"]
        for implementation in kernel.implementations:
            y = kernel.linear(x, w, implementation=implementation)
            assert y.shape == (3, 5)
            if kernel.meaningful_output:
                assert relative_error(y, x, w) < tolerance(torch.bfloat16, 64)


def test_the_registry_imports_without_triton_and_without_the_compiler():
    code = (
        "import sys; sys.modules['triton'] = None; import kernels.registry, kernels.gptq; "
        "assert 'kernels.triton_impl' not in sys.modules; "
        "assert 'torch._inductor.compile_fx' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
