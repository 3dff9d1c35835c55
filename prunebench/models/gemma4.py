"""Gemma 4: images at their own aspect ratio within a fixed number of tokens, 3x3 patches averaged;
the tokens of an image see each other in both directions where layers look back a window alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.models import decoders
from prunebench.models.arithmetic import attention, linear
from prunebench.models.base import (
    SLIDING,
    EncoderRows,
    Family,
    Originals,
    Unsupported,
    config_of,
    in_prompt_order,
    stock,
)
from prunebench.models.grids import Grid, tiles_of
from prunebench.pruner import Facts
from prunebench.tokens import Layout

IMAGES, VIDEOS = "image_position_ids", "video_position_ids"


class Gemma4(Family):
    """`Gemma4ForConditionalGeneration`: 31B, and 26B-A4B with experts beside every MLP.

    The encoder is given every image and frame padded to one length. The small ones (E2B, E4B) are
    refused: their later layers keep no keys of their own but read those of earlier ones.
    """

    name = "Gemma 4"
    model_types = frozenset({"gemma4"})
    aliases = {
        "gemma-4": "google/gemma-4-31B-it",
        "gemma-4-31b": "google/gemma-4-31B-it",
        "gemma-4-26b-a4b": "google/gemma-4-26B-A4B-it",
    }
    vision_inputs = ("pixel_values", "pixel_values_videos")
    cuts_inside = True

    def decoder_facts(self, model: nn.Module) -> Facts:
        """Raises Unsupported where later layers read the keys of earlier ones."""
        text = config_of(self.decoder(model))
        shared = text.num_kv_shared_layers
        if shared or text.hidden_size_per_layer_input:
            raise Unsupported(
                f"{self.name} with num_kv_shared_layers {shared} and hidden_size_per_layer_input "
                f"{text.hidden_size_per_layer_input} (E2B, E4B) cannot be pruned layer by layer: "
                "its last layers read keys that earlier ones made, dropped tokens among them; "
                "take gemma-4-26b-a4b or gemma-4-31b"
            )
        return super().decoder_facts(model)

    # ---- the language model ----------------------------------------------------------------------

    def tables(self, model: nn.Module, hidden: Tensor, ids: Tensor) -> Mapping[str, Any]:
        """Layers with a window turn faster than the others, and turn all of a head."""
        rotary: Any = self.rotary(model)
        ids = ids.to(hidden.device)
        return {kind: rotary.forward(hidden, ids, kind) for kind in set(self.kinds(model))}

    def mutual(self, model: nn.Module) -> frozenset[str]:
        """Layers with a window, where the checkpoint says so at all."""
        text = config_of(self.decoder(model))
        return frozenset({SLIDING} if text.use_bidirectional_attention == "vision" else ())

    def together(self, inputs: Mapping[str, Any], visual: Tensor) -> Tensor | None:
        """Every unbroken run of visual tokens, which the processor marks."""
        kinds = inputs.get("mm_token_type_ids")
        if kinds is None:  # then the model, too, takes them for text
            return None
        of_images = torch.isin(kinds.cpu(), torch.tensor((1, 2)))
        starts = of_images & ~torch.nn.functional.pad(of_images, (1, 0))[:, :-1]
        return torch.where(of_images, starts.cumsum(1), -1)

    def layer_flops(self, text_config: Any, number: int, queries: int, keys: int) -> int:
        """Layers that look at everything have heads of another width, and may take keys for values;
        experts stand beside the MLP of every layer.
        """
        config, own = text_config, text_config.per_layer_config[number]
        width = config.hidden_size
        key_width = own.num_key_value_heads * own.head_dim
        query_width = config.num_attention_heads * own.head_dim
        values = config.layer_types[number] == SLIDING or not config.attention_k_eq_v
        flops = linear(queries, width, 2 * query_width + (1 + values) * key_width)
        flops += attention(queries, keys, query_width)
        flops += decoders.swiglu(queries, width, config.intermediate_size)
        if config.enable_moe_block:
            flops += linear(queries, width, config.num_experts)
            choices = queries * config.top_k_experts
            flops += decoders.swiglu(choices, width, config.moe_intermediate_size)
        return flops

    # ---- the vision encoder ----------------------------------------------------------------------

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        encoded = {}
        if inputs.get("pixel_values") is not None:
            encoded["image"] = stock(model).get_image_features(
                inputs["pixel_values"], inputs[IMAGES], return_dict=True
            )
        if inputs.get("pixel_values_videos") is not None:
            encoded["video"] = stock(model).model.get_video_features(
                inputs["pixel_values_videos"],
                inputs[VIDEOS],
                num_frames_per_video=inputs["num_frames_per_video"],
                return_dict=True,
            )
        return encoded

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        vision, unit = config.vision_config, config.vision_config.pooling_kernel_size**2
        lengths = self.stretches(config, inputs, 0)
        encoder = linear(sum(lengths), 3 * vision.patch_size**2, vision.hidden_size)
        encoder += vision.num_hidden_layers * self.block_flops(config, lengths)
        if unit > 1:
            # averages are a product with a matrix of all patches of a frame, padding among them
            encoder += sum(
                linear(patches // unit, patches, vision.hidden_size) for patches in lengths
            )
        tokens = sum(rows * columns for rows, columns in _frames(config, inputs))
        return encoder, linear(tokens, vision.hidden_size, config.text_config.hidden_size)

    def stretches(self, config: Any, inputs: Mapping[str, Any], block: int) -> list[int]:
        """Every image or frame is one, with its padding."""
        lengths = []
        for name in (IMAGES, VIDEOS):
            if inputs.get(name) is not None:
                count, patches, _ = inputs[name].shape
                lengths += [patches] * count
        return lengths

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        vision = config.vision_config
        width, rows = vision.hidden_size, sum(stretches)
        query_width = vision.num_attention_heads * vision.head_dim
        key_width = vision.num_key_value_heads * vision.head_dim
        flops = linear(rows, width, 2 * query_width + 2 * key_width)
        flops += sum(attention(length, length, query_width) for length in stretches)
        return flops + decoders.swiglu(rows, width, vision.intermediate_size)

    # ---- visual tokens ---------------------------------------------------------------------------

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config = config_of(model)
        return (config.image_token_id, config.video_token_id)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """Images are stretched to whole tokens, so that a tile shows all of one."""
        config = config_of(model)
        image, video = self.placeholders(model)
        kinds = {image: "image", video: "frame"}
        # one queue a kind, for the whole batch: every prompt takes those that are its own
        grids = {image: _images(config, inputs), video: _videos(config, inputs)}
        layouts = []
        for ids in inputs["input_ids"].tolist():
            visual = [token for token in ids if token in kinds]
            layouts.append(Layout(tuple(tiles_of(visual, kinds, grids))))
        return layouts

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """Patches stand row by row in the encoder, padding behind them; a token is a square of
        them.
        """
        config = config_of(model)
        side = config.vision_config.pooling_kernel_size
        squares, start = [torch.empty(0, side**2, dtype=torch.int64)], 0
        frames = _frames(config, inputs)
        for (rows, columns), length in zip(frames, self.stretches(config, inputs, 0), strict=True):
            patches = start + torch.arange(rows * columns * side**2)
            # row of squares, row within, column of squares, column within
            grid = patches.view(rows, side, columns, side).transpose(1, 2)
            squares.append(grid.reshape(-1, side**2))
            start += length
        table = torch.cat(squares)
        places = in_prompt_order(torch.arange(len(table)), layouts)
        return [EncoderRows(table[own]) for own in places]


def _frames(config: Any, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Rows and columns, in tokens, of all images of the batch and then of all frames of videos."""
    frames = []
    for name in (IMAGES, VIDEOS):
        frames += _sides(config, inputs.get(name))
    return frames


def _images(config: Any, inputs: Mapping[str, Any]) -> Iterator[Grid]:
    for rows, columns in _sides(config, inputs.get(IMAGES)):
        yield 1, rows, columns


def _videos(config: Any, inputs: Mapping[str, Any]) -> Iterator[Grid]:
    """All frames of a video are of one size."""
    sides = iter(_sides(config, inputs.get(VIDEOS)))
    counts = inputs.get("num_frames_per_video")
    for count in [] if counts is None else counts.tolist():
        frames = list(islice(sides, count))
        rows, columns = frames[0]
        yield count, rows, columns


def _sides(config: Any, places: Tensor | None) -> list[tuple[int, int]]:
    """Rows and columns in tokens of n images, by column and row of every patch [n, P, 2], where
    padding has -1.
    """
    if places is None:
        return []
    ends = (places.amax(1) + 1) // config.vision_config.pooling_kernel_size
    return [(rows, columns) for columns, rows in ends.tolist()]
