"""Images: one way in for everything that is shown to a model, with the limits that are checked
before anything is decoded.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from prunebench.border.text import message, one_line

MAX_PIXELS = 100_000_000
"""The most pixels that are decoded: 10,000 x 10,000 take 300 MB as RGB, and several times that in a
processor.
"""

MAX_ASPECT = 200
"""How many times longer than wide an image may be. Processors that scale the short side make
gigabytes of anything longer.
"""

Source = str | os.PathLike[str] | bytes | Mapping[str, Any] | Image.Image
"""A file, its content, a row of a data set ({"bytes": ..., "path": ...}), or an image that is open
already.
"""

_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_FOREIGN = frozenset({"EPS"})
"""Formats that Pillow hands to another program."""

# reentrant, because `read` enters both blocks that hold it
_settings = threading.RLock()


class ImageError(ValueError):
    """An image that cannot be read, or that is larger than what is decoded."""


def load(
    source: Source, *, max_pixels: int | None = MAX_PIXELS, on_white: bool = False
) -> Image.Image:
    """The image as people see it: RGB, 8 bits a channel, upright, the first of several frames.

    For ordinary 8-bit images the pixels are those of Pillow's `convert("RGB")`, which is what
    lmms-eval's tasks give to models. That holds for transparency, too: the alpha channel is
    dropped, and what was transparent shows the colour stored there, or with `on_white` white. What
    `convert` clips to white is scaled instead, see `eight_bit`. An orientation in the file's EXIF
    is applied; EXIF that cannot be read says nothing about it.

    `max_pixels` is checked before anything is decoded, None is no limit; an aspect ratio above
    MAX_ASPECT is always refused. Raises ImageError in one line; for a file that is missing, no
    image or truncated, too.
    """
    image = eight_bit(read(source, max_pixels=max_pixels))
    if on_white and image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    return _converted(image, _name(source))


def read(source: Source, *, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """The image upright and decoded in the mode it is stored in, for data whose values are no
    colours; limits as for `load`.
    """
    name = _name(source)
    with _own_limit_only():
        try:
            with _opened(source) as image:
                _check(image.size, max_pixels, name)
                with strictly(max_pixels):
                    image.load()
                # a container's header does not bind the image inside
                _check(image.size, max_pixels, name)
                return _upright(image)
        except (ImageError, MemoryError):
            raise
        except UnidentifiedImageError:
            raise ImageError(
                f"{name} is no image that Pillow can read; save it as PNG or JPEG"
            ) from None
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"{name} is larger inside than its header says: {one_line(message(error), 120)}"
            ) from None
        except Exception as error:  # what decoders raise is as various as they are
            raise ImageError(f"{name} cannot be read: {one_line(_reason(error), 140)}") from error


@contextmanager
def strictly(max_pixels: int | None = MAX_PIXELS) -> Iterator[None]:
    """Whoever opens images with Pillow in this block gets an error for truncated ones and for more
    than `max_pixels`.

    lmms-eval lets Pillow fill up truncated images with grey, and some of its tasks lift Pillow's
    limit. Both are settings of the process, so that no other thread can be inside this block or in
    `read` at the same time.
    """
    with _settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        # Pillow warns above its limit, and refuses above twice its limit
        Image.MAX_IMAGE_PIXELS = None if max_pixels is None else (max_pixels + 1) // 2
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def eight_bit(image: Image.Image) -> Image.Image:
    """The image with at most 8 bits a channel, scaled where it has more; others come back as they
    are.

    16 bits are scaled from their full range. Where the mode says no range (32-bit integers,
    floats), white is the smallest of the usual ones that holds every value: 1 (floats only), 255,
    65,535 or 2^31 - 1. Raises ImageError for negative and non-finite values and those beyond,
    because nothing says what is black and white there.
    """
    if image.mode.startswith("I;16"):
        return _from_sixteen(image)
    if image.mode in ("I", "F"):
        return _from_wide(image)
    return image


def _from_sixteen(image: Image.Image) -> Image.Image:
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})  # a TIFF's
    bits = tags.get(_BITS, (16,))[0]
    white = 2 ** min(int(bits), 16) - 1
    # 16 bits times 255 need more than 16
    values = np.asarray(image).astype(np.uint32)
    scaled = (values * 255 + white // 2) // white
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow turns these around at 8 bits only
        scaled = 255 - scaled
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def _from_wide(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())  # NaN where any value is
    usual = [255, 2**16 - 1, 2**31 - 1] if image.mode == "I" else [1, 255, 2**16 - 1, 2**31 - 1]
    white = next((value for value in usual if high <= value), None)
    # not `low < 0`, which NaN would pass
    if white is None or not low >= 0:
        raise ImageError(
            f"the image has values from {low:g} to {high:g}, of which none is black or white; "
            "save it with 8 bits"
        )
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))


def _converted(image: Image.Image, name: str) -> Image.Image:
    with warnings.catch_warnings():
        # that a palette's transparency is dropped is what `load` says
        warnings.simplefilter("ignore")
        try:
            return image.convert("RGB")
        except (ValueError, OSError) as error:
            reason = one_line(str(error), 120)
            raise ImageError(
                f"{name} has colours of mode {image.mode}, which are not RGB: {reason}"
            ) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # EXIF of any age and make; viewers show such an image as it is stored
        turned = False
    return ImageOps.exif_transpose(image) if turned else image


def _check(size: tuple[int, int], max_pixels: int | None, name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width} x {height}")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} = {width * height:,} pixels, "
            f"and at most {max_pixels:,} are decoded; scale it down, or raise max_image_pixels"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(
            f"{name} is {width} x {height}; "
            f"one side may be at most {MAX_ASPECT} times the other, so cut it"
        )


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """The image, not decoded yet; a file is closed behind it."""
    if isinstance(source, Image.Image):
        yield source
        return
    content: Any = source
    if isinstance(source, Mapping):
        content = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if not isinstance(content, bytes | str | os.PathLike):
        raise ImageError(
            f"a {type(content).__name__} is no image; "
            "give a file, its content or an image of Pillow"
        )
    stream: BinaryIO = io.BytesIO(content) if isinstance(content, bytes) else _file(Path(content))
    with stream, _lazily(stream) as image:
        yield image


def _lazily(stream: BinaryIO) -> Image.Image:
    # Pillow knows only its commonest formats before; Image.ID then names them all
    Image.init()
    return Image.open(stream, formats=[name for name in Image.ID if name not in _FOREIGN])


def _file(path: Path) -> BinaryIO:
    """The open file; anything else that has a path is refused, before a read of it can hang or
    never end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "device or pipe"
        os.close(handle)
        raise ImageError(f"{_name(path)} is a {kind}, no file")
    return os.fdopen(handle, "rb")


@contextmanager
def _own_limit_only() -> Iterator[None]:
    """Pillow's limit is aside while a file is opened, which decodes nothing: `_check` says more."""
    with _settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about a file's tags, in the file's own words
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _name(source: Source) -> str:
    path = source.get("path") if isinstance(source, Mapping) else source
    if isinstance(path, str | os.PathLike):
        return f"image {one_line(os.fspath(path), 100)}"
    return "the image"


def _reason(error: Exception) -> str:
    """What went wrong, without the path that the message names already."""
    return error.strerror if isinstance(error, OSError) and error.strerror else message(error)
