"""Every way in which a model cannot be loaded, in one sentence with the file, the tensor, the way out."""

import json
import os
import re
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reasoning import meta_model
from reasoning.model import ModelError, load_model
from reasoning.model_table import MODELS

TINY = Path(str(resources.files("reasoning").joinpath("tiny")))
EMBEDDING = "model.embed_tokens.weight"
UP_PROJ = "model.layers.3.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled model by links, so that a test may replace a file."""
    made = tmp_path / "model"
    made.mkdir()
    for file in TINY.iterdir():
        os.symlink(file, made / file.name)
    return made


def replace_file(file: Path, content: str | bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    replace_file(folder / "config.json", json.dumps({**config, **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")


def message_of(name: str | Path, **arguments: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(name), **arguments)
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".")
    return message


def test_an_unknown_name_lists_the_known_ones() -> None:
    message = message_of("qwen3-0.6")
    assert message.startswith("unknown model 'qwen3-0.6': did you mean 'qwen3-0.6b'? known are tiny, ")
    assert all(key in message for key in MODELS)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "neither a folder that exists nor a hub id" in message_of(tmp_path / "none")
    (tmp_path / "file.bin").write_bytes(b"1")
    assert "is a file, expected the folder" in message_of(tmp_path / "file.bin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "zero"}, "weights='zero' is neither 'real' nor 'random'"),
        ({"dtype": torch.int8}, "dtype=torch.int8 is none of"),
        ({"device": "gpu"}, "device 'gpu' is unknown to torch"),
        ({"device": "meta"}, "device 'meta' is neither 'cpu' nor 'cuda'"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not here: torch sees"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    assert message in message_of("tiny", **arguments)


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert f"{folder} has no config.json" in message_of(folder)
    assert f"{folder} has no config.json" in message_of(folder, weights="random")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "config.json is not JSON: Expecting property name"),
        (b"\xff\xfe", "config.json is not JSON"),
        ("[1, 2]", "config.json holds a JSON list, expected an object"),
        ("{}", "model_type=None, an architecture that transformers does not know"),
        ('{"model_type": "warpdrive"}', "model_type='warpdrive', an architecture that transformers"),
        ('{"model_type": "t5"}', "model_type='t5', which is not a causal language model"),
        ('{"model_type": "qwen3", "hidden_size": "wide"}', "config.json is not a valid qwen3 config"),
    ],
)
def test_a_wrong_config(folder: Path, content: str | bytes, message: str) -> None:
    replace_file(folder / "config.json", content)
    found = message_of(folder)
    assert message in found and str(folder) in found


def test_a_config_that_no_model_can_be_built_from(folder: Path) -> None:
    edit_config(folder, hidden_act="no_such_function")
    assert "transformers cannot build this qwen3 model" in message_of(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    message = message_of(folder)
    assert f"{folder} has no weights" in message and "model.safetensors.index.json" in message
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert f"{folder} has no weights" in message_of(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "only .bin files: convert them to safetensors" in message_of(folder)
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(b"")
    assert "has 2 safetensors files but no model.safetensors.index.json" in message_of(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1000], "damaged or truncated"),
        (lambda data: data[:100], "damaged or truncated"),
        (lambda data: b"", "damaged or truncated"),
        (lambda data: b"\x07" * 5000, "damaged or truncated"),
        (
            lambda data: b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer, not the weights",
        ),
    ],
)
def test_damaged_weights(folder: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    file = folder / "model.safetensors"
    replace_file(file, damage(file.read_bytes()))
    found = message_of(folder)
    assert str(file) in found and message in found


def test_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}))
    assert f"{index} names part-2.safetensors, missing from the folder" in message_of(folder)
    shutil.copy(folder / "part-1.safetensors", folder / "part-2.safetensors")
    assert "lies in both" in message_of(folder)
    index.write_text("{}")
    assert f"{index} has no weight_map" in message_of(folder)
    index.write_text("{")
    assert f"{index} is not JSON" in message_of(folder)


