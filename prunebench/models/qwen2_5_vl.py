"""Qwen2.5-VL: native-resolution images and videos, 2x2 patch merge, M-RoPE, no CLS token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunebench.models.arithmetic import encoder_block
from prunebench.models.grids import Grid, GridFamily, all_grids, frame_grids, merger_flops
from prunebench.models.harness import Harness


class Qwen25VL(GridFamily):
    """`Qwen2_5_VLForConditionalGeneration`, whose encoder takes a frame window by window."""

    name = "Qwen2.5-VL"
    model_types = frozenset({"qwen2_5_vl"})
    aliases = {
        "qwen2.5-vl": "Qwen/Qwen2.5-VL-7B-Instruct",
        "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
        "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
        "qwen2.5-vl-32b": "Qwen/Qwen2.5-VL-32B-Instruct",
        "qwen2.5-vl-72b": "Qwen/Qwen2.5-VL-72B-Instruct",
    }
    # the template has the wrapper's system prompt, so that the wrapper itself puts none
    harness = Harness(
        "qwen2_5_vl",
        fetches=True,
        min_pixels=256 * 28**2,
        max_pixels=1_605_632,
        frame_pixels=(256 * 28**2, 1_605_632),
    )

    def order(self, vision_config: Any, grids: Sequence[Grid]) -> Tensor:
        """Window by window, and row by row within each."""
        side = _window_side(vision_config)
        orders = [torch.empty(0, dtype=torch.int64)]
        start = 0
        for rows, columns in frame_grids(grids):
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            # numbers that ascend with the windows; that some are skipped does no harm
            window = row // side * (columns // side + 1) + column // side
            # stable, because within a window tokens stay in reading order
            encoder_order = window.flatten().sort(stable=True).indices
            # the inverse: at which place the encoder has a token, not which token it has at a place
            orders.append(encoder_order.argsort() + start)
            start += rows * columns
        return torch.cat(orders)

    def stretches(self, config: Any, inputs: Mapping[str, Any], block: int) -> list[int]:
        """Every window is one, but in a few blocks every frame."""
        vision = config.vision_config
        if block in vision.fullatt_block_indexes:
            return super().stretches(config, inputs, block)
        return _windows(vision, all_grids(inputs, vision))

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        vision = config.vision_config
        return encoder_block(stretches, vision.hidden_size, vision.intermediate_size, gated=True)

    def projector_flops(self, vision_config: Any, patches: int) -> int:
        vision = vision_config
        return merger_flops(vision, patches, vision.hidden_size, vision.out_hidden_size)


def _window_side(vision_config: Any) -> int:
    """LLM tokens along one side of an attention window."""
    patches = vision_config.window_size // vision_config.patch_size
    return int(patches // vision_config.spatial_merge_size)


def _windows(vision_config: Any, grids: Sequence[Grid]) -> list[int]:
    """Patches in each attention window; fewer at the right and lower edge."""
    side = _window_side(vision_config)
    unit = vision_config.spatial_merge_size**2
    windows = []
    for rows, columns in frame_grids(grids):
        for top in range(0, rows, side):
            for left in range(0, columns, side):
                windows.append(min(side, rows - top) * min(side, columns - left) * unit)
    return windows
