"""SmolVLM2: an image cut into a grid of tiles, each behind a marker token, the whole image last;
SigLIP, pixel shuffle.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prunebench.models import crops as vit
from prunebench.models.arithmetic import linear
from prunebench.models.base import KNOWN_GOOD, EncoderRows, Family, Originals
from prunebench.tokens import Layout, Region, Tile

Run = tuple[int, int]
"""Where an unbroken run of visual tokens starts and ends in one prompt's ids; every tile is one."""

MARKERS = 2
"""Ids between two tiles of a row: <fake_token_around_image> and <row_R_col_C>. A newline more ends
the row.
"""


class SmolVLM(Family):
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
    tiled = True

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config: Any = model.config
        return (config.image_token_id,)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """The prompt's ids tell it all: no `originals` are needed, for images are squeezed into
        their grid, never padded.
        """
        config: Any = model.config
        layouts = []
        for ids in inputs["input_ids"].tolist():
            runs = _runs(ids, config)
            stamped = bool(runs) and all(_stamped(ids, start) for start, _ in runs)
            layouts.append(
                Layout(tuple(_frames(runs, config) if stamped else _images(ids, runs, config)))
            )
        return layouts

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """Every tile is a sequence; the empty ones that fill up a batch are dropped before the
        encoder.
        """
        config: Any = model.config
        side, scale = _side(config), config.scale_factor
        patches = (side * scale) ** 2
        shuffled = (
            torch.arange(patches)
            .view(side, scale, side, scale)
            .transpose(1, 2)
            .reshape(side**2, scale**2)
        )
        rows, first = [], 0
        for layout in layouts:
            tiles = torch.arange(first, first + len(layout.tiles))
            rows.append(EncoderRows((tiles[:, None, None] * patches + shuffled).flatten(0, 1)))
            first += len(tiles)
        return rows

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        parts: Any = model
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return {}
        return {
            "image": parts.get_image_features(
                pixels, inputs.get("pixel_attention_mask"), return_dict=True
            )
        }

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        tokens = vit.count(inputs["input_ids"], config.image_token_id)
        encoder = vit.vit_flops(config.vision_config, tokens // _side(config) ** 2, cls=False)
        return encoder, linear(
            tokens,
            config.vision_config.hidden_size * config.scale_factor**2,
            config.text_config.hidden_size,
        )


def _side(config: Any) -> int:
    """Visual tokens along one side of a tile: pixel shuffle makes one of `scale_factor` x
    `scale_factor` patches.
    """
    return int(vit.side(config.vision_config) // config.scale_factor)


def _runs(ids: Sequence[int], config: Any) -> list[Run]:
    """The tiles of one prompt; raises ValueError where one is not whole or its markers are not
    those of the processor.
    """
    runs, start = [], 0
    for visual, group in itertools.groupby(ids, lambda token: token == config.image_token_id):
        end = start + len(list(group))
        if visual:
            runs.append((start, end))
        start = end
    for start, end in runs:
        if end - start != _side(config) ** 2:
            raise ValueError(
                f"the prompt has a run of {end - start} visual tokens; every tile has {_side(config) ** 2}"
            )
        # the model knows no ids of markers, but <fake_token_around_image> stands behind the last
        # run too
        if (
            start < MARKERS
            or ids[start - MARKERS : start - 1] != ids[runs[-1][1] : runs[-1][1] + 1]
        ):
            raise ValueError(
                f"the tile at position {start} of the prompt is not marked the way SmolVLMProcessor does it "
                f"(<fake_token_around_image>, then a marker that is one token); known to work: {KNOWN_GOOD}"
            )
    return runs


def _images(ids: Sequence[int], runs: Sequence[Run], config: Any) -> list[Tile]:
    """The tiles of a prompt with images, from the markers and newlines that the processor writes
    around every run.

    Read by their places, because the model knows no ids of markers: an image ends with a view of
    the whole, so the id before a prompt's last run is <global-img>; a run behind another marker is
    a crop, and more ids than the two markers of the next tile behind it are the newline that ends
    its row.
    """
    if not runs:
        return []
    side, shown = _side(config), _shown(config)
    whole = ids[runs[-1][0] - 1]
    tiles: list[Tile] = []
    ends: list[bool] = []  # of every crop since the last whole view, whether it ends a row
    image = 0
    for (start, end), (following, _) in itertools.pairwise([*runs, (len(ids), len(ids))]):
        if ids[start - 1] != whole:
            ends.append(following - end > MARKERS)
            continue
        rows, columns = _grid(ends)
        for row, column in itertools.product(range(rows), range(columns)):
            region = (
                column / columns,
                row / rows,
                (column + shown) / columns,
                (row + shown) / rows,
            )
            tiles.append(Tile(side, side, "crop", image, region=region))
        tiles.append(
            Tile(side, side, "thumbnail" if ends else "image", image, region=_whole(shown))
        )
        ends, image = [], image + 1
    return tiles


def _frames(runs: Sequence[Run], config: Any) -> list[Tile]:
    """The tiles of a prompt with videos; the text that introduces a video stands before its first
    frame.
    """
    between = [start - end for (_, end), (start, _) in itertools.pairwise(runs)]
    video = frame = 0
    tiles = [Tile(_side(config), _side(config), "frame", region=_whole(_shown(config)))]
    for gap in between:
        video, frame = (video, frame + 1) if gap == min(between) else (video + 1, 0)
        tiles.append(
            Tile(_side(config), _side(config), "frame", video, frame, region=_whole(_shown(config)))
        )
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
            f"{len(ends)} crops of an image do not form a grid by the newlines behind them; the tokenizer must keep them"
        )
    return rows, columns


def _shown(config: Any) -> float:
    """How much of a tile's side its patches cover: what is over at the right and lower edge does
    not enter the encoder.
    """
    vision = config.vision_config
    return float(vit.side(vision) * vision.patch_size / vision.image_size)


def _whole(shown: float) -> Region:
    return (0.0, 0.0, shown, shown)
