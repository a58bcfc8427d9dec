"""The eager decode engine: prefill a batch of prompts, then one forward pass per hop with a KV cache.

Prompts are padded on the left, so that all sequences advance in step. A sequence that has ended is fed padding and no
longer counted, and the batch stops when all have ended: a hop always is one forward pass of ``batch_size`` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from profiler.nvtx import open_range
from reasoning.engine.event_timer import HopClock


@dataclass
class BatchTrace:
    """What one batch did.

    Args:
        tokens: per sequence, the tokens after the prompt, the end token included.
        prefill_s: reading the prompts and choosing the first token, s.
        hop_s: wall time of each hop, s.
        active: per hop, the sequences that had not ended before it.
        cache_bytes: size of the KV cache at the end.
    """

    tokens: list[list[int]]
    prefill_s: float = 0.0
    hop_s: list[float] = field(default_factory=list)
    active: list[int] = field(default_factory=list)
    cache_bytes: int = 0


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a solution: the generation config's, and the tokenizer's end-of-text token."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token fed where nothing is to be read; any will do, since it is masked."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


class Chooser(Protocol):
    """Chooses the next token of every sequence."""

    def __call__(self, position: int, logits: Tensor) -> Tensor:
        """Map the logits [batch, vocabulary] after ``position`` tokens to the next tokens, int64 [batch]."""
        ...


def greedy(position: int, logits: Tensor) -> Tensor:
    """The most likely token of each sequence."""
    return logits.argmax(dim=-1)


class Forced:
    """Teacher forcing: the next tokens come from recorded solutions, whatever the logits say.

    Args:
        solutions: token ids per sequence, each with at least one token.
        device: where the model runs.
        on_logits: called with (position, logits [batch, vocabulary]) before each choice.
    """

    def __init__(
        self,
        solutions: Sequence[Sequence[int]],
        device: torch.device,
        on_logits: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        longest = max(len(s) for s in solutions)
        self._table = torch.tensor([[*s, *[s[-1]] * (longest - len(s))] for s in solutions], device=device)
        self._on_logits = on_logits

    def __call__(self, position: int, logits: Tensor) -> Tensor:
        """Return the recorded tokens of this position."""
        if self._on_logits is not None:
            self._on_logits(position, logits)
        return self._table[:, position]


def decode_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    choose: Chooser,
    *,
    lengths: Sequence[int],
    end_tokens: frozenset[int],
    padding: int,
    timer: HopClock,
) -> BatchTrace:
    """Decode one batch.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids per sequence, none empty, of any lengths.
        choose: picks the next tokens.
        lengths: per sequence, the most tokens to add; it ends there or at an end token.
        end_tokens: tokens that end a sequence; empty in replay.
        padding: fed to sequences that have ended, and on the left of shorter prompts.
        timer: times the prefill and each hop.

    Returns:
        The tokens and times; see :class:`BatchTrace`.

    Raises:
        ValueError: no prompt, an empty one, or a length below 1.
    """
    trace = BatchTrace(tokens=[])
    steps = decode_steps(
        model,
        prompts,
        choose,
        lengths=lengths,
        end_tokens=end_tokens,
        padding=padding,
        timer=timer,
        trace=trace,
    )
    for _ in steps:
        pass
    return trace


@torch.no_grad()
def decode_steps(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    choose: Chooser,
    *,
    lengths: Sequence[int],
    end_tokens: frozenset[int],
    padding: int,
    timer: HopClock,
    trace: BatchTrace,
    on_logits: Callable[[int, Tensor], None] | None = None,
) -> Iterator[None]:
    """:func:`decode_batch` one step at a time, so that several kernels can take turns at every hop.

    Arguments and errors are those of :func:`decode_batch`; ``trace`` is filled in as the decoding goes on.
    ``on_logits`` is called with (position, logits [batch, vocabulary]) after each step, outside its time.

    Yields:
        Nothing, once after the prefill and once after each hop.
    """
    if not prompts or not all(prompts):
        empty = sum(not p for p in prompts)
        raise ValueError(f"every prompt needs a token, but of {len(prompts)} prompts {empty} are empty")
    if len(lengths) != len(prompts) or min(lengths) < 1:
        raise ValueError(f"{len(prompts)} prompts need as many lengths of at least 1, got {list(lengths)}")
    state = _Sequences(prompts, lengths, end_tokens, padding, model.device)
    cache = DynamicCache(config=model.config)
    trace.tokens = state.tokens
    timer.take()
    with timer.hop(), open_range("prefill"):
        logits = _forward(model, state, cache, state.first_input())
        state.accept(choose(0, logits))
    trace.prefill_s = timer.take()[0]
    if on_logits is not None:
        on_logits(0, logits)
    yield
    position = 1
    while state.active:
        trace.active.append(state.active)
        with timer.hop(), open_range("hop", position - 1):
            logits = _forward(model, state, cache, state.next_input())
            state.accept(choose(position, logits))
        trace.hop_s.append(timer.take()[0])
        trace.cache_bytes = sum(
            t.nbytes for layer in cache.layers for t in (layer.keys, layer.values) if t is not None
        )
        if on_logits is not None:
            on_logits(position, logits)
        position += 1
        yield


def _forward(model: PreTrainedModel, state: _Sequences, cache: DynamicCache, ids: Tensor) -> Tensor:
    out = model(
        input_ids=ids,
        attention_mask=state.mask(ids.shape[1]),
        position_ids=state.positions(ids.shape[1]),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = out.logits[:, -1]
    return logits


class _Sequences:
    """The ragged state of a batch: tokens so far, who has ended, and the padding on the left."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        lengths: Sequence[int],
        end_tokens: frozenset[int],
        pad_token: int,
        device: torch.device,
    ) -> None:
        self._width = max(len(p) for p in prompts)
        padding = [self._width - len(p) for p in prompts]
        rows = [[pad_token] * gap + list(p) for gap, p in zip(padding, prompts, strict=True)]
        self._ids = torch.tensor(rows, device=device)
        self._padding = torch.tensor(padding, device=device)
        self._ragged = any(padding)
        self._lengths = lengths
        self._end_tokens = end_tokens
        self._pad_token = pad_token
        self._ended = [False] * len(prompts)
        self._seen = 0
        self.tokens: list[list[int]] = [[] for _ in prompts]

    @property
    def active(self) -> int:
        """Sequences that have not ended."""
        return self._ended.count(False)

    def first_input(self) -> Tensor:
        """The padded prompts, int64 [batch, width]."""
        return self._ids

    def next_input(self) -> Tensor:
        """The tokens chosen last, int64 [batch, 1]; padding for sequences that have ended."""
        return self._ids

    def accept(self, following: Tensor) -> None:
        """Append the chosen tokens, and note which sequences end with them."""
        chosen = following.tolist()
        for i, token in enumerate(chosen):
            if self._ended[i]:
                chosen[i] = self._pad_token
                continue
            self.tokens[i].append(token)
            self._ended[i] = token in self._end_tokens or len(self.tokens[i]) >= self._lengths[i]
        self._ids = torch.tensor(chosen, device=following.device)[:, None]

    def positions(self, new: int) -> Tensor:
        """Rotary positions of the ``new`` tokens, int64 [batch, new]; padding counts as position 0."""
        columns = torch.arange(self._seen, self._seen + new, device=self._padding.device)
        self._seen += new
        return (columns[None, :] - self._padding[:, None]).clamp(min=0)

    def mask(self, new: int) -> Tensor | None:
        """Which cached and new columns are no padding, int64 [batch, seen + new]; None where no prompt is padded."""
        if not self._ragged:
            return None
        columns = torch.arange(self._seen + new, device=self._padding.device)
        return (columns[None, :] >= self._padding[:, None]).long()
