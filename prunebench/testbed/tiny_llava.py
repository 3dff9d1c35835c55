"""The miniature LLaVA-1.5 and LLaVA-NeXT on the tower of tiny-clip: configurations, processors, and
training passes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    CLIPModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
)

from prunebench.testbed.batches import Boxes, SceneBatch
from prunebench.testbed.language import answer, language_settings, new_model
from prunebench.testbed.learner import Answers, StockModel
from prunebench.testbed.processor import (
    VISION_START,
    build_tokenizer,
    chat_template,
    word_tokenizer,
)
from prunebench.testbed.tiny_clip import (
    START,
    TinyClipConfig,
    image_settings,
    patch_features,
    vision_config,
)
from prunebench.testbed.views import (
    GRID,
    PATCH,
    PINPOINTS,
    normal,
    thumbnail_boxes,
    thumbnails,
    tiles,
    tiling,
)

IMAGE = "<image>"


@dataclass(frozen=True)
class TinyLlavaConfig:
    """Sizes of the miniature; the defaults make 4.9 million parameters."""

    layers: int = 12
    width: int = 160
    heads: int = 4
    kv_heads: int = 2
    vision_depth: int = TinyClipConfig.vision_depth
    vision_width: int = TinyClipConfig.vision_width
    vision_heads: int = TinyClipConfig.vision_heads
    projection: int = TinyClipConfig.projection

    @property
    def tower(self) -> TinyClipConfig:
        """Sizes of the CLIP whose vision tower this is."""
        return TinyClipConfig(
            self.vision_depth, self.vision_width, self.vision_heads, projection=self.projection
        )


def build_llava(sizes: TinyLlavaConfig, seed: int) -> LlavaForConditionalGeneration:
    """The stock LLaVA-1.5 class with random weights, in float32."""
    config = LlavaConfig(**_settings(sizes), image_seq_length=GRID * GRID)
    return new_model(LlavaForConditionalGeneration, config, seed)  # type: ignore[no-any-return]


def build_llava_next(sizes: TinyLlavaConfig, seed: int) -> LlavaNextForConditionalGeneration:
    """The stock LLaVA-NeXT class with random weights, in float32."""
    config = LlavaNextConfig(
        **_settings(sizes), image_seq_length=GRID * GRID, image_grid_pinpoints=PINPOINTS
    )
    return new_model(LlavaNextForConditionalGeneration, config, seed)  # type: ignore[no-any-return]


def build_llava_tokenizer() -> PreTrainedTokenizerFast:
    """The words of the scenes and the marks of LLaVA."""
    return word_tokenizer((START, IMAGE), bos_token=START)


def build_llava_processor() -> LlavaProcessor:
    """One view of an image, squashed."""
    pixels = LlavaImageProcessor(**image_settings())
    words = build_llava_tokenizer()
    return LlavaProcessor(pixels, words, **_prompt())


def build_llava_next_processor() -> LlavaNextProcessor:
    """A thumbnail of an image, squashed, and up to 2x2 tiles of it."""
    pixels = LlavaNextImageProcessor(**image_settings(), image_grid_pinpoints=PINPOINTS)
    words = build_llava_tokenizer()
    return LlavaNextProcessor(pixels, words, **_prompt())


def take_tower(model: Any, clip: Path) -> None:
    """Copy the vision tower of the CLIP in that folder into the model."""
    tower = CLIPModel.from_pretrained(clip).vision_model
    model.model.vision_tower.load_state_dict(tower.state_dict())


def take_language(model: Any, qwen: Path) -> None:
    """Copy the language model of the Qwen2.5-VL miniature in that folder, words by their text;
    biases it lacks stay zero.
    """
    source: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen)
    state = source.model.language_model.state_dict()
    blocks = {name: value for name, value in state.items() if "embed_tokens" not in name}
    language = model.model.language_model
    missing, unexpected = language.load_state_dict(blocks, strict=False)
    # words are copied below, and Qwen's output projections have no bias
    lacking = [name for name in missing if not re.search(r"embed_tokens|o_proj\.bias", name)]
    if unexpected or lacking:
        raise ValueError(
            f"{qwen} does not fit the model: missing {missing}, unexpected {unexpected}"
        )
    # LLaVA's start begins as Qwen's vision start: both stand before the image
    theirs = {**build_tokenizer().vocab, START: build_tokenizer().vocab[VISION_START]}
    vocabulary = build_llava_tokenizer().vocab
    common = [word for word in vocabulary if word in theirs]
    own = [vocabulary[word] for word in common]
    other = [theirs[word] for word in common]
    with torch.no_grad():
        language.embed_tokens.weight[own] = source.model.language_model.embed_tokens.weight[other]
        model.lm_head.weight[own] = source.lm_head.weight[other]


def take_llava(model: Any, llava: Path) -> None:
    """Copy all weights of the LLaVA-1.5 in that folder into the LLaVA-NeXT, which has one more:
    that of new lines.
    """
    state = LlavaForConditionalGeneration.from_pretrained(llava).state_dict()
    missing, unexpected = model.load_state_dict(state, strict=False)
    if list(missing) != ["model.image_newline"] or unexpected:
        raise ValueError(
            f"{llava} does not fit the model: missing {missing}, unexpected {unexpected}"
        )


@dataclass(frozen=True)
class FastLlava(StockModel):
    """The stock LLaVA-1.5 behind the calls that training makes (a `Learner`); its tower stays as it
    is.
    """

    def __post_init__(self) -> None:
        self.model.model.vision_tower.requires_grad_(False)

    @property
    def boxes(self) -> Boxes:
        """What each visual token sees."""
        return thumbnail_boxes

    def see(self, pixels: Tensor) -> Any:
        """[B, N, D] visual tokens, in reading order, of [B, height, width, 3] uint8 images."""
        return self._project(thumbnails(pixels))

    def tokens(self, features: Any) -> Tensor:
        """[B, N, D] the visual tokens."""
        return features  # type: ignore[no-any-return]

    def answer(self, features: Any, batch: SceneBatch, layers: Sequence[int]) -> Answers:
        """Answer every question of the batch about [B, N, D] visual tokens; questions do not see
        each other.
        """
        scenes, prefix = len(features), features.shape[1] + 1
        mark = self.model.config.text_config.bos_token_id
        start = self.model.get_input_embeddings().weight[mark].expand(scenes, 1, -1)
        # every question is numbered as if it came first
        image = torch.arange(prefix, device=features.device).expand(scenes, -1)
        return answer(
            self.model,
            torch.cat([start, features.to(start.dtype)], dim=1),
            features.shape[1],
            batch,
            positions=torch.cat([image, prefix + batch.order], dim=1),
            mask_key=None,
            layers=layers,
        )

    def _project(self, views: Tensor) -> Tensor:
        """[V, patches, D] visual tokens of [V, 3, SIDE, SIDE] uint8 views."""
        with torch.no_grad():
            hidden = patch_features(self.model.model.vision_tower, normal(views))
        # without the CLS token, which LLaVA drops
        projected: Tensor = self.model.model.multi_modal_projector(hidden[:, 1:])
        return projected


@dataclass(frozen=True)
class FastLlavaNext(FastLlava):
    """The same for LLaVA-NeXT: the thumbnail's tokens, then those of all tiles line by line, each
    line with its end.
    """

    @property
    def boxes(self) -> Boxes:
        """What each visual token sees; the ends of lines see nothing."""
        return next_boxes

    def see(self, pixels: Tensor) -> Any:
        """[B, N, D] visual tokens, in reading order, of [B, height, width, 3] uint8 images."""
        scenes, height, width, _ = pixels.shape
        cut = tiling(width, height)
        views = torch.cat([thumbnails(pixels)[:, None], tiles(pixels)], dim=1)
        projected = self._project(views.flatten(0, 1))
        features = projected.view(scenes, -1, *projected.shape[1:])  # [B, 1 + tiles, patches, D]
        grids = features[:, 1:].reshape(scenes, cut.rows, cut.columns, GRID, GRID, -1)
        # [B, rows, GRID, columns, GRID, D]
        lines = grids.transpose(2, 3)  # of patches, across the tiles that lie side by side
        rows, columns = cut.kept()
        canvas = lines.reshape(scenes, cut.rows * GRID, cut.columns * GRID, -1)
        kept = canvas[:, rows, columns]
        newline = self.model.model.image_newline.to(kept.dtype)
        ends = newline.expand(scenes, kept.shape[1], 1, -1)
        tile_tokens = torch.cat([kept, ends], dim=2).flatten(1, 2)
        return torch.cat([features[:, 0], tile_tokens], dim=1)


def next_boxes(width: int, height: int) -> NDArray[np.float64]:
    """[N, 4] what each visual token of LLaVA-NeXT sees of an image of that size, in pixels."""
    cut = tiling(width, height)
    lines = cut.boxes()[cut.kept()]
    lines = np.concatenate([lines, np.zeros((len(lines), 1, 4))], axis=1)
    return np.concatenate([thumbnail_boxes(width, height), lines.reshape(-1, 4)])


def _settings(sizes: TinyLlavaConfig) -> dict[str, Any]:
    """What the configurations of both have in common."""
    tokenizer = build_llava_tokenizer()
    return {
        "vision_config": {"model_type": "clip_vision_model", **vision_config(sizes.tower)},
        "text_config": {
            "model_type": "llama",
            **language_settings(sizes, tokenizer),
            "attention_bias": True,  # as in the language model it begins with
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e3},
        },
        "image_token_index": tokenizer.vocab[IMAGE],
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "clip": "tiny-clip",  # what the vision tower came from, for methods that ask its text tower
    }


def _prompt() -> dict[str, Any]:
    """What LLaVA's processors need to write as many image tokens as the model sees: the CLS token
    counts, and is dropped.
    """
    return {
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": IMAGE,
        "chat_template": chat_template(image=IMAGE, start=START),
    }
