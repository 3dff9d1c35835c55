"""The miniature Qwen3-VL: its configuration, processor, and a forward pass of the stock modules
that trains faster; visual features of earlier blocks are added behind the first LLM layers.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, pad
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from prunebench.testbed.batches import Boxes, SceneBatch, cells
from prunebench.testbed.language import answer, language_settings, new_model
from prunebench.testbed.learner import Answers, StockModel
from prunebench.testbed.processor import (
    IMAGE,
    VIDEO,
    VISION_END,
    VISION_START,
    build_processor,
    build_tokenizer,
    pixel_settings,
)
from prunebench.testbed.tiny_qwen import (
    between_marks,
    packed_positions,
    patches_of,
    vision_attention,
    vision_rotary,
)


@dataclass(frozen=True)
class TinyQwen3Config:
    """Sizes of the miniature; the defaults make 5.9 million parameters."""

    vision_depth: int = 4
    vision_width: int = 128
    vision_heads: int = 2
    deepstack: tuple[int, ...] = (0, 1, 2)  # blocks whose features are added behind LLM layers 0..
    positions: int = 20  # a side of the grid of learned positions
    layers: int = 12
    width: int = 160
    heads: int = 4
    kv_heads: int = 2


def build_qwen3(sizes: TinyQwen3Config, seed: int) -> Qwen3VLForConditionalGeneration:
    """The stock class with random weights, in float32."""
    tokenizer = build_tokenizer()
    ids = {token: tokenizer.vocab[token] for token in (IMAGE, VIDEO, VISION_START, VISION_END)}
    head_dim = sizes.width // sizes.heads
    spatial = head_dim // 2 // 3
    config = Qwen3VLConfig(
        text_config={
            **language_settings(sizes, tokenizer),
            "head_dim": head_dim,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e3,
                "mrope_section": [head_dim // 2 - 2 * spatial, spatial, spatial],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": sizes.vision_depth,
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_heads": sizes.vision_heads,
            "out_hidden_size": sizes.width,
            "num_position_embeddings": sizes.positions**2,
            "deepstack_visual_indexes": list(sizes.deepstack),
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=False,
    )
    model: Qwen3VLForConditionalGeneration
    model = new_model(Qwen3VLForConditionalGeneration, config, seed)
    return model


def build_qwen3_processor() -> Qwen3VLProcessor:
    """14-px patches merged 2x2, as for Qwen2.5-VL."""
    like: Any = build_processor()
    return Qwen3VLProcessor(
        like.image_processor,
        like.tokenizer,
        Qwen3VLVideoProcessor(**pixel_settings()),
        chat_template=like.chat_template,
    )


@dataclass(frozen=True)
class Features:
    """What the vision encoder gives: [B, N, D] visual tokens in reading order, and as many for each
    of the first LLM layers.
    """

    tokens: Tensor
    added: tuple[Tensor, ...]


@dataclass(frozen=True)
class FastQwen3(StockModel):
    """The stock model behind the calls that training makes (a `Learner`)."""

    @property
    def boxes(self) -> Boxes:
        """What each visual token sees."""
        return cells

    def see(self, pixels: Tensor) -> Any:
        """What the encoder gives for [B, height, width, 3] uint8 images."""
        visual: Any = self.model.model.visual
        height, width = pixels.shape[1] // 14, pixels.shape[2] // 14
        cosine, sine = vision_rotary(visual.rotary_pos_emb.inv_freq, height, width)
        # Both frames of a still image are the same: the convolution over them is one product with
        # its summed slices.
        convolution = visual.patch_embed.proj
        weight = convolution.weight.sum(2).flatten(1)
        hidden = linear(patches_of(pixels).flatten(1, 2), weight, convolution.bias)
        hidden = hidden + _positions(visual.pos_embed.weight, height, width)
        depths = list(visual.deepstack_visual_indexes)
        added = []
        for number, block in enumerate(visual.blocks):
            attended = vision_attention(block.attn, block.norm1(hidden), cosine, sine, None)
            hidden = hidden + attended
            hidden = hidden + block.mlp(block.norm2(hidden))
            if number in depths:
                merger = visual.deepstack_merger_list[depths.index(number)]
                added.append(merger(hidden).view(len(pixels), height * width // 4, -1))
        tokens = visual.merger(hidden).view(len(pixels), height * width // 4, -1)
        return Features(tokens, tuple(added))

    def tokens(self, features: Any) -> Tensor:
        """[B, N, D] the visual tokens."""
        return features.tokens  # type: ignore[no-any-return]

    def answer(self, features: Any, batch: SceneBatch, layers: Sequence[int]) -> Answers:
        """Answer every question of the batch; questions do not see each other."""
        count = features.tokens.shape[1]
        decoder = self.model.model.language_model.layers
        with ExitStack() as stack:
            # the stock way to add them waits for the GPU
            for layer, rows in zip(decoder, features.added, strict=False):
                stack.callback(layer.register_forward_hook(_adding(rows)).remove)
            return answer(
                self.model,
                between_marks(self.model, features.tokens),
                count,
                batch,
                positions=packed_positions(batch),
                mask_key=None,
                layers=layers,
            )


def _adding(features: Tensor) -> Any:
    """A hook that adds [B, N, D] features to the image's rows of what a layer gives."""

    def add(_: nn.Module, __: Any, hidden: Tensor) -> Tensor:
        behind = hidden.shape[1] - features.shape[1] - 1
        return hidden + pad(features.to(hidden.dtype), (0, 0, 1, behind))

    return add


def _positions(table: Tensor, height: int, width: int) -> Tensor:
    """[patches, D] learned positions, spread over a grid of height x width patches and grouped by
    token.
    """
    side = round(len(table) ** 0.5)
    grid = table.float().T.reshape(1, -1, side, side)
    table = interpolate(grid, (height, width), mode="bilinear", align_corners=True)[0]
    grouped = table.view(-1, height // 2, 2, width // 2, 2).permute(1, 3, 2, 4, 0)
    return grouped.reshape(height * width, -1)
