"""GPTQ folders: packed by ``kernels.gptq``, read back by ``load_model``."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kernels.dequantize import dequantize
from kernels.gptq import to_gptq
from kernels.quant_weight import QuantWeight
from kernels.quantize import quantize
from reasoning.model import ModelError, load_model

TINY = Path(str(resources.files("reasoning").joinpath("tiny")))
IDS = torch.tensor([[5, 17, 300, 41, 880, 2, 96]])
GROUP = 32
DOWN = "model.layers.1.mlp.down_proj"
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 896,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def random_model(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **SIZES), dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.1)
    return model


def linears(model: Any) -> dict[str, torch.nn.Linear]:
    found = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {name: module for name, module in found.items() if name != "lm_head"}


def write_gptq(
    folder: Path, model: Any, *, act_order: bool, layout: str | None, old_settings: bool = False
) -> dict[str, QuantWeight]:
    """Write a model in GPTQ layout and give it the weights that the layout stands for."""
    tensors = {
        name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"
    }
    weights = {}
    for name, linear in linears(model).items():
        k = linear.in_features
        permutation = torch.randperm(k, generator=torch.Generator().manual_seed(k)) if act_order else None
        columns = linear.weight if permutation is None else linear.weight[:, permutation]
        weight = quantize(columns.detach(), "int4", group_size=GROUP)
        # A file holds fp16 scales.
        scales = weight.group_scales().half().float()
        weight = replace(weight, scales=scales, input_permutation=permutation, repacked={})
        weights[name] = weight
        packed = to_gptq(weight, zero_offset=0 if layout == "gptq_v2" else 1)
        del tensors[f"{name}.weight"]
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"{name}.{part}"] = getattr(packed, part)
        with torch.no_grad():
            linear.weight.copy_(dequantize(weight))
    settings: dict[str, object] = {"bits": 4, "group_size": GROUP, "desc_act": act_order, "sym": False}
    if layout is not None:
        settings["checkpoint_format"] = layout
    config = model.config.to_dict()
    if old_settings:
        (folder / "quantize_config.json").write_text(json.dumps(settings))
    else:
        config["quantization_config"] = {"quant_method": "gptq", **settings}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    save_file(tensors, folder / "model.safetensors")
    return weights


@pytest.mark.parametrize(
    ("family", "act_order", "layout", "old_settings"),
    [
        ("qwen3", False, None, False),
        ("qwen3", True, "gptq", False),
        ("qwen3", True, "gptq_v2", False),
        ("qwen2", False, "gptq_v2", False),
        ("llama", True, None, True),
    ],
)
def test_a_gptq_folder_computes_what_its_decoded_weights_compute(
    tmp_path: Path, family: str, act_order: bool, layout: str | None, old_settings: bool
) -> None:
    model = random_model(family)
    written = write_gptq(tmp_path, model, act_order=act_order, layout=layout, old_settings=old_settings)
    loaded = load_model(str(tmp_path), dtype=torch.float32)
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    assert loaded.quantized.keys() == written.keys()
    for name, weight in loaded.quantized.items():
        assert torch.equal(dequantize(weight), dequantize(written[name]))
        assert (weight.input_permutation is not None) == act_order
    assert not any(p.requires_grad for p in loaded.model.parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gptq")
    write_gptq(made, random_model("qwen3"), act_order=True, layout="gptq")
    return made


def edited(folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    return str(tmp_path)


def test_random_weights_of_a_gptq_folder_are_dense(folder: Path) -> None:
    loaded = load_model(str(folder), weights="random")
    assert loaded.random_weights and not loaded.quantized


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 8}, "quantized with bits=8, GPTQ weights are read with bits=4"),
        ({"group_size": -1}, "group_size=-1, expected a positive number"),
        ({"group_size": 64}, r"_proj: k=96 is not divisible by group_size=64"),
        (
            {"group_size": 16},
            r"_proj.qzeros has shape \[\d, \d+\].*asks for \[\d, \d+\] \(4 bits, group_size=16\)",
        ),
        ({"checkpoint_format": "marlin"}, "checkpoint_format='marlin', expected one of gptq, gptq_v2"),
        ({"quant_method": "awq"}, "quant_method='awq', only 'gptq'"),
    ],
)
def test_settings_that_cannot_be_read(
    folder: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] |= settings
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path))


def test_qweight_without_settings(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="hold qweight tensors, but no quantization_config"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{DOWN}.scales"), f"{DOWN} has a qweight but no scales"),
        (lambda t: t.pop(f"{DOWN}.g_idx"), f"{DOWN} has a qweight but no g_idx"),
        (
            lambda t: t.update({f"{DOWN}.qweight": t[f"{DOWN}.qweight"][:8]}),
            rf"{DOWN}.qweight has shape \[8, 64\] in .*asks for \[12, 64\] \(4 bits, group_size=32\)",
        ),
        (
            lambda t: t.update({f"{DOWN}.qzeros": t[f"{DOWN}.qzeros"][:, :4]}),
            rf"{DOWN}.qzeros has shape \[3, 4\] in .*asks for \[3, 8\]",
        ),
        (
            lambda t: t.update({f"{DOWN}.qweight": t[f"{DOWN}.qweight"].long()}),
            f"{DOWN}: qweight has 2 dimensions of torch.int64",
        ),
        (
            lambda t: t[f"{DOWN}.scales"][0].fill_(float("nan")),
            f"{DOWN}.scales holds 64 values that are NaN or infinite",
        ),
        (
            lambda t: t[f"{DOWN}.g_idx"].fill_(0),
            f"{DOWN}: group 0 has 96 input features, not group_size=32",
        ),
        (
            lambda t: t.update({f"{DOWN}.weight": torch.zeros(64, 96)}),
            f"{DOWN} is stored both quantized and as a dense weight",
        ),
        (
            lambda t: t.update({f"{DOWN}.bias": torch.ones(64)}),
            f"{DOWN}.bias is not zero, but the model of config.json has no bias there",
        ),
        (lambda t: t.update({"model.extra.qweight": torch.zeros(1)}), "has no linear model.extra"),
        (
            lambda t: t.update({"lm_head.qweight": torch.zeros(1)}),
            "config.json ties it to model.embed_tokens",
        ),
        (lambda t: t.pop("model.norm.weight"), "lack 1 tensor: model.norm.weight"),
    ],
)
def test_tensors_that_do_not_fit(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(edited(folder, tmp_path, change))


def test_a_bias_of_zeros_that_old_writers_add_is_passed_over(folder: Path, tmp_path: Path) -> None:
    name = edited(folder, tmp_path, lambda t: t.update({f"{DOWN}.bias": torch.zeros(64)}))
    loaded = load_model(name, dtype=torch.float32)
    assert loaded.model.get_submodule(DOWN).bias is None
    assert torch.equal(
        loaded.model(IDS).logits, load_model(str(folder), dtype=torch.float32).model(IDS).logits
    )
