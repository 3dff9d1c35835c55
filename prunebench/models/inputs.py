"""Inputs: conversations about images as what a model takes, and what it answers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]
"""One turn of a conversation as transformers' chat templates take it: `role`, and `content`, which
is a text or a list of parts. A part is {"type": "text", "text": ...}, {"type": "image", "url":
IMAGE} with an open image, or {"type": "video", ...}.
"""


def user_message(image: Any, text: str) -> list[Message]:
    """A conversation of one turn: the user shows an open image and asks."""
    content = [{"type": "image", "url": image}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def process(processor: Any, conversations: Sequence[list[Message]]) -> Any:
    """What a model's `generate` takes, by name, as its processor makes it: a row a conversation,
    padded on the left, on the CPU.
    """
    if any(_shows_video(conversation) for conversation in conversations):
        # only the template reads videos: how many frames it takes is part of the text it makes
        batch = processor.apply_chat_template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        )
    else:
        texts = processor.apply_chat_template(
            [_named(conversation) for conversation in conversations],
            add_generation_prompt=True,
            tokenize=False,
        )
        images = [_images(conversation) for conversation in conversations]
        batch = processor(
            text=texts, images=images if any(images) else None, padding=True, return_tensors="pt"
        )
    return batch


def new_texts(processor: Any, inputs: Mapping[str, Any], output: Any) -> list[str]:
    """What `generate` wrote behind the prompts of `inputs`, a text a row of its output."""
    sequences = getattr(output, "sequences", output)
    answers = sequences[:, inputs["input_ids"].shape[1] :]
    texts: list[str] = processor.batch_decode(
        answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


def parts_of(conversation: Sequence[Message]) -> list[Message]:
    """The parts of all turns, in order; turns that are a text have none."""
    parts: list[Message] = []
    for turn in conversation:
        if not isinstance(turn["content"], str):
            parts += turn["content"]
    return parts


def image_parts(conversation: Sequence[Message]) -> list[Message]:
    """Those that are images."""
    return [part for part in parts_of(conversation) if part["type"] == "image"]


def _images(conversation: Sequence[Message]) -> list[Any]:
    """The open images of a conversation, in order."""
    return [part["url"] for part in image_parts(conversation)]


def _shows_video(conversation: Sequence[Message]) -> bool:
    return any(part["type"] == "video" for part in parts_of(conversation))


def _named(conversation: Sequence[Message]) -> list[Message]:
    """The conversation as a chat template wants it: images are named, not held."""
    turns = []
    for turn in conversation:
        if not isinstance(turn["content"], str):
            turn = {**turn, "content": [_named_part(part) for part in turn["content"]]}
        turns.append(turn)
    return turns


def _named_part(part: Message) -> Message:
    return part if part["type"] == "text" else {"type": part["type"]}
