"""A small odd model and an earlier run, for the tests of the command line."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import TINY, run_short

from profiler.record import list_runs


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decode without waiting for a compiler, and leave torch's threads as they were."""
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    monkeypatch.delenv("QT_PROFILE_TDP_W", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer whose hidden size, 96, is no multiple of the default group."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "qwen3",
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=32,
        vocab_size=896,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("odd")
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return folder


@pytest.fixture
def odd(made_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_model, tmp_path / "odd"))


@pytest.fixture
def earlier_run(odd: Path, tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder of runs with one run, and the bytes of its files."""
    out = tmp_path / "runs"
    assert run_short("--model", odd, "--out", out).exit_code == 0
    (folder,) = list_runs(out)
    return out, {file.name: file.read_bytes() for file in folder.iterdir()}
