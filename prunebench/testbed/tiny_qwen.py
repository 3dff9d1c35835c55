"""The miniature Qwen2.5-VL: its configuration, and a forward pass of the stock modules that trains
faster.

The stock vision tower loops over windows of one image after the other. Here every scene of a batch
has the same size, so a window is a batch row; several questions share an image, each blind to the
others. Weights and results are those of the stock model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from prunebench.testbed.batches import Boxes, SceneBatch, cells
from prunebench.testbed.language import answer, language_settings, new_model
from prunebench.testbed.learner import Answers, StockModel
from prunebench.testbed.processor import IMAGE, VIDEO, VISION_END, VISION_START, build_tokenizer
from prunebench.testbed.scenes import TOKEN_PIXELS


@dataclass(frozen=True)
class TinyQwenConfig:
    """Sizes of the miniature; the defaults make 5.3 million parameters."""

    vision_depth: int = 4
    vision_width: int = 128
    vision_heads: int = 2
    full_attention: tuple[int, ...] = (1, 3)  # the other blocks attend within 4x4 tokens
    layers: int = 12
    width: int = 160
    heads: int = 4
    kv_heads: int = 2


def build_model(
    sizes: TinyQwenConfig, seed: int, more: tuple[str, ...] = ()
) -> Qwen2_5_VLForConditionalGeneration:
    """The stock class with random weights, in float32, for the scenes' words and `more`."""
    tokenizer = build_tokenizer(more)
    ids = {token: tokenizer.vocab[token] for token in (IMAGE, VIDEO, VISION_START, VISION_END)}
    head_dim = sizes.width // sizes.heads
    spatial = head_dim // 5
    config = Qwen2_5_VLConfig(
        text_config={
            **language_settings(sizes, tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                # columns get the lowest frequencies: at a base made for thousands of tokens the
                # columns of a small image would be hard to tell apart
                "rope_theta": 30.0,
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
class FastQwen(StockModel):
    """The stock model behind the calls that training makes (a `Learner`)."""

    @property
    def boxes(self) -> Boxes:
        """What each visual token sees."""
        return cells

    def see(self, pixels: Tensor) -> Any:
        """[B, N, D] visual tokens, in reading order, of [B, height, width, 3] uint8 images."""
        visual: Any = self.model.model.visual
        height, width = pixels.shape[1] // 14, pixels.shape[2] // 14
        windows = _windows(height // 2, width // 2, pixels.device)
        patches = patches_of(pixels).index_select(
            1, windows.order
        )  # [B, N, 4, 588], window by window
        tables = vision_rotary(visual.rotary_pos_emb.inv_freq, height, width)
        # tables lie in reading order, too, token by token: window by window, as the patches
        cosine, sine = (
            table.view(height * width // 4, 4, -1)[windows.order].flatten(0, 1) for table in tables
        )
        # Both frames of a still image are the same: the convolution over them is one product with
        # its summed slices.
        weight = visual.patch_embed.proj.weight.sum(2).flatten(1)
        hidden = linear(patches.flatten(1, 2), weight)
        full = set(visual.config.fullatt_block_indexes)
        for number, block in enumerate(visual.blocks):
            area = None if number in full else windows
            hidden = hidden + vision_attention(block.attn, block.norm1(hidden), cosine, sine, area)
            hidden = hidden + block.mlp(block.norm2(hidden))
        merger = visual.merger
        # the four patches of a token lie behind one another and become one
        grouped = merger.ln_q(hidden).reshape(len(hidden), height * width // 4, -1)
        merged: Tensor = merger.mlp(grouped)
        # back to reading order
        return merged.index_select(1, windows.back)

    def tokens(self, features: Any) -> Tensor:
        """[B, N, D] the visual tokens."""
        return features  # type: ignore[no-any-return]

    def answer(self, features: Any, batch: SceneBatch, layers: Sequence[int]) -> Answers:
        """Answer every question of the batch about [B, N, D] visual tokens; questions do not see
        each other.
        """
        return answer(
            self.model,
            between_marks(self.model, features),
            features.shape[1],
            batch,
            positions=packed_positions(batch),
            mask_key="full_attention",
            layers=layers,
        )


@dataclass(frozen=True)
class Windows:
    """How a grid of tokens falls into windows of 4x4.

    `order` [N] of the tokens, window by window, and `back` [N], its inverse. Counting patches in
    that order, `members` [W, 64] of each window; `real`, [W, 64] which of these there are, is None
    where all are: windows at the edge are smaller. `places` [P] finds the patches in the flattened
    windows again.
    """

    order: Tensor
    back: Tensor
    members: Tensor
    real: Tensor | None
    places: Tensor


# what is made while nothing is learnt must serve when something is
@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _windows(rows: int, columns: int, device: torch.device, side: int = 4) -> Windows:
    """The windows of a grid of rows x columns tokens."""
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
    order = torch.cat(windows)
    return Windows(
        order.to(device),
        order.argsort().to(device),
        members.to(device),
        None if bool(real.all()) else real.to(device),
        # members are numbered in order: without what fills up the patches stand in theirs again
        real.flatten().nonzero().squeeze(1).to(device),
    )


def patches_of(pixels: Tensor) -> Tensor:
    """[B, N, 4, 588] patches of [B, height, width, 3] images, normalised and grouped as by the
    image processor.
    """
    scenes, height, width, _ = pixels.shape
    normal = (pixels.float() / 255 - 0.5) / 0.5
    cells = normal.view(scenes, height // 28, 2, 14, width // 28, 2, 14, 3)
    # [B, rows, columns, 2, 2, 3, 14, 14]: a token's patches, in each of them channel by channel
    return cells.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(scenes, height * width // 784, 4, 588)


def vision_rotary(frequency: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two times [patches, head dim]: cosine and sine of a grid of height x width patches, grouped
    by token.
    """
    device = frequency.device
    down, across = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    blocks = height // 2, 2, width // 2, 2
    grouped = [axis.view(blocks).transpose(1, 2).reshape(-1, 1) for axis in (rows, columns)]
    angle = torch.cat([axis * frequency for axis in grouped], dim=-1).repeat(1, 2)
    return angle.cos(), angle.sin()


def vision_attention(
    attention: Any, hidden: Tensor, cosine: Tensor, sine: Tensor, area: Windows | None
) -> Tensor:
    """[B, P, D] attention of one block over P patches: within the windows of `area`, or over
    everything.
    """
    scenes, patches, _ = hidden.shape
    projections = attention.qkv(hidden).view(scenes, patches, 3, attention.num_heads, -1)
    query, key, value = projections.unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, cosine, sine)
    if area is None:
        out = _attend(query, key, value, None)
    else:
        mask = None
        if area.real is not None:
            # scene by scene, as the windows are flattened below
            mask = area.real[:, None, None, :].repeat(scenes, 1, 1, 1)
        # a window is a row of the batch
        members = area.members.flatten()
        parts = [part.index_select(1, members) for part in (query, key, value)]
        parts = [part.unflatten(1, area.members.shape).flatten(0, 1) for part in parts]
        out = _attend(parts[0], parts[1], parts[2], mask)
        out = out.reshape(scenes, len(members), -1).index_select(1, area.places)
    projected: Tensor = attention.proj(out.reshape(scenes, patches, -1))
    return projected


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """[B, P, heads, head dim] attention of tensors of that shape."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def between_marks(model: Any, features: Tensor) -> Tensor:
    """[B, 1 + N + 1, D] embeddings of [B, N, D] visual tokens between the marks of an image."""
    config = model.config
    marks = [config.vision_start_token_id, config.vision_end_token_id]
    embed: Any = model.get_input_embeddings()
    # each [B, 1, D]; a slice of the table, for a list of numbers would have to wait for the GPU
    start, stop = (embed.weight[mark].expand(len(features), 1, -1) for mark in marks)
    return torch.cat([start, features.to(start.dtype), stop], dim=1)


def packed_positions(batch: SceneBatch) -> Tensor:
    """[3, B, L] time, height and width positions: an image between its marks, then every question
    as if it came first.
    """
    _, height, width, _ = batch.pixels.shape
    rows, columns = height // TOKEN_PIXELS, width // TOKEN_PIXELS
    # M-RoPE goes on behind the largest position, not behind as many as there are tokens
    after = 1 + max(rows, columns)
    text = after + 1 + batch.order
    image = image_positions(rows, columns, after, text.device)
    return torch.cat([image[:, None].expand(-1, len(text), -1), text.expand(3, -1, -1)], dim=2)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def image_positions(rows: int, columns: int, after: int, device: torch.device) -> Tensor:
    """[3, 1 + N + 1] positions of an image and of the marks around it."""
    height, width = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    # + 1: the start mark is at 0
    image = torch.stack([torch.zeros_like(height), height, width]).flatten(1) + 1
    start, stop = torch.zeros(3, 1, dtype=torch.long), torch.full((3, 1), after)
    return torch.cat([start, image, stop], dim=1).to(device)
