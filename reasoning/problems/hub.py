"""Problem files on the Hugging Face hub: download one, read its rows."""

import importlib
from pathlib import Path

HUB_FILES = {
    "openai/gsm8k": ("openai/gsm8k", "main/test-00000-of-00001.parquet"),
    "openai/gsm8k:train": ("openai/gsm8k", "main/train-00000-of-00001.parquet"),
}


class HubError(ValueError):
    """The hub's copy cannot be had; the sentence says what is missing and what to do instead."""


def hub_records(source: str) -> list[dict[str, object]]:
    """Return the rows of a data set on the hub, downloaded once into the hub's own cache.

    Args:
        source: a key of ``HUB_FILES``.

    Returns:
        One mapping from column to value per row.

    Raises:
        HubError: pyarrow is not installed, the network or the file cannot be reached, or the file is damaged.
    """
    repository, filename = HUB_FILES[source]
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise HubError(
            f"{source} comes from the hub as a parquet file, and reading it needs pyarrow: install it with "
            "'pip install pyarrow', or give the path of a GSM8K jsonl file"
        ) from None
    path = _download(source, repository, filename)
    try:
        rows: list[dict[str, object]] = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise HubError(f"{source}: the downloaded file {path.name} is damaged ({error})") from error
    return rows


def _download(source: str, repository: str, filename: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repository, filename, repo_type="dataset"))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise HubError(
            f"{source} is not in the local cache and the hub cannot be reached ({type(error).__name__}): "
            "connect to the network, or give the path of a GSM8K jsonl file"
        ) from error
