"""Packed training batches: several problems per row, none of which sees another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from reasoning.prompts import format_prompt
from reasoning.synthetic.generator import Split, generate

IGNORED = -100
_POOL = 1024


class PackedRows(IterableDataset[dict[str, Tensor]]):
    """An endless stream of packed rows of training problems; every worker draws its own seeds.

    Args:
        tokenizer: the bundled tokenizer.
        length: tokens per row; a longer problem is left out (and counted in no row).
        seed: base seed; a worker's stream is seeded by ``seed``, its id and the pool number.

    Yields:
        ``input_ids``, ``labels`` (prompt and padding are ``IGNORED``), ``document`` (0 for padding, else 1, 2, …) and
        ``position_ids``, each int64 [length].
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int, seed: int) -> None:
        self.tokenizer = tokenizer
        self.length = length
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Stream rows, pool by pool."""
        info = get_worker_info()
        worker = info.id if info is not None else 0
        stream = generate(Split.TRAIN, self.seed * 1000 + worker)
        while True:
            documents = self._encode(list(islice(stream, _POOL)))
            for row in pack(documents, self.length):
                yield collate(row, self.length)

    def _encode(self, problems: list) -> list[tuple[list[int], list[int]]]:  # type: ignore[type-arg]
        prompts = [format_prompt(p.story.question) for p in problems]
        solutions = [p.story.solution for p in problems]
        encode = self.tokenizer.backend_tokenizer.encode_batch
        end = self.tokenizer.eos_token_id
        return [
            (a.ids, [*b.ids, end])
            for a, b in zip(encode(prompts), encode(solutions), strict=True)
            if len(a.ids) + len(b.ids) + 1 <= self.length
        ]


def pack(
    documents: list[tuple[list[int], list[int]]], length: int
) -> list[list[tuple[list[int], list[int]]]]:
    """Best-fit decreasing bin packing of (prompt, solution) pairs into rows of ``length`` tokens."""
    rows: list[list[tuple[list[int], list[int]]]] = []
    by_room: dict[int, list[int]] = {}
    for document in sorted(documents, key=lambda d: -(len(d[0]) + len(d[1]))):
        size = len(document[0]) + len(document[1])
        room = next((r for r in range(size, length + 1) if by_room.get(r)), None)
        if room is None:
            rows.append([document])
            by_room.setdefault(length - size, []).append(len(rows) - 1)
        else:
            index = by_room[room].pop()
            rows[index].append(document)
            by_room.setdefault(room - size, []).append(index)
    return rows


def collate(row: list[tuple[list[int], list[int]]], length: int) -> dict[str, Tensor]:
    """Lay the documents of one row out as tensors [length]."""
    ids = torch.zeros(length, dtype=torch.int64)
    labels = torch.full((length,), IGNORED, dtype=torch.int64)
    document = torch.zeros(length, dtype=torch.int64)
    position = torch.zeros(length, dtype=torch.int64)
    at = 0
    for number, (prompt, solution) in enumerate(row, start=1):
        size = len(prompt) + len(solution)
        ids[at : at + size] = torch.tensor(prompt + solution)
        labels[at + len(prompt) : at + size] = torch.tensor(solution)
        document[at : at + size] = number
        position[at : at + size] = torch.arange(size)
        at += size
    return {"input_ids": ids, "labels": labels, "document": document, "position_ids": position}
