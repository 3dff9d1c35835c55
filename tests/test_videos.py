"""Videos: the frames that are shown are those of the file, and no file can do harm."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from prunebench.border import videos
from prunebench.border.videos import Clip, Stretch, VideoError


def film(
    file: Path, codec: str = "mpeg4", count: int = 40, size: tuple[int, int] = (64, 48)
) -> Path:
    """A film of ten pictures a second, each in a colour of its own."""
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt, stream.gop_size = "yuv420p", 12
        for number in range(count):
            picture = np.full((size[1], size[0], 3), (number * 6 % 256, 90, 200), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def those(*numbers: int) -> Callable[[Stretch], Sequence[int]]:
    return lambda _: numbers


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "mpeg4"), ("a.mkv", "libx264"), ("a.avi", "libx264"), ("a.ts", "mpeg2video")],
)
def test_the_frames_are_those_of_the_file(tmp_path: Path, name: str, codec: str) -> None:
    """Also where times begin anywhere, and pictures are stored in another order than shown."""
    file = film(tmp_path / name, codec)
    with av.open(str(file)) as container:
        every = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    clip = videos.read(file, those(0, 5, 5, 23, 24, 39))
    assert clip.stretch == Stretch(0, len(every), 10.0, 64, 48)
    assert clip.indices == (0, 5, 5, 23, 24, 39)
    assert np.array_equal(clip.frames, np.stack([every[number] for number in clip.indices]))
    assert videos.read(file.read_bytes(), those(39)).indices == (39,)


def test_a_part_is_counted_from_its_beginning(tmp_path: Path) -> None:
    source = {"path": film(tmp_path / "a.mp4"), "video_start": 1.05, "video_end": 2.0}
    clip = videos.read(source, lambda stretch: range(stretch.count))
    assert clip.indices == tuple(range(11, 21))
    assert clip.metadata["total_num_frames"] == 10
    with pytest.raises(VideoError, match="no frames from second 3 to second 2"):
        videos.read({**source, "video_start": 3}, those(0))


def test_frames_are_scaled_one_by_one(tmp_path: Path) -> None:
    file = film(tmp_path / "a.mp4")
    counts: list[int] = []

    def scaled(frame: Any, count: int) -> Any:
        counts.append(count)
        return frame[::2, ::2]

    clip = videos.read(file, those(1, 30), scaled)
    assert clip.frames.shape == (2, 24, 32, 3)
    assert counts == [2, 2]


def broken(folder: Path) -> dict[str, tuple[Any, str]]:
    """Files that are no videos, each with what is said of it."""
    whole = film(folder / "whole.mkv", "libx264").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    film(folder / "film.mp4")
    half = (folder / "film.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(half[: len(half) // 2])
    (folder / "text.mp4").write_text("no video at all " * 100)
    (folder / "empty.mp4").write_bytes(b"")
    os.mkfifo(folder / "pipe.mp4")
    with av.open(str(folder / "sound.wav"), "w") as container:
        sound: Any = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
    return {
        "cut off": (folder / "cut.mkv", "cut off: it ends at second"),
        "cut off before its index": (folder / "half.mp4", "cannot be read"),
        "a text": (folder / "text.mp4", "cannot be read"),
        "empty": (folder / "empty.mp4", "cannot be read"),
        "missing": (folder / "none.mp4", "No such file"),
        "a folder": (folder, "is a folder, no file"),
        "a pipe": (folder / "pipe.mp4", "is a device or pipe, no file"),
        "an address": ("https://example.org/a.mp4", "is an address"),
        "sound alone": (folder / "sound.wav", "has no pictures"),
        "no source": (7, "a int is no video"),
    }


def test_what_cannot_be_shown_is_said_in_one_line(tmp_path: Path) -> None:
    def last(stretch: Stretch) -> list[int]:
        return [max(39, stretch.count - 1)]

    for kind, (source, words) in broken(tmp_path).items():
        with pytest.raises(VideoError, match=words) as caught:
            videos.read(source, last)
        assert len(str(caught.value).splitlines()) == 1, kind


def test_limits_are_checked_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = film(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match=r"64 x 48 = 3,072 pixels, and at most 3,071"):
        videos.read(file, those(0), max_pixels=3071)
    with pytest.raises(VideoError, match="769 frames would be shown, and the most is 768"):
        videos.read(file, those(*[0] * 769))
    with pytest.raises(VideoError, match="has 40 frames, not those"):
        videos.read(file, those(40))
    with pytest.raises(VideoError, match="of which none"):
        videos.read(file, those())
    monkeypatch.setattr(videos, "MOST_FRAMES", 39)
    with pytest.raises(VideoError, match="more than 39 frames; cut it"):
        videos.read(file, those(0))
    monkeypatch.undo()
    monkeypatch.setattr(videos, "MOST_BYTES", 64 * 48 * 3)
    with pytest.raises(VideoError, match="set max_frames lower"):
        videos.read(file, those(0, 1))
    assert isinstance(videos.read(file, those(0)), Clip)
