"""The oracle: the whole sequence, no cache, no slicing; dropped columns are masked from the stage's
layer on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from prunebench.models import family_of


@dataclass(frozen=True)
class Rows:
    """What a layer is to make of the prompt's columns [B, S].

    `rank` orders them: a query sees the keys of no higher rank. `worn` are the columns whose
    position ids they have. `late` is added to the scores of the keys for an answer's queries, where
    that is another bias than the prompt's. `pairs` gives, a sample, [S, S] for the distances
    [P, S, S] of position ids, for the prompt's own queries and keys.
    """

    rank: Tensor
    worn: Tensor
    late: Tensor | None = None
    pairs: Sequence[Callable[[Tensor], Tensor] | None] = ()


def logits(
    model: Any,
    inputs: dict[str, Any],
    answer: Tensor,
    dead: list[Tensor],
    compact: bool | list[Tensor] = False,
    bias: list[Tensor] | None = None,
    rows: list[Rows] | None = None,
) -> Tensor:
    """[B, T, V] logits that predict each token of `answer` [B, T]; `dead[l]` [B, S] bool: hidden
    from layer l on; `bias[l]` [B, S] is added to the scores of the keys there, `rows[l]` says which
    stand before which. `compact` closes up the position ids of what is dead, or of `compact[l]`.

    Uses the stock model alone: per-layer masks (and, for closed-up positions, rotary tables) go in
    by pre-hooks. No mask hides anything from a layer that keeps a state: it is run on what is seen.
    """
    batch, prompt = inputs["input_ids"].shape
    steps = answer.shape[1]
    ids = torch.cat([inputs["input_ids"], answer], dim=1)[:, :-1]
    total = ids.shape[1]
    longer = torch.zeros(batch, steps - 1, dtype=torch.long)
    given = {  # what else is known of every token, such as its modality, is 0 for an answer's
        name: torch.cat([value, longer.to(value)], dim=1)
        if isinstance(value, Tensor) and value.shape == (batch, prompt)
        else value
        for name, value in inputs.items()
    }
    valid = torch.cat(
        [inputs["attention_mask"].bool(), torch.ones(batch, steps - 1, dtype=torch.bool)], dim=1
    )
    # of the family alone where its decoder is: a stock class may take more for it
    decoder: Any = family_of(model).decoder(model)
    kinds = getattr(decoder.config, "layer_types", None) or [""] * len(decoder.layers)
    turned_by_kind = "layer_type" in signature(decoder.rotary_emb.forward).parameters
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    positions: list[Tensor] = []
    handles = [
        decoder.rotary_emb.register_forward_pre_hook(
            lambda _, args, kwargs: positions.append(
                kwargs.get("position_ids", args[min(1, len(args) - 1)])
            ),
            with_kwargs=True,
        )
    ]

    def enter(number: int) -> Any:
        kind = [kinds[number]] * turned_by_kind
        gone = torch.cat([dead[number], torch.zeros(batch, steps - 1, dtype=torch.bool)], dim=1)
        seen = valid & ~gone

        def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            # a model that shows more or less than what stands before says so itself
            given = kwargs["attention_mask"]
            shown = causal if given is None else given[:, 0]
            additive = bias is not None or rows is not None or shown.dtype != torch.bool
            if shown.dtype != torch.bool:
                shown = shown > -1
            places = positions[0]
            order = torch.arange(total).expand(batch, -1)
            if rows is not None:
                order = torch.cat([rows[number].rank, order[:, prompt:]], dim=1)
                shown = order[:, :, None] >= order[:, None]
                places = _worn(places, rows[number].worn)
            if compact:
                places = ranked(places, _used(seen, valid, compact, number), order)
            mask = (shown & seen[:, None, :]) | torch.eye(total, dtype=torch.bool)
            if additive:
                own = None if rows is None else rows[number]
                scores = torch.zeros(batch, total, total)
                _add(scores, None if bias is None else bias[number], own, places, prompt)
                mask = scores.masked_fill(~mask, torch.finfo(torch.float32).min)
            kwargs = {**kwargs, "attention_mask": mask[:, None]}
            if compact or rows is not None:
                tables = decoder.rotary_emb.forward(args[0], places, *kind)
                kwargs["position_embeddings"] = tables
            return args, kwargs

        return hook

    def apart(number: int, stock: Any) -> Any:
        gone = torch.cat([dead[number], torch.zeros(batch, steps - 1, dtype=torch.bool)], dim=1)

        def forward(hidden: Tensor, **kwargs: Any) -> Tensor:
            out = hidden.clone()
            for row, seen in enumerate(valid & ~gone):
                alone = {**kwargs, "attention_mask": None}
                out[row, seen] = stock(hidden[row : row + 1, seen], **alone)[0]
            return out

        return forward

    stateful = []
    for number, layer in enumerate(decoder.layers):
        if kinds[number] in ("linear_attention", "conv"):
            layer.forward = apart(number, layer.forward)
            stateful.append(layer)
        else:
            handles.append(layer.register_forward_pre_hook(enter(number), with_kwargs=True))
    try:
        with torch.no_grad():
            out = model(
                **{**given, "input_ids": ids, "attention_mask": valid.long()}, use_cache=False
            )
    finally:
        for layer in stateful:
            del layer.forward
        for handle in handles:
            handle.remove()
    logits: Tensor = out.logits[:, prompt - 1 :]
    return logits


def _used(seen: Tensor, valid: Tensor, compact: bool | list[Tensor], number: int) -> Tensor:
    """[B, T] bool the columns whose position ids are counted in a layer."""
    if isinstance(compact, bool):
        return seen
    used = valid.clone()
    used[:, : compact[number].shape[1]] &= ~compact[number]
    return used


def _worn(places: Tensor, worn: Tensor) -> Tensor:
    """Position ids [.., B or 1, T] as columns have them, the prompt's those of `worn` [B, S]."""
    batch, prompt = worn.shape
    total = places.shape[-1]
    columns = torch.cat([worn, torch.arange(prompt, total).expand(batch, -1)], dim=1)
    places = places.expand(*places.shape[:-2], batch, total)
    return places.gather(-1, columns.expand(places.shape))


