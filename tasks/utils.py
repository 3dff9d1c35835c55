"""What the built-in tasks' YAML files refer to."""

from typing import Any


def visual(doc: dict[str, Any]) -> list[Any]:
    """The scene, as the one image of the question."""
    return [doc["image"].convert("RGB")]


def pictures(doc: dict[str, Any]) -> list[Any]:
    """The pictures of a pair, or the frames of a clip."""
    return [picture.convert("RGB") for picture in doc["pictures"]]


def clip_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """The clip and its question, as the user's one message; all of its frames are shown."""
    import numpy as np

    from prunebench.border.videos import Clip, Stretch

    frames = np.stack([np.asarray(picture) for picture in pictures(doc)])
    count, height, width = frames.shape[:3]
    clip = Clip(frames, tuple(range(count)), Stretch(0, count, doc["fps"], width, height))
    content = [{"type": "video", "video": clip}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]
