"""Other libraries' kernels in the place of ours: names, weights, refusals, and products on a CPU."""

import pytest
import torch
from torch import Tensor

from kernels.peers.kernel import (
    PEER_KERNELS,
    PeerFailedError,
    PeerKernel,
    canonical_name,
    find_kernel,
    make_weight,
    peer_kernel,
)
from kernels.peers.peer import Parts, Peer, PeerUnavailableError, PeerWeight, Product
from kernels.peers.registry import PEERS, find_peers
from kernels.registry import KERNELS, get_kernel
from kernels.traffic import Scheme

ROWS = (48, 17, 5)
K = 192
BNB = ["bnb_nf4", "bnb_fp4", "bnb_int8", "bnb_int8_plain"]


def weight(n: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, K, generator=generator) / K**0.5).bfloat16()


def inputs(m: int, *, outlier: float = 0.0) -> Tensor:
    x = torch.randn(m, K, generator=torch.Generator().manual_seed(2))
    if outlier:
        x[:, 7] = outlier
    return x.bfloat16()


def fake(
    prepare=lambda w: PeerWeight((w,), bind, tuple(w.shape), None, w.nbytes, "as it is"), **settings
) -> PeerKernel:
    return peer_kernel(
        Peer("fake_int4", "torch", 4, 64, None, prepare, **{"device_types": ("cpu",), **settings})
    )


def bind(parts: Parts) -> Product:
    return lambda x: x @ parts[0].T


def test_every_peer_is_a_kernel_and_goes_by_both_names() -> None:
    assert not set(PEER_KERNELS) & set(KERNELS)
    assert len(PEER_KERNELS) == len(PEERS)
    for name, kernel in PEER_KERNELS.items():
        assert kernel.name == name == kernel.weight_key
        assert (kernel.scheme, kernel.format, kernel.meaningful_output) == (Scheme.PEER, None, True)
        assert find_kernel(name) is find_kernel(kernel.peer.name) is kernel
        assert find_peers([name]) == find_peers([kernel.peer.name]) == (kernel.peer,)
    assert canonical_name("bnb_llm_int8") == "bnb_int8_plain"
    assert canonical_name("gptqmodel_marlin_int4") == "gptq_marlin_int4"
    # LLM.int8() with outliers is what its users run; a sweep's name never means it.
    assert canonical_name("bnb_int8") == "bnb_int8" and find_kernel("bnb_int8").why_not_captured
    assert [name for name, kernel in PEER_KERNELS.items() if kernel.why_not_captured] == ["bnb_int8"]
    assert find_kernel("fused_nf4") is get_kernel("fused_nf4")


def test_an_unknown_kernel_names_the_closest_of_all() -> None:
    with pytest.raises(ValueError, match=r"'bnb_nf5'; did you mean 'bnb_nf4'\? known kernels: bf16, .*gptq_"):
        find_kernel("bnb_nf5")
    with pytest.raises(ValueError, match="unknown kernel 'bnb_nf4'"):
        get_kernel("bnb_nf4")


@pytest.mark.parametrize("name", BNB)
@pytest.mark.parametrize("m", [1, 3, 17])
def test_bitsandbytes_multiplies_by_its_decoded_weight(name: str, m: int) -> None:
    pytest.importorskip("bitsandbytes")
    kernel = PEER_KERNELS[name]
    decoded = kernel.peer.prepare(weight(40)).decoded
    assert decoded is not None
    x = inputs(m, outlier=20.0 if name == "bnb_int8" else 0.0)
    made = kernel.prepare(weight(40))
    assert made.decoded is None and made.shape == (40, K)
    y = kernel.linear(x, made).double()
    exact = x.double() @ decoded.double().T
    # int8: x's step is 1/127 of a row's largest, here below 4, so a rounding error of 0.3 % of x's norm; 4-bit: bf16.
    assert float((y - exact).norm() / exact.norm()) < 0.02
    shaped = kernel.linear(x.view(1, m, K), made)
    assert shaped.shape == (1, m, 40) and shaped.dtype is torch.bfloat16


def test_outliers_are_why_llm_int8_splits_columns() -> None:
    pytest.importorskip("bitsandbytes")
    x, w = inputs(5, outlier=60.0), weight(40)
    exact = x.double() @ w.double().T
    errors = {}
    for name in ("bnb_int8", "bnb_int8_plain"):
        kernel = PEER_KERNELS[name]
        errors[name] = float((kernel.linear(x, kernel.prepare(w)).double() - exact).norm() / exact.norm())
    assert errors["bnb_int8"] < errors["bnb_int8_plain"] / 3


@pytest.mark.parametrize("name", BNB)
def test_rows_quantize_alike_merged_and_apart(name: str) -> None:
    pytest.importorskip("bitsandbytes")
    kernel = PEER_KERNELS[name]
    parts = [weight(n, seed) for seed, n in enumerate(ROWS)]
    merged, apart = kernel.prepare(torch.cat(parts)), [kernel.prepare(part) for part in parts]
    for index in range(2):
        assert torch.equal(
            merged.parts[index].flatten(), torch.cat([made.parts[index].flatten() for made in apart])
        )
    x = inputs(3, outlier=20.0)
    both = kernel.linear(x, merged), torch.cat([kernel.linear(x, made) for made in apart], dim=-1)
    torch.testing.assert_close(*both, rtol=2**-7, atol=2**-7)
    codes = sum(made.nbytes for made in apart)
    # The 4-bit code book of 16 fp32 entries is stored once instead of once for each part.
    assert codes - merged.nbytes == (2 * 64 if name.endswith("4") else 0)


