"""Train the bundled model ``tiny`` from scratch: ``python -m reasoning.training.train_tiny --out DIR --minutes 3.9``.

Needs a GPU. ``--out`` receives a model folder in Hugging Face layout, ``training.json`` with what was done, and
``state.pt``, from which the same command continues after an interruption.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from reasoning.prompts import format_prompt
from reasoning.synthetic.generator import GENERATOR_VERSION, Split, generate
from reasoning.training.batches import PackedRows
from reasoning.training.tokenizer import train_tokenizer

ROW_TOKENS = 768
EVAL_SEED = 1
CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides the result: schedule, batch, optimizer, seed."""

    steps: int
    rows: int = 176
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    seed: int = 0


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """The architecture of ``tiny``: Qwen3, 8 layers, hidden size 256, every linear a multiple of 128."""
    vocab = math.ceil(len(tokenizer) / 128) * 128
    return Qwen3Config(
        vocab_size=vocab,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def learning_rate_at(step: int, plan: TrainingPlan) -> float:
    """Linear warm-up, then constant, then linear decay to zero over the last 40 % of the steps."""
    if step < plan.warmup_steps:
        return plan.learning_rate * (step + 1) / plan.warmup_steps
    decay_from = 0.6 * plan.steps
    if step < decay_from:
        return plan.learning_rate
    return plan.learning_rate * max(0.0, (plan.steps - step) / (plan.steps - decay_from))


def build_optimizers(model: Qwen3ForCausalLM, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices,
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def batch_loss(model: Qwen3ForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over solution tokens of one packed batch; documents do not see each other."""
    document = batch["document"]
    same = document[:, :, None] == document[:, None, :]
    causal = torch.ones(document.shape[1], document.shape[1], dtype=torch.bool, device=document.device).tril()
    out = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=(same & causal)[:, None],
        use_cache=False,
    )
    logits = out.logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


@torch.no_grad()
def quick_accuracy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: int, seed: int = EVAL_SEED
) -> dict[int, tuple[int, int]]:
    """Greedy accuracy on held-out structures while training; the model card's figures come from ``qt-profile chain``.

    Returns:
        operations -> (correct, problems).
    """
    held_out = list(islice(generate(Split.TEST, seed), problems))
    tokenizer.padding_side = "left"
    prompts = tokenizer(
        [format_prompt(p.story.question) for p in held_out], return_tensors="pt", padding=True
    )
    prompts = prompts.to(model.device)
    out = model.generate(
        input_ids=prompts["input_ids"],
        attention_mask=prompts["attention_mask"],
        max_new_tokens=420,
        do_sample=False,
    )
    texts = tokenizer.batch_decode(out[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    tally: dict[int, tuple[int, int]] = {}
    for problem, text in zip(held_out, texts, strict=True):
        correct, total = tally.get(problem.operations, (0, 0))
        right = text.rstrip().endswith(f"#### {problem.story.answer}")
        tally[problem.operations] = (correct + right, total + 1)
    return dict(sorted(tally.items()))


def _batches(
    tokenizer: PreTrainedTokenizerFast, plan: TrainingPlan, stream: int
) -> Iterator[dict[str, Tensor]]:
    workers = max(1, (os.cpu_count() or 2) - 2)
    rows = PackedRows(tokenizer, ROW_TOKENS, seed=plan.seed * 100 + stream + 1)
    loader = DataLoader(rows, batch_size=plan.rows, num_workers=workers, pin_memory=True, prefetch_factor=4)
    for batch in loader:
        yield {name: value.to("cuda", non_blocking=True) for name, value in batch.items()}


def _atomic_save(state: dict[str, object], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train(out: Path, plan: TrainingPlan, minutes: float | None, init: Path | None) -> None:
    """Run (or continue) a training; see the module docstring.

    Args:
        out: folder for the model, the log and the resumable state.
        plan: the schedule; ``steps`` is replaced when ``minutes`` is given.
        minutes: choose the number of steps from the speed of the first 40, so that the run takes about this long.
        init: start from this model folder instead of random weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    torch.set_float32_matmul_precision("high")
    state_path = out / "state.pt"
    state = torch.load(state_path, map_location="cuda", weights_only=True) if state_path.exists() else None
    tokenizer = train_tokenizer()
    if init is not None and state is None:
        model = Qwen3ForCausalLM.from_pretrained(init, dtype=torch.float32)
    else:
        model = Qwen3ForCausalLM(tiny_config(tokenizer))
    model = model.cuda().train()
    optimizers = build_optimizers(model, plan)
    step, elapsed_before, calls, log = 0, 0.0, 0, []
    if state is not None:
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        plan = TrainingPlan(**state["plan"])
        step, elapsed_before, calls, log = state["step"], state["elapsed_s"], state["calls"] + 1, state["log"]
        minutes = None
    compiled = torch.compile(batch_loss)
    started = saved_at = time.perf_counter()
    tokens = 0
    timed_from: tuple[int, float] | None = None
    for batch in _batches(tokenizer, plan, stream=calls):
        if step >= plan.steps:
            break
        rate = learning_rate_at(step, plan)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = compiled(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += batch["input_ids"].numel()
        if step == 10 and minutes is not None:
            torch.cuda.synchronize()
            timed_from = (step, time.perf_counter())
        if step == 50 and timed_from is not None and minutes is not None:
            torch.cuda.synchronize()
            now = time.perf_counter()
            step_s = (now - timed_from[1]) / (step - timed_from[0])
            plan = replace(plan, steps=step + int((minutes * 60 - (now - started)) / step_s))
            print(
                f"{step_s * 1e3:.1f} ms per step, {plan.steps} steps, "
                f"{plan.rows * ROW_TOKENS / step_s / 1e6:.2f} M tokens/s"
            )
        if step % 200 == 0 or step == plan.steps:
            elapsed = elapsed_before + time.perf_counter() - started
            log.append({"step": step, "loss": round(loss.item(), 5), "elapsed_s": round(elapsed, 1)})
            if step % 1000 == 0 or step == plan.steps:
                print(log[-1], flush=True)
        if time.perf_counter() - saved_at > CHECKPOINT_S:
            saved_at = time.perf_counter()
            _atomic_save(
                _state(model, optimizers, plan, step, elapsed_before + saved_at - started, calls, log),
                state_path,
            )
    elapsed = elapsed_before + time.perf_counter() - started
    _atomic_save(_state(model, optimizers, plan, step, elapsed, calls, log), state_path)
    model = model.to(torch.bfloat16).eval()
    model.save_pretrained(out / "model", safe_serialization=True)
    tokenizer.save_pretrained(out / "model")
    accuracy = quick_accuracy(model, tokenizer, 1000)
    right, total = (sum(pair[i] for pair in accuracy.values()) for i in (0, 1))
    summary = {
        "plan": asdict(plan),
        "generator_version": GENERATOR_VERSION,
        "parameters": sum(p.numel() for p in model.parameters()),
        "row_tokens": ROW_TOKENS,
        "tokens_seen": step * plan.rows * ROW_TOKENS,
        "elapsed_s": round(elapsed, 1),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "initialised_from": None if init is None else init.name,
        "loss_log": log,
        "quick_accuracy": {k: list(v) for k, v in accuracy.items()},
    }
    (out / "training.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"accuracy {right / total:.4f} on {total}; by operations {accuracy}")


def _state(
    model: Qwen3ForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    plan: TrainingPlan,
    step: int,
    elapsed_s: float,
    calls: int,
    log: list[dict[str, float]],
) -> dict[str, object]:
    return {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "plan": asdict(plan),
        "step": step,
        "elapsed_s": elapsed_s,
        "calls": calls,
        "log": log,
    }


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model, the log and the resumable state.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 6000,
    minutes: Annotated[
        float | None, typer.Option(min=0.5, help="Choose the steps so that it takes this long.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help=f"Rows of {ROW_TOKENS} tokens per step.")] = 176,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    init: Annotated[Path | None, typer.Option(help="Start from this model folder.")] = None,
) -> None:
    """Train the bundled model; continue where ``state.pt`` in the output folder stops."""
    if not torch.cuda.is_available():
        typer.echo("training needs a CUDA GPU and none is visible here", err=True)
        raise typer.Exit(3)
    train(out, TrainingPlan(steps=steps, rows=rows, learning_rate=learning_rate, seed=seed), minutes, init)


if __name__ == "__main__":
    typer.run(main)
