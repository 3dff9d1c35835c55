"""Clips: which frames of a video a model is shown, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from prunebench.border import images, videos
from prunebench.border.videos import Clip, Source, Stretch
from prunebench.models.base import Unsupported
from prunebench.models.harness import MAX_FRAMES
from prunebench.models.inputs import Message, parts_of

if TYPE_CHECKING:
    from prunebench.models.loaded import Loaded


def check_seen(loaded: Loaded, conversation: Sequence[Message], task: str) -> None:
    """Raise Unsupported where a conversation of `task` shows what the model cannot see."""
    for part in parts_of(conversation):
        if part["type"] == "audio":
            raise Unsupported(f"{loaded.family.name} hears nothing, and {task} plays sound")
        if part["type"] == "video" and _reader(loaded) is None:
            raise Unsupported(f"{loaded.family.name} sees no videos, and {task} shows some")


def with_clips(
    loaded: Loaded,
    conversation: Sequence[Message],
    max_pixels: int | None = images.MAX_PIXELS,
) -> list[Message]:
    """The conversation with the clips in it that its videos name; raises VideoError."""
    turns = []
    for turn in conversation:
        content = turn["content"]
        if not isinstance(content, str):
            content = [_with_clip(loaded, part, max_pixels) for part in content]
        turns.append({**turn, "content": content})
    return turns


def clip_of(loaded: Loaded, source: Source, max_pixels: int | None = images.MAX_PIXELS) -> Clip:
    """The frames of a video that the model is shown, read at the size that they are fetched at;
    raises VideoError.
    """
    manner = loaded.manner
    if not manner.fetches or manner.frame_pixels is None:
        choose = partial(_sampled, loaded)
        return videos.read(source, choose, max_pixels=max_pixels)
    # late: only who fetches needs its libraries
    from prunebench.models import fetching

    side = loaded.family.token_pixels(loaded.model)
    assert side is not None  # whoever fetches keeps an image's resolution
    most = manner.max_frames or MAX_FRAMES
    limits = manner.frame_pixels

    def scaled(frame: Any, count: int) -> Any:
        return fetching.frame(frame, count, side, limits)

    def fetched(stretch: Stretch) -> list[int]:
        return fetching.frames(stretch.count, stretch.fps, most, manner.fps)

    return videos.read(source, fetched, scaled, max_pixels=max_pixels)


def _with_clip(loaded: Loaded, part: Message, max_pixels: int | None) -> Message:
    """A video as a part that holds its clip, or its frames where it came with those; another part
    as it is.
    """
    if part["type"] != "video":
        return part
    video = next(part[key] for key in ("video", "url", "path") if part.get(key) is not None)
    if not isinstance(video, list | tuple | Clip):
        start, end = part.get("start_time"), part.get("end_time")
        if start is not None or end is not None:
            video = {"path": video, "video_start": start, "video_end": end}
        video = clip_of(loaded, video, max_pixels)
    return {"type": "video", "video": video}


def _reader(loaded: Loaded) -> Any:
    """What prepares videos in the model's processor, None where nothing does."""
    return getattr(loaded.processor, "video_processor", None)


def _sampled(loaded: Loaded, stretch: Stretch) -> list[int]:
    """As the model's own processor chooses frames, of which it is told how many where the manner
    says so, or where it would take all of them.
    """
    from transformers.video_utils import VideoMetadata

    reader, manner = _reader(loaded), loaded.manner
    metadata = VideoMetadata(
        stretch.count,
        stretch.fps,
        stretch.width,
        stretch.height,
        stretch.count / stretch.fps,
    )
    is_told = manner.max_frames is not None or manner.fps is not None
    if not is_told and getattr(reader, "do_sample_frames", False):
        numbers = reader.sample_frames(metadata)
    else:
        count = _count(stretch, manner.max_frames or MAX_FRAMES, manner.fps)
        # a patch that reaches over two frames wants an even number of them
        together = getattr(reader, "temporal_patch_size", 1) or 1
        if count > together:
            count -= count % together
        numbers = _evenly(reader.sample_frames(metadata, num_frames=count), count)
    return [min(int(number), stretch.count - 1) for number in numbers]


def _evenly(numbers: Sequence[int], count: int) -> Sequence[int]:
    """At most `count` of the numbers: some processors choose without asking how many."""
    if len(numbers) <= count:
        return numbers
    return [numbers[place * len(numbers) // count] for place in range(count)]


def _count(stretch: Stretch, most: int, rate: float | None) -> int:
    """How many frames are shown: at most `most`, `rate` a second where it is given."""
    count = most if rate is None else int(stretch.count / stretch.fps * rate)
    return max(1, min(count, most, stretch.count))
