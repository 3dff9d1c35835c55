"""Request: one question of a task, and the images and masks that belong to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prunebench.border import images

MASK_COLUMN = "mask"
"""Where data have masks: an image whose pixel values number what the question's image shows."""

Reader = Callable[..., Any]
"""`images.read` or what stands on it."""


class TaskError(ValueError):
    """A task that does not exist, cannot be fetched, or is of a kind that cannot be run."""


class MediaError(ValueError):
    """A sample whose image or video cannot be read."""


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Request:
    """One question of a task, without its images.

    `until` cuts the answer off; `evidence_boxes` are (x0, y0, x1, y1) in pixels of the image of
    everything that must be seen, None where the data do not say it.

    Where several pictures are shown, `evidence_pictures` says which image, or which frame of the
    one video, each box lies in, counted from 0, and `evidence_objects` which object it shows: boxes
    of one object are places of which one is enough. Both are empty where there is one image, in
    which every box is another object's.
    """

    sample_id: str
    doc_id: int
    question: str
    reference: str
    generation: Mapping[str, Any]
    until: tuple[str, ...]
    evidence_boxes: tuple[Box, ...] | None = None
    question_type: str | None = None
    complexity: int | None = None
    evidence_pictures: tuple[int, ...] = ()
    evidence_objects: tuple[int, ...] = ()

    def boxes_in(self, picture: int) -> tuple[Box, ...]:
        """The evidence boxes that lie in one of the pictures."""
        boxes = self.evidence_boxes or ()
        if not self.evidence_pictures:
            return boxes
        numbered = zip(boxes, self.evidence_pictures, strict=True)
        return tuple(box for box, number in numbered if number == picture)


def read_row(rows: Any, number: int, max_pixels: int | None) -> dict[str, Any]:
    """Row `number` of a data set, its images read by `images`; masks keep the numbers they hold.

    What decoders raise at a broken image comes through as it is.
    """
    row = stored_row(rows, number)
    for column, feature in rows.features.items():
        reader = images.read if column == MASK_COLUMN else _read_colours
        row[column] = _decoded(row[column], feature, reader, max_pixels)
    return row


def read_mask(rows: Any, number: int, max_pixels: int | None) -> Any:
    """[H, W] integers of row `number`: 0 for background, k for the k-th thing that the image
    shows; None where the data have no masks.
    """
    if MASK_COLUMN not in rows.features:
        return None
    import numpy as np

    row = stored_row(rows.select_columns([MASK_COLUMN]), number)
    feature = rows.features[MASK_COLUMN]
    return np.asarray(_decoded(row[MASK_COLUMN], feature, images.read, max_pixels))


def stored_row(rows: Any, number: int) -> dict[str, Any]:
    """A row with its images as they are stored, and everything else as `rows[number]` has it."""
    import datasets

    # the task's own transform wants what datasets decodes
    if rows.format["type"] == "custom":
        transformed: dict[str, Any] = rows[number]
        return transformed
    # as Arrow nothing is decoded; a row is a table whose columns hold one value each
    table = rows.with_format("arrow")[number]
    row = {column: values[0] for column, values in table.to_pydict().items()}
    kinds = {column: _as_stored(feature) for column, feature in rows.features.items()}
    decoded: dict[str, Any] = datasets.Features(kinds).decode_example(row)
    return decoded


def _as_stored(feature: Any) -> Any:
    """The feature, whose images stay as they are stored wherever in it they lie."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, dict):
        return {name: _as_stored(part) for name, part in feature.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        return dataclasses.replace(feature, feature=_as_stored(feature.feature))
    return feature


def _decoded(value: Any, feature: Any, reader: Reader, max_pixels: int | None) -> Any:
    """The value, the images that lie in it read by `reader`."""
    import datasets

    if value is None:
        return None
    if isinstance(feature, datasets.Image):
        return _image(value, feature, reader, max_pixels)
    if isinstance(feature, dict):
        parts = {}
        for name, part in feature.items():
            parts[name] = _decoded(value[name], part, reader, max_pixels)
        return parts
    if isinstance(feature, datasets.List | datasets.LargeList):
        return [_decoded(part, feature.feature, reader, max_pixels) for part in value]
    return value


def _image(value: Any, feature: Any, reader: Reader, max_pixels: int | None) -> Any:
    """An image in the mode that its column declares."""
    if not isinstance(value, Mapping):
        return reader(value, max_pixels=max_pixels)
    if value["bytes"] is None and "://" in (value["path"] or ""):
        value = feature.decode_example(value)  # datasets knows how to fetch it
    image = reader(value, max_pixels=max_pixels)
    return image.convert(feature.mode) if feature.mode and feature.mode != image.mode else image


def _read_colours(source: images.Source, *, max_pixels: int | None) -> Any:
    """The image as a task may look at it: the mode it is stored in, at most 8 bits a channel."""
    return images.eight_bit(images.read(source, max_pixels=max_pixels))
