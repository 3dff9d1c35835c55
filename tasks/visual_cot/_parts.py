"""Parts: a tar that was cut into files, read where they lie, neither joined nor unpacked."""

from __future__ import annotations

import io
import tarfile
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from prunebench.benchmarks.request import TaskError
from prunebench.border.text import message, one_line, short_path


class Joined(io.RawIOBase):
    """Files one behind the other, as one that can be read anywhere."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[BinaryIO] = [path.open("rb") for path in paths]
        sizes = [path.stat().st_size for path in paths]
        self._starts = [0, *accumulate(sizes)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}
        self._position = bases[whence] + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # a writable buffer
        """Read up to the end of the file in which the position lies."""
        number = bisect_right(self._starts, self._position) - 1
        if number >= len(self._files):
            return 0
        file = self._files[number]
        file.seek(self._position - self._starts[number])
        data = file.read(min(len(buffer), self._starts[number + 1] - self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


class Archive:
    """The images of a tar by SET/FILE, where each begins and how long it is."""

    def __init__(self, joined: Joined, places: dict[str, tuple[int, int]]) -> None:
        self._joined = joined
        self._places = places

    @classmethod
    def opened(cls, parts: Sequence[Path]) -> Archive:
        """Read the heads of all members, which lie far apart: of 140 GB seconds to minutes.

        Raises TaskError for parts that make no tar.
        """
        joined = Joined(parts)
        places = {}
        try:
            with tarfile.open(fileobj=io.BufferedReader(joined), mode="r:") as tar:
                for member in tar:
                    if member.isfile():
                        # the folders above that of the set have had several names
                        name = "/".join(member.name.split("/")[-2:])
                        full = member.name.split("cot_image_data/")[-1].removeprefix("cot/")
                        place = member.offset_data, member.size
                        places.setdefault(name, place)
                        places[full] = place
        except (tarfile.TarError, OSError) as error:
            reason = one_line(message(error), 80)
            raise TaskError(f"{short_path(parts[0])} begins no tar: {reason}") from error
        return cls(Joined(parts), places)

    def __contains__(self, image: str) -> bool:
        return image in self._places

    def size(self, image: str) -> int:
        """Bytes of an image."""
        return self._places[image][1]

    def read(self, image: str) -> bytes:
        """The content of an image; of one whose part is missing what there is of it."""
        start, size = self._places[image]
        self._joined.seek(start)
        content = bytearray()
        while len(content) < size:
            data = self._joined.read(size - len(content))
            if not data:
                break
            content += data
        return bytes(content)