def test_shapes_that_do_not_fit_the_config(folder: Path) -> None:
    edit_config(folder, intermediate_size=1024)
    message = message_of(folder)
    assert re.search(
        r"model\.layers\.\d\.mlp\.\w+_proj\.weight has shape \[(768, 256|256, 768)\] in", message
    )
    assert re.search(r"config\.json asks for \[(1024, 256|256, 1024)\]", message)


def test_missing_tensors(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=9, layer_types=None)
    message = message_of(folder)
    assert f"the weights in {folder} lack 11 tensors: model.layers.8." in message and "and 8 more" in message
    edit_config(folder, num_hidden_layers=8, tie_word_embeddings=False)
    assert "lack 1 tensor: lm_head.weight" in message_of(folder)


def test_tensors_without_a_place(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=7, layer_types=None)
    assert "hold 11 tensors that the model of config.json has no place for: model.layers.7." in message_of(
        folder
    )


def test_a_tensor_that_is_no_plain_float(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({UP_PROJ: t[UP_PROJ].to(torch.float8_e4m3fn)}))
    assert f"{UP_PROJ} has type F8_E4M3 in" in message_of(folder)


def test_a_tied_tensor_that_is_stored_twice_with_other_values(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t[EMBEDDING] + 1}))
    assert f"stores lm_head.weight with other values than {EMBEDDING}" in message_of(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert f"{folder} has no tokenizer: none of tokenizer.json" in message_of(folder)


def test_a_damaged_tokenizer(folder: Path) -> None:
    replace_file(folder / "tokenizer.json", '{"version": "1.0"')
    assert f"the tokenizer in {folder} cannot be loaded" in message_of(folder)


def test_a_tokenizer_whose_ids_do_not_fit(folder: Path) -> None:
    edit_config(folder, vocab_size=128)
    assert re.search(
        r"makes ids up to \d+, but the model has vocab_size=128", message_of(folder, weights="random")
    )


def test_a_damaged_generation_config(folder: Path) -> None:
    replace_file(folder / "generation_config.json", "{")
    assert "generation_config.json cannot be used" in message_of(folder)


def test_other_quantization_methods(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "awq", "bits": 4})
    assert "quantized with quant_method='awq', only 'gptq'" in message_of(folder)
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert "said to be quantized with gptq, but its weights hold no qweight" in message_of(folder)


def test_an_architecture_with_buffers_that_this_loader_cannot_compute(tmp_path: Path) -> None:
    config = {"model_type": "ctrl", "n_layer": 1, "n_head": 2, "n_embd": 32, "dff": 32, "vocab_size": 896}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "this loader cannot fill" in message_of(tmp_path, weights="random")


@pytest.mark.parametrize("weights", ["real", "random"])
def test_a_model_larger_than_the_memory(monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    monkeypatch.setattr(meta_model, "free_bytes", lambda device: 10_000_000)
    assert "the weights need 0.0 GB, but cpu has 0.0 GB free" in message_of("tiny", weights=weights)


@pytest.mark.parametrize("name", ["qwen3-8b", "Qwen/Qwen3-8B", "someone/unknown"])
def test_no_network_names_the_three_ways(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = message_of(name)
    assert "the hub cannot be reached" in message
    for way in ("pass its folder as --model", "set up access to the hub", "--weights random"):
        assert way in message


def test_no_config_of_an_unknown_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = message_of("someone/unknown", weights="random")
    assert "the config.json of someone/unknown" in message and "a key of the model table" in message


@pytest.mark.parametrize(
    ("error_name", "reason"),
    [("GatedRepoError", "is gated"), ("RepositoryNotFoundError", "no such repository, or it is private")],
)
def test_what_the_hub_refuses_is_said(error_name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    class Refused(getattr(errors, error_name)):  # type: ignore[misc]
        def __init__(self) -> None:
            Exception.__init__(self, "Access to the model is restricted.\nAsk.")

    def refuse(*_: object, **__: object) -> str:
        raise Refused

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert reason in message_of("someone/gated")


def test_a_repository_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    shutil.copy(TINY / "config.json", tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert "no complete set of safetensors weights is there" in message_of("someone/bin-only")


def test_model_error_is_a_value_error() -> None:
    assert issubclass(ModelError, ValueError)
