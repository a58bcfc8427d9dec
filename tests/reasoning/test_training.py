"""The parts of the training script: packing, masking, schedule, tokenizer."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from reasoning.model import load_model
from reasoning.training import train_tiny
from reasoning.training.batches import IGNORED, PackedRows, collate, pack
from reasoning.training.tokenizer import train_tokenizer
from reasoning.training.train_tiny import TrainingPlan, batch_loss, build_optimizers, learning_rate_at

DOCUMENTS = st.lists(
    st.tuples(
        st.lists(st.integers(2, 9), min_size=1, max_size=8),
        st.lists(st.integers(2, 9), min_size=1, max_size=8),
    ),
    max_size=30,
)


def small_model() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
    )


@given(DOCUMENTS)
@settings(max_examples=100, deadline=None)
def test_packing_loses_and_splits_nothing(documents: list[tuple[list[int], list[int]]]) -> None:
    rows = pack(documents, 20)
    assert sorted(d for row in rows for d in row) == sorted(documents)
    assert all(sum(len(p) + len(s) for p, s in row) <= 20 for row in rows)


def test_collate_labels_solutions_only() -> None:
    row = collate([([2, 3], [4]), ([5], [6, 7])], 8)
    assert row["input_ids"].tolist() == [2, 3, 4, 5, 6, 7, 0, 0]
    assert row["labels"].tolist() == [IGNORED, IGNORED, 4, IGNORED, 6, 7, IGNORED, IGNORED]
    assert row["document"].tolist() == [1, 1, 1, 2, 2, 2, 0, 0]
    assert row["position_ids"].tolist() == [0, 1, 2, 0, 1, 2, 0, 0]


def test_packed_documents_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    model = small_model().eval()
    first, second = ([2, 3, 4], [5, 6]), ([7, 8], [9, 10, 11])
    losses = []
    for row in ([first, second], [first], [second]):
        batch = {name: value[None] for name, value in collate(row, 12).items()}
        with torch.no_grad():
            losses.append(batch_loss(model, batch).item())
    assert losses[0] == pytest.approx((2 * losses[1] + 3 * losses[2]) / 5, rel=1e-4)


def test_schedule_warms_up_holds_and_decays() -> None:
    plan = TrainingPlan(steps=1000, warmup_steps=100, learning_rate=1.0)
    rates = [learning_rate_at(step, plan) for step in (0, 99, 500, 599, 800, 999)]
    assert rates == pytest.approx([0.01, 1.0, 1.0, 1.0, 0.5, 0.0025])


def test_the_bundled_tokenizer_is_the_one_the_script_trains() -> None:
    trained, bundled = train_tokenizer(), load_model("tiny").tokenizer
    assert trained.get_vocab() == bundled.get_vocab()
    text = "Kim baked 3017 rolls, Zoë «none»."
    assert trained(text).input_ids == bundled(text).input_ids
    assert bundled.decode(bundled(text).input_ids) == text


def test_rows_stream_whole_training_problems() -> None:
    tokenizer = train_tokenizer(problems=200)
    rows = list(islice(PackedRows(tokenizer, 768, seed=3), 3))
    for row in rows:
        text = tokenizer.decode(row["input_ids"][row["document"] == 1])
        assert text.startswith("Question: ") and text.endswith("<|endoftext|>")
        labelled = row["labels"][row["labels"] != IGNORED]
        assert tokenizer.decode(labelled).startswith("Plan: ")


def test_a_training_goes_on_from_its_saved_state_as_if_never_stopped(tmp_path) -> None:
    torch.manual_seed(0)
    plan = TrainingPlan(steps=4)
    batch = {name: value[None] for name, value in collate([([2, 3, 4], [5, 6]), ([7], [8, 9])], 12).items()}

    def train(model, optimizers, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            loss = batch_loss(model, batch)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    model = small_model()
    optimizers = build_optimizers(model, plan)
    train(model, optimizers, 2)
    path = tmp_path / "state.pt"
    train_tiny._atomic_save(
        train_tiny._state(model, optimizers, plan, 2, 1.5, 0, [{"step": 2, "loss": 1.0}]), path
    )
    uninterrupted = train(model, optimizers, 2)

    state = torch.load(path, weights_only=True)
    resumed = small_model()
    resumed_optimizers = build_optimizers(resumed, plan)
    resumed.load_state_dict(state["model"])
    for optimizer, saved in zip(resumed_optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    assert TrainingPlan(**state["plan"]) == plan
    assert (state["step"], state["calls"]) == (2, 0)
    assert train(resumed, resumed_optimizers, 2) == pytest.approx(uninterrupted, rel=1e-6)
