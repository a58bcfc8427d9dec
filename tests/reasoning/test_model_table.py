"""The model table: its rows, their shapes and their transformers configs."""

import csv
from importlib import resources

import pytest
import torch

from reasoning.model_table import LINEARS, MODELS, get_model_spec, parse_models

HEADER = (
    "key,hf_id,hidden_size,num_hidden_layers,num_attention_heads,num_key_value_heads,head_dim,"
    "intermediate_size,vocab_size,tie_word_embeddings,rope_theta,rms_norm_eps,notes"
)
ROW = "qwen3-x,Org/X,1024,28,16,8,128,3072,151936,true,1000000,1e-6,QK norm"
NAMES = ["tiny", *MODELS]


def meta_model(key: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForCausalLM.from_config(get_model_spec(key).to_config())
    return model


def test_the_table_holds_every_row_of_its_file() -> None:
    lines = resources.files("reasoning").joinpath("data", "models.csv").read_text("utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    assert [row["key"] for row in rows] == list(MODELS)
    for row in rows:
        spec = MODELS[row["key"]]
        assert (spec.hf_id, spec.hidden_size, spec.vocab_size) == (
            row["hf_id"],
            int(row["hidden_size"]),
            int(row["vocab_size"]),
        )
        assert spec.tie_word_embeddings is (row["tie_word_embeddings"] == "true")


@pytest.mark.parametrize("key", NAMES)
def test_shapes_and_parameters_are_those_of_the_model_that_the_config_builds(key: str) -> None:
    spec = get_model_spec(key)
    model = meta_model(key)
    layers = model.get_submodule("model.layers")
    assert len(layers) == spec.num_hidden_layers  # type: ignore[arg-type]
    linears = {
        name.rpartition(".")[2]: module
        for name, module in layers[0].named_modules()  # type: ignore[index]
        if isinstance(module, torch.nn.Linear)
    }
    shapes = spec.linear_shapes()
    assert {name: tuple(module.weight.shape) for name, module in linears.items()} == {
        name: shapes[name] for name in LINEARS
    }
    counted = sum(m.weight.numel() for m in layers.modules() if isinstance(m, torch.nn.Linear))
    assert spec.linear_parameters == counted
    assert (linears["q_proj"].bias is not None) is spec.qkv_bias
    head = model.get_submodule("lm_head").weight
    embedding = model.get_submodule("model.embed_tokens").weight
    assert (head is embedding) is spec.tie_word_embeddings
    assert tuple(embedding.shape) == (spec.vocab_size, spec.hidden_size)  # type: ignore[arg-type]


def test_fused_shapes_stack_their_parts() -> None:
    shapes = get_model_spec("qwen3-0.6b").linear_shapes()
    assert shapes["q_proj"] == (2048, 1024)
    assert shapes["o_proj"] == (1024, 2048)
    assert shapes["qkv_proj"] == (2048 + 2 * 1024, 1024)
    assert shapes["gate_up_proj"] == (2 * 3072, 1024)
    assert shapes["down_proj"] == (1024, 3072)


@pytest.mark.parametrize(
    ("key", "model_type"),
    [
        ("tiny", "qwen3"),
        ("qwen3-8b", "qwen3"),
        ("qwen2.5-72b", "qwen2"),
        ("mistral-7b", "mistral"),
        ("falcon3-1b", "llama"),
        ("llama-3.1-8b", "llama"),
    ],
)
def test_configs_are_of_the_right_family(key: str, model_type: str) -> None:
    config = get_model_spec(key).to_config()
    assert config.model_type == model_type
    assert config.rope_parameters["rope_theta"] == get_model_spec(key).rope_theta
    assert getattr(config, "sliding_window", None) is None


@pytest.mark.parametrize(
    ("key", "factor"), [("llama-3.2-1b", 32.0), ("llama-3.1-8b", 8.0), ("qwen3-4b", None)]
)
def test_rope_scaling_comes_from_the_notes(key: str, factor: float | None) -> None:
    rope = get_model_spec(key).to_config().rope_parameters
    assert rope["rope_type"] == ("default" if factor is None else "llama3")
    assert rope.get("factor") == factor


def test_known_totals() -> None:
    """Published sizes without embeddings: 0.44 B for Qwen3-0.6B, 6.95 B for Qwen3-8B."""
    assert get_model_spec("qwen3-0.6b").linear_parameters == 440_401_920
    assert round(get_model_spec("Qwen3-8B").linear_parameters / 1e9, 2) == 6.95


def test_an_unknown_key_lists_the_known_ones_with_the_nearest_first() -> None:
    with pytest.raises(
        ValueError, match=r"unknown model 'qwen3-06b': did you mean 'qwen3-0\.6b'\? known"
    ) as caught:
        get_model_spec("qwen3-06b")
    assert all(name in str(caught.value) for name in NAMES)
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        get_model_spec("tinny")
    with pytest.raises(ValueError, match="unknown model 'zzzzzzzz': known are tiny"):
        get_model_spec("zzzzzzzz")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], "key 'qwen3-x' appears twice"),
        ([ROW.replace("qwen3-x", "tiny")], "key 'tiny' appears twice"),
        ([ROW.replace("1024", "-1024")], "row 'qwen3-x': '-1024' is not a positive number"),
        ([ROW.replace("1024", "")], "row 'qwen3-x': invalid literal"),
        ([ROW.replace("1e-6", "inf")], "'inf' is not a positive number"),
        ([ROW.replace("true", "yes")], "'yes' is neither true nor false"),
        ([ROW.replace("qwen3-x", "bert-x")], "no architecture is known for the key 'bert-x'"),
        (["qwen3-x,Org/X,1024"], "row 'qwen3-x': invalid literal"),
    ],
)
def test_a_wrong_row_is_refused(rows: list[str], message: str) -> None:
    assert parse_models([HEADER, ROW])["qwen3-x"].head_dim == 128
    with pytest.raises(ValueError, match=message):
        parse_models([HEADER, *rows])
