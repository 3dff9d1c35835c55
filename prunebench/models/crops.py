"""Crop encoders: vision transformers that take square crops of one size, each a sequence of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.models.arithmetic import encoder_block, linear
from prunebench.models.base import (
    KNOWN_GOOD,
    EncoderRows,
    Family,
    Unsupported,
    config_of,
    stock,
)
from prunebench.tokens import Layout


class CropFamily(Family):
    """A family whose vision encoder is such a transformer.

    An image may be one crop or many, and so may a video: every crop is one sequence of the encoder.
    A square of `merge` x `merge` of its patches becomes one token of the language model. What is
    left to a family is `layouts`: which crops a prompt shows.
    """

    vision_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    encoders: ClassVar[tuple[str, ...]] = ()
    """`vision_config.model_type` values for which the family's facts hold; any where none is named.
    """
    beside_pixels: ClassVar[tuple[str, ...]] = ()
    """Inputs that the model's `get_image_features` takes besides the pixels."""

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        return (config_of(model).image_token_id,)

    def merge(self, config: Any) -> int:
        """Patches along one side of the square that becomes one token."""
        return 1

    def tokens_a_side(self, config: Any) -> int:
        """Tokens along one side of a crop."""
        return patches_a_side(config.vision_config) // self.merge(config)

    def check_encoder(self, config: Any) -> None:
        """Raise Unsupported where the checkpoint pairs the model with a vision encoder that the
        family does not know.
        """
        kind = config.vision_config.model_type
        if self.encoders and kind not in self.encoders:
            raise Unsupported(
                f"{self.name} with a {kind!r} encoder is not known; "
                f"{' or '.join(self.encoders)} is (with {KNOWN_GOOD})"
            )

    def feature_block(self, model: nn.Module) -> int:
        """The block whose output is `hidden_states[config.vision_feature_layer]`, of which entry 0
        is the embedding.

        Where several layers are concatenated, the deepest. Raises Unsupported where no block's
        output is read.
        """
        deepest = max(self.feature_blocks(model))
        if deepest < 0:
            raise Unsupported(
                f"vision_feature_layer {config_of(model).vision_feature_layer} is the patch "
                "embedding; there is no block behind which to look"
            )
        return deepest

    def feature_blocks(self, model: nn.Module) -> tuple[int, ...]:
        """Those whose outputs are concatenated before the projector; -1 is the embedding."""
        states = len(self.blocks(model)) + 1
        # a negative layer counts from the end of `hidden_states`, whose entry 0 is the embedding
        return tuple(int(layer) % states - 1 for layer in feature_layers(config_of(model)))

    def clip(self, model: nn.Module) -> str | None:
        return clip_of(config_of(model)) if self.clipped else None

    def square_images(self, config: Any, ids: Tensor) -> int:
        """How many images the ids [S] of a prompt show, where each is one square of tokens; raises
        ValueError where the tokens are no whole number of squares.
        """
        square = self.tokens_a_side(config) ** 2
        tokens = int((ids == config.image_token_id).sum())
        if tokens % square:
            raise ValueError(f"the prompt has {tokens} visual tokens; every image has {square}")
        return tokens // square

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """Every tile is one sequence of the encoder, in the order of the prompts."""
        config = config_of(model)
        squares = merged_patches(self.tokens_a_side(config), self.merge(config))
        length = squares.numel() + self.cls
        rows = []
        crops = 0
        for layout in layouts:
            first = (crops + torch.arange(len(layout.tiles))) * length
            # [tiles, tokens of a tile, patches of a token]
            patches = first[:, None, None] + self.cls + squares
            rows.append(EncoderRows(patches.flatten(0, 1), first if self.cls else None))
            crops += len(layout.tiles)
        return rows

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return {}
        beside = {name: inputs.get(name) for name in self.beside_pixels}
        features = stock(model).get_image_features(pixel_values=pixels, return_dict=True, **beside)
        return {"image": features}

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        crops = self.crops(config, inputs)
        tokens = crops * self.tokens_a_side(config) ** 2
        vision = config.vision_config
        encoder = embedding_flops(vision, crops)
        # all blocks are alike
        block = self.block_flops(config, self.stretches(config, inputs, 0))
        # also those behind the one that the projector reads: they run all the same
        encoder += vision.num_hidden_layers * block
        return encoder, self.projector_flops(config, tokens)

    def stretches(self, config: Any, inputs: Mapping[str, Any], block: int) -> list[int]:
        """Every crop is one, with its CLS token."""
        rows = patches_a_side(config.vision_config) ** 2 + self.cls
        return [rows] * self.crops(config, inputs)

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        vision = config.vision_config
        return encoder_block(stretches, vision.hidden_size, vision.intermediate_size, gated=False)

    def crops(self, config: Any, inputs: Mapping[str, Any]) -> int:
        """How many crops the encoder is given for all prompts of `inputs`: as many as their tokens
        come from, unless overridden.
        """
        # not by the pixels: some processors pad a batch with empty images, which models drop
        tokens = int((inputs["input_ids"] == config.image_token_id).sum())
        return tokens // self.tokens_a_side(config) ** 2

    def projector_flops(self, config: Any, tokens: int) -> int:
        """FLOPs of the projector over `tokens` squares of patches: two layers, before which the
        outputs of several blocks may be concatenated.
        """
        channels = config.vision_config.hidden_size * self.merge(config) ** 2
        width = config.text_config.hidden_size
        return mlp_flops(tokens, channels * len(feature_layers(config)), width, width)


