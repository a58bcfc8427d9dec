"""Compiles the CUDA kernels with NVRTC and loads them through cupy; machine code is cached on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

from kernels.cuda_impl.config import Config, Weight, WideConfig
from kernels.cuda_impl.driver import allow_shared_memory
from kernels.cuda_impl.wgmma import wgmma_source

ARCH = "sm_90a"
_FOLDER = Path(__file__).parent


class BuildError(RuntimeError):
    """A kernel does not compile."""


class Function:
    """A compiled kernel.

    Args:
        module: cupy's module, kept alive with its machine code.
        name: the kernel's name in it.
        shared_bytes: dynamic shared memory that launches will ask for.
    """

    def __init__(self, module: object, name: str, shared_bytes: int) -> None:
        self._module = module
        function = module.get_function(name)  # type: ignore[attr-defined]
        self.pointer = int(function.kernel.ptr)
        self.registers = int(function.num_regs)
        self.local_bytes = int(function.local_size_bytes)
        allow_shared_memory(self.pointer, shared_bytes)


def source(config: Config, weight: Weight, *, x_unaligned: bool = False) -> str:
    """The complete source of a kernel."""
    macros = config.macros(weight, x_unaligned=x_unaligned)
    parts = [f"#define {name} {value}\n" for name, value in macros.items()]
    parts.append(_text("decode.cuh"))
    if isinstance(config, WideConfig):
        parts.append(wgmma_source(config.batch, weight.is_fp16))
    parts.append(_text(f"{config.kind}.cu"))
    return "".join(parts)


def build(config: Config, weight: Weight, *, x_unaligned: bool = False) -> Function:
    """Compile a kernel, or take its machine code from the cache, and load it on the current device.

    Raises:
        BuildError: the compiler refused; the sentence holds its first complaint.
        CudaError: the device has less shared memory.
    """
    import cupy

    path = machine_code(source(config, weight, x_unaligned=x_unaligned), config.kind)
    return Function(cupy.RawModule(path=str(path)), config.kind, config.shared_bytes(weight))


def machine_code(text: str, name: str) -> Path:
    """Path of the cubin of a source, compiled where the cache lacks it; written atomically.

    Raises:
        BuildError: the compiler refused.
    """
    key = hashlib.sha256(f"{_compiler()} {ARCH}\n{text}".encode()).hexdigest()[:32]
    path = cache_folder() / f"{name}-{key}.cubin"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        code = _compile(text)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)
    return path


def cache_folder() -> Path:
    """Folder of compiled kernels: ``$QT_PROFILE_CACHE``, else ``qt-profile`` in the user's cache folder."""
    named = os.environ.get("QT_PROFILE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qt-profile"


def _compile(text: str) -> bytes:
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(text, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, ("--std=c++17", f"--gpu-architecture={ARCH}"))
    except nvrtc.NVRTCError:
        log = nvrtc.getProgramLog(program)
        first = next((line for line in log.splitlines() if "error" in line), log[:200])
        raise BuildError(f"NVRTC {_compiler()} refused the kernel: {first}") from None
    else:
        # cupy takes the last byte of NVRTC's answer for a terminator; in an ELF file it is one of the program header.
        return bytes(nvrtc.getCUBIN(program)) + b"\0"
    finally:
        nvrtc.destroyProgram(program)


@lru_cache(maxsize=1)
def _compiler() -> str:
    from cupy.cuda import nvrtc

    return ".".join(str(part) for part in nvrtc.getVersion())


@lru_cache(maxsize=8)
def _text(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


_lock = threading.Lock()
_built: dict[tuple[Config, Weight, bool, int], Function] = {}


def loaded(config: Config, weight: Weight, *, x_unaligned: bool, device_index: int) -> Function:
    """``build``, once per process and device."""
    key = (config, weight, x_unaligned, device_index)
    function = _built.get(key)
    if function is None:
        with _lock:
            function = _built.get(key)
            if function is None:
                function = _built[key] = build(config, weight, x_unaligned=x_unaligned)
    return function
