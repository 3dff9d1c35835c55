"""A randomly initialised miniature of every family's stock class with its real processor; one file
a family.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from prunebench.models import family_of

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
WORDS = (
    "color",
    "of",
    "digit",
    "on",
    "red",
    "square",
    "any",
    "blue",
    "star",
    "how",
    "many",
    "5",
    "7",
    "what",
    "is",
    "it",
)

Prompt = tuple[list[Image.Image], str]


@dataclass(frozen=True)
class Miniature:
    """One family: its model in float32, its processor, and how a prompt's text names an image or a
    video.

    `sizes` are those of images that show the family's peculiarities: the first is what most tests
    use.
    """

    name: str
    model: Any
    processor: Any
    image: str
    video: str | None = None
    sizes: tuple[tuple[int, int], ...] = ((112, 84), (84, 112), (56, 84))
    nested: bool = False
    one_sequence: bool = False
    """Whether the vision encoder takes all images of a batch as one sequence, where a mask keeps
    several apart.
    """

    def inputs(self, *prompts: Prompt, video: list[Image.Image] | None = None) -> dict[str, Any]:
        """Processed inputs of prompts, each a list of images and a question; padded on the left."""
        texts = [
            self.image * len(images) + (self.video or "" if video else "") + question
            for images, question in prompts
        ]
        images = [images for images, _ in prompts]
        # older processors want the videos of every prompt in a list of their own
        options: dict[str, Any] = {"videos": [[video]] if self.nested else [video]} if video else {}
        made = self.processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            **options,
        )
        # Llama 4's processor makes bfloat16, whatever the model computes in
        return {
            key: value.float() if value.dtype == torch.bfloat16 else value
            for key, value in made.items()
            if value is not None
        }


def names() -> list[str]:
    """Every family with a file here."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build(name: str, attention: str = "sdpa") -> Miniature:
    """The family's miniature, ready for tests: attention that is not uniform, no answer with a
    placeholder.
    """
    miniature: Miniature = importlib.import_module(f"{__name__}.{name}").build()
    model = miniature.model.eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "embed_tokens" in key:
                weight.mul_(30)
            elif weight.ndim > 1 and "embed" not in key:
                weight.mul_(4)
    model.set_attn_implementation(attention)
    settings = model.generation_config
    settings.eos_token_id = None
    # random weights would answer with a visual placeholder now and then, and no oracle can re-read
    # such an answer
    settings.suppress_tokens = list(family_of(model).placeholders(model))
    return miniature


def seeded(make: Callable[[], Any]) -> Any:
    """What `make` builds, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """A word a token, with the family's special tokens."""
    vocabulary = {word: number for number, word in enumerate((PAD, END, UNKNOWN, *special, *WORDS))}
    core = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=list(special),
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def token_id(words: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token."""
    number = words.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


def llama(words: int, **more: Any) -> dict[str, Any]:
    """Sizes of a small Llama-like text model."""
    return {
        "vocab_size": words,
        "hidden_size": 80,
        "intermediate_size": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        **more,
    }
