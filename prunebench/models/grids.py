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
from prunebench.models.base import EncoderRows, Family, Originals, in_prompt_order
from prunebench.tokens import Layout, Tile

Grid = tuple[int, int, int]
"""Frames, rows and columns of an image or a video, in LLM tokens; an image has one frame."""


class GridAdapter(Family):
    """A family whose inputs say every image's and video's grid (`image_grid_thw`,
    `video_grid_thw`), as Qwen's all do.
    """

    vision_inputs = ("pixel_values", "pixel_values_videos")
    blocks_at = ("blocks",)
    attention_at = "attn"

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config: Any = model.config
        return (config.image_token_id, config.video_token_id)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """Text may stand between the frames of a video: only the order of the visual tokens counts."""
        config: Any = model.config
        merge = config.vision_config.spatial_merge_size
        grids = {
            config.image_token_id: _grids(inputs.get("image_grid_thw"), merge),
            config.video_token_id: _grids(inputs.get("video_grid_thw"), merge),
        }
        kinds = {config.image_token_id: "image", config.video_token_id: "frame"}
        layouts = []
        for row in inputs["input_ids"].tolist():
            visual = [token for token in row if token in grids]
            tiles: list[Tile] = []
            image = at = 0
            while at < len(visual):
                frames, rows, columns = next(grids[visual[at]], (0, 0, 0))
                count = frames * rows * columns
                if (
                    count == 0
                    or any(token != visual[at] for token in visual[at : at + count])
                    or at + count > len(visual)
                ):
                    raise ValueError(
                        f"the prompt has {len(visual)} visual tokens, which the image and video grids do not add up to"
                    )
                tiles += [
                    Tile(rows, columns, kinds[visual[at]], image, frame) for frame in range(frames)
                ]
                image, at = image + 1, at + count
            layouts.append(Layout(tuple(tiles)))
        return layouts

    def order(self, vision_config: Any, grids: Sequence[Grid]) -> Tensor:
        """[tokens] for every token of these grids in reading order, its place among the encoder's;
        the same unless overridden.
        """
        return torch.arange(sum(frames * rows * columns for frames, rows, columns in grids))

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """The patches that merge into one token stand one behind the other in the encoder."""
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        places = self.order(vision, all_grids(inputs, vision))
        group = torch.arange(vision.spatial_merge_size**2)
        return [
            EncoderRows(unit[:, None] * len(group) + group)
            for unit in in_prompt_order(places, layouts)
        ]

    def token_pixels(self, model: nn.Module) -> int:
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        return int(vision.patch_size * vision.spatial_merge_size)

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        parts: Any = model
        encoded = {}
        if inputs.get("pixel_values") is not None:
            encoded["image"] = parts.get_image_features(
                inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
            )
        if inputs.get("pixel_values_videos") is not None:
            encoded["video"] = parts.get_video_features(
                inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
            )
        return encoded

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        return self.grid_flops(config.vision_config, all_grids(inputs, config.vision_config))

    @abstractmethod
    def grid_flops(self, vision_config: Any, grids: Sequence[Grid]) -> tuple[int, int]:
        """FLOPs of the vision encoder and of the projector behind it, for images and videos of
        these grids.
        """


def all_grids(inputs: Mapping[str, Any], vision_config: Any) -> list[Grid]:
    """The grids of all images of the batch and then of all videos, as the encoder gets them."""
    merge = vision_config.spatial_merge_size
    return [
        grid
        for name in ("image_grid_thw", "video_grid_thw")
        for grid in _grids(inputs.get(name), merge)
    ]


def frame_patches(vision_config: Any, grids: Sequence[Grid]) -> list[int]:
    """Patches in every frame."""
    merge = vision_config.spatial_merge_size
    return [rows * columns * merge**2 for frames, rows, columns in grids for _ in range(frames)]


def embedding_flops(vision_config: Any, patches: int, width: int) -> int:
    """FLOPs of the convolution that embeds patches of several frames' pixels."""
    return linear(
        patches,
        vision_config.in_channels * vision_config.temporal_patch_size * vision_config.patch_size**2,
        width,
    )


def merger_flops(vision_config: Any, patches: int, width: int, out: int) -> int:
    """FLOPs of the two-layer projector that merges neighbouring patches into tokens of `out`
    channels.
    """
    unit = vision_config.spatial_merge_size**2
    return linear(patches // unit, unit * width, unit * width + out)


def _grids(grid_thw: Tensor | None, merge: int) -> Iterator[Grid]:
    for frames, height, width in grid_thw.tolist() if grid_thw is not None else []:
        yield frames, height // merge, width // merge
