"""What training asks of a miniature, whatever its architecture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunebench.testbed.batches import Batch, SceneBatch


@dataclass(frozen=True)
class Answers:
    """What a training step gets back for a batch."""

    logits: Tensor  # [B, T, V]
    # [layers, B, Q, 2, heads, N] paid to the image by the words that foretell the first and the
    # last word of the answer, at the layers that were asked for; its sum over the image is 1 at
    # most, for the words before it are paid some, too
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

    def see(self, pixels: Tensor) -> Any:
        """What the vision encoder gives for [B, height, width, 3] uint8 images."""

    def tokens(self, features: Any) -> Tensor:
        """[B, N, D] visual tokens, in reading order, of what `see` gave."""

    def answer(self, features: Any, batch: SceneBatch, layers: Sequence[int]) -> Answers:
        """Answer every question of the batch about what `see` gave, with the attention of
        `layers`.
        """


class Objective(Protocol):
    """What a training run repeats: a batch, and the loss on it."""

    @property
    def network(self) -> nn.Module:
        """All weights of the run: the stock model as `model`, and a head that training leaves
        behind.
        """

    @property
    def batch(self) -> Callable[[int], Batch]:
        """Gives the batch of a step, a pure function of it that other processes may call."""

    def loss(self, data: Any, step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss on a batch, and figures by name; NaN where a batch says nothing of one."""

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Raise RunError where, after so many steps, the figures say that going on is of no use."""


@dataclass(frozen=True)
class StockModel:
    """What is the same of every stock model behind the calls that training makes."""

    model: Any

    @property
    def module(self) -> nn.Module:
        """The stock model whose weights are trained."""
        return self.model  # type: ignore[no-any-return]

    @property
    def feature_width(self) -> int:
        """Width of one visual token."""
        return int(self.model.config.text_config.hidden_size)
