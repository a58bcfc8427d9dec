"""Compiles the CUDA kernels with NVRTC and loads them through cupy; machine code is cached on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from kernels.cuda_impl.config import Config, Weight, WideConfig, shared_bytes_for
from kernels.cuda_impl.driver import allow_shared_memory, blocks_per_sm
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
        threads: threads per block.
        shared_bytes: dynamic shared memory that launches ask for.
        most_per_sm: blocks that may share a multiprocessor; more shared memory is asked for where more would fit.
    """

    def __init__(
        self, module: object, name: str, threads: int, shared_bytes: int, most_per_sm: int | None = None
    ) -> None:
        self._module = module
        function = module.get_function(name)  # type: ignore[attr-defined]
        self.pointer = int(function.kernel.ptr)
        self.registers = int(function.num_regs)
        self.local_bytes = int(function.local_size_bytes)
        allow_shared_memory(self.pointer, shared_bytes)
        self.blocks_per_sm = blocks_per_sm(self.pointer, threads, shared_bytes)
        self.shared_bytes = shared_bytes
        if most_per_sm is not None and self.blocks_per_sm > most_per_sm:
            self.shared_bytes = shared_bytes_for(most_per_sm)
            allow_shared_memory(self.pointer, self.shared_bytes)
            self.blocks_per_sm = blocks_per_sm(self.pointer, threads, self.shared_bytes)


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

    A null kernel may need fewer registers than its twin; it shares a multiprocessor with no more of its kind than the
    twin does, so that the decoding is all that they differ by.

    Raises:
        BuildError: the compiler refused; the sentence holds its first complaint.
        CudaError: the device has less shared memory.
    """
    import cupy

    path = machine_code(source(config, weight, x_unaligned=x_unaligned), config.kind)
    most = None
    if weight.is_null:
        most = build(config, replace(weight, is_null=False), x_unaligned=x_unaligned).blocks_per_sm
    module = cupy.RawModule(path=str(path))
    return Function(module, config.kind, config.threads, config.shared_bytes(weight), most)


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


def compile_ahead(texts: Iterable[tuple[str, str]]) -> None:
    """Fill the cache of machine code on all cores; what does not compile says so where it is used.

    Args:
        texts: source and name of each kernel, as ``machine_code`` takes them.
    """

    def one(text: tuple[str, str]) -> None:
        with suppress(BuildError):
            machine_code(*text)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(one, dict.fromkeys(texts)))


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
