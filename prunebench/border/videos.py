"""Videos: one way in for those that are shown to a model; only the frames that are shown are
decoded, within limits that are checked before.
"""

from __future__ import annotations

import io
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.border.images import MAX_PIXELS
from prunebench.border.text import message, one_line

MOST_FRAMES = 1_000_000
"""Frames of a file that are counted: nine hours at 30 a second. An endless stream has more."""

MOST_SHOWN = 768
"""Frames that are decoded of one video."""

MOST_BYTES = 2 * 2**30
"""Bytes that the shown frames of one video may take together."""

MICROSECONDS = 1_000_000
"""What a container gives its length in, of a second."""

SHARE = 0.9
"""Of the length that a file says of itself, how much has to be there; it is often rounded."""

EXACT = ("mp4", "matroska", "flv", "asf")
"""Formats that come back to a frame by its time; of others all frames before it are decoded."""

Source = str | os.PathLike[str] | bytes | Mapping[str, Any]
"""A file, its content, or a row of a data set ({"bytes": ..., "path": ...}), which may also say
from when to when the video is shown ("video_start" and "video_end", in seconds).
"""

Frame = Any
"""[H, W, 3] uint8, an array of numpy."""


class VideoError(ValueError):
    """A video that cannot be read, or that is larger than what is decoded."""


@dataclass(frozen=True)
class Stretch:
    """What a file says of the part of its video that is shown: `first` and `count` of its frames,
    at `fps` a second, `width` x `height` pixels each.
    """

    first: int
    count: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Clip:
    """The frames of a video that are shown, [F, H, W, 3] uint8, and their numbers in the file."""

    frames: Any
    indices: tuple[int, ...]
    stretch: Stretch

    @property
    def metadata(self) -> dict[str, Any]:
        """What processors of transformers want to know of a video whose frames were chosen."""
        return {
            "fps": self.stretch.fps,
            "frames_indices": list(self.indices),
            "total_num_frames": self.stretch.count,
            "duration": self.stretch.count / self.stretch.fps,
        }


def read(
    source: Source,
    choose: Callable[[Stretch], Sequence[int]],
    scaled: Callable[[Frame, int], Frame] | None = None,
    *,
    max_pixels: int | None = MAX_PIXELS,
) -> Clip:
    """The frames that `choose` names by their numbers in the stretch, from 0 on and ascending.

    `scaled` makes of every frame, told how many there are, what is kept of it, so that a clip never
    lies in memory at full size. `max_pixels` bounds a frame. Raises VideoError in one line; for a
    file that is missing, broken, without pictures or cut off, too.
    """
    name = _name(source)
    try:
        with _opened(source, name) as (container, stream):
            _check_frame(stream.codec_context.width, stream.codec_context.height, max_pixels, name)
            index = _Index.of(container, stream, name)
            stretch = _stretch(source, stream, len(index.times), name)
        places = [int(number) for number in choose(stretch)]
        _check_places(places, stretch, name)
        numbers = [stretch.first + place for place in places]
        frames = []
        size = 0
        # opened anew: not every format can go back to its beginning
        with _opened(source, name) as (container, stream):
            for picture in _decoded(container, stream, index, numbers, name):
                _check_frame(picture.width, picture.height, max_pixels, name)
                frame = picture.to_ndarray(format="rgb24")
                if scaled is not None:
                    frame = scaled(frame, len(numbers))
                frames.append(frame)
                size += frame.nbytes
                if size > MOST_BYTES:
                    raise VideoError(
                        f"{name}: {len(numbers)} frames of {frame.shape[1]} x {frame.shape[0]} "
                        f"take more than {MOST_BYTES // 2**30} GiB; set max_frames lower"
                    )
    except (VideoError, MemoryError):
        raise
    except Exception as error:  # what decoders raise is as various as they are
        raise VideoError(f"{name} cannot be read: {one_line(_reason(error), 140)}") from error
    return Clip(np.stack(frames), tuple(numbers), stretch)


@contextmanager
def _opened(source: Source, name: str) -> Iterator[tuple[Any, Any]]:
    """The container of an ordinary file, or of a file's content, and the stream of its pictures."""
    import av  # late: only who shows videos needs it

    content: Any = source
    if isinstance(source, Mapping):
        content = source.get("bytes")
        for key in ("path", "url", "video"):
            content = source.get(key) if content is None else content
    if isinstance(content, bytes):
        place: Any = io.BytesIO(content)
    elif isinstance(content, str | os.PathLike):
        place = str(_file(os.fspath(content), name))
    else:
        raise VideoError(f"a {type(content).__name__} is no video; give a file or its content")
    # what is odd inside a file is nothing for the terminal
    av.logging.set_level(None)
    with av.open(place, mode="r", metadata_errors="ignore") as container:
        if not container.streams.video:
            raise VideoError(f"{name} has no pictures")
        stream = container.streams.video[0]
        # frames are few and far between: threads that decode ahead would work in vain
        stream.thread_type = "SLICE"
        yield container, stream


def _file(path: str, name: str) -> Path:
    """The path of an ordinary file; nothing is fetched, and nothing that a read could hang at is
    opened.
    """
    path = path.removeprefix("file://")
    if "://" in path:
        raise VideoError(f"{name} is an address; videos are read from files alone")
    file = Path(path)
    mode = os.stat(file).st_mode
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "device or pipe"
        raise VideoError(f"{name} is a {kind}, no file")
    return file


