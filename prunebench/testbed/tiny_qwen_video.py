"""The miniature Qwen2.5-VL for clips and pairs of pictures: tiny-qwen2.5-vl with more words, and
training passes over several pictures at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from prunebench.testbed.batches import SceneBatch
from prunebench.testbed.clip_questions import film_words
from prunebench.testbed.film_batches import ClipBatch, PairBatch
from prunebench.testbed.language import answer
from prunebench.testbed.learner import Answers
from prunebench.testbed.processor import build_processor, build_tokenizer
from prunebench.testbed.scenes import TOKEN_PIXELS
from prunebench.testbed.tiny_qwen import (
    FastQwen,
    TinyQwenConfig,
    between_marks,
    build_model,
    image_positions,
)


def build_video_model(sizes: TinyQwenConfig, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """The stock class with random weights, in float32."""
    return build_model(sizes, seed, film_words())


def build_video_processor() -> Qwen2_5_VLProcessor:
    """That of tiny-qwen2.5-vl with more words."""
    return build_processor(film_words())


def take_qwen(model: Any, folder: Path) -> None:
    """Copy all that the miniature in that folder knows; the new words begin at random.

    Raises ValueError where it does not fit.
    """
    source: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    state, own = dict(source.state_dict()), model.state_dict()
    words = len(build_tokenizer())
    for name, value in state.items():
        if len(value) == words and len(own[name]) > words:  # a row a word, the new ones behind
            state[name] = torch.cat([value, own[name][words:]])
    model.load_state_dict(state)


@dataclass(frozen=True)
class FastVideoQwen(FastQwen):
    """The stock model behind the calls that training makes (a `Learner`), which takes clips and
    pairs as well.

    Both frames of a moment are the same, so that the encoder, which sees every moment apart, gives
    what it gives of a still image.
    """

    def see(self, pixels: Tensor) -> Any:
        """[B, N, D] visual tokens of [B, height, width, 3] images, or [B, P * N, D] of P pictures
        each, [B, P, height, width, 3].
        """
        if pixels.dim() == 4:
            return super().see(pixels)
        features = super().see(pixels.flatten(0, 1))
        return features.reshape(len(pixels), -1, features.shape[-1])

    def answer(self, features: Any, batch: SceneBatch, layers: Sequence[int]) -> Answers:
        """Answer every question of the batch; questions do not see each other."""
        if not isinstance(batch, ClipBatch | PairBatch):
            return super().answer(features, batch, layers)
        rows, columns = (side // TOKEN_PIXELS for side in batch.pixels.shape[2:4])
        device = batch.words.device
        if isinstance(batch, ClipBatch):
            prefix = between_marks(self.model, features)
            positions = clip_positions(rows, columns, batch.pixels.shape[1], device)
        else:
            first, second = (between_marks(self.model, part) for part in features.chunk(2, dim=1))
            prefix = torch.cat([first, second], dim=1)
            positions = pair_positions(rows, columns, device)
        text = positions.max() + 1 + batch.order
        packed = [positions[:, None].expand(-1, len(text), -1), text.expand(3, -1, -1)]
        return answer(
            self.model,
            prefix,
            prefix.shape[1] - 2,  # between the first mark and the last
            batch,
            positions=torch.cat(packed, dim=2),
            mask_key="full_attention",
            layers=layers,
        )


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def clip_positions(rows: int, columns: int, moments: int, device: torch.device) -> Tensor:
    """[3, 1 + P * N + 1] positions of a clip and of the marks around it; a moment is one step."""
    shape = torch.arange(moments), torch.arange(rows), torch.arange(columns)
    clip = torch.stack(torch.meshgrid(*shape, indexing="ij")).flatten(1) + 1
    start = torch.zeros(3, 1, dtype=torch.long)
    # stock M-RoPE goes on behind rows and columns, however many moments there are
    stop = torch.full((3, 1), 1 + max(rows, columns))
    return torch.cat([start, clip, stop], dim=1).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def pair_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """[3, 2 * (1 + N + 1)] positions of two pictures, each between its marks."""
    after = 1 + max(rows, columns)
    one = image_positions(rows, columns, after, device)
    return torch.cat([one, one + after + 1], dim=1)
