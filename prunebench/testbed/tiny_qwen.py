"""The miniature Qwen2.5-VL: its configuration, and a forward pass of the stock modules that trains
faster.

The stock vision tower loops over windows of one image after the other. Here every scene of a batch
has the same size, so a window is a batch row; several questions share an image, each blind to the
others. Weights and results are those of the stock model.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from prunebench.testbed.batches import SceneBatch, cells
from prunebench.testbed.language import answer, language_settings, new_model
from prunebench.testbed.learner import Answers
from prunebench.testbed.processor import IMAGE, VIDEO, VISION_END, VISION_START, build_tokenizer
from prunebench.testbed.scenes import TOKEN_PIXELS


@dataclass(frozen=True)
class TinyQwenConfig:
    """Sizes of the miniature; the defaults make 3.2 million parameters."""

    vision_depth: int = 4
    vision_width: int = 128
    vision_heads: int = 2
    full_attention: tuple[int, ...] = (1, 3)  # the other blocks attend within 4x4 tokens
    layers: int = 6
    width: int = 160
    heads: int = 4
    kv_heads: int = 2


def build_model(sizes: TinyQwenConfig, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """The stock class with random weights, in float32."""
    tokenizer = build_tokenizer()
    ids = {token: tokenizer.vocab[token] for token in (IMAGE, VIDEO, VISION_START, VISION_END)}
    head_dim = sizes.width // sizes.heads
    spatial = head_dim // 5
    config = Qwen2_5_VLConfig(
        text_config={
            **language_settings(sizes, tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e3,
                "mrope_section": [head_dim // 2 - 2 * spatial, spatial, spatial],
            },
        },
        vision_config={
            "depth": sizes.vision_depth,
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_heads": sizes.vision_heads,
            "out_hidden_size": sizes.width,
            "fullatt_block_indexes": list(sizes.full_attention),
            "window_size": 112,
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
    model: Qwen2_5_VLForConditionalGeneration
    model = new_model(Qwen2_5_VLForConditionalGeneration, config, seed)
    return model


@dataclass(frozen=True)
class FastQwen:
    """The stock model behind the calls that training makes (a `Learner`)."""

    model: Qwen2_5_VLForConditionalGeneration
    evidence_layer: int = 3

    @property
    def module(self) -> nn.Module:
        """The stock model whose weights are trained."""
        return self.model

    @property
    def feature_width(self) -> int:
        """Width of one visual token."""
        config: Any = self.model.config.text_config
        return int(config.hidden_size)

    def see(self, pixels: Tensor) -> Tensor:
        """[B, N, D] visual tokens, in reading order, of [B, height, width, 3] uint8 images."""
        visual: Any = self.model.model.visual
        height, width = pixels.shape[1] // 14, pixels.shape[2] // 14
        order, windows, real = _window_order(height // 2, width // 2)
        patches = _patches(pixels)[:, order]  # [B, N, 4, 588], window by window
        tables = _vision_rotary(visual.rotary_pos_emb.inv_freq, height, width)
        # tables lie in reading order, too, token by token: window by window, as the patches
        cosine, sine = (table.view(len(order), 4, -1)[order].flatten(0, 1) for table in tables)
        # Both frames of a still image are the same: the convolution over them is one product with
        # its summed slices.
        weight = visual.patch_embed.proj.weight.sum(2).flatten(1)
        hidden = linear(patches.flatten(1, 2), weight)
        full = set(visual.config.fullatt_block_indexes)
        for number, block in enumerate(visual.blocks):
            area = None if number in full else (windows, real)
            hidden = hidden + _vision_attention(block.attn, block.norm1(hidden), cosine, sine, area)
            hidden = hidden + block.mlp(block.norm2(hidden))
        merger = visual.merger
        # the four patches of a token lie behind one another and become one
        grouped = merger.ln_q(hidden).reshape(len(hidden), len(order), -1)
        merged: Tensor = merger.mlp(grouped)
        # the inverse of the order: back to reading order
        return merged[:, order.argsort()]

    def boxes(self, width: int, height: int) -> NDArray[np.float64]:
        """[N, 4] what each visual token of an image of that size sees, in pixels."""
        return cells(width, height)

    def answer(self, features: Tensor, batch: SceneBatch) -> Answers:
        """Answer every question of the batch about [B, N, D] visual tokens; questions do not see
        each other.
        """
        config = self.model.config
        scenes, questions, length = batch.words.shape
        _, height, width, _ = batch.pixels.shape
        marks = torch.tensor([config.vision_start_token_id, config.vision_end_token_id])
        embed: Any = self.model.get_input_embeddings()
        # each [B, 1, D]
        start, stop = embed(marks).expand(scenes, 2, -1).unsqueeze(2).unbind(1)
        rows, columns = height // TOKEN_PIXELS, width // TOKEN_PIXELS
        positions = _packed_positions(rows, columns, questions, length)
        return answer(
            self.model,
            torch.cat([start, features.to(start.dtype), stop], dim=1),
            features.shape[1],
            batch,
            positions=positions.unsqueeze(1).expand(3, scenes, -1),
            mask_key="full_attention",
            evidence_layer=self.evidence_layer,
        )


def _patches(pixels: Tensor) -> Tensor:
    """[B, N, 4, 588] patches of [B, height, width, 3] images, normalised and grouped as by the
    image processor.
    """
    scenes, height, width, _ = pixels.shape
    normal = (pixels.float() / 255 - 0.5) / 0.5
    cells = normal.view(scenes, height // 28, 2, 14, width // 28, 2, 14, 3)
    # [B, rows, columns, 2, 2, 3, 14, 14]: a token's patches, in each of them channel by channel
    return cells.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(scenes, height * width // 784, 4, 588)


def _vision_rotary(frequency: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two times [patches, head dim]: cosine and sine of a grid of height x width patches, grouped
    by token.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    blocks = height // 2, 2, width // 2, 2
    grouped = [axis.view(blocks).transpose(1, 2).reshape(-1, 1) for axis in (rows, columns)]
    angle = torch.cat([axis * frequency for axis in grouped], dim=-1).repeat(1, 2)
    return angle.cos(), angle.sin()


def _window_order(rows: int, columns: int, side: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """How a grid of tokens falls into windows of side x side.

    The order of tokens, window by window [N]; then, counting patches in that order, the members of
    each window [W, side * side * 4], and which of these are real: windows at the edge are smaller.
    """
    grid = torch.arange(rows * columns).view(rows, columns)
    windows = []
    for y, x in product(range(0, rows, side), range(0, columns, side)):
        windows.append(grid[y : y + side, x : x + side].flatten())
    size = side * side * 4
    members = torch.zeros(len(windows), size, dtype=torch.long)
    real = torch.zeros(len(windows), size, dtype=torch.bool)
    first = 0
    for number, window in enumerate(windows):
        count = 4 * len(window)
        members[number, :count] = torch.arange(first, first + count)
        real[number, :count] = True
        first += count
    return torch.cat(windows), members, real


def _vision_attention(
    attention: Any, hidden: Tensor, cosine: Tensor, sine: Tensor, area: tuple[Tensor, Tensor] | None
) -> Tensor:
    """[B, P, D] attention of one block over P patches: within the windows of `area`, or over
    everything.
    """
    scenes, patches, width = hidden.shape
    projections = attention.qkv(hidden).view(scenes, patches, 3, attention.num_heads, -1)
    query, key, value = projections.unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, cosine, sine)
    if area is None:
        out = _attend(query, key, value, None)
    else:
        windows, real = area
        mask = None
        if not bool(real.all()):
            # scene by scene, as the windows are flattened below
            mask = real[:, None, None, :].repeat(scenes, 1, 1, 1)
        # a window is a row of the batch
        query, key, value = (part[:, windows].flatten(0, 1) for part in (query, key, value))
        out = _attend(query, key, value, mask)
        # members are numbered in order: without what fills up the patches stand in theirs again
        out = out.reshape(scenes, *windows.shape, *out.shape[2:])[:, real]
    projected: Tensor = attention.proj(out.reshape(scenes, patches, width))
    return projected


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """[B, P, heads, head dim] attention of tensors of that shape."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def _packed_positions(rows: int, columns: int, questions: int, length: int) -> Tensor:
    """[3, L] time, height and width positions: an image between its marks, then every question as
    if it came first.
    """
    height, width = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    # + 1: the start mark is at 0
    image = torch.stack([torch.zeros_like(height), height, width]).flatten(1) + 1
    # M-RoPE goes on behind the largest position, not behind as many as there are tokens
    after = 1 + max(rows, columns)
    text = after + 1 + torch.arange(length).repeat(questions)
    start = torch.zeros(3, 1, dtype=torch.long)
    stop = torch.full((3, 1), after)
    return torch.cat([start, image, stop, text.expand(3, -1)], dim=1)
