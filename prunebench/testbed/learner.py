"""What training asks of a miniature, whatever its architecture."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from prunebench.testbed.batches import SceneBatch


@dataclass(frozen=True)
class Answers:
    """What a training step gets back for a batch."""

    logits: Tensor  # [B, Q, WORDS, V]
    attention: Tensor  # [B, Q, heads, N] paid by each question's last word to the image, at one middle layer; sums to <= 1


class Learner(Protocol):
    """A model behind the two calls that training makes."""

    @property
    def feature_width(self) -> int:
        """Width of one visual token."""

    @property
    def module(self) -> nn.Module:
        """The stock model whose weights are trained."""

    def see(self, pixels: Tensor) -> Tensor:
        """[B, N, D] visual tokens, in reading order, of [B, height, width, 3] uint8 images."""

    def answer(self, features: Tensor, batch: SceneBatch) -> Answers:
        """Answer every question of the batch about [B, N, D] visual tokens."""
