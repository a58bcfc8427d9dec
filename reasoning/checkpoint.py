"""A model folder in Hugging Face layout: its config, its tokenizer and the headers of its safetensors files.

Everything is checked from the headers, before a weight is read, so an error names the file or the tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

CONFIG_FILE = "config.json"
_WEIGHTS_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
# Adapters are not a model, and Mistral's repositories hold every weight twice.
_OTHER_WEIGHTS = ("adapter", "consolidated")


class ModelError(ValueError):
    """A model cannot be loaded; the message is one sentence that says why."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor of a checkpoint lies and what its header says."""

    file: Path
    """The safetensors file."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: str
    """Its type as safetensors names it, such as ``BF16``."""


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a JSON {type(value).__name__}, expected an object")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder.

    Raises:
        ModelError: it is missing or is not a JSON object.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"{folder} has no {CONFIG_FILE}, so it is not a model folder in Hugging Face layout")
    return read_json(folder / CONFIG_FILE)


def build_config(raw: Mapping[str, Any], folder: Path) -> Any:
    """Turn the content of ``config.json`` into a transformers config, without its ``quantization_config``.

    Raises:
        ModelError: transformers does not know the architecture as a language model, or refuses a value.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    file, model_type = folder / CONFIG_FILE, raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"{file} has model_type={model_type!r}, an architecture that transformers does not know"
        )
    values = {name: value for name, value in raw.items() if name != "quantization_config"}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(values)
    except Exception as error:  # a config class may raise anything on a value that it did not expect
        raise ModelError(f"{file} is not a valid {model_type} config: {one_line(error)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{file} has model_type={model_type!r}, which is not a causal language model")
    return config


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's vocabulary."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def load_tokenizer(folder: Path, vocab_size: int) -> Any:
    """Load the tokenizer of a model folder, never from the network.

    Args:
        folder: the model folder.
        vocab_size: rows of the model's embedding.

    Raises:
        ModelError: there is none, it is damaged, or it makes ids that the embedding lacks.
    """
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        raise ModelError(f"{folder} has no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception on a damaged file
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {one_line(error)}") from error
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocab_size:
        raise ModelError(
            f"the tokenizer in {folder} makes ids up to {largest}, but the model has vocab_size={vocab_size}"
        )
    return tokenizer


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights.

    Raises:
        ModelError: there are none, the index is damaged, or a file that it names is missing.
    """
    if (folder / _WEIGHTS_FILE).is_file():
        return [folder / _WEIGHTS_FILE]
    index = folder / _INDEX_FILE
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index} has no weight_map, so the files of the weights are unknown")
        files = sorted({folder / str(name) for name in weight_map.values()})
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ModelError(f"{index} names {list_some(missing)}, missing from the folder")
        return files
    found = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith(_OTHER_WEIGHTS))
    if len(found) == 1:
        return found
    if found:
        raise ModelError(f"{folder} has {len(found)} safetensors files but no {_INDEX_FILE}")
    hint = ", only .bin files: convert them to safetensors" if any(folder.glob("*.bin")) else ""
    raise ModelError(f"{folder} has no weights: neither {_WEIGHTS_FILE} nor {_INDEX_FILE} is there{hint}")


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Read which tensors a folder's weights hold, without reading the weights.

    Returns:
        Every tensor by name.

    Raises:
        ModelError: no weights, a damaged or truncated file, or a tensor that lies in two files.
    """
    stored: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        try:
            with safe_open(str(file), framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (the handle is not iterable)
                    if name in stored:
                        raise ModelError(f"{name} lies in both {stored[name].file} and {file.name}")
                    part = opened.get_slice(name)
                    stored[name] = StoredTensor(file, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise ModelError(_damaged(file, error)) from error
    return stored


def read_tensors(stored: Mapping[str, StoredTensor], names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Read some tensors to the CPU one after the other, each file opened once.

    Yields:
        Name and tensor, which may still be a view of the file.

    Raises:
        ModelError: a file is damaged.
    """
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(stored[name].file, []).append(name)
    for file, members in by_file.items():
        try:
            with safe_open(str(file), framework="pt") as opened:
                for name in members:
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(_damaged(file, error)) from error


def list_some(names: Iterable[str]) -> str:
    """Up to three names, and how many more there are."""
    ordered = list(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def one_line(error: Exception) -> str:
    """The message of a foreign error on one line, cut after 200 characters; its type where it has none."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"


def _damaged(file: Path, error: Exception) -> str:
    with file.open("rb") as opened:
        start = opened.read(19)
    if start == b"version https://git":
        return f"{file} is a Git LFS pointer, not the weights: fetch them with 'git lfs pull'"
    return f"{file} is damaged or truncated: {one_line(error)}"