def _add(
    scores: Tensor, bias: Tensor | None, rows: Rows | None, places: Tensor, prompt: int
) -> None:
    """Add to scores [B, T, T] what keys of the prompt are given."""
    if bias is not None:
        scores[:, :, :prompt] = bias[:, None]
    if rows is None:
        return
    if rows.late is not None:
        scores[:, prompt:, :prompt] = rows.late if rows.late.dim() == 3 else rows.late[:, None]
    axes = places[None] if places.dim() == 2 else places
    for sample, pairs in enumerate(rows.pairs):
        if pairs is not None:
            own = axes[:, sample, :prompt].float()
            scores[sample, :prompt, :prompt] += pairs(own[:, :, None] - own[:, None])


def ranked(positions: Tensor, seen: Tensor, order: Tensor | None = None) -> Tensor:
    """Position ids [B, S] or M-RoPE's [3, B, S] in which the values that no seen token uses are
    closed up; slow on purpose. Along one axis they count in an `order` [B, S] of the columns.
    """
    flat = positions.ndim == 2
    if flat and order is not None and bool((order.diff() < 0).any()):
        result = positions.expand(len(seen), -1).clone()
        for b in range(seen.shape[0]):
            columns = [int(c) for c in order[b].argsort() if seen[b, c]]
            first = int(min(result[b, c] for c in columns))
            for number, column in enumerate(columns):
                result[b, column] = first + number
        return result
    axes = positions.expand(len(seen), -1)[None] if flat else positions
    result = axes.clone()
    for b in range(seen.shape[0]):
        used = sorted({int(v) for axis in axes for v in axis[b][seen[b]]})
        for number, axis in enumerate(axes):
            for place in range(seen.shape[1]):
                if seen[b, place]:
                    result[number, b, place] = used[0] + used.index(int(axis[b, place]))
    return result[0] if flat else result
