"""Vocabulary: small tokenizers of the kinds that public checkpoints have, at their public sizes.

They know a few words; what is left up to the public size are entries that no text has, so that
special tokens get the ids that they have in public.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

WORDS_SAID = "Yes No yes no A B C D red green blue yellow 1 2 3 4 unanswerable"
ANSWERS = tuple(WORDS_SAID.split())
"""What the models of this hub say: each is one token."""

TEXT = (
    "You are a helpful assistant. A chat between a curious human and an artificial intelligence",
    "USER ASSISTANT system user assistant Human Assistant Question Answer Options Context Hint",
    "Answer the question using a single word or phrase. Is there a circle in the image?",
    "Answer with the option's letter from the given choices directly. What is this? Which color?",
    "Please select the correct answer from the options above. Please answer yes or no.",
    "When the provided information is insufficient, respond with unanswerable. How many are there",
    "Bounding box coordinates are specified in the format of top-left and bottom-right values.",
)
# as GPT-2's byte-level tokenizers and those after it cut a text into words
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def byte_level(size: int, special: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of `size` tokens, as Qwen has it, and special ones after them."""
    cut = pre_tokenizers.Split(Regex(WORDS), "isolated")
    cutter = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer = _trained(models.BPE(), cutter, [], sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = Tokenizer(_grown(tokenizer, size))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), cutter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _with(tokenizer, special)


def byte_fallback(size: int, special: Iterable[str]) -> Tokenizer:
    """A BPE with bytes for what it does not know, as Llama has it: `size` tokens with <unk>, <s>
    and </s> first, and special ones after them; a text begins with <s>.
    """
    controls = ["<unk>", "<s>", "</s>"]
    first = [*controls, *(f"<0x{number:02X}>" for number in range(256))]
    bare = models.BPE(unk_token="<unk>")
    tokenizer = _trained(bare, pre_tokenizers.Metaspace(), first, [])
    tokenizer = Tokenizer(_grown(tokenizer, size, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)])
    tokenizer = _with(tokenizer, controls)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    return _with(tokenizer, special)


def answer_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens of the answers."""
    pieces = [tokenizer.encode(word, add_special_tokens=False).ids for word in ANSWERS]
    return sorted({piece[-1] for piece in pieces})


def _trained(
    model: models.BPE, cutter: pre_tokenizers.PreTokenizer, first: list[str], alphabet: list[str]
) -> Tokenizer:
    """A tokenizer that knows the words of this file."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = cutter
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=first, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXT, *ANSWERS, *(f" {word}" for word in ANSWERS)], trainer)
    return tokenizer


def _grown(tokenizer: Tokenizer, size: int, **options: object) -> models.BPE:
    """The tokenizer's model with entries up to `size`."""
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(model["vocab"])
    # no text has these: a private character, and no merge that would lead to one
    spare = range(len(vocabulary), size)
    vocabulary |= {f"\ue000{number}": number for number in spare}
    merges = [tuple(pair) for pair in model["merges"]]
    return models.BPE(vocabulary, merges, byte_fallback=bool(options), **options)


def _with(tokenizer: Tokenizer, special: Iterable[str]) -> Tokenizer:
    tokens = [AddedToken(word, special=True, normalized=False) for word in special]
    tokenizer.add_special_tokens(tokens)
    return tokenizer
