"""What training asks of a miniature, whatever its architecture."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunebench.testbed.batches import SceneBatch


@dataclass(frozen=True)
class Answers:
    """What a training step gets back for a batch."""

    logits: Tensor  # [B, Q, WORDS, V]
    # [B, Q, heads, N] paid by each question's last word to the image, at one middle layer; its sum
    # is 1 at most, for the words before it are paid some, too
    attention: Tensor


class Learner(Protocol):
    """An LVLM behind the calls that training makes."""

    @property
    def feature_width(self) -> int:
        """Width of one visual token."""

    @property
    def module(self) -> nn.Module:
        """The stock model whose weights are trained."""

    def boxes(self, width: int, height: int) -> NDArray[np.float64]:
        """[N, 4] x0, y0, x1, y1: what each visual token of an image of that size sees, in pixels;
        no area: nothing.
        """

    def see(self, pixels: Tensor) -> Tensor:
        """[B, N, D] visual tokens, in reading order, of [B, height, width, 3] uint8 images."""

    def answer(self, features: Tensor, batch: SceneBatch) -> Answers:
        """Answer every question of the batch about [B, N, D] visual tokens."""


class Objective(Protocol):
    """What a training run repeats: a batch, and the loss on it."""

    @property
    def network(self) -> nn.Module:
        """All weights of the run: the stock model as `model`, and a head that training leaves
        behind.
        """

    def batch(self, step: int) -> Any:
        """The batch of a step, a pure function of it."""

    def loss(self, data: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss on a batch, and figures by name."""
