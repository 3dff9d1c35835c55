"""The miniature CLIP: configuration, tokenizer, processor, and a forward pass of the stock modules
that trains faster.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import processors
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
)

from prunebench.testbed.processor import word_tokenizer
from prunebench.testbed.questions import END
from prunebench.testbed.views import GRID, PATCH, SIDE, normal

START = "<|start|>"
MAX_WORDS = 77


@dataclass(frozen=True)
class TinyClipConfig:
    """Sizes of the miniature; the defaults make 1.7 million parameters."""

    vision_depth: int = 6  # an LVLM reads the tokens before the last block, as LLaVA does
    vision_width: int = 128
    vision_heads: int = 4
    text_depth: int = 3
    text_width: int = 128
    text_heads: int = 2
    projection: int = 64


def vision_config(sizes: TinyClipConfig) -> dict[str, Any]:
    """Settings of the vision tower, which LLaVA shares."""
    return {
        "hidden_size": sizes.vision_width,
        "intermediate_size": 3 * sizes.vision_width,
        "num_hidden_layers": sizes.vision_depth,
        "num_attention_heads": sizes.vision_heads,
        "projection_dim": sizes.projection,
        "image_size": SIDE,
        "patch_size": PATCH,
        "hidden_act": "gelu",
    }


def build_clip(sizes: TinyClipConfig, seed: int) -> CLIPModel:
    """The stock class with random weights, in float32."""
    tokenizer = build_clip_tokenizer()
    config = CLIPConfig(
        vision_config=vision_config(sizes),
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.text_width,
            "intermediate_size": 3 * sizes.text_width,
            "num_hidden_layers": sizes.text_depth,
            "num_attention_heads": sizes.text_heads,
            "projection_dim": sizes.projection,
            "max_position_embeddings": MAX_WORDS,
            "hidden_act": "gelu",
            "bos_token_id": tokenizer.bos_token_id,
            # The text is pooled at its first end mark, unless the id is 2: then, for compatibility,
            # at the highest id.
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=sizes.projection,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    # The stock start of 0.02 drowns in the patches: neighbours are then not told apart, and shapes
    # are not learnt for long.
    positions: Any = model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        positions[1:] = 0.5 * _waves(GRID, sizes.vision_width)
    return model


def build_clip_tokenizer() -> PreTrainedTokenizerFast:
    """The words of the scenes between a start and an end mark, padded on the right."""
    tokenizer: Any = word_tokenizer(
        (START,), bos_token=START, padding_side="right", model_max_length=MAX_WORDS
    )
    marks = [(mark, tokenizer.convert_tokens_to_ids(mark)) for mark in (START, END)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=marks
    )
    return tokenizer  # type: ignore[no-any-return]


def image_settings() -> dict[str, Any]:
    """How CLIP's and LLaVA's image processors make a view: the image is squashed, so that nothing
    of it is cut off.
    """
    return {"size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def build_clip_processor() -> CLIPProcessor:
    """Stock image processing to one view, and the words' tokenizer."""
    pixels = CLIPImageProcessor(**image_settings())
    return CLIPProcessor(pixels, build_clip_tokenizer())


def whiten(model: CLIPModel, views: Tensor, keep: float = 0.02) -> None:
    """Let the patch embedding begin with the whitened principal components of the patches of [V, 3,
    SIDE, SIDE] views.

    A random one passes on little but the mean colour: strokes and edges, of which shapes and digits
    are made, vary far less. Components of less than `keep` of the variance of the 10th are damped.
    """
    squares = normal(views).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    # [views * patches, 3 * PATCH * PATCH], in the order of a convolution's weights
    patches = squares.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
    patches = patches - patches.mean(0)
    deviation = patches.std(1)
    patches = patches[deviation > deviation.median()]  # those that show more than background
    variance, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    weight: Any = model.vision_model.embeddings.patch_embedding.weight
    count = len(weight)
    # eigh gives the least first
    variance, directions = variance.flip(0)[:count], directions.flip(1)[:, :count]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mix = torch.linalg.qr(torch.randn(count, count))[0]
    scale = (variance + keep * variance[10]).sqrt()
    with torch.no_grad():
        weight.copy_((mix @ (directions / scale).T).view_as(weight))


def _waves(side: int, width: int) -> Tensor:
    """[side * side, width] sines and cosines of each patch's row and column, at wave lengths from 3
    patches to 24 times that.
    """
    frequency = 2 * torch.pi / (3 * torch.logspace(0, 1.4, width // 4))
    angle = torch.arange(side)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=-1)  # [side, width / 2]
    across = line.expand(side, side, -1)
    down = line[:, None].expand(side, side, -1)
    return torch.cat([down, across], dim=-1).flatten(0, 1)


def patch_features(tower: Any, views: Tensor) -> Tensor:
    """[V, 1 + patches, D] what goes into the last block of a stock CLIP vision tower, of normalised
    [V, 3, SIDE, SIDE] views.
    """
    hidden = tower.pre_layrnorm(tower.embeddings(views))
    for block in tower.encoder.layers[:-1]:
        # None is the mask: all patches see each other
        hidden = block(hidden, None)
    return hidden  # type: ignore[no-any-return]


def pooled(tower: Any, hidden: Tensor) -> Tensor:
    """[V, D] the tower's pooled output of `patch_features`: the last block, for the one token that
    is read behind it.
    """
    block = tower.encoder.layers[-1]
    attention, before = block.self_attn, block.layer_norm1(hidden)
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in (
            attention.q_proj(before[:, :1]),  # of the CLS token, which alone is pooled
            attention.k_proj(before),
            attention.v_proj(before),
        )
    )
    attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    out = hidden[:, :1] + attention.out_proj(attended)
    out = out + block.mlp(block.layer_norm2(out))
    pool: Tensor = tower.post_layernorm(out[:, 0])
    return pool
