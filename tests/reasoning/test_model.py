"""Loading models that are all right: the bundled one, local folders, the hub's cache, random weights."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from reasoning.model import LoadedModel, load_model

TINY = Path(str(resources.files("reasoning").joinpath("tiny")))
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
IDS = torch.tensor([[5, 17, 300, 41, 880, 2, 96]])
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 896,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "mistral": {"tie_word_embeddings": False, "sliding_window": None},
    "llama": {
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
}


def small_config(family: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]})


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model("tiny")


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A folder per family, written by transformers, and the model that it was written from."""
    from transformers import AutoModelForCausalLM

    made = {}
    for family in FAMILIES:
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(small_config(family), dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.1)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        for name in TOKENIZER_FILES:
            shutil.copy(TINY / name, folder)
        made[family] = (folder, model)
    return made


def test_tiny_is_small_and_fits_every_group_size(tiny: LoadedModel) -> None:
    assert sum(p.numel() for p in tiny.model.parameters()) == 6_526_208
    assert (TINY / "model.safetensors").stat().st_size < 16e6
    linears = {n: m for n, m in tiny.model.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert len(linears) == 8 * 7
    assert all(m.in_features % 128 == 0 and m.out_features % 128 == 0 for m in linears.values())
    assert (tiny.name, tiny.source, tiny.random_weights, dict(tiny.quantized)) == (
        "tiny",
        "bundled",
        False,
        {},
    )


def test_tiny_is_ready_to_decode(tiny: LoadedModel) -> None:
    assert not tiny.model.training
    assert not any(p.requires_grad for p in tiny.model.parameters())
    assert {p.dtype for p in tiny.model.parameters()} == {torch.bfloat16}
    assert tiny.model.lm_head.weight is tiny.model.model.embed_tokens.weight
    assert tiny.model.generation_config.eos_token_id == tiny.tokenizer.eos_token_id == 0


def test_tiny_computes_what_transformers_computes(tiny: LoadedModel) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16)
    assert torch.equal(tiny.model(IDS).logits, reference(IDS).logits)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_the_tokenizer_round_trips_any_text(tiny: LoadedModel, text: str) -> None:
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert all(0 <= i < tiny.model.config.vocab_size for i in ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_local_folder_computes_what_it_was_written_from(
    references: dict[str, tuple[Path, Any]], family: str
) -> None:
    folder, reference = references[family]
    loaded = load_model(str(folder), dtype=torch.float32)
    assert (loaded.name, loaded.source) == (folder.name, "folder")
    assert torch.equal(loaded.model(IDS).logits, reference(IDS).logits)


def test_shards_give_the_same_model(references: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, reference = references["qwen2"]
    reference.save_pretrained(tmp_path, max_shard_size="100KB")
    for name in TOKENIZER_FILES:
        shutil.copy(folder / name, tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = load_model(str(tmp_path), dtype=torch.float32)
    assert torch.equal(loaded.model(IDS).logits, reference(IDS).logits)


def test_a_tied_output_layer_may_be_stored_too(
    references: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, reference = references["llama"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = load_model(str(tmp_path), dtype=torch.float32)
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert torch.equal(loaded.model(IDS).logits, reference(IDS).logits)


def test_the_weights_do_not_hang_on_the_file(references: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, reference = references["qwen3"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    loaded = load_model(str(tmp_path), dtype=torch.float32)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 65536)
    assert torch.equal(loaded.model(IDS).logits, reference(IDS).logits)


def test_a_snapshot_in_the_hub_cache_needs_no_network(
    references: dict[str, tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    folder, reference = references["mistral"]
    repository = tmp_path / "models--someone--small"
    shutil.copytree(folder, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    loaded = load_model("someone/small", dtype=torch.float32)
    assert (loaded.name, loaded.source) == ("someone/small", "hub someone/small@0123abcd")
    assert torch.equal(loaded.model(IDS).logits, reference(IDS).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_need_a_config_only(tmp_path: Path, family: str) -> None:
    small_config(family).save_pretrained(tmp_path)
    first, again, other = (
        load_model(str(tmp_path), weights="random", seed=seed, dtype=torch.bfloat16) for seed in (3, 3, 4)
    )
    logits = first.model(IDS).logits
    assert bool(logits.isfinite().all()) and float(logits.float().std()) > 0
    assert torch.equal(logits, again.model(IDS).logits)
    assert not torch.equal(logits, other.model(IDS).logits)
    assert (first.random_weights, first.source) == (True, "random weights")
    assert {p.dtype for p in first.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in first.model.parameters())
    weight = first.model.model.layers[1].mlp.up_proj.weight.float()
    assert abs(float(weight.std()) - 0.02) < 0.002 and abs(float(weight.mean())) < 0.002
    assert bool((first.model.model.norm.weight == 1).all())
    assert first.tokenizer.decode(first.tokenizer("7 apples")["input_ids"]) == "7 apples"


def test_random_weights_leave_the_global_generator_alone(tmp_path: Path) -> None:
    small_config("qwen3").save_pretrained(tmp_path)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    load_model(str(tmp_path), weights="random")
    assert torch.equal(torch.rand(3), expected)


def test_random_weights_of_tiny_are_not_the_trained_ones(tiny: LoadedModel) -> None:
    loaded = load_model("tiny", weights="random")
    assert loaded.random_weights
    assert loaded.model.config.to_dict() == tiny.model.config.to_dict()
    assert not torch.equal(loaded.model.model.embed_tokens.weight, tiny.model.model.embed_tokens.weight)


def test_loading_is_silent(
    references: dict[str, tuple[Path, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_model(str(references["llama"][0]))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_a_row_of_the_table_with_random_weights_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table row shrunk to one layer: the path is the row's, the size is a test's."""
    from dataclasses import replace

    from reasoning import model_source
    from reasoning.model_table import MODELS

    small = replace(MODELS["llama-3.2-1b"], num_hidden_layers=1, hidden_size=128, intermediate_size=256)
    monkeypatch.setattr(model_source, "MODELS", {"llama-3.2-1b": small})
    by_key = load_model("llama-3.2-1b", weights="random")
    by_hub_id = load_model("meta-llama/Llama-3.2-1B", weights="random")
    assert by_key.name == by_hub_id.name == "llama-3.2-1b"
    assert by_key.model.config.vocab_size == 128256
    assert torch.equal(by_key.model(IDS).logits, by_hub_id.model(IDS).logits)


def test_config_is_read_as_written(references: dict[str, tuple[Path, Any]]) -> None:
    folder, _ = references["llama"]
    raw = json.loads((folder / "config.json").read_text())
    loaded = load_model(str(folder))
    assert loaded.model.config.rope_parameters["factor"] == raw["rope_parameters"]["factor"] == 32.0


@pytest.mark.gpu
def test_everything_goes_to_the_gpu(references: dict[str, tuple[Path, Any]]) -> None:
    folder, reference = references["llama"]
    loaded = load_model(str(folder), device="cuda", dtype=torch.float32)
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}
    # fp32 sums in another order over at most 96 terms, through 2 layers.
    torch.testing.assert_close(
        loaded.model(IDS.cuda()).logits.cpu(), reference(IDS).logits, rtol=1e-3, atol=1e-3
    )
    first, again = (load_model(str(folder), device="cuda", weights="random", seed=1) for _ in range(2))
    assert torch.equal(first.model(IDS.cuda()).logits, again.model(IDS.cuda()).logits)
