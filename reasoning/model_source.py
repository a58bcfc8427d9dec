"""Where a model comes from: the bundled one, a row of the model table, a local folder, or the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from reasoning.checkpoint import CONFIG_FILE, ModelError, has_tokenizer, one_line, weight_files
from reasoning.model_table import MODELS, TINY, ModelSpec, known_models

_CONFIG_AND_TOKENIZER = ["*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt"]
# Subfolders hold other formats; Mistral's consolidated file holds every weight a second time.
_NOT_WANTED = ["*/*", "consolidated*"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelSource:
    """What a model name stands for: one of folder, spec and hub id is enough to find it."""

    name: str
    """The model's short name, for tables and records."""
    folder: Path | None = None
    """The local folder."""
    spec: ModelSpec | None = None
    """The row of the model table."""
    hub_id: str | None = None
    """The repository on the hub."""


def find_model(name: str) -> ModelSource:
    """Say what a model name stands for, without looking at the hub.

    Args:
        name: ``tiny``, a key of the model table (in any case), a local folder, or a hub id ``org/name``;
            they are tried in this order.

    Raises:
        ModelError: it is none of them.
    """
    key = name.lower()
    if key == TINY:
        return ModelSource(TINY)
    if key in MODELS:
        return ModelSource(key, spec=MODELS[key], hub_id=MODELS[key].hf_id)
    path = Path(name).expanduser()
    if path.is_dir():
        return ModelSource(path.resolve().name, folder=path)
    if path.is_file():
        raise ModelError(f"model {name!r} is a file, expected the folder that holds its {CONFIG_FILE}")
    for spec in MODELS.values():
        if key == spec.hf_id.lower():
            return ModelSource(spec.key, spec=spec, hub_id=spec.hf_id)
    if _HUB_ID.fullmatch(name):
        return ModelSource(name, hub_id=name)
    if "/" in name or "\\" in name:
        raise ModelError(f"model {name!r} is neither a folder that exists nor a hub id org/name")
    raise ModelError(f"unknown model {name!r}: {known_models(name)}")


@contextmanager
def bundled_folder() -> Iterator[Path]:
    """The folder of the bundled model, for as long as the context lasts."""
    with resources.as_file(resources.files("reasoning").joinpath("tiny")) as folder:
        yield folder


def hub_folder(hub_id: str, *, with_weights: bool) -> Path:
    """The local copy of a hub repository: the cached one where it is complete, else downloaded.

    Args:
        hub_id: ``org/name``.
        with_weights: whether the safetensors files are wanted besides config and tokenizer.

    Raises:
        ModelError: it is not in the cache and cannot be downloaded; the message names the ways out.
    """
    from huggingface_hub import snapshot_download

    wanted = [*_CONFIG_AND_TOKENIZER, "*.safetensors"] if with_weights else _CONFIG_AND_TOKENIZER
    reason = ""
    # The cache first: a run on the same weights must not depend on the network.
    for cached in (True, False):
        try:
            folder = Path(
                snapshot_download(
                    hub_id, allow_patterns=wanted, ignore_patterns=_NOT_WANTED, local_files_only=cached
                )
            )
        except Exception as error:  # hub, HTTP client and file system each raise classes of their own
            reason = _why(error)
            continue
        if _is_complete(folder, with_weights=with_weights) and not (cached and not has_tokenizer(folder)):
            return folder
        reason = "no complete set of safetensors weights is there" if with_weights else "it is not there"
    raise ModelError(_ways_out(hub_id, reason, with_weights=with_weights))


def _is_complete(folder: Path, *, with_weights: bool) -> bool:
    if not (folder / CONFIG_FILE).is_file():
        return False
    if not with_weights:
        return True
    try:
        weight_files(folder)
    except ModelError:
        return False
    return True


def _why(error: Exception) -> str:
    """The reason of a failed download in a few words; the hub's own message runs over several sentences."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "the repository is gated"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or it is private"
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached"
    return one_line(error)


def _ways_out(hub_id: str, reason: str, *, with_weights: bool) -> str:
    if with_weights:
        what = f"the weights of {hub_id} are not in the local cache and cannot be downloaded"
        third = "use --weights random (time and energy only)"
    else:
        what = f"the {CONFIG_FILE} of {hub_id} is not in the local cache and cannot be downloaded"
        third = "use --weights random with a key of the model table"
    return (
        f"{what} ({reason}): download the repository elsewhere and pass its folder as --model, set up access "
        f"to the hub (network, and HF_TOKEN where the repository is gated), or {third}"
    )
