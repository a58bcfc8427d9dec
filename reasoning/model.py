"""Load a language model with its tokenizer: bundled, local, from the hub, GPTQ, or with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kernels.dequantize import dequantize
from kernels.quant_weight import QuantWeight
from reasoning.checkpoint import (
    CONFIG_FILE,
    ModelError,
    StoredTensor,
    build_config,
    has_tokenizer,
    load_tokenizer,
    one_line,
    read_config,
    read_headers,
    read_tensors,
)
from reasoning.gptq_checkpoint import check_gptq, gptq_modules, gptq_settings, read_gptq
from reasoning.meta_model import MetaModel, build_meta_model, check_dense, check_memory, fill
from reasoning.model_source import ModelSource, bundled_folder, find_model, hub_folder
from reasoning.name_clash import refuse_foreign_kernels_package
from reasoning.random_model import random_reader, random_tensors

__all__ = ["LoadedModel", "ModelError", "load_model"]

Weights = Literal["real", "random"]
_GENERATION_FILE = "generation_config.json"
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to decode."""

    model: Any
    """The transformers model, on its device, in evaluation mode, without gradients."""
    tokenizer: Any
    """Its tokenizer; for random weights without a folder the bundled model's, whose ids fit."""
    name: str
    """Short name for tables and records: ``tiny``, a key of the table, a folder's own name, or a hub id."""
    source: str
    """``bundled``, ``folder``, ``hub <id>@<revision>`` or ``random weights``."""
    quantized: Mapping[str, QuantWeight] = field(default_factory=dict)
    """The linears of a GPTQ checkpoint by module name, as stored; the model's linears hold them decoded."""
    random_weights: bool = False
    """Whether the weights mean nothing, so that accuracy, T and SI are not measured."""
    reader: TensorReader | None = None
    """Where weights are to be streamed, what reads them; the model then has a config and a device, and no weights."""


@dataclass(frozen=True, eq=False)
class TensorReader:
    """Reads the tensors of a model one by one."""

    read: Callable[[str], Tensor]
    """A tensor by name, in its own type, on the model's device."""
    names: Collection[str]
    """Names of all tensors."""


class ModelWithoutWeights:
    """What the chain asks a model for besides its weights, which are streamed into the decode engine.

    Args:
        config: the transformers config.
        device: where the weights will be.
    """

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.generation_config: Any = None

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """None."""
        return iter(())


