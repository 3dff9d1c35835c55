"""InternVL: tiles of one size and a thumbnail behind them, 2x2 pixel shuffle, InternViT with a CLS
token that is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from prunebench.models.base import Originals, Size, Unsupported, config_of
from prunebench.models.crops import CropFamily, runs
from prunebench.models.harness import Harness
from prunebench.tokens import Layout, Region, Tile


class InternVL(CropFamily):
    """`InternVLForConditionalGeneration`: InternVL 2.5, 3 and 3.5 as converted for stock
    transformers.
    """

    name = "InternVL"
    model_types = frozenset({"internvl"})
    aliases = {
        "internvl2.5-2b": "OpenGVLab/InternVL2_5-2B-MPO-hf",
        "internvl2.5-8b": "OpenGVLab/InternVL2_5-8B-MPO-hf",
        "internvl3": "OpenGVLab/InternVL3-8B-hf",
        "internvl3-1b": "OpenGVLab/InternVL3-1B-hf",
        "internvl3-2b": "OpenGVLab/InternVL3-2B-hf",
        "internvl3-8b": "OpenGVLab/InternVL3-8B-hf",
        "internvl3-14b": "OpenGVLab/InternVL3-14B-hf",
        "internvl3-38b": "OpenGVLab/InternVL3-38B-hf",
        "internvl3-78b": "OpenGVLab/InternVL3-78B-hf",
        "internvl3.5": "OpenGVLab/InternVL3_5-8B-HF",
        "internvl3.5-1b": "OpenGVLab/InternVL3_5-1B-HF",
        "internvl3.5-2b": "OpenGVLab/InternVL3_5-2B-HF",
        "internvl3.5-4b": "OpenGVLab/InternVL3_5-4B-HF",
        "internvl3.5-8b": "OpenGVLab/InternVL3_5-8B-HF",
        "internvl3.5-14b": "OpenGVLab/InternVL3_5-14B-HF",
        "internvl3.5-38b": "OpenGVLab/InternVL3_5-38B-HF",
        "internvl3.5-20b-a4b": "OpenGVLab/InternVL3_5-GPT-OSS-20B-A4B-Preview-HF",
        "internvl3.5-30b-a3b": "OpenGVLab/InternVL3_5-30B-A3B-HF",
        "internvl3.5-241b-a28b": "OpenGVLab/InternVL3_5-241B-A28B-HF",
    }
    harness = Harness("internvl_hf", max_new_tokens=1024)
    encoders = ("internvl_vision",)
    cls = True
    tiled = True
    blocks_at = ("encoder.layer",)
    attention_at = "attention"

    def merge(self, config: Any) -> int:
        return int(1 / config.downsample_ratio)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """The model reads a video as images of one tile; only `originals` tell that a prompt's runs
        are frames.

        Without them a crop's region is None, too. Raises Unsupported where images stand beside a
        video in one prompt.
        """
        config = config_of(model)
        self.check_encoder(config)
        tile = self.tokens_a_side(config) ** 2
        layouts = []
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            lengths = list(runs(ids, config.image_token_id))
            if any(length % tile for length in lengths):
                raise ValueError(
                    f"the prompt's images have {lengths} visual tokens; every tile has {tile}"
                )
            counts = [length // tile for length in lengths]
            sizes = None if originals is None else originals.sizes[row]
            layouts.append(Layout(tuple(self.tiles(config, counts, sizes))))
        return layouts

    def tiles(self, config: Any, counts: Sequence[int], sizes: Sequence[Size] | None) -> list[Tile]:
        """The tiles of one prompt, of which every run holds as many as `counts` says; `sizes` are
        those of its images, None where they are not known.
        """
        side = self.tokens_a_side(config)
        if sizes is None or len(sizes) == len(counts):
            tiles = []
            for image, count in enumerate(counts):
                size = None if sizes is None else sizes[image]
                tiles += _image_tiles(config, side, image, count, size)
            return tiles
        # runs but no images: a video, whose frames are never cut into crops
        if not sizes and set(counts) == {1}:
            return [Tile(side, side, "frame", frame=frame) for frame in range(len(counts))]
        raise Unsupported(
            f"the prompt shows {len(counts)} images or frames, {len(sizes)} of them images; "
            f"{self.name}'s inputs do not say which, so give images and videos in prompts of "
            "their own"
        )


def _image_tiles(config: Any, side: int, image: int, count: int, size: Size | None) -> list[Tile]:
    """One image's `count` tiles: itself, or crops row by row and a thumbnail behind them."""
    if count == 1:
        return [Tile(side, side, image=image)]
    regions: list[Region | None] = [None] * (count - 1)
    if size is not None:
        regions = list(_regions(*_canvas(config, count - 1, size)))
    crops = [Tile(side, side, "crop", image, region=region) for region in regions]
    return [*crops, Tile(side, side, "thumbnail", image)]


def _regions(across: int, down: int) -> Iterator[Region]:
    """What the crops of a grid cover of their image, row by row."""
    for y in range(down):
        for x in range(across):
            yield (x / across, y / down, (x + 1) / across, (y + 1) / down)


def _canvas(config: Any, crops: int, size: Size) -> tuple[int, int]:
    """Crops across and down: of the arrangements of so many, the one that the stock image processor
    takes.
    """
    # late, for it needs torchvision, which a run without images of its own does not
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    # height first, unlike `size`; least and most are the same, for the count is known
    across, down = get_optimal_tiled_canvas(
        size[::-1], tuple(config.vision_config.image_size), crops, crops
    )
    return across, down
