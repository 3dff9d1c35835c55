"""Sizes: how large the example of a signal is, and random values of that size for tests."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """How large the example of a signal is: a sample of `tokens` visual tokens in `tiles` grids.

    The prompt has `text` rows beside them, `lead` of which stand in front of the first; position
    ids run over `axes`. `image` [F, H, W, 3] are the pixels of one of its `images`; `blocks` and
    `texts` say of how many encoder blocks, LLM layers and texts there are values. Equal seeds give
    equal values.
    """

    tokens: int
    tiles: int
    images: int
    image: tuple[int, int, int, int]
    width: int = 16
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 8
    text: int = 7
    lead: int = 2
    axes: int = 1
    encoder_width: int = 12
    clip_width: int = 10
    blocks: int = 1
    texts: int = 1
    question: str = ""
    seed: int = 0

    @property
    def prompt(self) -> int:
        """How many rows the prompt has."""
        return self.tokens + self.text

    @property
    def behind(self) -> int:
        """How many rows of text stand behind the first visual token."""
        return self.text - self.lead

    def generator(self, name: str) -> torch.Generator:
        """Random numbers of that name, the same whatever else is drawn."""
        # no hash(), which differs from process to process
        return torch.Generator().manual_seed(crc32(f"{self.seed} {name}".encode()))

    def normal(self, name: str, *shape: int) -> Tensor:
        """Normal values of that name."""
        return torch.randn(*shape, generator=self.generator(name))

    def attention(self, name: str, *shape: int) -> Tensor:
        """Rows of attention over the visual tokens and the text behind them, cut to the tokens."""
        return (2 * self.normal(name, *shape, self.tokens + self.text)).softmax(-1)[
            ..., : self.tokens
        ]

    def visual_attention(self) -> Tensor:
        """[H, N, N] rows of attention in which a visual token sees none behind itself."""
        scores = 2 * self.normal("paid by tokens", self.heads, self.tokens, self.tokens)
        order = torch.arange(self.tokens)
        scores = scores.masked_fill(order > order[:, None], float("-inf"))
        # the rows of text in front of the tokens get the rest
        return 0.9 * scores.softmax(-1)

    def encoder_attention(self, name: str) -> Tensor:
        """[B, H, N] shares of one, in encoder blocks."""
        return self.normal(name, self.blocks, self.heads, self.tokens).softmax(-1)

    def heads_of_prompt(self, name: str, heads: int) -> Tensor:
        """[heads, S, d_h] a row for every position of the prompt."""
        return self.normal(name, heads, self.prompt, self.head_width)

    def heads_of_encoder(self, name: str, rows: int) -> Tensor:
        """[B, H, rows, d_h] of encoder blocks."""
        return self.normal(name, self.blocks, self.heads, rows, self.head_width)

    def transitions(self) -> Tensor:
        """[J, 2, S, 2] positive ratios of norms, and cosines."""
        shape = (self.blocks, 2, self.prompt)
        ratios = self.normal("ratios of norms", *shape).exp()
        return torch.stack([ratios, self.normal("cosines", *shape).tanh()], dim=-1)

    def visual_places(self) -> Tensor:
        """[N] where the visual rows stand in the prompt: one behind the other."""
        return self.lead + torch.arange(self.tokens)

    def text_places(self) -> Tensor:
        """[M] where the rows of text stand, in front of the visual ones and behind them."""
        return torch.cat(
            [torch.arange(self.lead), torch.arange(self.lead + self.tokens, self.prompt)]
        )

    def position_ids(self) -> Tensor:
        """[P, S] those of text alone, or with the visual rows in a grid of four columns."""
        if self.axes == 1:
            return torch.arange(self.prompt)[None]
        flat = torch.arange(self.tokens)
        grid = self.lead + torch.stack([torch.zeros_like(flat), flat // 4, flat % 4])
        # text goes on behind the highest position of any axis
        end = max([self.lead - 1, *grid.flatten().tolist()]) + 1
        parts = [torch.arange(self.lead), end + torch.arange(self.behind)]
        front, back = (part.expand(self.axes, -1) for part in parts)
        return torch.cat([front, grid, back], dim=1)

    def pixels(self) -> tuple[Tensor, ...]:
        """Pictures [F, H, W, 3] uint8."""
        shape = (self.images, *self.image)
        values = torch.randint(256, shape, generator=self.generator("pixels"), dtype=torch.uint8)
        return tuple(values)
