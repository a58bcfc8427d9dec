import copy
import gc
import math

import pytest
import torch
from kernel_reference import random_input, random_weight

from kernels import ops
from kernels.quant_weight import QuantWeight
from kernels.registry import KERNELS, Implementation, get_kernel
from reasoning.quant_linear import QuantLinear

N, K = 48, 128
HAS_GPU = torch.cuda.is_available()
GPU = pytest.mark.skipif(not HAS_GPU, reason="torch sees no CUDA device")
QUANTIZED = [name for name, kernel in KERNELS.items() if kernel.format is not None]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_layer(name, *, seed=0, device="cpu", n=N, k=K, double_quant=False):
    kernel = get_kernel(name)
    dense = random_input(n, k, torch.bfloat16, seed=seed).to(device)
    layer = QuantLinear("layer", dense, torch.ones(n, dtype=torch.bfloat16, device=device))
    if kernel.format is not None:
        w = random_weight(n, k, kernel.format, seed=seed, double_quant=double_quant)
        layer.quantized[kernel.format.name] = w.to(device)
    layer.use(kernel)
    return layer


def call(name, x, w, implementation=""):
    return torch.ops.qt_profile.linear(x, ops.tensors_of(w), name, w.group_size, implementation)


def same_memory(tensor):
    return tensor.data_ptr(), tensor.shape, tensor.dtype


def permuted(w):
    permutation = torch.randperm(w.k, generator=torch.Generator().manual_seed(4))
    return QuantWeight(
        w.packed, w.scales, w.zeros, w.format, w.shape, w.group_size, w.double_quant, permutation
    )


# Not with fp8 weights: on a CPU torch cannot compare those, which its checks do.
@pytest.mark.parametrize("name", ["fused_nf4", "null_int4", "unfused_fp4", "native_int8"])
def test_the_operator_passes_torchs_own_checks(name):
    x, w = random_input(5, K, torch.bfloat16), random_weight(N, K, get_kernel(name).format)
    arguments = (x, ops.tensors_of(w), name, w.group_size, "")
    assert set(torch.library.opcheck(torch.ops.qt_profile.linear.default, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", list(KERNELS))
def test_compiled_layers_give_the_bits_of_eager_ones(name):
    layer = make_layer(name)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for shape in ((2, 3, K), (2, 5, K), (K,)):
        x = random_input(10, K, torch.bfloat16)[: math.prod(shape[:-1])].view(shape)
        y = compiled(x)
        assert y.shape == (*shape[:-1], N)
        assert torch.equal(y, layer(x))


def test_the_operator_is_in_the_graph_once_and_opens_no_ranges():
    opened, graphs = [], []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    layer = make_layer("unfused_nf4")
    layer.ranges = opened.append
    x = random_input(2, K, torch.bfloat16)
    torch.compile(layer, fullgraph=True, backend=keep)(x)
    targets = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.qt_profile.linear.default) == 1
    assert opened == []


def test_layers_of_one_shape_share_the_compiled_code():
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lambda layer, x: layer(x), fullgraph=True, backend=counter)
    x = random_input(2, K, torch.bfloat16)
    for seed in range(3):
        layer = make_layer("fused_nf4", seed=seed)
        assert torch.equal(compiled(layer, x), layer(x))
    assert counter.frame_count == 1


def test_triton_compiles_too(triton_device):
    w, x = random_weight(N, K, "nf4").to(triton_device), random_input(3, K, torch.bfloat16).to(triton_device)
    for name in ("fused_nf4", "null_nf4", "unfused_nf4"):
        kernel = get_kernel(name)

        def linear(x, kernel=kernel):
            return kernel.linear(x, w, implementation="triton")

        compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), linear(x))


@pytest.mark.parametrize("name", QUANTIZED)
def test_fake_tensors_get_shape_and_dtype_from_shapes(name):
    w = random_weight(N, K, get_kernel(name).format)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 3, K, dtype=torch.float16, device="cuda")
        y = get_kernel(name).linear(x, w)
    assert type(y) is not torch.Tensor
    assert (y.shape, y.dtype, y.device.type) == ((2, 3, N), torch.float16, "cuda")


def test_tracing_without_a_compiler_records_the_operator():
    from torch.fx.experimental.proxy_tensor import make_fx

    w, x = random_weight(N, K, "nf4"), random_input(3, K, torch.bfloat16)
    graph = make_fx(lambda x: get_kernel("fused_nf4").linear(x, w))(x)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert torch.ops.qt_profile.linear.default in targets
    assert torch.equal(graph(x), get_kernel("fused_nf4").linear(x, w))


