"""The bundled model's tokenizer: byte-level BPE with single digits, trained on the project's own problems.

Bytes make any text encodable (real GSM8K problems too); single digits let a small model learn column arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reasoning.prompts import format_prompt
from reasoning.synthetic.generator import Split, generate

END = "<|endoftext|>"
PAD = "<|pad|>"


def train_tokenizer(vocab_size: int = 2048, problems: int = 4000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer on ``problems`` training problems; the same arguments give the same vocabulary.

    Args:
        vocab_size: an upper bound; the vocabulary is exactly this large only if the text has enough merges.
        problems: how many problems of the training split to read.
        seed: seed of that stream.

    Returns:
        A Hugging Face tokenizer with end-of-text and padding tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(problems, seed), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def _texts(problems: int, seed: int) -> Iterator[str]:
    for problem in islice(generate(Split.TRAIN, seed), problems):
        yield format_prompt(problem.story.question) + problem.story.solution