def test_gptq_and_tinygemm_codes_belong_to_a_row() -> None:
    from kernels.peers.rounding import fp8_rows, int4_groups, int8_rows, symmetric_groups

    parts = [weight(n, seed) for seed, n in enumerate(ROWS)]
    whole = torch.cat(parts)
    for rounds in (
        fp8_rows,
        int8_rows,
        lambda w: symmetric_groups(w, 4, 64),
        lambda w: symmetric_groups(w, 8, 64),
        lambda w: (int4_groups(w, 64).codes, int4_groups(w, 64).scale, int4_groups(w, 64).low),
    ):
        for merged, *apart in zip(rounds(whole), *(rounds(part) for part in parts), strict=True):
            assert torch.equal(merged.float(), torch.cat([piece.float() for piece in apart]))


def test_what_a_call_refuses() -> None:
    kernel = fake()
    made = kernel.prepare(weight(8))
    for x, w, parts in (
        (torch.ones(2, 64).bfloat16(), made, ("[2, 64]", "k=192")),
        (torch.ones(2, K), made, ("float32", "bfloat16")),
        (inputs(2), weight(8), ("Tensor", "prepare()")),
    ):
        with pytest.raises(ValueError) as caught:
            kernel.linear(x, w)
        assert [part for part in parts if part not in str(caught.value)] == []
    with pytest.raises(ValueError, match="no implementation 'triton'; it has: torch"):
        kernel.linear(inputs(2), made, implementation="triton")
    with pytest.raises(ValueError, match=r"bf16 takes no weight that another library stores \(as it is\)"):
        get_kernel("bf16").linear(inputs(2), made)
    with pytest.raises(ValueError, match="fused_nf4 takes no weight"):
        get_kernel("fused_nf4").linear(inputs(2), made)
    with pytest.raises(ValueError, match="no traffic at n=8, k=192"):
        kernel.traffic(1, 8, K)
    assert kernel.linear(inputs(2)[:0], made).shape == (0, 8)
    assert not kernel.linear(inputs(2).requires_grad_(), made).requires_grad


def test_what_a_weight_refuses() -> None:
    def too_odd(w: Tensor) -> PeerWeight:
        raise PeerUnavailableError(f"fake_int4 takes k divisible by 7, this shape has k={w.shape[1]}")

    def broken(w: Tensor) -> PeerWeight:
        raise KeyError("sm_99")

    for kernel, settings, sentence in (
        (fake(), {"group_size": 32}, "group_size=32 was asked for, fake_int4 has groups of 64"),
        (fake(), {"double_quant": True}, "double_quant=True was asked for, fake_int4 keeps its scales"),
        (fake(too_odd), {}, r"up_proj\.weight: fake_int4 takes k divisible by 7, this shape has k=192"),
        (fake(broken), {}, r"fake_int4 cannot take up_proj\.weight: KeyError: 'sm_99'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make_weight(kernel, weight(8), name="up_proj.weight", **settings)
    with pytest.raises(ValueError, match=r"weight has dtype torch\.float32, fake_int4 takes torch\.bfloat16"):
        fake().prepare(weight(8).float())
    made = fake().prepare(weight(8), group_size=64)
    assert made.to("cpu") is made
    with pytest.raises(ValueError, match="as it is on cpu cannot move to meta"):
        made.to("meta")


def test_a_library_that_fails_is_named_and_a_full_memory_stays_one() -> None:
    def raising(error: Exception) -> PeerKernel:
        def bind(parts: Parts) -> Product:
            def product(x: Tensor) -> Tensor:
                raise error

            return product

        return fake(lambda w: PeerWeight((w,), bind, tuple(w.shape), None, 1, "raises"))

    broken = raising(AssertionError("no config fits\nmore"))
    with pytest.raises(PeerFailedError, match="^fake_int4 failed at 3 rows: AssertionError: no config fits$"):
        broken.linear(inputs(3), broken.prepare(weight(8)))
    full = raising(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        full.linear(inputs(3), full.prepare(weight(8)))


def test_a_weight_is_bound_once_and_ranges_are_opened() -> None:
    bound, opened = [], []

    def counting(parts: Parts) -> Product:
        bound.append(len(parts))
        return lambda x: x @ parts[0].T

    class Range:
        def __init__(self, name: str) -> None:
            opened.append(name)

        def __enter__(self) -> None: ...

        def __exit__(self, *rest: object) -> None: ...

    kernel = fake(
        lambda w: PeerWeight((w,), counting, tuple(w.shape), None, w.nbytes, "counted", ("a note",))
    )
    made = kernel.prepare(weight(8))
    for _ in range(3):
        kernel.linear(inputs(2), made, ranges=Range)
    assert bound == [1] and opened == ["linear"] * 3
    made.clone().linear(inputs(2))
    assert bound == [1, 1]
    detail = kernel.implementation_detail(kernel.implementation_for("cpu"), "cpu", weight=made)
    assert detail == f"torch {torch.__version__}: counted"


def test_availability_says_what_to_install_and_what_a_chain_leaves_out() -> None:
    missing = fake(module="no_such_library", install="pip install no-such-library")
    runs, why = missing.available("cpu")
    assert not runs and why.startswith("no_such_library does not import: ModuleNotFoundError")
    assert why.endswith("; pip install no-such-library")
    assert fake(not_in_chains="it is compiled too often").available("cpu") == (
        False,
        "it is compiled too often",
    )
    assert "torch 2.14" in find_peers(["gptq_marlin_int4"])[0].install
    assert fake(device_types=("cuda",)).available("cpu") == (False, "it runs on cuda, not on cpu")
    if not torch.cuda.is_available():
        assert fake(device_types=("cuda",)).available("cuda") == (False, "torch sees no CUDA device")
