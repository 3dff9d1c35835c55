"""Inputs: conversations about images as what a model takes, and what it answers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from prunebench.models.harness import Manner

Message = dict[str, Any]
"""One turn of a conversation as transformers' chat templates take it: `role`, and `content`, which
is a text or a list of parts. A part is {"type": "text", "text": ...}, {"type": "image", "url":
IMAGE} with an open image, or {"type": "video", "video": VIDEO} with a video's file, a clip that is
read (of `border.videos`) or a list of frames.
"""


def user_message(image: Any, text: str) -> list[Message]:
    """A conversation of one turn: the user shows an open image and asks."""
    content = [{"type": "image", "url": image}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def process(
    processor: Any,
    conversations: Sequence[list[Message]],
    manner: Manner,
    side: int | None = None,
    fitted: bool = False,
) -> Any:
    """What a model's `generate` takes, by name, as its processor makes it: a row a conversation,
    padded on the left, on the CPU.

    `manner` says what is put before a conversation and how images are scaled before the processor
    sees them, where a token is `side` pixels wide. Images that are `fitted` are of their final
    size, and whoever is asked in a wrapper's manner does not hold them to its limits.
    """
    chats = [manner.introduced(conversation) for conversation in conversations]
    options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    side = None if fitted else side
    images = [_images(chat, manner, side) for chat in chats]
    if any(images):
        options["images"] = images
    if fitted and manner.is_wrapper:
        options["images_kwargs"] = {"do_resize": False}
    clips: list[Any] = []
    for chat in chats:
        clips += clips_of(chat)
    if clips:
        options |= _videos(clips)
        if manner.fetches:
            # scaled already, to limits of their own
            options["videos_kwargs"] = {"do_resize": False}
    return processor(text=[text_of(processor, chat) for chat in chats], **options)


def text_of(processor: Any, conversation: Sequence[Message]) -> str:
    """The prompt that the chat template makes of a conversation."""
    text: str = processor.apply_chat_template(
        _named(conversation), add_generation_prompt=True, tokenize=False
    )
    return text


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


def clips_of(conversation: Sequence[Message]) -> list[Any]:
    """The clips of a conversation, or lists of frames, in order."""
    return [part["video"] for part in parts_of(conversation) if part["type"] == "video"]


def _images(conversation: Sequence[Message], manner: Manner, side: int | None) -> list[Any]:
    """The open images of a conversation, in order, as the processor is given them."""
    pictures = [part["url"] for part in image_parts(conversation)]
    if not manner.fetches or side is None:
        return pictures
    from prunebench.models import fetching  # late: only who fetches needs its libraries

    return [fetching.image(picture, side) for picture in pictures]


def _videos(clips: Sequence[Any]) -> dict[str, Any]:
    """Clips as a processor takes those whose frames were chosen already."""
    videos, metadata = [], []
    for clip in clips:
        frames = getattr(clip, "frames", None)
        if frames is None:  # a list of frames alone: nobody knows when they were shown
            frames = np.stack([np.asarray(frame.convert("RGB")) for frame in clip])
            metadata.append({"total_num_frames": len(frames)})
        else:
            metadata.append(clip.metadata)
        # [F, 3, H, W]
        videos.append(torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous())
    return {"videos": videos, "video_metadata": metadata, "do_sample_frames": False}


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