def patches_a_side(vision_config: Any) -> int:
    """Patches along one side of a crop."""
    return edge(vision_config.image_size) // edge(vision_config.patch_size)


def edge(size: int | Sequence[int]) -> int:
    """The side of a square that a configuration gives by one number or by both; raises Unsupported
    where it is none.
    """
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise Unsupported(
            f"crops or patches of {size} pixels are not square; only square ones are known"
        )
    return sides.pop()


def feature_layers(config: Any) -> list[int]:
    """The entries of the encoder's `hidden_states` that the projector reads; the last one where the
    configuration names none.
    """
    layers = getattr(config, "vision_feature_layer", -1)
    return list(layers) if isinstance(layers, list | tuple) else [layers]


def merged_patches(side: int, merge: int) -> Tensor:
    """[side * side, merge * merge] the patches of one crop that each of its tokens is made of."""
    # row of squares, row within, column of squares, column within
    patches = torch.arange((side * merge) ** 2).view(side, merge, side, merge)
    return patches.transpose(1, 2).reshape(side**2, merge**2)


def clip_of(config: Any) -> str | None:
    """The CLIP of a LLaVA: the one its configuration names as `clip`, or OpenAI's ViT-L/14 at 336
    px where the sizes are its.
    """
    vision = config.vision_config
    if getattr(config, "clip", None):
        return str(config.clip)
    sizes = (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size)
    return "openai/clip-vit-large-patch14-336" if sizes == (1024, 24, 14, 336) else None


def embedding_flops(vision_config: Any, crops: int) -> int:
    """FLOPs of the convolution that embeds the patches of so many crops."""
    patches = patches_a_side(vision_config) ** 2
    pixels = vision_config.num_channels * edge(vision_config.patch_size) ** 2
    return crops * linear(patches, pixels, vision_config.hidden_size)


def mlp_flops(rows: int, *widths: int) -> int:
    """FLOPs of linear layers one behind the other, from `widths[0]` to `widths[-1]`."""
    return sum(linear(rows, before, after) for before, after in pairwise(widths))


def runs(ids: Sequence[int], placeholder: int) -> Iterator[int]:
    """Lengths of the unbroken runs of a placeholder in one prompt's ids."""
    length = 0
    # None ends a run that reaches to the end of the prompt
    for token in [*ids, None]:
        if token == placeholder:
            length += 1
        elif length:
            yield length
            length = 0


def rows_of(inputs: Mapping[str, Any], name: str) -> list[Any]:
    """An input tensor as lists, empty where it is missing."""
    value = inputs.get(name)
    return [] if value is None else value.tolist()
