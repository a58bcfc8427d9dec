"""Kernels decode uncompiled here, and Triton runs in its interpreter where there is no GPU."""

import os

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    # Read when triton is imported, so it must be set before any test module imports it.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """New floating-point tensors hold NaN, so an element that a kernel leaves unwritten shows."""
    from kernels import torch_impl

    allocate = torch.empty

    def empty(*args, **kwargs):
        tensor = allocate(*args, **kwargs)
        is_poisoned = (
            tensor.dtype in (torch.bfloat16, torch.float16, torch.float32) and not tensor.requires_grad
        )
        return tensor.fill_(float("nan")) if is_poisoned else tensor

    monkeypatch.setattr(torch, "empty", empty)
    torch_impl._scratch.buffers.clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own: no compiled kernels, and no tables but the shipped ones."""
    from kernels.cuda_impl import select

    monkeypatch.setenv("QT_PROFILE_CACHE", str(tmp_path))
    select.load_table.cache_clear()
    yield tmp_path
    select.load_table.cache_clear()


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request):
    """Where Triton kernels run: the interpreter without a GPU, the GPU with one."""
    if request.param == "cuda":
        if not HAS_GPU:
            pytest.skip("torch sees no CUDA device")
        return torch.device("cuda")
    if HAS_GPU:
        pytest.skip("a GPU is present, so these kernels are compiled for it instead of interpreted")
    from kernels.triton_impl.decode import IS_INTERPRETED

    if not IS_INTERPRETED.value:
        pytest.fail("triton was imported before TRITON_INTERPRET=1 was set; set it for the whole test run")
    return torch.device("cpu")
