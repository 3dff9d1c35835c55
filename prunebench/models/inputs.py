"""Inputs: chat messages with their images, made a model's inputs by its own processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunebench.models import Loaded

Part = dict[str, Any]
"""A text, an image or a video of a message, as transformers' chat templates have it."""

Message = dict[str, Any]
"""One turn of a chat: its content is a text, or a list of parts."""


def process(loaded: Loaded, messages: Sequence[list[Message]]) -> dict[str, Any]:
    """The model's inputs for several chats, on its device, left-padded."""
    processor = loaded.processor
    if any(part["type"] == "video" for chat in messages for part in parts_of(chat)):
        # frames of a video are read by the template's own loader
        batch = processor.apply_chat_template(
            list(messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        )
        return dict(batch.to(loaded.model.device))
    text = processor.apply_chat_template(
        [_named(chat) for chat in messages], add_generation_prompt=True, tokenize=False
    )
    images: list[list[Any]] = []
    for chat in messages:
        images.append([part["url"] for part in images_of(chat)])
    batch = processor(
        text=text, images=images if any(images) else None, padding=True, return_tensors="pt"
    )
    return dict(batch.to(loaded.model.device))


def parts_of(chat: list[Message]) -> list[Part]:
    """The parts of all turns, in order; a turn that is a mere text has none."""
    parts: list[Part] = []
    for turn in chat:
        if not isinstance(turn["content"], str):
            parts += turn["content"]
    return parts


def images_of(chat: list[Message]) -> list[Part]:
    """The parts of a chat that are images, in order."""
    return [part for part in parts_of(chat) if part["type"] == "image"]


def _named(chat: list[Message]) -> list[Message]:
    """The chat as a template wants it that only writes text: images are named, not held."""
    turns = []
    for turn in chat:
        content = turn["content"]
        if not isinstance(content, str):
            content = [_bare(part) for part in content]
        turns.append({**turn, "content": content})
    return turns


def _bare(part: Part) -> Part:
    return part if part["type"] == "text" else {"type": part["type"]}
