"""The oracle: the whole sequence, no cache, no slicing; dropped columns are masked from the stage's
layer on.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from prunebench.models import family_of


def logits(
    model: Any,
    inputs: dict[str, Any],
    answer: Tensor,
    dead: list[Tensor],
    compact: bool = False,
    bias: list[Tensor] | None = None,
) -> Tensor:
    """[B, T, V] logits that predict each token of `answer` [B, T]; `dead[l]` [B, S] bool: hidden
    from layer l on; `bias[l]` [B, S] is added to the scores of the keys there.

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
            additive = bias is not None or shown.dtype != torch.bool
            if shown.dtype != torch.bool:
                shown = shown > -1
            mask = (shown & seen[:, None, :]) | torch.eye(total, dtype=torch.bool)
            if additive:
                scores = torch.zeros(batch, total)
                if bias is not None:
                    scores[:, :prompt] = bias[number]
                mask = scores[:, None].masked_fill(~mask, torch.finfo(torch.float32).min)
            kwargs = {**kwargs, "attention_mask": mask[:, None]}
            if compact:
                kwargs["position_embeddings"] = decoder.rotary_emb.forward(
                    args[0], ranked(positions[0], seen), *kind
                )
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


def ranked(positions: Tensor, seen: Tensor) -> Tensor:
    """Position ids [B, S] or M-RoPE's [3, B, S] in which the values that no seen token uses are
    closed up; slow on purpose.
    """
    flat = positions.ndim == 2
    axes = positions.expand(len(seen), -1)[None] if flat else positions
    result = axes.clone()
    for b in range(seen.shape[0]):
        used = sorted({int(v) for axis in axes for v in axis[b][seen[b]]})
        for number, axis in enumerate(axes):
            for place in range(seen.shape[1]):
                if seen[b, place]:
                    result[number, b, place] = used[0] + used.index(int(axis[b, place]))
    return result[0] if flat else result