@dataclass(frozen=True)
class _Index:
    """The times of all frames and of those that decoding can begin at, ascending, in units of the
    stream; `keys` is empty where a format does not come back to a time exactly.
    """

    times: list[int]
    keys: list[int]

    @classmethod
    def of(cls, container: Any, stream: Any, name: str) -> _Index:
        """Read off the packets, of which none is decoded."""
        times: list[int] = []
        keys: list[int] = []
        count = 0
        exact = any(word in container.format.name for word in EXACT)
        reached = 0.0
        for packet in container.demux():
            if not packet.size:  # the one that ends a stream
                continue
            reached = max(reached, _end(packet))
            if packet.stream.index != stream.index:
                continue
            count += 1
            if count > MOST_FRAMES:
                raise VideoError(f"{name} has more than {MOST_FRAMES:,} frames; cut it")
            exact = exact and packet.pts is not None
            time = packet.pts if packet.pts is not None else count
            if packet.is_keyframe:
                keys.append(time)
            if not packet.is_discard:  # decoded for others' sake, and never shown
                times.append(time)
        if not times:
            raise VideoError(f"{name} has no frames")
        if count < stream.frames:
            raise VideoError(f"{name} is cut off: it has {count} of its {stream.frames} frames")
        seconds = (container.duration or 0) / MICROSECONDS
        if reached < SHARE * seconds - 1:
            raise VideoError(f"{name} is cut off: it ends at second {reached:.1f} of {seconds:.1f}")
        return cls(sorted(times), sorted(keys) if exact else [])


def _stretch(source: Source, stream: Any, count: int, name: str) -> Stretch:
    """The part of the video that is shown, all of `count` frames where the source says nothing."""
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    if fps <= 0:
        raise VideoError(f"{name} does not say how many frames a second it has")
    context = stream.codec_context
    first, last = 0, count - 1
    if isinstance(source, Mapping):
        start, end = source.get("video_start"), source.get("video_end")
        # as qwen-vl-utils counts them
        if start is not None:
            first = ceil(min(max(0.0, start), count / fps) * fps)
        if end is not None:
            last = min(floor(min(max(0.0, end), count / fps) * fps), last)
        if first > last:
            raise VideoError(f"{name} has no frames from second {start} to second {end}")
    return Stretch(first, last - first + 1, fps, context.width, context.height)


def _decoded(
    container: Any, stream: Any, index: _Index, numbers: Sequence[int], name: str
) -> Iterator[Any]:
    """The frames of these numbers, one after the other."""
    pictures = _sought(container, stream, index, numbers)
    if not index.keys:
        pictures = _counted(container, stream, numbers)
    for number in numbers:
        picture = next(pictures, None)
        if picture is None:
            raise VideoError(
                f"{name} ends before frame {number} of {len(index.times)}; it is cut off or broken"
            )
        yield picture


def _end(packet: Any) -> float:
    """Until which second a packet reaches, from the beginning of its stream."""
    time = packet.pts if packet.pts is not None else packet.dts
    if time is None:
        return 0.0
    start = packet.stream.start_time or 0
    return float((time - start + (packet.duration or 0)) * packet.time_base)


def _counted(container: Any, stream: Any, numbers: Sequence[int]) -> Iterator[Any]:
    """Frames by their place, decoded from the first on; one may be asked for several times."""
    following = iter(numbers)
    number = next(following, None)
    for place, picture in enumerate(container.decode(stream)):
        while number == place:
            yield picture
            number = next(following, None)
        if number is None:
            return


def _sought(container: Any, stream: Any, index: _Index, numbers: Sequence[int]) -> Iterator[Any]:
    """Frames by their time; between two that are far apart decoding goes on at the last place
    before the next where it can begin.
    """
    pictures: Iterator[Any] | None = None
    picture: Any = None
    for number in numbers:
        due = index.times[number]
        key = index.keys[max(0, bisect_right(index.keys, due) - 1)]
        if pictures is None or key > picture.pts:
            container.seek(key, stream=stream, backward=True)
            pictures, picture = container.decode(stream), None
        while picture is None or picture.pts < due:
            picture = next(pictures, None)
            if picture is None:
                return
        yield picture


def _check_frame(width: int, height: int, max_pixels: int | None, name: str) -> None:
    if width < 1 or height < 1:
        raise VideoError(f"{name} has frames of {width} x {height} pixels")
    if max_pixels is not None and width * height > max_pixels:
        raise VideoError(
            f"{name} has frames of {width} x {height} = {width * height:,} pixels, and at most "
            f"{max_pixels:,} are decoded; scale it down, or raise max_image_pixels"
        )


def _check_places(places: Sequence[int], stretch: Stretch, name: str) -> None:
    if not places:
        raise VideoError(f"{name} has {stretch.count} frames, of which none would be shown")
    if len(places) > MOST_SHOWN:
        raise VideoError(
            f"{name}: {len(places)} frames would be shown, and the most is {MOST_SHOWN}; "
            "set max_frames"
        )
    if min(places) < 0 or max(places) >= stretch.count or list(places) != sorted(places):
        raise VideoError(f"{name} has {stretch.count} frames, not those that were chosen")


def _name(source: Source) -> str:
    path: Any = source
    if isinstance(source, Mapping):
        path = source.get("path") or source.get("url") or source.get("video")
    if isinstance(path, str | os.PathLike):
        return f"video {one_line(os.fspath(path), 100)}"
    return "the video"


def _reason(error: Exception) -> str:
    """What went wrong, without the path that the message names already."""
    return error.strerror if isinstance(error, OSError) and error.strerror else message(error)
