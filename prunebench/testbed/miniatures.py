"""The miniatures that can be trained: of each its recipe, its parts and its lesson."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunebench.testbed import card as cards
from prunebench.testbed import model_path
from prunebench.testbed.captions import first_views
from prunebench.testbed.evaluate import evaluate, fine
from prunebench.testbed.evaluate_clip import evaluate_clip
from prunebench.testbed.learner import Objective
from prunebench.testbed.lessons import Answering, Matching
from prunebench.testbed.processor import build_processor
from prunebench.testbed.recipe import LLAVA, LLAVA_NEXT, ClipRecipe, Recipe, Schedule
from prunebench.testbed.tiny_clip import build_clip, build_clip_processor, whiten
from prunebench.testbed.tiny_llava import (
    FastLlava,
    FastLlavaNext,
    build_llava,
    build_llava_next,
    build_llava_next_processor,
    build_llava_processor,
    take_language,
    take_llava,
    take_tower,
)
from prunebench.testbed.tiny_qwen import FastQwen, build_model
from prunebench.testbed.views import GRID


@dataclass(frozen=True)
class Miniature:
    """How one model is made."""

    recipe: Schedule  # of the shipped run, as it ended
    build: Callable[[Any, int], Any]  # (sizes, seed) -> the stock model with random weights
    processor: Callable[[], Any]
    lesson: Callable[[Any, Any, int], Objective]  # (model, recipe, seed)
    text: cards.CardText
    evaluate: Callable[..., dict[str, Any]] = (
        evaluate  # (folder, samples=, seed=) -> the card's figures
    )
    begin: Callable[[Any, Path | None], None] | None = (
        None  # with what: weights of the other miniature in that folder
    )


def miniature(name: str) -> Miniature:
    """The miniature of that name; ValueError naming the known ones otherwise."""
    if name not in MINIATURES:
        raise ValueError(f"unknown miniature {name!r}: known are {', '.join(MINIATURES)}")
    return MINIATURES[name]


def _begin_llava(model: Any, clip: Path | None) -> None:
    """Like LLaVA itself, with a CLIP and a language model that there are; only what connects them
    begins at random.
    """
    take_tower(model, clip or model_path("tiny-clip"))
    take_language(model, model_path("tiny-qwen2.5-vl"))


def _evaluate_tiles(folder: Path, *, samples: int, seed: int) -> dict[str, Any]:
    """`evaluate`, and what is left of the answers about fine scenes without the tokens of the
    tiles.
    """
    thumbnail = fine(folder, samples=max(1, samples // 5), seed=seed, first_tokens=GRID * GRID)
    return {**evaluate(folder, samples=samples, seed=seed), "fine_thumbnail": thumbnail}


MINIATURES = {
    "tiny-qwen2.5-vl": Miniature(
        Recipe(),
        build_model,
        build_processor,
        lambda model, recipe, seed: Answering(
            FastQwen(model), build_processor().tokenizer, recipe, seed
        ),
        cards.QWEN,
    ),
    "tiny-clip": Miniature(
        ClipRecipe(),
        build_clip,
        build_clip_processor,
        lambda model, recipe, seed: Matching(model, build_clip_processor().tokenizer, recipe, seed),
        cards.CLIP,
        evaluate=evaluate_clip,
        begin=lambda model, _: whiten(model, first_views()),
    ),
    "tiny-llava-1.5": Miniature(
        LLAVA,
        build_llava,
        build_llava_processor,
        lambda model, recipe, seed: Answering(
            FastLlava(model), build_llava_processor().tokenizer, recipe, seed
        ),
        cards.LLAVA,
        begin=_begin_llava,
    ),
    "tiny-llava-next": Miniature(
        LLAVA_NEXT,
        build_llava_next,
        build_llava_next_processor,
        lambda model, recipe, seed: Answering(
            FastLlavaNext(model), build_llava_next_processor().tokenizer, recipe, seed
        ),
        cards.LLAVA_NEXT,
        evaluate=_evaluate_tiles,
        begin=lambda model, start: take_llava(model, start or model_path("tiny-llava-1.5")),
    ),
}
"""Every miniature by name."""
