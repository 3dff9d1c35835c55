"""Families whose images come as a thumbnail and crops: what their prompts show."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.models.base import EncoderRows, Originals, config_of, stock
from prunebench.models.crops import CropFamily, patches_a_side
from prunebench.models.stitching import NEWLINE, View, grid, places, stitched
from prunebench.tokens import Layout, Tile


class AnyresFamily(CropFamily):
    """A family whose images come as a thumbnail and crops. What is left to it is `views`: what its
    prompts show.
    """

    tiled = True

    @abstractmethod
    def views(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[list[View]]:
        """Per prompt, its images and videos in its order; raises ValueError where the ids disagree
        with the sizes.
        """

    @abstractmethod
    def packing(self, config: Any) -> dict[str, Any]:
        """The arguments by which the model's own packing is told how to do it."""

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        self.check_encoder(config_of(model))
        return [layout(views) for views in self.views(model, inputs)]

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """Where images shrink and videos are pooled, a token lies between up to four patches, and
        its neighbours may share them.
        """
        patches = patches_a_side(config_of(model).vision_config) ** 2
        return encoder_rows(self.views(model, inputs), patches, self.cls)

    def cut(self, model: nn.Module, height: int, width: int) -> View:
        """An image of this size as a thumbnail and crops, the way the model packs them."""
        config = config_of(model)
        side = patches_a_side(config.vision_config)
        (packed,), _ = stock(model).model.pack_image_features(
            [places(side, *grid(config, height, width))],
            torch.tensor([[height, width]]),
            image_newline=NEWLINE,
            **self.packing(config),
        )
        return stitched(config, packed, height, width)


def layout(views: Sequence[View]) -> Layout:
    """The layout of one prompt, whose images and videos count in its order."""
    tiles: list[Tile] = []
    tokens = [torch.empty(0, 3, dtype=torch.int64)]
    for image, view in enumerate(views):
        own = view.layout
        # `tiles` still holds those of the images before alone
        tokens.append(torch.stack([own.tile + len(tiles), own.row, own.column], dim=1))
        tiles += [replace(tile, image=image) for tile in own.tiles]
    return Layout(tuple(tiles), torch.cat(tokens))


def encoder_rows(batch: Sequence[Sequence[View]], patches: int, cls: bool) -> list[EncoderRows]:
    """Per prompt, its tokens' rows; every sequence has `patches` of them, behind a CLS token where
    `cls`.
    """
    length = patches + cls
    images = 0
    for views in batch:
        images += sum(view.crops for view in views if not view.video)
    # the encoder takes the crops of all images first, then those of all videos
    start = {False: 0, True: images}
    batch_rows = []
    for views in batch:
        rows = [torch.empty(0, 1, dtype=torch.int64)]
        summaries = [torch.empty(0, dtype=torch.int64)]
        for view in views:
            crops = start[view.video] + torch.arange(view.crops)
            start[view.video] += view.crops
            first = crops * length
            # -1 finds the last crop here, which does no harm: the next line puts -1 back
            row = first[view.patches // patches] + cls + view.patches % patches
            rows.append(torch.where(view.patches < 0, -1, row))
            summaries.append(first)
        patch_rows = _equally_wide(rows)
        batch_rows.append(EncoderRows(patch_rows, torch.cat(summaries) if cls else None))
    return batch_rows


def next_images(images: Iterator[View], count: int) -> list[View]:
    """The next images, whose tokens are `count` together; raises ValueError where they are not."""
    views = []
    while count > 0:
        image = next(images, None)
        if image is None or len(image.layout) > count:
            raise ValueError(
                f"{count} visual tokens of the prompt are left over, "
                "which image_sizes do not add up to"
            )
        views.append(image)
        count -= len(image.layout)
    return views


def _equally_wide(patches: Sequence[Tensor]) -> Tensor:
    """The tensors [n, G] one below the other; a token of one patch names it as often as another
    token names patches.
    """
    most = max(part.shape[1] for part in patches)
    return torch.cat([part.expand(-1, most) for part in patches])
