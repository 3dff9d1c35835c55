"""Encoders that see images and videos at their own resolution, in grids of patches of which
neighbours merge into a token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.models.arithmetic import linear
from prunebench.models.base import (
    EncoderRows,
    Family,
    Originals,
    config_of,
    in_prompt_order,
    stock,
)
from prunebench.tokens import Layout, Tile

Grid = tuple[int, int, int]
"""Frames, rows and columns of an image or a video, in LLM tokens; an image has one frame."""


class GridFamily(Family):
    """A family whose inputs say every image's and video's grid (`image_grid_thw`,
    `video_grid_thw`), as Qwen's all do.
    """

    vision_inputs = ("pixel_values", "pixel_values_videos")
    blocks_at = ("blocks",)
    attention_at = "attn"

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config = config_of(model)
        return (config.image_token_id, config.video_token_id)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """Text may stand between the frames of a video: only the order of the visual tokens
        counts.
        """
        config = config_of(model)
        merge = config.vision_config.spatial_merge_size
        kinds = {config.image_token_id: "image", config.video_token_id: "frame"}
        # one queue of grids a kind, for the whole batch: every prompt takes those that are its own
        grids = {
            config.image_token_id: _grids(inputs.get("image_grid_thw"), merge),
            config.video_token_id: _grids(inputs.get("video_grid_thw"), merge),
        }
        layouts = []
        for ids in inputs["input_ids"].tolist():
            layouts.append(Layout(tuple(tiles_of(self.visual_ids(config, ids), kinds, grids))))
        return layouts

    def visual_ids(self, config: Any, ids: Sequence[int]) -> list[int]:
        """The visual tokens of one prompt, by the ids that tell images from videos."""
        kinds = (config.image_token_id, config.video_token_id)
        return [token for token in ids if token in kinds]

    def order(self, vision_config: Any, grids: Sequence[Grid]) -> Tensor:
        """[tokens] for every token of these grids in reading order, its place among the encoder's;
        the same unless overridden.
        """
        return torch.arange(sum(frames * rows * columns for frames, rows, columns in grids))

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """The patches that merge into one token stand one behind the other in the encoder."""
        vision = config_of(model).vision_config
        group = torch.arange(vision.spatial_merge_size**2)
        places = self.order(vision, all_grids(inputs, vision))
        rows = []
        for unit in in_prompt_order(places, layouts):
            # [tokens, patches of a token]
            rows.append(EncoderRows(unit[:, None] * len(group) + group))
        return rows

    def token_pixels(self, model: nn.Module) -> int:
        vision = config_of(model).vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        encoded = {}
        if inputs.get("pixel_values") is not None:
            encoded["image"] = stock(model).get_image_features(
                inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
            )
        if inputs.get("pixel_values_videos") is not None:
            encoded["video"] = stock(model).get_video_features(
                inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
            )
        return encoded

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        vision = config.vision_config
        patches = sum(frame_patches(vision, all_grids(inputs, vision)))
        encoder = embedding_flops(vision, patches, self.width(vision))
        for block in range(vision.depth):
            encoder += self.block_flops(config, self.stretches(config, inputs, block))
        return encoder, self.projector_flops(vision, patches)

    def stretches(self, config: Any, inputs: Mapping[str, Any], block: int) -> list[int]:
        """Every frame is one, unless overridden."""
        return frame_patches(config.vision_config, all_grids(inputs, config.vision_config))

    def width(self, vision_config: Any) -> int:
        """The encoder's channels."""
        return int(vision_config.hidden_size)

    @abstractmethod
    def projector_flops(self, vision_config: Any, patches: int) -> int:
        """FLOPs of the projector behind the encoder, over so many patches."""


def all_grids(inputs: Mapping[str, Any], vision_config: Any) -> list[Grid]:
    """The grids of all images of the batch and then of all videos, as the encoder gets them."""
    merge = vision_config.spatial_merge_size
    images = _grids(inputs.get("image_grid_thw"), merge)
    videos = _grids(inputs.get("video_grid_thw"), merge)
    return [*images, *videos]


def frame_grids(grids: Sequence[Grid]) -> Iterator[tuple[int, int]]:
    """Rows and columns of every frame in LLM tokens, frame by frame."""
    for frames, rows, columns in grids:
        yield from [(rows, columns)] * frames


def frame_patches(vision_config: Any, grids: Sequence[Grid]) -> list[int]:
    """Patches in every frame."""
    unit = vision_config.spatial_merge_size**2
    return [rows * columns * unit for rows, columns in frame_grids(grids)]


def embedding_flops(vision_config: Any, patches: int, width: int) -> int:
    """FLOPs of the convolution that embeds patches of several frames' pixels."""
    pixels = vision_config.temporal_patch_size * vision_config.patch_size**2
    return linear(patches, vision_config.in_channels * pixels, width)


def merger_flops(vision_config: Any, patches: int, width: int, out: int) -> int:
    """FLOPs of the two-layer projector that merges neighbouring patches into tokens of `out`
    channels.
    """
    unit = vision_config.spatial_merge_size**2
    # both layers in one: the first is square, so that they have the same inputs
    return linear(patches // unit, unit * width, unit * width + out)


def tiles_of(
    visual: Sequence[int], kinds: Mapping[int, str], grids: Mapping[int, Iterator[Grid]]
) -> list[Tile]:
    """The tiles of one prompt, whose `visual` ids are of these `kinds`; takes their grids from
    `grids`. Raises ValueError where the ids and the grids disagree.
    """
    tiles: list[Tile] = []
    image = start = 0
    while start < len(visual):
        token = visual[start]
        # where the grids have run out, one without tokens leads to the error below
        frames, rows, columns = next(grids[token], (0, 0, 0))
        end = start + frames * rows * columns
        if end == start or end > len(visual) or set(visual[start:end]) != {token}:
            raise ValueError(
                f"the prompt has {len(visual)} visual tokens, "
                "which the image and video grids do not add up to"
            )
        for frame in range(frames):
            tiles.append(Tile(rows, columns, kinds[token], image, frame))
        image += 1
        start = end
    return tiles


def _grids(grid_thw: Tensor | None, merge: int) -> Iterator[Grid]:
    """The grids that an input tensor [images, 3] names in patches."""
    if grid_thw is not None:
        for frames, height, width in grid_thw.tolist():
            # frames are merged by the patch embedding already, only rows and columns behind it
            yield frames, height // merge, width // merge
