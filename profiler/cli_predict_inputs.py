"""What ``qt-profile predict`` starts from: models, machines, memory and batch sizes by their names."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.record import RecordError, RunRecord, iter_samples, list_runs, load_record

if TYPE_CHECKING:
    from analysis.model_shape import HopEngine, ModelShape
    from analysis.predict_history import HeldOut
    from analysis.predict_machine import GpuFigures, Machine
    from analysis.predict_memory import Memory
    from profiler.hardware import GpuSpec

_REFERENCE = "h200"
_PACKAGED_FITS = Path("data") / "fits"
_MERGED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
_SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def parse_batches(text: str) -> tuple[int, ...]:
    """Parse ``1:128`` (powers of two times the first, the last included) or ``1,8,64``.

    Raises:
        ValueError: it is neither, or a size is below 1.
    """
    if ":" in text:
        first, _, last = text.partition(":")
        if not (first.isdecimal() and last.isdecimal()):
            raise ValueError(f"--batch {text!r} is not of the form FROM:TO, such as 1:128")
        low, high = int(first), int(last)
        if not 1 <= low <= high:
            raise ValueError(f"--batch {text} goes from {low} to {high}, needed is 1 <= FROM <= TO")
        sizes = [low]
        while 2 * sizes[-1] <= high:
            sizes.append(2 * sizes[-1])
        return tuple(dict.fromkeys([*sizes, high]))
    words = split_words("batch", text)
    strangers = [word for word in words if not word.isdecimal() or int(word) < 1]
    if strangers:
        raise ValueError(f"--batch {strangers[0]!r} is no batch size of at least 1")
    return tuple(dict.fromkeys(int(word) for word in words))


def model_shape(key: str) -> ModelShape:
    """Return the sizes of a row of the model table, as predictions take them.

    Raises:
        ValueError: no such model.
    """
    from analysis.fit_crossing import Layer
    from analysis.model_shape import ModelShape
    from reasoning.model_table import get_model_spec

    spec = get_model_spec(key)
    shapes = spec.linear_shapes()
    return ModelShape(
        key=spec.key,
        layers=spec.num_hidden_layers,
        hidden=spec.hidden_size,
        intermediate=spec.intermediate_size,
        kv_heads=spec.num_key_value_heads,
        head_dim=spec.head_dim,
        vocabulary=spec.vocab_size,
        merged=tuple(Layer(*shapes[name], spec.num_hidden_layers) for name in _MERGED),
        separate=tuple(Layer(*shapes[name], spec.num_hidden_layers) for name in _SEPARATE),
        tied_head=spec.tie_word_embeddings,
        head_norm=spec.model_type == "qwen3",
        qkv_bias=spec.qkv_bias,
    )


def kernel_memory(
    model: ModelShape, kernel: str, engine: HopEngine, context: int, machine: Machine
) -> Memory:
    """Return what a model needs with a kernel of the registry.

    Raises:
        ValueError: no such kernel, or one whose format does not fit the model.
    """
    from analysis.predict_memory import StoredLayer, layout_bytes, memory_of
    from kernels.registry import get_kernel
    from kernels.traffic import Scheme, weight_bytes

    found = get_kernel(kernel)
    fmt = found.format
    stored = []
    for layer in model.linears(engine):
        if fmt is None:
            stored.append(StoredLayer(layer, 2 * layer.n * layer.k))
            continue
        # On a GPU the kernels that decode within the product keep a copy in the order of their operands.
        copied = machine.memory_bytes is not None and found.scheme in (Scheme.FUSED, Scheme.NULL)
        extra = layout_bytes(layer.n, layer.k, fmt.bits) if copied else 0
        stored.append(StoredLayer(layer, weight_bytes(fmt, layer.n, layer.k), extra))
    return memory_of(
        model,
        stored,
        context=context,
        device_bytes=machine.memory_bytes,
        decodes_to_memory=found.scheme is Scheme.UNFUSED,
    )


def find_machine(arch: str, folder: Path) -> Machine:
    """Find the fits to predict from: of the machine named, else of the H200, carried over.

    Args:
        arch: row of the hardware table, ``auto`` or ``cpu``.
        folder: of fits; those of the package come after.

    Raises:
        ValueError: no such arch, or no fits for it.
    """
    from analysis.fit_file import newest_fits
    from analysis.predict_machine import from_fits, transferred
    from profiler.hardware import HARDWARE, get_arch

    folders = [folder, packaged_fits()]
    spec, name = _named(arch)
    wanted = [name] if spec is None else [spec.key, name]
    for place in folders:
        for key in wanted:
            fits = newest_fits(place, key)
            if fits is not None:
                return from_fits(fits, None if spec is None else gpu_figures(spec))
    if spec is None:
        raise ValueError(
            f"no fits of {name} in {folder}, and the hardware table lacks it: make some with "
            f"`qt-profile sweep --for-fit` and `qt-profile fit`, or name an arch of {', '.join(HARDWARE)}"
        )
    reference = get_arch(_REFERENCE)
    for place in folders:
        fits = newest_fits(place, _REFERENCE)
        if fits is not None:
            return transferred(fits, gpu_figures(reference), gpu_figures(spec))
    raise ValueError(
        f"no fits of {spec.name} and none of {reference.name} in {' or '.join(map(str, folders))}: make some with "
        "`qt-profile sweep --for-fit` and `qt-profile fit`"
    )


def _named(arch: str) -> tuple[GpuSpec | None, str]:
    from profiler.environment import capture_environment
    from profiler.hardware import find_gpu, get_arch

    if arch not in ("auto", "cpu"):
        spec = get_arch(arch)
        return spec, spec.name
    environment = capture_environment(sys.argv)
    if arch == "auto" and environment.gpus:
        name = environment.gpus[0].name
        return find_gpu(name), name
    return None, environment.cpu_model


def gpu_figures(spec: GpuSpec) -> GpuFigures:
    """Return a row of the hardware table in SI units, as predictions and reports take it."""
    from analysis.predict_machine import GpuFigures

    peaks = {"bf16": spec.bf16_tflops, "fp8": spec.fp8_tflops, "int8": spec.int8_tops}
    return GpuFigures(
        key=spec.key,
        name=spec.name,
        memory_bytes=spec.memory_gb * 1e9,
        bytes_per_s=spec.memory_bytes_per_s,
        tdp_w=spec.tdp_w,
        flops_per_s={name: None if peak is None else peak * 1e12 for name, peak in peaks.items()},
        cache_bytes=spec.l2_mb * 1e6,
    )


def known_history(fits: Path) -> list[HeldOut]:
    """Return every check of a prediction that the package was shipped with or a folder of fits keeps, each once.

    Raises:
        ValueError: a line is no entry.
    """
    from analysis.predict_history import HISTORY, read_history

    entries = [entry for folder in (packaged_fits(), fits) for entry in read_history(folder / HISTORY)]
    return list({entry.key: entry for entry in entries}.values())


def packaged_fits() -> Path:
    """Return the folder of the fits that the package was shipped with, and of the history of their checks."""
    import analysis

    return Path(analysis.__file__).parent / _PACKAGED_FITS


def split_words(option: str, text: str) -> list[str]:
    """Split at commas; a word given twice counts once.

    Raises:
        ValueError: an empty word.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ValueError(f"--{option} {text!r} has {sum(not word for word in words)} empty entries")
    return list(dict.fromkeys(words))


def load_records(path: Path) -> list[RunRecord]:
    """Read the record of a run, or of every run in a folder.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    return [_load(run) for run in _runs_in(path)]


def check_samples(paths: Iterable[Path], run_ids: Collection[str]) -> None:
    """Read the samples of runs, which must be those that their records were written with.

    Args:
        paths: runs, or folders of runs.
        run_ids: those of them to read.

    Raises:
        ValueError: they are not, or one is no legal sample.
    """
    for run in (run for path in paths for run in _runs_in(path)):
        if _load(run).run_id not in run_ids:
            continue
        try:
            for _ in iter_samples(run):
                pass
        except RecordError as error:
            raise ValueError(str(error)) from error


def _runs_in(path: Path) -> list[Path]:
    if not path.is_dir() or (path / "run.json").is_file():
        return [path]
    inside = list(list_runs(path))
    if not inside:
        raise ValueError(f"{path} holds no runs")
    return inside


def _load(path: Path) -> RunRecord:
    """Read a record; one that cannot be read is a bad argument here."""
    try:
        return load_record(path)
    except RecordError as error:
        raise ValueError(str(error)) from error