def load_model(
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    weights: Weights = "real",
    seed: int = 0,
    streams: bool = False,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        name: ``tiny`` (bundled, never the network), a key of the model table, a local folder in Hugging Face
            layout, or a hub id ``org/name``.
        device: where the model goes.
        dtype: bf16, fp16 or fp32; the weights are converted one by one.
        weights: ``real``, or ``random`` for the architecture alone.
        seed: of random weights.
        streams: leave the weights where they are, to be read one by one through ``reader``; GPTQ checkpoints are loaded
            all the same.

    Returns:
        The model; for a GPTQ checkpoint its linears hold the decoded weights and ``quantized`` the int4 ones.

    Raises:
        ModelError: nothing of that name, or a folder or checkpoint that cannot be used, in one sentence.
        NameClashError: the Hugging Face package ``kernels`` is installed.
    """
    refuse_foreign_kernels_package()
    if weights not in ("real", "random"):
        raise ModelError(f"weights={weights!r} is neither 'real' nor 'random'")
    if dtype not in _DTYPES:
        raise ModelError(f"dtype={dtype} is none of {', '.join(map(str, _DTYPES))}")
    target = _usable_device(device)
    source = find_model(name)
    with ExitStack() as stack:
        bundled = stack.enter_context(bundled_folder())
        stack.enter_context(_quiet())
        if weights == "random":
            return _load_random(source, bundled, target, dtype, seed, streams=streams)
        return _load_real(source, bundled, target, dtype, streams=streams)


def _load_real(
    source: ModelSource, bundled: Path, device: torch.device, dtype: torch.dtype, *, streams: bool
) -> LoadedModel:
    folder, origin = _open(source, bundled, with_weights=True)
    raw = read_config(folder)
    config = build_config(raw, folder)
    stored = read_headers(folder)
    meta = build_meta_model(config, dtype)
    settings = gptq_settings(raw, stored, folder)
    dense = stored if settings is None else check_gptq(meta, stored, settings)
    check_dense(meta, dense, folder)
    tokenizer = load_tokenizer(folder, config.vocab_size)
    if streams and settings is None:
        _check_ties(meta, stored)
        empty = ModelWithoutWeights(config, device)
        _read_generation_config(empty, folder)

        def read(name: str) -> Tensor:
            ((_, tensor),) = read_tensors(stored, [name])
            return tensor.to(device, meta.expected[name].dtype, copy=True)

        return LoadedModel(empty, tokenizer, source.name, origin, reader=TensorReader(read, meta.expected))
    packed_bytes = 0 if settings is None else _packed_bytes(stored)
    check_memory(meta.nbytes + packed_bytes, device)

    quantized: dict[str, QuantWeight] = {}
    tensors: dict[str, Tensor] = {}
    if settings is not None:
        for module, weight in read_gptq(meta, stored, settings, device):
            quantized[module] = weight
            tensors[f"{module}.weight"] = dequantize(weight, meta.expected[f"{module}.weight"].dtype)
    names = [name for name in meta.expected if name not in tensors]
    for name, tensor in read_tensors(stored, names):
        # A copy: the file's tensors are views of the file, aligned for no vector load.
        tensors[name] = tensor.to(device, meta.expected[name].dtype, copy=True)
    _check_ties(meta, stored)
    model = fill(meta, tensors, device)
    _read_generation_config(model, folder)
    return LoadedModel(model, tokenizer, source.name, origin, quantized)


def _load_random(
    source: ModelSource,
    bundled: Path,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    *,
    streams: bool,
) -> LoadedModel:
    if source.spec is not None:
        config, tokenizer_folder = source.spec.to_config(), bundled
    else:
        folder, _ = _open(source, bundled, with_weights=False)
        config = build_config(read_config(folder), folder)
        tokenizer_folder = folder if has_tokenizer(folder) else bundled
    tokenizer = load_tokenizer(tokenizer_folder, config.vocab_size)
    meta = build_meta_model(config, dtype)
    if streams:
        return LoadedModel(
            ModelWithoutWeights(config, device),
            tokenizer,
            source.name,
            "random weights",
            random_weights=True,
            reader=TensorReader(random_reader(meta, device, seed), meta.expected),
        )
    check_memory(meta.nbytes, device)
    model = fill(meta, random_tensors(meta, device, seed), device)
    return LoadedModel(model, tokenizer, source.name, "random weights", random_weights=True)


def _open(source: ModelSource, bundled: Path, *, with_weights: bool) -> tuple[Path, str]:
    """The model's folder, and what to call its origin."""
    if source.folder is not None:
        return source.folder, "folder"
    if source.hub_id is None:
        return bundled, "bundled"
    folder = hub_folder(source.hub_id, with_weights=with_weights)
    # The cache names each snapshot's folder after its commit.
    return folder, f"hub {source.hub_id}@{folder.name}"


def _usable_device(device: torch.device | str) -> torch.device:
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device {str(device)!r} is unknown to torch: {one_line(error)}") from error
    if wanted.type not in ("cpu", "cuda"):
        raise ModelError(f"device {str(device)!r} is neither 'cpu' nor 'cuda'")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {str(device)!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices"
        )
    return wanted


def _packed_bytes(stored: Mapping[str, StoredTensor]) -> int:
    """Bytes that the int4 weights take beside the decoded ones, without their scales."""
    return sum(
        4 * stored[f"{m}.qweight"].shape[0] * stored[f"{m}.qweight"].shape[1] for m in gptq_modules(stored)
    )


def _check_ties(meta: MetaModel, stored: Mapping[str, StoredTensor]) -> None:
    """Refuse a checkpoint that stores a tied tensor a second time with other values."""
    for alias in meta.tied.keys() & stored.keys():
        name = meta.tied[alias]
        pair = dict(read_tensors(stored, [alias, name]))
        if not torch.equal(pair[alias], pair[name]):
            raise ModelError(
                f"{stored[alias].file} stores {alias} with other values than {name}, "
                f"but {CONFIG_FILE} ties them"
            )


def _read_generation_config(model: Any, folder: Path) -> None:
    """Take over the folder's ``generation_config.json``, which names the tokens that end a text."""
    from transformers import GenerationConfig

    if not (folder / _GENERATION_FILE).is_file():
        return
    try:
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # it may raise anything on a value that it did not expect
        raise ModelError(f"{folder / _GENERATION_FILE} cannot be used: {one_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' remarks and progress bars out of the output; errors are raised all the same."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
