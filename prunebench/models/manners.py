"""Manners: how a loaded model is asked, made out of its family's harness and a user's wish."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from prunebench.border.text import message, one_line
from prunebench.models.base import Unsupported
from prunebench.models.errors import LoadError
from prunebench.models.harness import Manner, Wish
from prunebench.models.inputs import Message, text_of

if TYPE_CHECKING:
    from prunebench.models.loaded import Loaded

WORDS = 1_000
"""A model with fewer words in its vocabulary is a miniature, with prompts and images of its own
size: no wrapper is written for it.
"""


def manner_of(loaded: Loaded, wish: Wish) -> Manner:
    """How a loaded model is asked; its processor is told the limits of images.

    Raises LoadError for a system prompt that the chat template leaves out, Unsupported for limits
    of images that have one resolution.
    """
    harness = loaded.family.harness
    manner = Manner()
    if wish.harness == "lmms-eval" and harness is None:
        manner = Manner(lacking=f"no wrapper of lmms-eval is known for {loaded.family.name}")
    elif wish.harness == "lmms-eval" and len(loaded.processor.tokenizer) >= WORDS:
        assert harness is not None
        manner = Manner("lmms-eval", **asdict(harness))
    settings = {name: value for name, value in asdict(wish).items() if value is not None}
    del settings["harness"]
    manner = replace(manner, **settings)
    if manner.frame_pixels is not None:
        low, high = manner.frame_pixels
        limits = (wish.min_pixels or low, wish.max_pixels or high)
        manner = replace(manner, frame_pixels=limits)
    _check_prompt(loaded, manner)
    return _limited(loaded, manner)


def _check_prompt(loaded: Loaded, manner: Manner) -> None:
    """Raise LoadError where the template says nothing of the system prompt."""
    if manner.system_prompt is None:
        return
    question: Message = {"role": "user", "content": [{"type": "text", "text": "what is it?"}]}
    name = one_line(loaded.name, 60)
    try:
        text = text_of(loaded.processor, manner.introduced([question]))
    except Exception as error:  # templates raise what they like at a role they do not know
        raise LoadError(
            f"model {name}: its chat template takes no system prompt "
            f"({one_line(message(error), 80)}); leave out system_prompt"
        ) from error
    if manner.system_prompt.strip() not in text:
        raise LoadError(
            f"model {name}: its chat template leaves the system prompt out; leave out system_prompt"
        )


def _limited(loaded: Loaded, manner: Manner) -> Manner:
    """The manner with the limits of images that hold in the end, of which the processor is told."""
    images = loaded.processor.image_processor
    if manner.fetches and (manner.min_pixels is None or manner.max_pixels is None):
        # nothing is scaled further behind what is fetched: the processor's limits are the same
        from prunebench.models.fetching import IMAGE_TOKENS  # late, for it brings torchvision

        side = loaded.family.token_pixels(loaded.model)
        assert side is not None  # what is fetched is scaled to whole tokens
        unit = side**2
        low, high = (tokens * unit for tokens in IMAGE_TOKENS)
        manner = replace(
            manner,
            min_pixels=manner.min_pixels or low,
            max_pixels=manner.max_pixels or high,
        )
    if manner.min_pixels is None and manner.max_pixels is None:
        return manner
    size = getattr(images, "size", None) or {}
    is_fixed = loaded.family.token_pixels(loaded.model) is None
    if is_fixed or "shortest_edge" not in size or "longest_edge" not in size:
        raise Unsupported(
            f"{loaded.family.name} scales every image to its own resolution; "
            "leave out min_pixels and max_pixels"
        )
    low = manner.min_pixels or size["shortest_edge"]
    high = manner.max_pixels or size["longest_edge"]
    if low > high:
        raise LoadError(
            f"model {one_line(loaded.name, 60)}: min_pixels is {low} and max_pixels {high}; "
            "the first is at most the second"
        )
    images.size = type(size)(shortest_edge=low, longest_edge=high)
    return replace(manner, min_pixels=low, max_pixels=high)
