"""The oracle for the vision encoder: all rows run through every block; dropped ones are hidden as
keys from their block on, and nothing is ever sliced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from prunebench.models import family_of
from prunebench.models.base import EncoderRows
from prunebench.sites import Part, Site


@contextmanager
def hidden_rows(
    model: Any,
    rows: Sequence[EncoderRows],
    kept: Sequence[Mapping[Site, Tensor]],
    merged: Sequence[Mapping[Site, Tensor]] = (),
) -> Iterator[None]:
    """Hide the rows of dropped tokens in the model's vision encoder; `kept` says, sample by sample,
    which of its tokens are alive behind each site, and `merged` what the rows [n, G * D] of these
    are from there on.

    For sdpa alone, whose kernel is replaced: it gets the mask that the encoder's blocks do not take.
    """
    family = family_of(model)
    blocks = family.blocks(model)
    stock = functional.scaled_dot_product_attention
    total = 1 + max(int(one.patches.max()) for one in rows)
    start = cursor = length = 0
    dead: Tensor | None = None

    def dead_rows(number: int) -> Tensor:
        """[R] rows of the batch that some token is made of, and no token that is alive."""
        used = torch.zeros(1_000_000, dtype=torch.bool)
        alive = torch.zeros(1_000_000, dtype=torch.bool)
        for one, places in zip(rows, kept, strict=True):
            survivors = torch.arange(len(one.patches))
            for site, index in places.items():
                if site.part is Part.VISION and site.layer <= number:
                    survivors = index
            used[one.patches[one.patches >= 0]] = True
            chosen = one.patches[survivors]
            alive[chosen[chosen >= 0]] = True
        return used & ~alive

    def attend(query: Tensor, *args: Any, attn_mask: Any = None, **kwargs: Any) -> Tensor:
        nonlocal cursor
        if dead is None:
            return stock(query, *args, attn_mask=attn_mask, **kwargs)
        batch, _, count, _ = query.shape
        gone = dead[cursor : cursor + batch * count].view(batch, 1, 1, count)
        cursor += batch * count
        # a row that sees nothing is NaN; a hidden one sees itself, and nobody else does
        visible = ~gone | torch.eye(count, dtype=torch.bool)
        return stock(query, *args, attn_mask=visible, **kwargs)

    def enter(number: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            nonlocal dead, cursor, length
            assert args
            hidden = args[0]
            length = hidden.shape[:-1].numel()
            dead, cursor = dead_rows(number), start
            flat = hidden.reshape(-1, hidden.shape[-1]).clone()
            for one, places, means in zip(rows, kept, merged, strict=False):
                for site, values in means.items():
                    if site == Site(Part.VISION, number):
                        with_patches = places[site][one.patches[places[site], 0] >= 0]
                        flat[one.patches[with_patches].flatten() - start] = values.reshape(
                            -1, flat.shape[-1]
                        )
            return (flat.view(hidden.shape), *args[1:]), kwargs

        return hook

    def leave(*_: Any) -> None:
        nonlocal dead
        assert cursor == start + length
        dead = None

    def finish(*_: Any) -> None:
        nonlocal start
        start += length

    assert total
    handles = [family.vision(model).register_forward_hook(finish)]
    for number, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(enter(number), with_kwargs=True))
        handles.append(block.register_forward_hook(leave))
    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = stock
        for handle in handles:
            handle.remove()
