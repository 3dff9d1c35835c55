"""The miniatures that can be trained: of each its recipe, its parts and its objective."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunebench.testbed import card_texts, model_path
from prunebench.testbed.captions import first_views
from prunebench.testbed.card import CardText
from prunebench.testbed.evaluate import evaluate, fine
from prunebench.testbed.evaluate_clip import evaluate_clip
from prunebench.testbed.evaluate_films import evaluate_films
from prunebench.testbed.learner import Learner, Objective
from prunebench.testbed.objectives import Answering, AnsweringFilms, Matching
from prunebench.testbed.processor import build_processor
from prunebench.testbed.recipe import (
    LLAVA,
    LLAVA_NEXT,
    QWEN3,
    ClipRecipe,
    FilmRecipe,
    LvlmRecipe,
    Recipe,
)
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
from prunebench.testbed.tiny_qwen3 import FastQwen3, build_qwen3, build_qwen3_processor
from prunebench.testbed.tiny_qwen_video import (
    FastVideoQwen,
    build_video_model,
    build_video_processor,
    take_qwen,
)
from prunebench.testbed.views import GRID


@dataclass(frozen=True)
class Miniature:
    """How one model is made.

    `recipe` is that of the shipped run as it ended; `build` gives, from sizes and a seed, the stock
    model with random weights; `objective` is made of a model, a recipe and a seed. `evaluate` gives
    the card's figures of a folder, with `samples=` and `seed=`. `begin`, if any, puts first weights
    into a model: its own, or those of the other miniature in that folder.
    """

    recipe: Recipe
    build: Callable[[Any, int], Any]
    processor: Callable[[], Any]
    objective: Callable[[Any, Any, int], Objective]
    text: CardText
    evaluate: Callable[..., dict[str, Any]] = evaluate
    begin: Callable[[Any, Path | None], None] | None = None


def miniature(name: str) -> Miniature:
    """The miniature of that name; ValueError naming the known ones otherwise."""
    if name not in MINIATURES:
        raise ValueError(f"unknown miniature {name!r}: known are {', '.join(MINIATURES)}")
    return MINIATURES[name]


def _answering(
    learner: Callable[[Any], Learner], processor: Callable[[], Any]
) -> Callable[[Any, Any, int], Objective]:
    """The objective of an LVLM, which stands behind `learner` and reads by `processor`."""

    def objective(model: Any, recipe: LvlmRecipe, seed: int) -> Objective:
        return Answering(learner(model), processor().tokenizer, recipe, seed)

    return objective


def _answering_films(model: Any, recipe: FilmRecipe, seed: int) -> Objective:
    """The objective of an LVLM that sees several pictures."""
    tokenizer = build_video_processor().tokenizer
    return AnsweringFilms(FastVideoQwen(model), tokenizer, recipe, seed)


def _matching(model: Any, recipe: ClipRecipe, seed: int) -> Objective:
    """The objective of a CLIP."""
    return Matching(model, build_clip_processor().tokenizer, recipe, seed)


def _begin_video(model: Any, qwen: Path | None) -> None:
    """With all that a Qwen2.5-VL miniature has learnt of single images."""
    take_qwen(model, qwen or model_path("tiny-qwen2.5-vl"))


def _begin_clip(model: Any, _: Path | None) -> None:
    """With patches as scenes have them, from no other miniature."""
    whiten(model, first_views())


def _begin_llava(model: Any, folder: Path | None) -> None:
    """Like LLaVA itself, with a CLIP and a language model that there are, those in the folder or
    those shipped; only what connects them begins at random.
    """
    parts = {name: model_path(name) for name in ("tiny-clip", "tiny-qwen2.5-vl")}
    if folder is not None:
        missing = [name for name in parts if not (folder / name).is_dir()]
        if missing:
            raise ValueError(f"it has no folder {' and no folder '.join(missing)}")
        parts = {name: folder / name for name in parts}
    take_tower(model, parts["tiny-clip"])
    take_language(model, parts["tiny-qwen2.5-vl"])


def _begin_llava_next(model: Any, llava: Path | None) -> None:
    """With all that a LLaVA-1.5 has learnt, which sees one view of an image."""
    take_llava(model, llava or model_path("tiny-llava-1.5"))


def _evaluate_tiles(
    folder: Path, *, samples: int, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """`evaluate`, and what is left of the answers about fine scenes without the tokens of the
    tiles.
    """
    # GRID * GRID tokens come first, those of the thumbnail
    thumbnail = fine(
        folder, samples=max(1, samples // 5), seed=seed, first_tokens=GRID * GRID, device=device
    )
    return {
        **evaluate(folder, samples=samples, seed=seed, device=device),
        "fine_thumbnail": thumbnail,
    }


MINIATURES = {
    "tiny-qwen2.5-vl": Miniature(
        LvlmRecipe(),
        build_model,
        build_processor,
        _answering(FastQwen, build_processor),
        card_texts.QWEN,
    ),
    "tiny-qwen3-vl": Miniature(
        QWEN3,
        build_qwen3,
        build_qwen3_processor,
        _answering(FastQwen3, build_qwen3_processor),
        card_texts.QWEN3,
    ),
    "tiny-qwen2.5-vl-video": Miniature(
        FilmRecipe(),
        build_video_model,
        build_video_processor,
        _answering_films,
        card_texts.QWEN_VIDEO,
        evaluate=evaluate_films,
        begin=_begin_video,
    ),
    "tiny-clip": Miniature(
        ClipRecipe(),
        build_clip,
        build_clip_processor,
        _matching,
        card_texts.CLIP,
        evaluate=evaluate_clip,
        begin=_begin_clip,
    ),
    "tiny-llava-1.5": Miniature(
        LLAVA,
        build_llava,
        build_llava_processor,
        _answering(FastLlava, build_llava_processor),
        card_texts.LLAVA,
        begin=_begin_llava,
    ),
    "tiny-llava-next": Miniature(
        LLAVA_NEXT,
        build_llava_next,
        build_llava_next_processor,
        _answering(FastLlavaNext, build_llava_next_processor),
        card_texts.LLAVA_NEXT,
        evaluate=_evaluate_tiles,
        begin=_begin_llava_next,
    ),
}
"""Every miniature by name."""
