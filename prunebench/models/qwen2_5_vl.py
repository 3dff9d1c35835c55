"""Qwen2.5-VL: native-resolution images and videos, 2x2 patch merge, M-RoPE, no CLS token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from prunebench.models.arithmetic import encoder_block, linear
from prunebench.models.base import Adapter
from prunebench.tokens import Layout, Tile


class Qwen25VL(Adapter):
    """`Qwen2_5_VLForConditionalGeneration`."""

    model_types = frozenset({"qwen2_5_vl"})
    aliases = {
        "qwen2.5-vl": "Qwen/Qwen2.5-VL-7B-Instruct",
        "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
        "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
        "qwen2.5-vl-72b": "Qwen/Qwen2.5-VL-72B-Instruct",
    }
    vision_inputs = ("pixel_values", "pixel_values_videos")

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config: Any = model.config
        return (config.image_token_id, config.video_token_id)

    def layouts(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[Layout]:
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
                if count == 0 or any(token != visual[at] for token in visual[at : at + count]) or at + count > len(visual):
                    raise ValueError(
                        f"the prompt has {len(visual)} visual tokens, which the image and video grids do not add up to"
                    )
                tiles += [Tile(rows, columns, kinds[visual[at]], image, frame) for frame in range(frames)]
                image, at = image + 1, at + count
            layouts.append(Layout(tuple(tiles)))
        return layouts

    def cell(self, model: nn.Module) -> int:
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        return int(vision.patch_size * vision.spatial_merge_size)

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        parts: Any = model
        encoded = {}
        if inputs.get("pixel_values") is not None:
            encoded["image"] = parts.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        if inputs.get("pixel_values_videos") is not None:
            encoded["video"] = parts.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True)
        return encoded

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        vision = config.vision_config
        merge = vision.spatial_merge_size
        grids = [g for name in ("image_grid_thw", "video_grid_thw") for g in _grids(inputs.get(name), merge)]
        frames = [rows * columns * merge**2 for count, rows, columns in grids for _ in range(count)]
        windows = _windows(grids, vision.window_size // vision.patch_size // merge, merge)
        patches, width, merged = sum(frames), vision.hidden_size, vision.hidden_size * merge**2
        encoder = linear(patches, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2, width)
        for block in range(vision.depth):
            segments = frames if block in vision.fullatt_block_indexes else windows
            encoder += encoder_block(segments, width, vision.intermediate_size, gated=True)
        return encoder, linear(patches // merge**2, merged, merged + vision.out_hidden_size)


def _windows(grids: list[tuple[int, int, int]], side: int, merge: int) -> list[int]:
    """Patches in each attention window of `side` x `side` LLM tokens; smaller at the right and lower edge."""
    return [
        min(side, rows - top) * min(side, columns - left) * merge**2
        for frames, rows, columns in grids
        for _ in range(frames)
        for top in range(0, rows, side)
        for left in range(0, columns, side)
    ]


def _grids(grid_thw: Tensor | None, merge: int) -> Iterator[tuple[int, int, int]]:
    """(frames, rows, columns) in LLM tokens of each image or video, in prompt order."""
    for frames, height, width in grid_thw.tolist() if grid_thw is not None else []:
        yield frames, height // merge, width // merge
