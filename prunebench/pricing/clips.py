"""Clips: what a CLIP beside the model costs that methods ask about texts and pictures.

Its sizes are those of the CLIP that LLaVA's encoder is, OpenAI's ViT-L/14 at 336 pixels
(openai/clip-vit-large-patch14-336, config.json; mlfoundations/open_clip
src/open_clip/model_configs/ViT-L-14-336.json), which methods fall back to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunebench.models.arithmetic import encoder_block, linear


@dataclass(frozen=True)
class Clip:
    """The sizes of a CLIP: its two towers, and the space in which they meet."""

    vision_width: int = 1024
    vision_inner: int = 4096
    vision_layers: int = 24
    side: int = 24
    patch: int = 14
    text_width: int = 768
    text_inner: int = 3072
    text_layers: int = 12
    longest: int = 77
    shared: int = 768

    @classmethod
    def of(cls, config: Any) -> Clip:
        """The sizes that a configuration of transformers' CLIPModel gives."""
        vision, text = config.vision_config, config.text_config
        return cls(
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_hidden_layers,
            vision.image_size // vision.patch_size,
            vision.patch_size,
            text.hidden_size,
            text.intermediate_size,
            text.num_hidden_layers,
            text.max_position_embeddings,
            config.projection_dim,
        )

    def sees(self, crops: int) -> int:
        """FLOPs of so many crops, all of their rows projected."""
        patches = self.side**2
        rows = [patches + 1] * crops
        block = encoder_block(rows, self.vision_width, self.vision_inner, gated=False)
        embedding = linear(crops * patches, 3 * self.patch**2, self.vision_width)
        projected = linear(sum(rows), self.vision_width, self.shared)
        return embedding + self.vision_layers * block + projected

    def reads(self, texts: int, whole: bool = False) -> int:
        """FLOPs of so many texts, each as long as CLIP reads, which few are: an upper bound.

        Of `whole` texts every token is projected, besides the one that stands for its text.
        """
        rows = [self.longest] * texts
        block = encoder_block(rows, self.text_width, self.text_inner, gated=False)
        projected = texts + (sum(rows) if whole else 0)
        return self.text_layers * block + linear(projected, self.text_width, self.shared)


LARGE = Clip()
"""The one that is meant where nobody names another."""
