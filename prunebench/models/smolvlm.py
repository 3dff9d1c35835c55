"""SmolVLM2: an image cut into a grid of tiles, each behind a marker token, the whole image last;
SigLIP, pixel shuffle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from torch import nn

from prunebench.models.arithmetic import linear
from prunebench.models.base import KNOWN_GOOD, Originals, config_of
from prunebench.models.crops import CropFamily, patches_a_side
from prunebench.tokens import Layout, Region, Tile

Run = tuple[int, int]
"""Where an unbroken run of visual tokens starts and ends in one prompt's ids; every tile is one."""

MARKERS = 2
"""Ids between two tiles of a row: <fake_token_around_image> and <row_R_col_C>. A newline more ends
the row.
"""


class SmolVLM(CropFamily):
    """`SmolVLMForConditionalGeneration`: images split or whole, or videos, whose frames are a tile
    each.

    The stock processor takes images or videos, not both in one call, and always asks for the
    package num2words.
    """

    name = "SmolVLM2"
    model_types = frozenset({"smolvlm"})
    aliases = {
        "smolvlm2": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "smolvlm2-256m": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "smolvlm2-500m": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "smolvlm2-2.2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    }
    vision_inputs = ("pixel_values", "pixel_attention_mask")
    beside_pixels = ("pixel_attention_mask",)
    tiled = True

    def merge(self, config: Any) -> int:
        return int(config.scale_factor)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """The prompt's ids tell it all: no `originals` are needed, for images are squeezed into
        their grid, never padded.
        """
        config = config_of(model)
        side, covered = self.tokens_a_side(config), _covered(config.vision_config)
        layouts = []
        for ids in inputs["input_ids"].tolist():
            runs = _runs(ids, config.image_token_id)
            _check_runs(ids, runs, side**2)
            if runs and all(_stamped(ids, start) for start, _ in runs):
                tiles = _frames(runs, side, covered)
            else:
                tiles = _images(ids, runs, side, covered)
            layouts.append(Layout(tuple(tiles)))
        return layouts

    def projector_flops(self, config: Any, tokens: int) -> int:
        """One layer."""
        channels = config.vision_config.hidden_size * config.scale_factor**2
        return linear(tokens, channels, config.text_config.hidden_size)


def _runs(ids: Sequence[int], placeholder: int) -> list[Run]:
    """The unbroken runs of visual tokens of one prompt."""
    runs, start = [], 0
    for visual, group in groupby(ids, lambda token: token == placeholder):
        end = start + len(list(group))
        if visual:
            runs.append((start, end))
        start = end
    return runs


def _check_runs(ids: Sequence[int], runs: Sequence[Run], tile: int) -> None:
    """Raise ValueError where a run is not one whole `tile`, or its markers are not those of the
    processor.
    """
    for start, end in runs:
        if end - start != tile:
            raise ValueError(
                f"the prompt has a run of {end - start} visual tokens; every tile has {tile}"
            )
        # the model knows no ids of markers, but <fake_token_around_image> stands behind the last
        # run too
        behind_last = runs[-1][1]
        # a slice, which is empty where nothing stands behind the run; then no marker equals it
        fake = ids[behind_last : behind_last + 1]
        if start < MARKERS or ids[start - MARKERS : start - 1] != fake:
            raise ValueError(
                f"the tile at position {start} of the prompt is not marked the way SmolVLMProcessor"
                " does it (<fake_token_around_image>, then a marker that is one token); known to "
                f"work: {KNOWN_GOOD}"
            )


def _images(ids: Sequence[int], runs: Sequence[Run], side: int, covered: float) -> list[Tile]:
    """The tiles of a prompt with images, from the markers and newlines that the processor writes
    around every run.

    Read by their places, because the model knows no ids of markers: an image ends with a view of
    the whole, so the id before a prompt's last run is <global-img>; a run behind another marker is
    a crop, and more ids than the two markers of the next tile behind it are the newline that ends
    its row.
    """
    if not runs:
        return []
    global_marker = ids[runs[-1][0] - 1]
    tiles: list[Tile] = []
    ends: list[bool] = []  # of every crop since the last whole view, whether it ends a row
    image = 0
    # the last run is a whole view, so where a run would follow it is never asked
    for (start, end), (following, _) in pairwise([*runs, (len(ids), len(ids))]):
        if ids[start - 1] != global_marker:
            ends.append(following - end > MARKERS)
            continue
        for region in _regions(*_grid(ends), covered):
            tiles.append(Tile(side, side, "crop", image, region=region))
        kind = "thumbnail" if ends else "image"
        tiles.append(Tile(side, side, kind, image, region=(0.0, 0.0, covered, covered)))
        ends, image = [], image + 1
    return tiles


def _regions(rows: int, columns: int, covered: float) -> Iterator[Region]:
    """What the crops of a grid show of their image, row by row."""
    for row in range(rows):
        for column in range(columns):
            right, bottom = (column + covered) / columns, (row + covered) / rows
            yield (column / columns, row / rows, right, bottom)


def _frames(runs: Sequence[Run], side: int, covered: float) -> list[Tile]:
    """The tiles of a prompt with videos; the text that introduces a video stands before its first
    frame.
    """
    region = (0.0, 0.0, covered, covered)
    gaps = [start - end for (_, end), (start, _) in pairwise(runs)]
    video = frame = 0
    tiles = [Tile(side, side, "frame", region=region)]
    for gap in gaps:
        # only where another video is introduced is there more than a timestamp between two frames
        video, frame = (video, frame + 1) if gap == min(gaps) else (video + 1, 0)
        tiles.append(Tile(side, side, "frame", video, frame, region=region))
    return tiles


def _stamped(ids: Sequence[int], start: int) -> bool:
    """Whether "MM:SS:" stands before a tile's two markers: two colons of equal id, two digits
    apart, as in a video's frames.
    """
    stamp = ids[max(0, start - MARKERS - 4) : start - MARKERS]
    return len(stamp) == 4 and stamp[0] == stamp[3] and stamp[3] not in stamp[1:3]


def _grid(ends: Sequence[bool]) -> tuple[int, int]:
    """Rows and columns of an image's crops, of which each says whether it ends a row; none where it
    is not split.
    """
    rows = sum(ends)
    columns = len(ends) // max(1, rows)
    if list(ends) != ([False] * (columns - 1) + [True]) * rows:
        raise ValueError(
            f"{len(ends)} crops of an image do not form a grid by the newlines behind them; "
            "the tokenizer must keep them"
        )
    return rows, columns


def _covered(vision_config: Any) -> float:
    """How much of a tile's side its patches cover: what is over at the right and lower edge does
    not enter the encoder.
    """
    pixels = patches_a_side(vision_config) * vision_config.patch_size
    return float(pixels / vision_config.image_size)