@pytest.mark.parametrize("is_permuted", [False, True])
@pytest.mark.parametrize(
    ("name", "double_quant"),
    [("fused_nf4", False), ("fused_nf4", True), ("fused_int4", False), ("fused_fp8", False)],
)
def test_a_weight_never_announced_is_put_together_once_and_freed(name, double_quant, is_permuted):
    w = random_weight(N, K, get_kernel(name).format, double_quant=double_quant)
    w = permuted(w) if is_permuted else w
    x = random_input(3, K, torch.bfloat16)
    before = dict(ops._rebuilt)
    assert torch.equal(call(name, x, w), get_kernel(name).linear(x, w))
    (key,) = ops._rebuilt.keys() - before.keys()
    rebuilt = ops._rebuilt[key]
    assert rebuilt is not w and rebuilt.shape == w.shape and rebuilt.group_size == w.group_size
    assert [same_memory(t) for t in ops.tensors_of(rebuilt)] == [same_memory(t) for t in ops.tensors_of(w)]
    call(name, x, w)
    assert ops._rebuilt[key] is rebuilt
    del w
    gc.collect()
    assert key not in ops._rebuilt


def test_an_announced_weight_is_found_itself_and_not_kept_alive():
    w = random_weight(N, K, "nf4")
    ops.remember(w)
    tensors = ops.tensors_of(w)
    assert ops.weight_of(tensors, w.format, w.group_size) is w
    twin = copy.copy(w)
    object.__setattr__(twin, "packed", w.packed.clone())
    assert ops.weight_of(ops.tensors_of(twin), w.format, w.group_size) is not w
    del w
    gc.collect()
    found = ops.weight_of(tensors, twin.format, twin.group_size)
    assert torch.equal(found.packed, twin.packed)


def test_a_layer_announces_its_weights():
    layer = make_layer("fused_nf4")
    w = layer.quantized["nf4"]
    assert ops.weight_of(ops.tensors_of(w), w.format, w.group_size) is w


def test_layouts_are_made_once_for_eager_and_compiled_calls(monkeypatch):
    seen = []

    def linear(x, w, ranges):
        seen.append(w)
        return x.new_zeros(x.shape[0], w.n)

    fake = Implementation("torch", lambda: linear, ("cpu",))
    layer = make_layer("fused_nf4")
    monkeypatch.setitem(layer.kernel.implementations, "torch", fake)
    layer.kernel._choices.clear()
    x = random_input(3, K, torch.bfloat16)
    layer(x)
    torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    layer.kernel._choices.clear()
    assert [w is layer.quantized["nf4"] for w in seen] == [True, True]


def test_wrong_arguments_of_the_operator_are_refused():
    w, x = random_weight(N, K, "nf4"), random_input(3, K, torch.bfloat16)
    with pytest.raises(ValueError, match="unknown kernel 'fused_nf5'"):
        call("fused_nf5", x, w)
    with pytest.raises(ValueError, match="bf16 takes a plain tensor"):
        call("bf16", x, w)
    with pytest.raises(ValueError, match=r"x has shape \[3, 64\], the weight of fused_nf4 has k=128"):
        call("fused_nf4", x[:, :64], w)
    with pytest.raises(ValueError, match="packed has dtype torch.uint8, expected torch.int8"):
        torch.ops.qt_profile.linear(x, ops.tensors_of(w), "fused_int8", 64, "")
    with pytest.raises(ValueError, match="fused_nf4 has no implementation 'metal'"):
        call("fused_nf4", x, w, "metal")


def on_gpu(name):
    """A weight and the implementation that a GPU takes by default, called once."""
    kernel = get_kernel(name)
    w = random_weight(512, 1024, kernel.format).to("cuda")
    x = random_input(3, 1024, torch.bfloat16).cuda()
    kernel.linear(x, w)
    return kernel, x, w


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("name", QUANTIZED)
def test_calls_do_not_synchronize(name):
    kernel, x, w = on_gpu(name)
    implementations = ["triton", *(["cuda"] if kernel.implementation_for("cuda") == "cuda" else [])]
    for implementation in implementations if "triton" in kernel.implementations else ["torch"]:
        kernel.linear(x, w, implementation=implementation)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            kernel.linear(x, w, implementation=implementation)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("name", [name for name in QUANTIZED if name.startswith(("fused", "null"))])
def test_only_the_output_is_allocated(name):
    kernel, x, w = on_gpu(name)
    implementations = ["triton", *(["cuda"] if kernel.implementation_for("cuda") == "cuda" else [])]
    for implementation in implementations:
        kernel.linear(x, w, implementation=implementation)
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        y = kernel.linear(x, w, implementation=implementation)
        assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 1
        assert y.shape == (3, 512)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("name", QUANTIZED)
def test_cuda_graphs_take_every_kernel(name):
    kernel, x, w = on_gpu(name)
    expected = kernel.linear(x, w)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = kernel.linear(x, w)
    y.fill_(float("nan"))
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("name", ["fused_nf4", "null_fp8", "unfused_int8", "native_fp8"])
def test_compiled_layers_on_a_gpu_give_the_bits_of_eager_ones(name, mode):
    layer = make_layer(name, device="cuda", n=512, k=1024)
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    x = random_input(3, 1024, torch.bfloat16).cuda()
    expected = layer(x)
    for _ in range(3):
        assert torch.equal(compiled(x).clone(), expected)
