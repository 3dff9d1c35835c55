"""The oracle for the vision encoder: every row runs through every block; dropped ones are hidden as
keys from their block on, and nothing is ever sliced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunebench.models import family_of
from prunebench.models.base import EncoderRows
from prunebench.sites import Part, Site

BySite = Mapping[Site, Tensor]


class HiddenRows:
    """Hides the rows of dropped tokens in a model's vision encoder.

    `kept` says, sample by sample, which of its tokens are alive behind each site. Of those that
    have patches, n of them, `merged` are the rows [n, G * D] that they have from a site on, and
    `biases` [n] what is added to the scores that their keys get. Works beside sdpa alone, whose
    kernel is replaced: it gets the mask that the encoder's own blocks do not take.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[EncoderRows],
        kept: Sequence[BySite],
        merged: Sequence[BySite] = (),
        biases: Sequence[BySite] = (),
    ) -> None:
        self.model, self.rows, self.kept = model, rows, kept
        self.merged = merged or [{} for _ in rows]
        self.biases = biases or [{} for _ in rows]
        self.bias = torch.zeros(0)
        self.stock = functional.scaled_dot_product_attention
        self.start = 0
        """The first row of this run of the encoder, counted through the batch."""
        self.length = 0
        self.cursor = 0
        """The next row whose query the kernel will be given."""
        self.dead: Tensor | None = None
        self.number = 0
        self.attention: dict[int, list[Tensor]] = {}
        """By block, [H, R] what each row receives on average from the rows of its stretch that are
        alive, one tensor a call of the kernel.
        """
        self.first_rows: dict[int, list[Tensor]] = {}
        """By block, [H, R] what the first row of each stretch, which may be a CLS token, pays."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        family = family_of(self.model)
        with ExitStack() as undo:
            for number, block in enumerate(family.blocks(self.model)):
                enter = partial(self._enter, number)
                undo.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
                undo.callback(block.register_forward_hook(self._leave).remove)
            encoder = family.vision(self.model)
            undo.callback(encoder.register_forward_hook(self._finish).remove)
            undo.callback(setattr, functional, "scaled_dot_product_attention", self.stock)
            setattr(functional, "scaled_dot_product_attention", self._attend)  # noqa: B010
            yield

    def dead_rows(self, number: int) -> Tensor:
        """[R] bool: rows that tokens are made of, but none of the tokens that enter the block."""
        most = max(int(one.patches.max()) for one in self.rows)
        used, alive = (torch.zeros(most + 10_000, dtype=torch.bool) for _ in range(2))
        for one, places in zip(self.rows, self.kept, strict=True):
            survivors = torch.arange(len(one.patches))
            for site in sorted(places):
                if site.part is Part.VISION and site.layer <= number:
                    survivors = places[site]
            for patches, marks in ((one.patches, used), (one.patches[survivors], alive)):
                marks[patches[patches >= 0]] = True
        return used & ~alive

    def added_bias(self, number: int) -> Tensor:
        """[R] what is added to the scores that each row's key gets in the block."""
        added = torch.zeros(len(self.dead_rows(number)))
        for one, places, values in zip(self.rows, self.kept, self.biases, strict=True):
            for site, bias in values.items():
                if site.layer <= number:
                    patches = one.patches[places[site]]
                    patches = patches[patches[:, 0] >= 0]
                    added[patches] += bias[:, None]
        return added

    def _enter(self, number: int, _: nn.Module, args: Any, kwargs: Any) -> Any:
        # some encoders name what they give their blocks
        name = next(iter(kwargs)) if not args else ""
        hidden = args[0] if args else kwargs[name]
        self.number = number
        self.length = hidden.shape[:-1].numel()
        self.cursor = self.start
        self.dead = self.dead_rows(number)
        self.bias = self.added_bias(number)
        flat = hidden.reshape(-1, hidden.shape[-1]).clone()
        site = Site(Part.VISION, number)
        for one, places, values in zip(self.rows, self.kept, self.merged, strict=True):
            if site in values:
                patches = one.patches[places[site]]
                patches = patches[patches[:, 0] >= 0].flatten() - self.start
                flat[patches] = values[site].reshape(-1, flat.shape[-1])
        entering = flat.view(hidden.shape)
        if not args:
            return args, {**kwargs, name: entering}
        return (entering, *args[1:]), kwargs

    def _leave(self, *_: Any) -> None:
        assert self.cursor == self.start + self.length, "the kernel was given other rows"
        self.dead = None

    def _finish(self, *_: Any) -> None:
        self.start += self.length

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **kwargs: Any
    ) -> Tensor:
        if self.dead is None:  # a layer of the language model
            return self.stock(query, key, value, attn_mask=attn_mask, **kwargs)
        batch, _, count, _ = query.shape
        end = self.cursor + batch * count
        hidden = self.dead[self.cursor : end].view(batch, 1, 1, count)
        bias = self.bias[self.cursor : end].view(batch, 1, 1, count)
        self.cursor = end
        # a row that sees nothing is NaN; a hidden one sees itself, and no other sees it
        visible = ~hidden | torch.eye(count, dtype=torch.bool)
        mask = torch.zeros(visible.shape).masked_fill(~visible, float("-inf")) + bias
        shown = torch.zeros(1, 1, 1, 1)
        if attn_mask is not None:  # images in one sequence do not see each other, nor padding
            is_bool = attn_mask.dtype == torch.bool
            shown = shown.masked_fill(~attn_mask, float("-inf")) if is_bool else attn_mask
        scale = kwargs["scale"]
        # None is the kernel's own
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        self._note(query, key, hidden, scale, shown)
        mask = mask + shown
        return self.stock(query, key, value, attn_mask=mask, **kwargs)

    def _note(
        self, query: Tensor, key: Tensor, hidden: Tensor, scale: float, shown: Tensor
    ) -> None:
        """Keep what the attention of this call is, over the rows that are alive."""
        scores = query @ key.transpose(2, 3) * scale + shown
        scores = scores.masked_fill(hidden, float("-inf"))
        weights = scores.softmax(-1).nan_to_num()  # where nothing is alive, nobody attends
        alive = (~hidden).to(weights).transpose(2, 3)
        received = (weights * alive).sum(2) / alive.sum(2).clamp(min=1)
        for kind, rows in ((self.attention, received), (self.first_rows, weights[:, :, 0])):
            kind.setdefault(self.number, []).append(rows.transpose(0, 1).flatten(1))
